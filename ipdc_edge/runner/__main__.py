"""The runner: the child process that runs the user's code, `python3 -m ipdc_edge.runner [FD]`.

Owns the life of a runner: limits, then the job's code, then one task after the other, then the end. Never
reads or writes a file of its own; everything crosses the one stream socket (descriptor FD, 3 unless told),
see codec/frames.py. What the user's code prints goes to standard output and error, which the daemon collects.

Never knows an architecture: the JOB frame names a module, which is imported (after the limits are set) and has

    load(spec, code) -> program
        spec: the job's description; code: {name: bytes} of what travelled with it; native programs and big files
        are the OpenFile of runner/shipped.py, which is no more than their beginning. Whatever it raises is told as
        the job's own error in "load"; `failure.place(error, {"where": "setup"})` says otherwise. What `import`
        shall find of the code: `importer.CodeImporter(code).install()`.
    make_task(program, task_id, params, io) -> task
        params: what the architecture's plan made for the task; io: a TaskIo. Called for one task after the other,
        on the same program.
    task.run() -> {"counters": {name: int}, "user_counters": {name: int}, "streams": [{"records", "bytes"}]}
        one entry for each output stream; "user_counters" may be left out.
    task.position() -> dict
        where the task is just now, for the description of an error: some of {"where", "input", "offset", "record"}.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from importlib import import_module

from ipdc_edge.codec import frames
from ipdc_edge.frame_socket import FrameSocket
from ipdc_edge.runner import limits
from ipdc_edge.runner.failure import describe, place_of
from ipdc_edge.runner.link import DaemonGone, Link
from ipdc_edge.runner.scratch import Scratch
from ipdc_edge.runner.task_io import TaskIo

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

VENV = "/var/lib/ipdc/venv"


class Runner:
    """One job's runner."""

    def __init__(
        self, link: Link, job: dict[str, Any], code: dict[str, bytes], spills: list[int], tunnels: int = -1
    ) -> None:
        self._link = link
        self._spec = job["spec"]
        self._module = str(job["module"])
        self._memory = int(job["limits"]["memory"])
        self._code = code
        scratch = Scratch(spills, int(job["limits"]["file_size"]))
        self._io = TaskIo(
            link.read, link.write, link.progress, scratch, link.status, link.set_aside, str(job["job"]), os.getcwd(),
            tunnels)

    def load(self) -> bool:
        """Loads the user's code and tells so; or tells why not."""
        try:
            self._app = import_module(self._module)
            self._program = self._app.load(self._spec, self._code)
        except BaseException as error:  # SystemExit too: whatever the user's code does, the daemon is told
            self._fail(error, {"where": "load"})
            return False
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections need not look at it
        self._link.send(frames.READY, {})
        return True

    def run(self, task_id: str, params: dict[str, Any]) -> None:
        """One task: DONE or FAILED."""
        task = None
        self._link.begin_task()
        try:
            task = self._app.make_task(self._program, task_id, params, self._io)
            done = {"user_counters": {}, **task.run()}
        except DaemonGone:
            raise
        except BaseException as error:
            self._fail(error, {} if task is None else task.position())
        else:
            self._link.send(frames.DONE, done)
        finally:
            self._io.scratch.clear()
            _flush_prints()

    def _fail(self, error: BaseException, position: dict[str, object]) -> None:
        before = limits.with_spare()
        details = describe(error, self._memory, place_of(error) or position)
        # The frames hold the task's table: without this, it lives until the next task is under way.
        error.__traceback__ = None
        self._link.send(frames.FAILED, details)
        limits.without_spare(before)


def _flush_prints() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # closed or replaced by the user's code: its prints are its own
            continue


def _print_to(pipe: int) -> None:
    """What is printed from now on, by whatever the user's code starts too, goes into the pipe."""
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.close(pipe)


def _find_more_packages() -> None:
    """What the node's owner installed for jobs, in a virtual environment that the sandbox shows, before Debian's."""
    venv = os.environ.get("IPDC_VENV", VENV)
    packages = f"{venv}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if os.path.isdir(packages):
        distribution = (at for at, path in enumerate(sys.path) if path.endswith("/dist-packages"))
        sys.path.insert(next(distribution, len(sys.path)), packages)


def _own_unit() -> str:
    """The name of the service that this process runs in, "" where it is none of ours; proc(5), /proc/PID/cgroup."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as groups:
        for line in groups:
            name = os.path.basename(line.rstrip("\n"))
            if name.startswith("ipdc-runner") and name.endswith(".service"):
                return name
    return ""


def main(descriptor: int) -> int:
    """Serves one job over the socket; 0 when the daemon said so or left."""
    frame_socket = FrameSocket(socket.socket(fileno=descriptor))
    link = Link(frame_socket)
    try:
        link.send(frames.HELLO, {"unit": _own_unit()})
    except DaemonGone:
        return 0
    received = link.receive_job()
    if received is None:
        return 0
    job, code, spills = received
    if job["prints"]:
        _print_to(spills.pop(0))
    tunnels = spills.pop(0) if job.get("tunnels") else -1
    processes = limits.PROCESSES if tunnels < 0 else limits.MANY_PROCESSES
    most = job["limits"]
    limits.apply_limits(int(most["memory"]) + int(most.get("mapped", 0)), int(most["file_size"]), processes)
    _find_more_packages()
    sys.set_int_max_str_digits(0)  # that guard is for servers; ints of any size may travel here
    # The table of a sorter is lists upon lists: the default threshold would look through them a thousand
    # times.
    gc.set_threshold(50_000, 20, 50)
    runner = Runner(link, job, code, spills, tunnels)
    try:
        if not runner.load():
            return 0
        while (task := link.receive_task()) is not None:
            runner.run(str(task["id"]), task["params"])
    except DaemonGone:
        return 0  # the daemon is gone: nobody is left to tell
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
