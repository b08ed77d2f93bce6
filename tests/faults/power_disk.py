"""A disk that can lose its power: ext4 on a loop device, whose file system is shut down between two instructions.

The ioctl (what xfstests' `godown` does) throws away all that has not reached the device: dirty pages, and what the
journal has not committed yet. What the device itself would lose of its own cache is not simulated. Needs root.

Whoever mounts it does so in a mount namespace of its own (ALONE): a copy of the mount in another one, of a sandbox that
starts just then, would keep the file system alive, and it could not be mounted anew. And it goes with its processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile

from tests.waiting import eventually

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, FS_IOC_SHUTDOWN
NO_FLUSH = 2  # not even the journal
ALONE = ["unshare", "--mount", "--propagation", "private"]  # before a command


class PowerDisk:
    """`mount` is where it is; a context in which it exists. Nothing is written back by itself within minutes."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes

    def __enter__(self) -> PowerDisk:
        self.directory = tempfile.mkdtemp(prefix="ipdc-power-", dir="/tmp")
        self.image, self.mount = os.path.join(self.directory, "image"), os.path.join(self.directory, "disk")
        try:
            os.mkdir(self.mount)
            with open(self.image, "wb") as file:
                file.truncate(self.megabytes << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
            self.on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.mount):  # lazily: a process of a test that failed may still be there
            subprocess.run(["umount", "-l", self.mount], check=True)
        shutil.rmtree(self.directory)

    def on(self) -> None:
        """Mount it; the journal is replayed. The loop device goes with the mount."""
        subprocess.run(["mount", "-o", "loop,commit=300", self.image, self.mount], check=True)

    def cut(self) -> None:
        """From now on nothing reaches the disk, and every write fails."""
        descriptor = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)

    def off(self) -> None:
        """Unmount it, once no process holds it any more, and wait until the loop device has gone with it."""
        eventually(lambda: subprocess.run(["umount", self.mount], capture_output=True).returncode == 0,
                   f"nobody holds {self.mount}", 60)
        eventually(lambda: not subprocess.run(["losetup", "-j", self.image], capture_output=True).stdout,
                   f"no loop device has {self.image}", 60)
