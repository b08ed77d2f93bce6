"""Makes the n-th write of a workload fail, for every n, and judges what came of it.

`disk_errors(names)` compiles disk_shim.c, starts this module under it, and gives a Report; each fault is in a process
of its own. From the command line: python3 -m tests.faults.disk_errors [store] [ledger] [identity] [results]
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = "/usr/bin/python3"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # syncs that do not fail may be quick
# (error, whether it lasts, step between two n): every n for the single fault, fewer where the disk stays broken
QUICK = (("ENOSPC", False, 1), ("EIO", False, 1), ("ENOSPC", True, 6), ("EIO", True, 13))
ALL = tuple((error, lasting, 1) for error, lasting, _ in QUICK)
TRIES = 4  # of one step: with a lasting fault the second fails as well, then the disk is mended


@dataclass
class Report:
    """What was found. `faults` that were injected, by call; those that a caller was `told` of, and those that cost
    nothing but room (`silent`); `violations` in words."""

    runs: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    told: int = 0
    silent: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another's figures in."""
        self.runs += other.runs
        self.faults = dict(Counter(self.faults) + Counter(other.faults))
        self.told += other.told
        self.silent += other.silent
        self.violations += other.violations


def build(directory: str) -> str:
    """The shim's shared library, compiled."""
    library = os.path.join(directory, "disk_shim.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "disk_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library


def disk_errors(names: list[str], every: bool = True, broken: str = "", stop: bool = False) -> Report:
    """The faults of these workloads: really `every` one, or fewer of those that last. `broken` names a
    build that is broken on purpose (see BROKEN). `stop` at the first violation."""
    with tempfile.TemporaryDirectory(prefix="ipdc-disk-errors-", dir=MEMORY) as directory:
        environment = {**os.environ, "PYTHONPATH": ROOT, "LD_PRELOAD": build(directory)}
        command = [PYTHON, "-m", "tests.faults.disk_errors", "--under-the-shim", directory, broken,
                   "ALL" if every else "QUICK", "stop" if stop else "", *names]
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=900)
        if done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}")
        report = Report()
        for line in done.stdout.splitlines():
            report.add(Report(**json.loads(line)))
        return report


# -- under the shim


class Shim:
    """The functions of disk_shim.c in this process."""

    def __init__(self) -> None:
        self.calls = ctypes.CDLL(None)
        self.calls.disk_what.restype = ctypes.c_char_p

    def arm(self, number: int, error: str, lasting: bool, directory: str) -> None:
        code = getattr(errno, error)
        self.calls.disk_arm(ctypes.c_long(number), code, int(lasting), os.fsencode(directory))

    def disarm(self) -> None:
        self.calls.disk_disarm()

    def what(self) -> str:
        """The call that failed and its file; "" when none did."""
        return os.fsdecode(self.calls.disk_what())


def one_fault(name: str, number: int, error: str, lasting: bool, root: str, quiet: object) -> tuple[Report, object]:
    """Run a workload whose `number`-th write fails; 0 for a quiet run. The report, and the state in the end."""
    from ipdc_edge.errors import IpdcError

    from .disk_files import WORKLOADS
    from .disk_workloads import NotDone

    report, shim, disk = Report(runs=1), Shim(), os.path.join(root, "disk")
    os.makedirs(disk)
    work = WORKLOADS[name](disk)
    shim.arm(number, error, lasting, disk)
    seen: list[str] = []
    during = ""
    for step in work.steps():
        for attempt in range(TRIES):
            try:
                step()
            except (IpdcError, OSError, NotDone) as failure:
                seen.append(f"{step.__name__}: {type(failure).__name__}: {failure}")
                if "bug in this node" in str(failure) or not str(failure):
                    report.violations.append("not told in plain words")
                _look(work, root, report, seen[-1])
            except Exception as failure:
                report.violations.append("".join(traceback.format_exception(failure)))
                return report, None
            else:
                work.done.append(step.__name__)
                break
            work.again()
            if attempt:
                shim.disarm()
        else:
            report.violations.append(f"{step.__name__} fails although the disk works again")
            break
        if attempt:
            _look(work, root, report, f"after {step.__name__}")
        during = during or (step.__name__ if shim.what() else "")
    what = shim.what()
    work.undeletable = bool(shim.calls.disk_undeletable())
    if not work.undeletable and (left := work.leftovers()):
        report.violations.append(f"scratch is left: {left}")
    shim.disarm()
    state = None
    if not report.violations:
        try:
            state = work.state()
            if number and state != quiet:
                report.violations.append(f"in the end: {str(state)[:1500]}\nafter a quiet run: {str(quiet)[:1500]}")
        except Exception as failure:
            report.violations.append("".join(traceback.format_exception(failure)))
    if what:
        report.faults[what.split()[0]] = 1
        report.told = bool(seen)
        report.silent = [] if seen else [f"{name}, {during}: {what}"]
    place = f"{name}, {error}{' that lasts' if lasting else ''} at {number}, {what}: told {seen}: "
    report.violations = [place + text for text in report.violations]
    return report, state


