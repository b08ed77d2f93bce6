"""What every test runs under: unit tests that reach nothing outside, and marks that choose what runs.

Owns the guard that fails a unit test which opens a network socket or starts a process, the option `--all`,
and hypothesis' profile. Never holds helpers for one area: those live beside its tests.

The guard is an audit hook of the interpreter, not a patch of `socket` and `subprocess`: it sees every way in,
also one through a library, and code under test cannot keep an unpatched reference. AF_UNIX pairs are let
through, because every asyncio loop makes one to wake itself up; connecting or binding one is not.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

UNIT = ("core", "codec", "apps", "commands")  # directories of tests/ that are guarded
EXTRA = {
    "npm": "need nodejs, npm and the npm registry",
    "examples": "need the package index",
    "bare": "make fresh Debian roots, need root and debootstrap",
    "memory": "run jobs over up to 1 GB",
    "network": "need root and network namespaces",
    "package": "build the Debian package and install it, need root and debootstrap",
    "booted": "boot Debian 12 and 13 with systemd in containers, need root",
    "board": "boot an emulated board with 128 MB, need root",
    "fuzz": "take a minute for each parser",
    "kubo": "build Kubo with Go, from the Go module proxy",
    "tensorflow": "install TensorFlow, 300 MB, from the package index",
    "faults": "break real nodes, brokers, networks and disks under running jobs, need root",
}
PROCESS = set("subprocess.Popen os.fork os.forkpty os.posix_spawn os.spawn os.exec os.system".split())
SOCKET = {f"socket.{call}" for call in "bind connect sendto sendmsg getaddrinfo gethostbyname".split()}

# A deadline would make tests depend on the machine's speed; in CI the same examples run every time.
slow = [HealthCheck.too_slow]
settings.register_profile("ipdc", deadline=None, print_blob=True, suppress_health_check=slow)
settings.register_profile("ci", settings.get_profile("ipdc"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ipdc")


class WentOutside(AssertionError):
    """A unit test touched the network or started a process."""


class Guard:
    """The audit hook and what it has seen; a hook cannot be removed, so it is switched."""

    def __init__(self) -> None:
        self.active = False
        self.seen: list[str] = []

    def hook(self, event: str, details: tuple) -> None:
        if not self.active:
            return
        if event in PROCESS or event in SOCKET:
            self._refuse(f"{event}{details!r}")
        elif event == "socket.__new__" and details[1] != socket.AF_UNIX:
            self._refuse(f"{event} of family {details[1]}")

    def _refuse(self, what: str) -> None:
        # kept as well as raised: code under test may have a handler wide enough to swallow it
        self.seen.append(what[:300])
        raise WentOutside(what[:300])

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Everything inside stays inside; raises WentOutside at the end for what was swallowed."""
        self.active, self.seen = True, []
        try:
            yield
        finally:
            self.active = False
        if self.seen:
            raise WentOutside("and the test went on: " + "; ".join(self.seen))


guard = Guard()
sys.addaudithook(guard.hook)


@pytest.fixture(autouse=True)
def stays_inside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Guards the tests under UNIT, unless marked `outside("why")`."""
    parts = request.node.path.relative_to(request.config.rootpath).parts
    guarded = parts[0] == "tests" and parts[1] in UNIT
    if not guarded or request.node.get_closest_marker("outside"):
        yield
        return
    with guard.closed():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run tests marked " + ", ".join(EXTRA))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --all or -m, tests with an extra mark are left out, and the summary says so."""
    for item in items:
        marker = item.get_closest_marker("outside")
        if marker and not (marker.args and isinstance(marker.args[0], str)):
            raise pytest.UsageError(f"{item.nodeid}: mark it outside('why')")
    if config.getoption("--all") or config.getoption("-m"):
        return
    left_out = {mark: [item for item in items if item.get_closest_marker(mark)] for mark in EXTRA}
    config.stash[LEFT_OUT] = {mark: len(found) for mark, found in left_out.items() if found}
    dropped = {item for found in left_out.values() for item in found}
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


LEFT_OUT = pytest.StashKey[dict[str, int]]()


def _no_quiet_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under --all a skip is a failure, unless its reason begins with "does not apply" (here, ever)."""
    if not config.getoption("--all") or not report.skipped or hasattr(report, "wasxfail"):
        return
    where, line, reason = report.longrepr  # pytest's form of a skip
    if not reason.removeprefix("Skipped: ").startswith("does not apply"):
        report.outcome = "failed"
        report.longrepr = f"{where}:{line}: skipped although --all leaves nothing out: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    _no_quiet_skip(item.config, report)
    if report.when == "call" and report.failed:
        guard.seen.clear()  # it did not go on


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome = yield
    _no_quiet_skip(collector.config, outcome.get_result())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for mark, count in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_line(f"left out without --all: {count} marked {mark} (they {EXTRA[mark]})")
