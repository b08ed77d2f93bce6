"""A stranger who holds two hundred connections open at each port of a node, and says nothing, or hardly anything: the
members work on, newcomers join, and memory is bounded."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipdc_edge.codec import join_token
from tests.network.hosts import PYTHON, ROOT, Domain, Host
from tests.network.raw import GATEWAY, JOIN, MQTT, Member, Newcomer, own_domain
from tests.waiting import eventually

pytestmark = pytest.mark.network

MANY = 200
RUNS = 3
RATIO = 2.0  # of the quiet time that a job may take
# What a broker takes for a stranger is mosquitto's and OpenSSL's (45 kB); the gateway lets in a handful at a time.
BROKER_GROWTH, DAEMON_GROWTH = MANY * 64 << 10, 8 << 20
MAP = """
import time
def map(key, line):
    time.sleep(0.04)
    for word in line.split():
        yield word, 1
"""
REDUCE = """
def reduce(key, values):
    yield key, sum(values)
"""
PORTS = {"mqtt": MQTT, "gateway": GATEWAY, "join": JOIN}


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    with own_domain(3) as made:
        for name, text in (("Map.py", MAP), ("Reduce.py", REDUCE)):
            Path(made.directory, name).write_text(text)
        for number in range(6):
            Path(made.directory, f"text{number}").write_text("to be or not to be\n" * 40)
        yield made


@pytest.fixture(scope="module")
def member(domain: Domain) -> Member:
    """A member without a daemon: with its certificate too somebody may be slow, and from its host others come."""
    made = Member(domain, "member")
    for node in domain.nodes:
        eventually(lambda node=node: made.gets_in(node), f"it gets in at {node}")
    return made


@pytest.fixture(scope="module")
def stranger(domain: Domain) -> Host:
    return domain.network.host("stranger")


def job_seconds(domain: Domain) -> float:
    """The median of a few jobs of the attacked node's, which the other nodes work for."""
    master, directory = domain.nodes[0], domain.directory
    inputs = [word for number in range(6) for word in ("--input", os.path.join(directory, f"text{number}"))]
    taken = []
    for _ in range(RUNS):
        began = time.monotonic()
        job = master.submit(os.path.join(directory, "Map.py"), os.path.join(directory, "Reduce.py"), *inputs, "-k", "3")
        taken.append(time.monotonic() - began)
        assert master.result(job) == ["be\t480", "not\t240", "or\t240", "to\t480"]
    return statistics.median(taken)


@pytest.fixture(scope="module")
def quiet(domain: Domain, member: Member) -> float:
    found = job_seconds(domain)
    print(f"quiet: a job takes {found:.2f} s")
    return found


def pss(pid: int) -> int:
    """Bytes of memory that are this process's share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no Pss of {pid}")


def memory(domain: Domain) -> tuple[int, int]:
    """The attacked node's daemon's and broker's."""
    first = domain.nodes[0]
    assert first.daemon.process and first.broker.process
    return pss(first.daemon.process.pid), pss(first.broker.process.pid)


class Crowd:
    """A process on the stranger's host that holds connections open."""

    def __init__(self, host: Host, mode: str, address: str, port: str, count: int, *shown: str, log: str) -> None:
        self.name, self._log, self.count = f"{count} {mode} at {port}", log, count
        words = (PYTHON, "-m", "tests.network.crowd", mode, address, str(PORTS[port]), str(count), *shown)
        with open(log, "wb") as file:
            self.process = host.start(*words, env={"PYTHONPATH": ROOT}, stdout=file, cwd=ROOT)

    def state(self) -> dict[str, int]:
        assert self.process.poll() is None, f"{self.name} ended"
        lines = Path(self._log).read_text().splitlines()
        return dict(json.loads(lines[-1])) if lines else {"open": 0, "made": 0}


@contextmanager
def crowds(domain: Domain, stranger: Host, mode: str, member: Member) -> Iterator[list[Crowd]]:
    """Two hundred at each port of the first node, all of them made at least once when this begins."""
    address, made = domain.nodes[0].host.address, []
    try:
        for port in PORTS:
            log = os.path.join(domain.directory, f"{mode}-{port}")
            made.append(Crowd(stranger, mode, address, port, MANY, log=log))
        if mode == "drip":
            shown, log = member.identity, os.path.join(domain.directory, "asking")
            made.append(Crowd(member.host, "asking", address, "gateway", MANY, shown.certificate, shown.key, log=log))
        for crowd in made:
            eventually(lambda crowd=crowd: crowd.state()["made"] >= MANY, f"{crowd.name} were made", 60)
        yield made
    finally:
        for crowd in made:
            crowd.process.send_signal(signal.SIGKILL)
            crowd.process.wait()


@pytest.mark.parametrize("mode", ["silent", "half", "drip"])
def test_silence_at_every_port_holds_up_nobody(
    domain: Domain, stranger: Host, member: Member, quiet: float, mode: str
) -> None:
    first = domain.nodes[0]
    open_port, token = (join_token.parse(first.invite()) for _ in range(2))
    guest = Newcomer(domain.network.host(f"guest-{mode}"), f"guest-{mode}")
    loyal = Member(domain, f"loyal-{mode}")
    eventually(lambda: loyal.gets_in(first), "a member gets in")
    before = memory(domain)
    with crowds(domain, stranger, mode, member) as made:
        for what, work in (
            ("a member connects to the broker", lambda: loyal.mqtt(first).close()),
            ("a member connects to the gateway", lambda: loyal.gateway(first).socket.close()),
            ("a newcomer joins", lambda: guest.ask(token)),
        ):
            began = time.monotonic()
            work()
            print(f"{mode}: {what} in {1000 * (time.monotonic() - began):.0f} ms")
        took, during = job_seconds(domain), memory(domain)
        for crowd in made:
            state = crowd.state()
            print(f"{crowd.name}: {state['open']} are open, {state['made']} were made")
            assert crowd.process.poll() is None
        assert made[0].state()["made"] >= MANY
    daemon, broker = (now - then for now, then in zip(during, before))
    if took > RATIO * quiet:  # if it is the machine that has more to do now than it had, it still has
        quiet = job_seconds(domain)
    print(f"{mode}: a job takes {took:.2f} s, {took / quiet:.2f} times the quiet {quiet:.2f} s (at most {RATIO:g}); "
          f"PSS of the daemon {before[0] / 1e6:.1f} to {during[0] / 1e6:.1f} MB, "
          f"of the broker {before[1] / 1e6:.1f} to {during[1] / 1e6:.1f} MB")
    assert took <= RATIO * quiet
    assert daemon <= DAEMON_GROWTH and broker <= BROKER_GROWTH
    for name in (guest.name, loyal.name):
        first.ipdc("expel", name)
    Newcomer(guest.host, "last").ask(open_port)
    first.ipdc("expel", "last")
