"""The runner's side of a role: starts its program in a network of its own, watches it, and is the inner end of its
tunnels.

Owns the program's environment, its watching (memory, stopped, ended), and the addresses of the other roles: at each of
them this process listens, and hands what it accepted to the daemon, which carries it to that role's node. What comes
from others is connected to this role's own port, and handed over as well. So no byte of a tunnel passes here, and
nothing in this network reaches anything but loopback. That it is one of its own is looked at before anything begins:
systemd goes on without where a kernel or a container refuses it. Never speaks TensorFlow's protocol.

On the tunnels' socket (SOCK_SEQPACKET; daemon/tunnels.py has the other end), one message each:
    to TASK     with a descriptor: what was accepted at that role's address
    in NUMBER   from the daemon: connect to the own port; the answer is `in NUMBER` with a descriptor, or `no NUMBER`
    alive       every few seconds: who watches the program is watched too
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time

from ipdc_edge.apps.tensorflow.cluster import STARTER, Cluster, Place, config, planned, read
from ipdc_edge.apps.tensorflow.kept import Kept
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.link import DaemonGone
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

LOOK_EVERY = 1.0  # seconds between two looks at the program
ALIVE_EVERY = 3.0  # seconds between two words that there is somebody; daemon/tunnels.py says when that is too long
STOPPED_FOR = 10.0  # seconds after which a program that somebody stopped counts as lost
CONNECT_WITHIN = 2.0  # seconds for a connection to the own port, on loopback
BACKLOG = 64
BLOCK = 1 << 20  # bytes of an output's block
OUTPUT = "output"  # what is written into this directory comes back
NETWORK = "/proc/self/ns/net"  # which network a process is in; namespaces(7)
PR_SET_DUMPABLE = 4  # Linux' include/uapi/linux/prctl.h
LISTENS = "0A"  # in /proc/net/tcp; Linux' include/net/tcp_states.h, TCP_LISTEN


class NotAlone(IpdcError):
    """the sandbox of {role} has no network of its own, so anybody could reach what listens in it: this node's kernel or
    container refused it (`PrivateNetwork=` of ipdc-runner-role@.service; the journal says why)"""


class ProgramEnded(IpdcError):
    """The program of {role} ended with {how}. What it printed: `ipdc-edge logs {job}`"""


class ProgramTooBig(IpdcError):
    """The program of {role} takes {taken} MB, and a role of this cluster may take {most} MB: plan it with more
    --memory"""


class ProgramStopped(IpdcError):
    """The program of {role} was stopped (SIGSTOP) for {seconds:g} s, and is of no use to the others"""


def load(spec: dict[str, Any], code: dict[str, bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Nothing of the user's is imported here: his program is a process of its own."""
    return spec, code


def make_task(
    program: tuple[dict[str, Any], dict[str, bytes]], task_id: str, params: dict[str, Any], io: TaskIo
) -> RoleTask:
    """A role, or the program that is none."""
    return RoleTask(*program, params, io)


