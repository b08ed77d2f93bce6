"""On a fresh Debian 12 and 13: ./run-demo as a newcomer runs it, ./run-tests, and the simulation's digest.

Bookworm is tried as root and trixie as a user with sudo, so that both ways are. Needs root and debootstrap;
without them these tests fail and say what is missing, because whoever asked for them wants to know.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.bare.debian import SUITES, USER, Guest
from tests.simulation.digest import PINNED

pytestmark = pytest.mark.bare
WHO = {"bookworm": "root", "trixie": USER}
# The simulation's digest is compared below, the installed package is tried on both in tests/booted; what big jobs give,
# and how they are shown, is the same on both.
BUT = " ".join(f"--ignore=tests/{part}" for part in ("simulation", "fuzz", "examples", *(
    f"lab/test_{name}.py" for name in (
        "bad_input", "content", "exact", "inputs", "jobs", "leftovers", "local_input", "network", "newcomers_errors",
        "person", "service", "steps", "streaming", "work"))))
# On the release that this machine has itself: something of each thing that run-tests installs.
PART = ("tests/codec/test_cid.py tests/commands/doctor tests/commands/test_join.py tests/daemon/test_doctor.py "
        "tests/daemon/test_idle_imports.py tests/drivers/test_gateway.py tests/lab/test_domain.py")
HASH_SEEDS = {"bookworm": 1, "trixie": 7}
DIGEST = "python3 -m tests.simulation.digest"


def here(suite: str) -> bool:
    """Whether this machine has that release itself."""
    with open("/etc/os-release", encoding="utf-8") as file:
        return suite in file.read()


class Newcomer:
    """A guest with the checkout and the account that uses it."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.user = guest, WHO[guest.suite]
        if self.user != "root":
            guest.add_user()
        self.checkout = guest.add_checkout(self.user)

    def run(self, command: str, seconds: float = 900):
        return self.guest.run(f"cd {self.checkout} && {command}", self.user, seconds=seconds)


@pytest.fixture(params=list(SUITES))
def newcomer(request: pytest.FixtureRequest) -> Iterator[Newcomer]:
    with Guest(request.param) as guest:
        yield Newcomer(guest)


def test_run_demo(newcomer: Newcomer) -> None:
    demo = newcomer.run("./run-demo").check()
    assert demo.left == [], "run-demo left processes running"

    # the ten most frequent words, counted by other means: a word is what the demo's Map.py says
    packed = newcomer.guest.directory / "upper/usr/share/dictd/gcide.dict.dz"
    text = gzip.decompress(packed.read_bytes()).decode(errors="surrogateescape")
    top = Counter(re.findall("[a-z']+", text.lower())).most_common(10)
    printed = [tuple(line.split()) for line in demo.stdout.splitlines()]
    expected = [(str(count), word) for word, count in top]
    assert [line for line in printed if line in expected] == expected, f"not {expected}:\n{demo}"

    # where the results lie: they are still there
    named = {path.rstrip(".") for path in re.findall(r"(?<![\w.])/[\w./-]+", demo.stdout)}
    places = sorted(named | {os.path.dirname(path) for path in named})
    found = newcomer.run("for d in " + " ".join(places) + '; do ls -d "$d/_SUCCESS" "$d/part-00000"; done')
    assert "/_SUCCESS" in found.stdout and "/part-00000" in found.stdout, f"no results in {places}:\n{demo}"

    # and the command that it tells to read them with does
    (command,) = re.findall(r"^\s*(IPDC_HOME=.* result .*)$", demo.stdout, re.MULTILINE)
    read = newcomer.run(command).check()
    assert "{}\t{}\n".format(*top[0]) in read.stdout, f"{command}:\n{read.stdout[:2000]}"

    # and the system is as a careful user leaves it
    enabled = "find /etc/rc?.d /etc/systemd/system -name 'S*' -o -name '*.service'"
    after = newcomer.run(f"ls /usr/sbin/policy-rc.d; {enabled}")
    for leaving in "policy-rc.d\n", "mosquitto", "dictd":
        assert leaving not in after.stdout, f"run-demo left {leaving.strip()}: {after}"

    again = newcomer.run("./run-demo").check()
    assert "installing" not in again.stderr, f"the second run installed something again:\n{again}"


def test_run_tests(newcomer: Newcomer) -> None:
    """All that needs no --all, but for what would only take long; so the code runs on both Pythons and both generations
    of paho-mqtt. On the release that this machine has itself, the run that this test is part of does the rest."""
    trust = newcomer.guest.trust_this_machines_certificates()
    part = PART if here(newcomer.guest.suite) else BUT
    tests = newcomer.run(f"{trust} ./run-tests {part}", seconds=1800).check()
    last = tests.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"[1-9]\d* passed, 0 failed, \d+ skipped", last), tests
    assert tests.left == [], "run-tests left processes running"


def test_the_simulation_has_the_same_digest_everywhere() -> None:
    """With the Python of this machine's own release it is compared in tests/simulation, under two hash seeds."""
    digests, others = {}, [suite for suite in SUITES if not here(suite)]
    for suite in others:
        with Guest(suite) as guest:
            install = "apt-get -qq update && apt-get -y -qq install --no-install-recommends python3"
            guest.run(f"DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; {install}").check()
            place = guest.add_checkout()
            assert f"Python {SUITES[suite]}." in guest.run("python3 --version").check().stdout
            said = guest.run(f"cd {place} && PYTHONHASHSEED={HASH_SEEDS[suite]} {DIGEST}").check().stdout
            digests[suite] = said.splitlines()[-1]
    assert others and digests == dict.fromkeys(others, PINNED)
