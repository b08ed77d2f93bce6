"""What runners get on disk: unnamed files to spill into, and a private directory, which goes with them.

Owns the names in the node's scratch directory.
"""

from __future__ import annotations

import errno
import os

from ipdc_edge.errors import IpdcError

PREFIX = "runner-"  # of the name of a runner's directory
SHARE = 16  # each spill file may take that part of what the disk has free when its runner starts
LEAST_FILE = 16 << 20  # bytes that it may take however little that is


class NoRoom(IpdcError):
    """the job's file {name} of {size} MB has no room in this node's {directory}, where {free} MB are free: make some,
    or end its daemon"""


def require_room(directory: str, name: str, size: int) -> None:
    """NoRoom where a file of so many bytes would leave less than LEAST_FILE free."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free - size < LEAST_FILE:
        raise NoRoom(name=name, size=-(-size >> 20), directory=directory, free=free >> 20)


def runner_directory(scratch: str) -> str:
    """A new, empty directory that is one runner's."""
    import tempfile

    return tempfile.mkdtemp(prefix=PREFIX, dir=scratch)


def remove(directory: str) -> None:
    """Removes a runner's directory with all that the user's code left in it: however deep that is, for which
    shutil.rmtree has neither frames nor descriptors enough, and whatever its modes are.

    What lies in a directory below is moved up until the top has no directory any more. Links are removed, never
    followed. Never raises: what cannot be removed (a file system's error) stays.
    """
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _empty(top)
        os.rmdir(directory)
    except OSError:
        return
    finally:
        os.close(top)


def _empty(top: int) -> None:
    """Names are taken one by one, for there may be more than memory has room for; what a pass leaves, the next finds.
    OSError."""
    found = True
    while found:
        found = False
        with os.scandir(top) as entries:
            for entry in entries:
                found = True
                if not _is_gone(entry.name, top):
                    _move_up(entry.name, top)


def _move_up(name: str, top: int) -> None:
    """All that lies in a directory goes, or goes beside it; in the end it goes itself."""
    below = _entered(name, top)
    try:
        with os.scandir(below) as entries:
            for entry in entries:
                if not _is_gone(entry.name, below):
                    os.close(_entered(entry.name, below))  # to be moved, it must be writable
                    os.rename(entry.name, PREFIX + os.urandom(12).hex(), src_dir_fd=below, dst_dir_fd=top)
    finally:
        os.close(below)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _is_gone(name: str, directory: int) -> bool:
    """Removes whatever is no directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


def _entered(name: str, top: int) -> int:
    """A directory, open, which may be read and written now; no link is followed."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        os.chmod(f"/proc/self/fd/{path}", 0o700)
        return os.open(f"/proc/self/fd/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(path)


def clear_leftovers(scratch: str) -> None:
    """Removes the directories of runners that ended with their daemon."""
    for name in os.listdir(scratch):
        if name.startswith(PREFIX):
            remove(os.path.join(scratch, name))


def file_size(directory: str, most: int) -> int:
    """Bytes that one spill file may reach, so that all runners together do not fill the disk."""
    disk = os.statvfs(directory)
    return min(most, max(LEAST_FILE, disk.f_bavail * disk.f_frsize // SHARE))


def write_all(descriptor: int, data: bytes) -> None:
    """Appends all of it. OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def unnamed_file(directory: str) -> int:
    """A descriptor of a file without a name, which vanishes with its last descriptor."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE (some FUSE, old overlayfs)
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix="spill-", dir=directory)
        os.unlink(path)
        return descriptor