class RoleTask:
    """One role's life."""

    def __init__(self, spec: dict[str, Any], code: dict[str, bytes], params: dict[str, Any], io: TaskIo) -> None:
        self.arguments, self.code, self.io = spec["arguments"], code, io
        self.memory = int(spec["memory"])
        self.cluster: Cluster = read(json.dumps(self.arguments["cluster"]))
        self.name = params["role"] or "the program"
        self.place = next((place for place in self.cluster.places if str(place.role) == params["role"]), None)
        self.python, self.network = str(params["python"]), str(params["network"])  # the latter is the daemon's
        self.tunnels = socket.socket(fileno=io.tunnels)
        self.selector = selectors.DefaultSelector()
        self.stopped_since = self.alive_at = 0.0
        self.told = ""
        self.output = os.path.join(io.directory, OUTPUT)
        restart = bool(self.arguments.get("restart"))
        self.kept = Kept(io.scratch.descriptors, self.output, self._alive) if restart else None

    def position(self) -> dict[str, object]:
        """Nowhere that anybody could look up."""
        return {"where": "program"}

    def run(self) -> dict[str, object]:
        """Until the program ends."""
        if os.readlink(NETWORK) == self.network:
            raise NotAlone(role=self.name)
        self._lay_out()
        for place in self.cluster.places:
            if place is not self.place:
                listener = socket.create_server(("127.0.0.1", place.port), backlog=BACKLOG)
                self.selector.register(listener, selectors.EVENT_READ, place)
        self.selector.register(self.tunnels, selectors.EVENT_READ, None)
        _close_to_the_program()
        child = self._start()
        try:
            status = self._watch(child)
        except BaseException:
            child.kill()
            child.wait()
            self._keep(Kept.save)
            raise
        if status:
            self._keep(Kept.save)
            raise ProgramEnded(role=self.name, how=_how(status), job=self.io.job)
        size = self._give_output()
        spilled = self.kept.written if self.kept is not None else 0
        return {"counters": {"roles": 1, "spilled_bytes": spilled}, "streams": [{"records": 0, "bytes": size}]}

    def _keep(self, do: Callable[[Kept], object]) -> object:
        """Does something about what a role that is started again shall find; a disk that is full ends no role."""
        if self.kept is None:
            return None
        try:
            return do(self.kept)
        except (OSError, RecursionError) as error:  # the latter of a directory that is too deep
            print(f"ipdc-edge: what {self.name} writes to IPDC_OUTPUT is not kept for its next start: "
                  f"{getattr(error, 'strerror', '') or error}", flush=True)
            self.kept = None
            return None

    def _lay_out(self) -> None:
        """The job's files, as they are beside the program."""
        for name, content in {**self.code, "ClusterSpec.json": planned(self.cluster).encode()}.items():
            path = os.path.join(self.io.directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content.whole() if isinstance(content, OpenFile) else content)
        os.makedirs(self.output, exist_ok=True)
        if found := self._keep(Kept.restore):
            print(f"ipdc-edge: {self.name} begins again, and finds {found} bytes in IPDC_OUTPUT", flush=True)

    def _start(self) -> subprocess.Popen[bytes]:
        words = [self.python, self.arguments["program"]]
        if self.place is not None and self.arguments["program"] == STARTER:
            words += [self.place.role.job, str(self.place.role.index)]
        words += self.arguments.get("words", [])
        environ = {
            "PATH": os.defpath, "LANG": "C.UTF-8", "HOME": self.io.directory, "TMPDIR": self.io.directory,
            "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_CONFIG": config(self.cluster, self.place.role if self.place else None),
            "ipdc_cluster": json.dumps(self.cluster.spec), "IPDC_OUTPUT": self.output,
        }
        environ |= {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
        self.io.status("starts")
        return subprocess.Popen(words, env=environ, cwd=self.io.directory, stdin=subprocess.DEVNULL)

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Carries connections until the program ends; its status."""
        ended = os.pidfd_open(child.pid)
        self.selector.register(ended, selectors.EVENT_READ, child)
        due = 0.0
        try:
            while True:
                for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                    if key.data is child:
                        return child.wait()
                    if key.data is None:
                        self._from_daemon()
                    else:
                        self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                if time.monotonic() >= due:
                    due = time.monotonic() + LOOK_EVERY
                    self._look(child.pid)
                    self._keep(lambda kept: kept.look(time.monotonic()))
        finally:
            os.close(ended)

    def _alive(self) -> None:
        """A daemon that does not read at present hears it later."""
        now = time.monotonic()
        if now < self.alive_at:
            return
        self.alive_at = now + ALIVE_EVERY
        try:
            self.tunnels.send(b"alive", socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise DaemonGone from error

    def _accept(self, listener: socket.socket, place: Place) -> None:
        """The program connects to another role."""
        connection, _ = listener.accept()
        with connection:
            try:
                socket.send_fds(self.tunnels, [f"to {place.role.task}".encode()], [connection.fileno()])
            except OSError as error:
                raise DaemonGone from error

    def _from_daemon(self) -> None:
        """Another role connects to the program."""
        message = self.tunnels.recv(64)
        if not message:
            raise DaemonGone
        word, number = message.split()
        if word != b"in":
            return
        try:
            if self.place is None:
                raise OSError("a program that is no role listens nowhere")
            with socket.create_connection(("127.0.0.1", self.place.port), CONNECT_WITHIN) as connection:
                socket.send_fds(self.tunnels, [b"in " + number], [connection.fileno()])
        except OSError:
            self.tunnels.send(b"no " + number)

    def _look(self, pid: int) -> None:
        """What people see of it, and whether it is to be ended."""
        self._alive()
        taken, state = memory_taken(), _state(pid)
        if taken > self.memory:
            raise ProgramTooBig(role=self.name, taken=taken >> 20, most=self.memory >> 20)
        now = time.monotonic()
        if state != "T":
            self.stopped_since = 0.0
        elif not self.stopped_since:
            self.stopped_since = now
        elif now - self.stopped_since > STOPPED_FOR:
            raise ProgramStopped(role=self.name, seconds=STOPPED_FOR)
        up = "runs" if self.place is None else "up" if listens(self.place.port) else "starts"
        told = f"{up}, {taken >> 24 << 4} MB"  # in steps of 16 MB: what changes is told
        if told != self.told:
            self.told = told
            self.io.status(told)

    def _give_output(self) -> int:
        """What the program left in the output directory, as one tar; nothing where it left nothing. Its bytes."""
        top = self.output
        if not os.listdir(top):
            return 0
        import tarfile

        pieces = _Pieces(self.io, self._alive)
        with tarfile.open(fileobj=pieces, mode="w|") as tar:  # type: ignore[call-overload]
            for name in sorted(os.listdir(top)):
                tar.add(os.path.join(top, name), name)
        pieces.close()
        return pieces.size


def _close_to_the_program() -> None:
    """The program has this process' user id, and could else write into its memory and speak to the daemon in its name;
    prctl(2), PR_SET_DUMPABLE. What is executed begins without."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE")