def _look(work: object, root: str, report: Report, when: str) -> None:
    """What would a process find that starts now, the first one having been killed?"""
    copy = os.path.join(root, "copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(os.path.join(root, "disk"), copy, symlinks=True, ignore=shutil.ignore_patterns("*-shm"))
    try:
        work.look(copy)  # type: ignore[attr-defined]
    except Exception as failure:
        report.violations.append(f"a new start {when}: " + "".join(traceback.format_exception(failure)))


def forked(name: str, number: int, error: str, lasting: bool, root: str, quiet: object) -> Report:
    """`one_fault` in a fresh process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            report, _ = one_fault(name, number, error, lasting, root, quiet)
            with open(writing, "w") as file:
                json.dump(asdict(report), file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    shutil.rmtree(root)
    return Report(**json.loads(text)) if text else Report(1, violations=[f"{name}, {error} at {number}: no report"])


def under_the_shim(
    directory: str, broken: str, ways: tuple[tuple[str, bool, int], ...], stop: bool, names: list[str]
) -> None:
    """A line of JSON, a Report, for each workload, error and way to fail."""
    if broken:
        BROKEN[broken]()
    for name in names:
        quiet_report, quiet = one_fault(name, 0, "EIO", False, os.path.join(directory, "quiet-" + name), None)
        if quiet_report.violations:
            raise AssertionError(quiet_report.violations)
        gc.collect()
        gc.freeze()  # no child need look at what is here already
        for error, lasting, stride in ways:
            total, number = Report(), 1
            while True:
                report = forked(name, number, error, lasting, os.path.join(directory, "run"), quiet)
                total.add(report)
                number += stride
                if not report.faults or (stop and report.violations):
                    break
            print(json.dumps(asdict(total)), flush=True)
            if stop and total.violations:
                return


def _acknowledges_early() -> None:
    """A ledger that says yes whatever came of the write."""
    from ipdc_edge.drivers.ledger import Ledger

    write = Ledger._write

    def hopeful(self: Ledger, saves: list[object]) -> None:
        try:
            write(self, saves)  # type: ignore[arg-type]
        except Exception:
            return

    Ledger._write = hopeful  # type: ignore[method-assign,assignment]


def _forgets_doubt() -> None:
    """A store that removes at once what was not told to be recorded, though the next start may find it recorded."""
    from ipdc_edge.drivers import block_disk, blocks

    blocks.in_doubt = block_disk.in_doubt = lambda error: False


def _leaves_results() -> None:
    """A master that leaves where it is what it could not put in place."""
    from ipdc_edge.daemon import results

    results.Results._leave_record = lambda self, job, view: None  # type: ignore[method-assign]


BROKEN = {"acknowledges early": _acknowledges_early, "forgets doubt": _forgets_doubt, "leaves results": _leaves_results}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--under-the-shim"]:
        directory, broken, every, stop, *names = sys.argv[2:]
        under_the_shim(directory, broken, ALL if every == "ALL" else QUICK, bool(stop), names)
    else:
        from .disk_files import WORKLOADS

        found = disk_errors(sys.argv[1:] or list(WORKLOADS))
        print(json.dumps(asdict(found), indent=1))
        sys.exit(bool(found.violations))
