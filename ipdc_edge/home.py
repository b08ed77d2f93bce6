"""Where a node keeps its files: every path, said once.

Owns the names of files and directories (DESIGN.md, section 10) and their modes. Never reads or writes their
contents. `IPDC_HOME` puts all of it below one directory, so that many nodes run on one machine as an
ordinary user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ipdc_edge.errors import IpdcError

SOCKET_PATH_LIMIT = 107  # sun_path of unix(7) holds 108 bytes with the terminating zero


class SocketPathTooLong(IpdcError):
    """The control socket's path {path!r} has {length} bytes; the system allows {limit}. Choose a shorter
    IPDC_HOME."""

    exit_code = 2


class DirectoryNotMade(IpdcError):
    """Cannot make the directory {path}: {reason}. Run it as the user that owns it, or set IPDC_HOME to a
    place of yours."""


class Home:
    """The paths of one node, as absolute `str`. `environ` is read once, here; only IPDC_HOME matters."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        chosen = environ.get("IPDC_HOME", "")
        self.own = bool(chosen)  # below IPDC_HOME, not the system's node
        if chosen:
            self.state = os.path.abspath(chosen)
            self.conf = os.path.join(self.state, "ipdc.conf")
            self.run = os.path.join(self.state, "run")
        else:
            self.state = "/var/lib/ipdc"
            self.conf = "/etc/ipdc/ipdc.conf"
            self.run = "/run/ipdc"

    def __repr__(self) -> str:
        return f"Home(state={self.state!r})"

    @property
    def identity(self) -> str:
        """The node's key and certificates; nobody else reads it."""
        return os.path.join(self.state, "identity")

    @property
    def current(self) -> str:
        """The domain that the node is in: a link to its directory below identity/domains."""
        return os.path.join(self.identity, "current")

    @property
    def blocks(self) -> str:
        """The embedded block store."""
        return os.path.join(self.state, "blocks")

    @property
    def scratch(self) -> str:
        """Files that need not outlive their job: runs, spills."""
        return os.path.join(self.state, "scratch")

    @property
    def venv(self) -> str:
        """The virtual environment from which the code of jobs may import, where the owner made one."""
        return os.path.join(self.state, "venv")

    @property
    def tensorflow(self) -> str:
        """The virtual environment that `tf install` makes."""
        return os.path.join(self.state, "tensorflow")

    @property
    def ledger(self) -> str:
        """The SQLite file that holds the master's and the worker's truth."""
        return os.path.join(self.state, "ledger.db")

    @property
    def jobs(self) -> str:
        """One directory a job: job.json, part-NNNNN, _SUCCESS, log/."""
        return os.path.join(self.state, "jobs")

    def job(self, job_id: str) -> str:
        """The directory of one job. The id must have been checked: no separator may stand in it."""
        return os.path.join(self.jobs, job_id)

    @property
    def control_socket(self) -> str:
        """The daemon's unix socket. Raises SocketPathTooLong where the system could not bind it."""
        path = os.path.join(self.run, "control.sock")
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_LIMIT:
            raise SocketPathTooLong(path=path, length=length, limit=SOCKET_PATH_LIMIT)
        return path

    @property
    def broker_conf(self) -> str:
        """mosquitto's configuration, written by us."""
        return os.path.join(self.run, "mosquitto.conf")

    @property
    def kubo(self) -> str:
        """The repository of this node's own Kubo, where it has one."""
        return os.path.join(self.state, "kubo")

    @property
    def kubo_mark(self) -> str:
        """Which process that Kubo is, and how others find it."""
        return os.path.join(self.run, "kubo.json")

    def prepare(self) -> None:
        """Makes the directories that are missing, with their modes. Those that exist keep theirs, except
        identity/, which is closed to others whoever made it. Raises DirectoryNotMade."""
        wanted = (
            (self.state, 0o755),
            (self.identity, 0o700),
            (self.blocks, 0o750),
            (self.scratch, 0o700),
            (self.jobs, 0o750),
            (self.run, 0o755),
        )
        for path, mode in wanted:
            try:
                if not os.path.isdir(path):
                    os.makedirs(path, exist_ok=True)
                    os.chmod(path, mode)
                elif path == self.identity and os.stat(path).st_mode & 0o077:
                    os.chmod(path, mode)
            except OSError as error:
                raise DirectoryNotMade(path=path, reason=error.strerror or str(error)) from error
