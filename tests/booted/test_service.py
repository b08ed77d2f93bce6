"""The daemon under systemd: what restarts it and what does not, how it stops, what a reload changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.booted.containers import Containers
from tests.booted.node import UNITS, Node, counted

pytestmark = pytest.mark.booted
Boot = Callable[..., Node]
WATCHDOG = 6  # seconds; a daemon that is well feeds it three times as often
# A build that is broken on purpose: once, when the file is there, it hangs, and its last words are in the journal.
BROKEN = """
import os, sys, time
from ipdc_edge.core.node import Node
from ipdc_edge.drivers.ledger import Ledger
owner, name = {"core": (Node, "handle"), "ledger": (Ledger, "_write")}[sys.argv[1]]
whole = getattr(owner, name)
def hanging(*words):
    if os.path.exists("/run/ipdc/hang"):
        os.unlink("/run/ipdc/hang")
        print("hangs on purpose", file=sys.stderr, flush=True)
        time.sleep(100000)
    return whole(*words)
setattr(owner, name, hanging)
from ipdc_edge.__main__ import main
sys.exit(main(["run"]))
"""


@pytest.fixture(scope="module")
def broken(containers: Containers, suite: str, node: Node) -> Iterator[Node]:
    """A node of its own for builds that hang."""
    made = Node(containers.boot(f"broken-{suite}", suite, like=node.container))
    made.container.write("/usr/local/lib/broken.py", BROKEN)
    yield made
    containers.discard(made.container)


@pytest.mark.parametrize("what", ["core", "ledger"])
def test_what_hangs_is_restarted_and_the_job_ends_right(what: str, broken: Node) -> None:
    node = broken
    node.configure("ipdc-edge.service", f"""[Service]
        WatchdogSec={WATCHDOG}
        ExecStart=
        ExecStart=/usr/bin/python3 -Ps /usr/local/lib/broken.py {what}
        """)
    node.run("systemctl restart ipdc-edge")
    node.running()
    lines = [f"{what}-early", f"{what}-late"]
    job = node.submit_waiting(*lines)
    node.let_pass(lines[0])
    node.eventually(lambda: node.maps_done(job) == 1, "one map is committed")
    before = node.main_pid()
    node.run("runuser -u ipdc -- touch /run/ipdc/hang")
    node.let_pass(lines[1])  # an event comes, and is saved, if none did before
    node.eventually(lambda: node.main_pid() not in (before, "0"), f"another daemon than {before}")
    node.running()
    node.wait(job)
    assert node.result(job) == counted(*lines)

    said = node.run(f"journalctl -b -o short-monotonic --no-pager _PID={before} + UNIT=ipdc-edge.service").stdout
    hung, killed = (moment(said[said.rindex(f"[{before}]: hangs on purpose") - 100:], words)
                    for words in ("hangs on purpose", "Watchdog timeout"))
    assert killed - hung <= WATCHDOG + 2, said
    assert "in hanging" in said, f"no word on where it hung:\n{said}"


def moment(journal: str, words: str) -> float:
    """Seconds since the boot at the first line with the words."""
    found = re.search(rf"^\[ *([0-9.]+)\].*{words}", journal, re.M)
    assert found, f"{words!r} is not in:\n{journal}"
    return float(found[1])


def test_a_mistake_in_the_settings_ends_in_a_clear_line_and_no_endless_loop(another: Boot) -> None:
    node, units = another("mistaken"), ("ipdc-edge.service", "ipdc-broker.service")
    for unit in units:
        assert 0 < int(node.show(unit, "StartLimitBurst")) <= 20, "no limit of its own"
        assert node.show(unit, "StartLimitIntervalUSec").endswith("min")
        node.configure(unit, "[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\n")  # the same in less time
    node.set(slots="many")
    node.run("systemctl restart ipdc-broker ipdc-edge", check=False)
    node.eventually(lambda: [node.show(unit, "ActiveState") for unit in units] == ["failed"] * 2, "both gave up", 180)
    for unit in units:
        said = node.journal(unit)
        assert re.search(r"ipdc.conf, line \d+: slots = 'many' is not allowed. Allowed: 1 to 256", said), said
        assert "Start request repeated too quickly" in said and "Traceback" not in said, said
    node.set(slots=None)
    node.run("systemctl reset-failed && systemctl start ipdc-edge")
    node.running()


def test_a_reload_takes_up_a_setting_and_says_so(node: Node) -> None:
    before, (was,) = node.main_pid(), node.json("nodes")
    node.reload(slots=was["slots"] + 3)
    node.eventually(lambda: node.json("nodes")[0]["slots"] == was["slots"] + 3, "the new slots")
    assert "/etc/ipdc/ipdc.conf was read again; changed: slots" in node.journal("ipdc-edge")
    node.reload(slots=None)
    node.eventually(lambda: node.json("nodes")[0]["slots"] == was["slots"], "the old slots")
    assert node.main_pid() == before


def test_a_reload_with_a_mistake_fails_and_says_where_it_is(node: Node) -> None:
    before, (was,) = node.main_pid(), node.json("nodes")
    read = node.journal("ipdc-edge").count("was read again")
    node.set(slots="many")
    failed = node.run("systemctl reload ipdc-edge 2>&1", check=False)
    assert failed.code == 1 and "ipdc-edge.service" in failed.stdout
    said = node.journal("ipdc-edge")
    assert re.search(r"ipdc.conf, line \d+: slots = 'many' is not allowed. Allowed: 1 to 256", said), said
    assert said.count("was read again") == read and "Traceback" not in said
    assert node.main_pid() == before and node.active() == ["active"] * len(UNITS)
    node.reload(slots=was["slots"] + 1)
    node.eventually(lambda: node.json("nodes")[0]["slots"] == was["slots"] + 1, "the new slots")
    node.reload(slots=None)
    node.eventually(lambda: node.json("nodes")[0]["slots"] == was["slots"], "the old slots")
    assert node.main_pid() == before


@pytest.fixture(scope="module")
def pair(containers: Containers, suite: str, node: Node) -> Iterator[tuple[Node, Node]]:
    """Two nodes in a domain, with a slot each."""
    first, second = made = [Node(containers.boot(f"{name}-{suite}", suite, like=node.container))
                            for name in ("first", "second")]
    for each in made:
        each.set(slots=1)
        each.run("systemctl restart ipdc-edge")
        each.running()
    first.ipdc("domain", "create", "home", user="root")
    first.ipdc("doctor", user="root")  # nothing is broken: who is told that it is done finds a whole node
    second.ipdc("join", first.ipdc("invite", user="root").stdout.strip(), user="root")
    second.ipdc("doctor", user="root")
    for each in made:
        each.eventually(lambda each=each: [node["state"] for node in each.json("nodes")] == ["ready"] * 2, "two ready")
    yield first, second
    for each in made:
        containers.discard(each.container)


def begin(pair: tuple[Node, Node], name: str, grace: int) -> tuple[str, list[str]]:
    """A job of four tasks, one of which runs on the second node, which has `grace` seconds to stop; (id, its lines)."""
    first, second = pair
    second.set(stop_grace=grace)
    second.run("systemctl restart ipdc-edge")
    first.eventually(lambda: [node["state"] for node in first.json("nodes")] == ["ready"] * 2, "two ready")
    lines = [f"{name}-{number}" for number in range(4)]
    job = first.submit_waiting(*lines, options=("-k", "2"))
    first.eventually(lambda: first.holds(job, second.container.name) and second.runners(), "a task on the second node")
    return job, lines


def stopping(node: Node) -> None:
    """A stop has begun, and it drains."""
    node.run("systemctl stop --no-block ipdc-edge")
    node.eventually(lambda: "(draining)" in node.show("ipdc-edge", "StatusText"), "it drains")


def test_a_stop_lets_a_running_task_end_and_takes_no_more(pair: tuple[Node, Node]) -> None:
    first, second = pair
    job, lines = begin(pair, "drained", 40)
    stopping(second)
    assert second.show("ipdc-edge", "ActiveState") == "deactivating" and second.runners(), "nothing got its grace"
    for node in pair:
        node.let_pass(*lines)
    first.wait(job)
    assert first.result(job) == counted(*lines)
    second.eventually(lambda: second.show("ipdc-edge", "ActiveState") == "inactive", "the end of the daemon")
    assert second.show("ipdc-edge", "Result") == "success"
    assert [found["tasks_done"] > 0 for found in first.status(job)["nodes"]] == [True, True], first.status(job)
    assert "stop_grace is over" not in second.journal("ipdc-edge")


def test_a_stop_hands_back_what_does_not_end_and_the_job_ends_right(pair: tuple[Node, Node]) -> None:
    first, second = pair
    job, lines = begin(pair, "moved", 1)
    second.run("systemctl stop ipdc-edge")
    assert "handing back what still runs here: stop_grace is over" in second.journal("ipdc-edge")
    assert second.runners() == [] and second.failed_units() == ""
    assert first.status(job)["state"] == "running"
    first.let_pass(*lines)
    first.wait(job)
    assert first.result(job) == counted(*lines)
    (left,) = [found for found in first.status(job)["nodes"] if found["name"] == second.container.name]
    assert left["tasks_done"] == 0