class _Pieces:
    """A file that is written in blocks of the output's size; `alive` is called with each."""

    def __init__(self, io: TaskIo, alive: Callable[[], None]) -> None:
        self.io, self.alive, self.rest, self.size = io, alive, bytearray(), 0

    def write(self, data: bytes) -> int:
        """As a file does."""
        self.rest += data
        self.size += len(data)
        while len(self.rest) >= BLOCK:
            self.alive()
            self.io.write(0, bytes(self.rest[:BLOCK]))
            del self.rest[:BLOCK]
        return len(data)

    def close(self) -> None:
        """The last, shorter block."""
        if self.rest:
            self.io.write(0, bytes(self.rest))
            self.rest.clear()


def memory_taken() -> int:
    """Bytes that the program and whatever it started have in memory: all processes of this user but this one and the
    first, which is the sandbox's. Of others nothing is seen, unless a kernel is too old to hide them (ProtectProc=);
    proc(5), /proc/PID/status."""
    own, user, taken = {os.getpid(), 1}, os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in own:
            try:
                with open(f"/proc/{name}/status", encoding="ascii", errors="replace") as file:
                    found = dict(line.split(":", 1) for line in file)
                if int(found["Uid"].split()[0]) == user and "VmRSS" in found:
                    taken += int(found["VmRSS"].split()[0]) << 10
            except (OSError, LookupError, ValueError):
                continue
    return taken


def listens(port: int) -> bool:
    """Whether anything in this network listens at a port; proc(5), /proc/net/tcp."""
    wanted = f":{port:04X}"
    for name in ("tcp6", "tcp"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if len(words) > 3 and words[1].endswith(wanted) and words[3] == LISTENS:
                        return True
        except OSError:
            continue
    return False


def _state(pid: int) -> str:
    """R, S, T ...; proc(5), /proc/PID/stat."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
