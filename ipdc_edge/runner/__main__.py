"""The runner: the child process that runs the user's code, `python3 -m ipdc_edge.runner [FD]`.

Owns the life of a runner: limits, then the job's code, then one task after the other, then the end. Never
reads or writes a file of its own; everything crosses the one stream socket (descriptor FD, 3 unless told),
see codec/frames.py. What the user's code prints goes to standard output and error, which the daemon collects.
"""

from __future__ import annotations

import gc
import socket
import sys
from importlib import import_module

from ipdc_edge.codec import frames
from ipdc_edge.frame_socket import FrameSocket
from ipdc_edge.runner import limits
from ipdc_edge.runner.failure import describe
from ipdc_edge.runner.link import Link
from ipdc_edge.runner.program import CodeImporter, load_program
from ipdc_edge.runner.scratch import Scratch

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

# What a job of an architecture is made of: a module with TaskIo, sort_budget(spec) and make_task.
APPS = {"mapreduce": "ipdc_edge.apps.mapreduce.task"}


class Runner:
    """One job's runner."""

    def __init__(self, link: Link, job: dict[str, Any], code: dict[str, bytes], spills: list[int]) -> None:
        self._link = link
        self._spec = job["spec"]
        self._memory = int(job["limits"]["memory"])
        self._code = code
        self._scratch = Scratch(spills, int(job["limits"]["file_size"]))

    def load(self) -> bool:
        """Loads the user's code and tells so; or tells why not."""
        options, stage = self._spec["options"], "load"
        try:
            self._app = import_module(APPS[self._spec["app"]])
            self._budget = self._app.sort_budget(self._spec)
            CodeImporter(self._code).install()
            self._program = load_program(options["map"], options.get("reduce"))
            stage = "setup"
            self._program.set_up(self._spec.get("arguments") or {})
        except BaseException as error:  # SystemExit too: whatever the user's code does, the daemon is told
            self._fail(error, {"where": stage})
            return False
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections need not look at it
        self._link.send(frames.READY, {})
        return True

    def run(self, params: dict[str, Any]) -> None:
        """One task: DONE or FAILED."""
        link = self._link
        task = None
        try:
            io = self._app.TaskIo(link.read, link.write, link.progress, self._scratch)
            task = self._app.make_task(self._program, self._budget, params, io)
            done = task.run()
        except (EOFError, ConnectionError):
            raise
        except BaseException as error:
            self._fail(error, {} if task is None else task.position())
        else:
            link.send(frames.DONE, done)
        finally:
            self._scratch.clear()
            _flush_prints()

    def _fail(self, error: BaseException, position: dict[str, object]) -> None:
        before = limits.with_spare()
        details = describe(error, self._memory, position)
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


def main(descriptor: int) -> int:
    """Serves one job over the socket; 0 when the daemon said so or left."""
    frame_socket = FrameSocket(socket.socket(fileno=descriptor))
    link = Link(frame_socket)
    received = link.receive_job()
    if received is None:
        return 0
    job, code, spills = received
    limits.apply_limits(int(job["limits"]["memory"]), int(job["limits"]["file_size"]))
    sys.set_int_max_str_digits(0)  # that guard is for servers; ints of any size may travel here
    # The table of a sorter is lists upon lists: the default threshold would look through them a thousand
    # times.
    gc.set_threshold(50_000, 20, 50)
    runner = Runner(link, job, code, spills)
    if not runner.load():
        return 0
    try:
        while (task := link.receive_task()) is not None:
            runner.run(task["params"])
    except (EOFError, ConnectionError):
        return 0  # the daemon is gone: nobody is left to tell
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
