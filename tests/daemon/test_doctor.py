"""The daemon's part of doctor: members that answer and those that do not, versions, store, sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge import __version__
from ipdc_edge import settings as conf
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.messages import topic
from ipdc_edge.core.values import NodeRecord
from ipdc_edge.daemon import doctor
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.doctor import reach
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.flash import Flash
from ipdc_edge.drivers.tls import client_context, server_context
from ipdc_edge.home import Home
from tests.core.scenario import VITALS
from tests.drivers.certificates import Domain
from tests.drivers.nodes import admit, make_creator, make_node

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# -- one member


class Scene:
    """A node that asks, and a member that listens with whatever certificate."""

    def __init__(self, directory: Path) -> None:
        domain = Domain(str(directory / "domain"))
        self.own, self.peer, self.third = (domain.admit(name) for name in ("own", "peer", "third"))
        self.stranger = Domain(str(directory / "other")).admit("stranger")

    def reach(self, context: ssl.SSLContext | None, behave: Callable[..., Any], address: str = "") -> str:
        """The word for what is wrong with `peer`; "" where nothing is."""
        async def main() -> doctor.Trouble | None:
            server = await asyncio.start_server(behave, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            try:
                return await reach(address or f"127.0.0.1:{port}", self.peer.id, client_context(self.own))
            finally:
                server.close()

        found = asyncio.run(main())
        assert found is None or (found.said and doctor.ADVICE[found.word])
        return found.word if found else ""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await reader.read()
    writer.close()


def test_a_member_that_answers(scene: Scene) -> None:
    assert scene.reach(server_context(scene.peer), _listen) == ""


def test_a_member_that_ends_a_handshake_is_tried_again(scene: Scene) -> None:
    """As mosquitto 2.0.21 does with OpenSSL 3.5 when another handshake failed before."""
    met: list[int] = []

    async def second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(len(met))
        if len(met) == 1:
            return writer.transport.abort()
        await writer.start_tls(server_context(scene.peer))
        await _listen(reader, writer)

    assert scene.reach(None, second) == "" and met == [0, 1]


def test_another_member_at_its_address(scene: Scene) -> None:
    assert scene.reach(server_context(scene.third), _listen) == "other"


def test_a_node_of_another_domain_at_its_address(scene: Scene) -> None:
    assert scene.reach(server_context(scene.stranger), _listen) == "certificate"


def test_something_else_at_its_address(scene: Scene) -> None:
    assert scene.reach(None, _talk) == "broken"
    assert scene.reach(None, _hang_up) == "broken"


def test_nothing_at_its_address(scene: Scene) -> None:
    with socket.socket() as bound:  # and does not listen, so that nobody else takes the port
        bound.bind(("127.0.0.1", 0))
        assert scene.reach(None, _listen, f"127.0.0.1:{bound.getsockname()[1]}") == "refused"
    assert scene.reach(None, _listen, "no-such-host.invalid:1") == "name"


def test_a_member_that_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIMIT", 0.3)
    assert scene.reach(None, _listen) == "silent"


def test_no_way_to_it() -> None:
    """Really none: in a network namespace without a single interface that is up."""
    script = ("import asyncio, ssl; from ipdc_edge.daemon.doctor import reach; "
              "print(asyncio.run(reach('10.0.0.1:18830', 'n', ssl.create_default_context())).word)")
    ways = (["unshare", "-n"], ["unshare", "-rn"], ["sudo", "-n", "unshare", "-n"])
    way = next(way for way in ways if subprocess.run([*way, "true"], stderr=subprocess.DEVNULL).returncode == 0)
    done = subprocess.run([*way, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "no way\n", done.stderr


# -- what a whole daemon says


def _checks(home: Home, prepare: Callable[[Daemon], None] = lambda daemon: None) -> dict[str, list[dict[str, Any]]]:
    async def main() -> dict[str, list[dict[str, Any]]]:
        daemon = Daemon(home, conf.load(home.conf), identity.load(home))
        try:
            prepare(daemon)
            answer = json.loads(json.dumps(await doctor.checks(daemon)))
        finally:
            daemon.store.close()
            daemon.ledger.close()
        assert answer["version"] == __version__
        found: dict[str, list[dict[str, Any]]] = {}
        for check in answer["checks"]:
            found.setdefault(check["check"], []).append(check)
        return found

    return asyncio.run(main())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_creator(tmp_path)


def test_alone_there_are_no_peers(home: Home) -> None:
    found = _checks(home)
    assert "peers" not in found and "portal" not in found
    assert [check["ok"] for check in found["store"] + found["versions"]] == [True, True]
    (broker,) = found["broker"]
    assert broker["ok"] is False and "does not answer" in broker["detail"] and broker["advice"]


@pytest.mark.parametrize(("minutes", "each", "ok"), [(30, 10_000, True), (30, 20_000, None), (5, 1 << 20, True)])
def test_an_idle_node_that_writes_much(minutes: int, each: int, ok: bool | None) -> None:
    """Each minute; a short time says nothing of an hour."""
    written = 0
    counted = Flash(lambda: written)
    for minute in range(minutes + 1):
        counted.look(60.0 * minute, False)
        written += each
    found: list[tuple[str, bool | None, str, str]] = []
    doctor.flash(counted, 60.0 * minutes, "/home", lambda *check: found.append(check))
    ((name, well, detail, advice),) = found
    assert (name, well) == ("flash", ok) and f"idle for {minutes} minutes: " in detail
    assert "find /home -type f -mmin -60" in advice


def test_a_node_that_has_work_tells_of_its_last_idle_time() -> None:
    counted, found = Flash(lambda: 5 << 20), []

    def look(now: float) -> str:
        doctor.flash(counted, now, "/home", lambda *check: found.append(check[2]))
        return str(found[-1])

    counted.synced(count=1)
    assert look(0.0) == "5.0 MB written, 1 fsync since the start; has not been idle yet"
    counted.look(0.0, False)
    counted.look(1200.0, True)
    counted.synced()
    assert look(1300.0) == "5.0 MB written, 2 fsyncs since the start; idle for 20 minutes: 0.0 MB written, 0 fsyncs"


def test_a_block_that_was_damaged(home: Home) -> None:
    def damage(daemon: Daemon) -> None:
        data = b"x" * 1000
        daemon.store.put(raw_cid(data), data, "user")
        (path,) = [path for path in Path(home.blocks).rglob("*") if path.is_file() and path.stat().st_size == 1000]
        path.chmod(0o600)
        path.write_bytes(b"y" * 1000)
        assert daemon.store.get(raw_cid(data)) is None

    (check,) = _checks(home, damage)["store"]
    assert check["ok"] is False and check["advice"].startswith("1 blocks were found damaged")


@pytest.mark.parametrize(("kind", "ok", "words"), [
    ("rlimits", None, "run jobs of people you trust"), ("systemd", True, ""),
    ("systemd without memory cgroup", None, "see `memory cgroup`")])
def test_the_sandbox_and_what_is_weaker(home: Home, kind: str, ok: bool | None, words: str) -> None:
    def sandbox(daemon: Daemon) -> None:
        membership = daemon.node.membership
        membership.own = replace(membership.own, sandbox=kind)

    (check,) = _checks(home, sandbox)["sandbox"]
    assert (check["ok"], check["detail"]) == (ok, kind) and words in check["advice"]


def test_what_a_better_sandbox_takes(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sandbox(daemon: Daemon) -> None:
        daemon.node.membership.own = replace(daemon.node.membership.own, sandbox="rlimits")

    monkeypatch.setattr(doctor, "BUBBLEWRAP", str(tmp_path / "bwrap"))
    assert "sudo apt install bubblewrap" in _checks(home, sandbox)["sandbox"][0]["advice"]
    (tmp_path / "bwrap").touch()
    assert "bubblewrap" not in _checks(home, sandbox)["sandbox"][0]["advice"]


@pytest.fixture
def others(home: Home, tmp_path: Path) -> list[str]:
    """The ids of two more members."""
    found = []
    for name in ("kitchen", "attic"):
        node = make_node(tmp_path, name)
        admit(home, node, name)
        found.append(identity.own_id(node))
    return found


def test_members_nobody_has_seen(home: Home, others: list[str]) -> None:
    found = _checks(home)
    (peers,) = found["peers"]
    assert (peers["ok"], peers["detail"]) == (False, "0 of 2 answer at their brokers")
    assert "ip route" in peers["advice"]
    told = found.get("portal", []) + found.get("peer", [])
    assert len(told) == 2 and {check["ok"] for check in told} == {None}
    assert all("at no known address: nobody knows where it is" in check["detail"] for check in told)
    assert "portals" in told[0]["advice"]


def test_members_that_do_not_answer_cost_no_more_than_their_time(home: Home, others: list[str],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ALL", 0.3)
    monkeypatch.setattr(doctor, "AT_ONCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        def know(daemon: Daemon) -> None:
            for node in others:
                daemon.node.membership.remember(node, address, address)

        found = _checks(home, know)
    told = found.get("portal", []) + found.get("peer", [])
    assert len(told) == 4 and all("no time left" in check["detail"] and check["advice"] for check in told)


def _record(node: str, name: str, version: str) -> NodeRecord:
    return NodeRecord(node, name, "ready", "127.0.0.1:1", "127.0.0.1:1", version, (), 1, "rlimits", VITALS)


def test_members_of_other_versions(home: Home, others: list[str]) -> None:
    def hear(daemon: Daemon) -> None:
        membership = daemon.node.membership
        membership.record_heard("p", 1, _record(others[0], "kitchen", "0.0.9"))
        membership.record_heard("p", 1, _record(others[1], "attic", "99.0"))

    older, newer = _checks(home, hear)["versions"]
    assert older["ok"] is None and older["detail"] == f"older than this node's {__version__}: kitchen (0.0.9)"
    assert newer["ok"] is None and "attic (99.0)" in newer["detail"] and "bring this node up to date" in newer["advice"]


def test_a_member_of_another_protocol(home: Home, others: list[str]) -> None:
    def hear(*versions: int) -> Callable[[Daemon], None]:
        def prepare(daemon: Daemon) -> None:
            for version in versions:
                payload = json.dumps({"v": version, "birth": 1, "address": "a:1", "gateway": "a:1"}).encode()
                text = topic(daemon.domain.identity.domain, others[0], "ask")
                daemon.mqtt.received(daemon.mqtt.own, text, payload)
        return prepare

    (check, *_) = _checks(home, hear(2))["versions"]
    assert check["ok"] is False and "kitchen speaks another protocol" in check["detail"]
    assert "version 2; this node speaks version 1" in check["detail"] and check["advice"]
    assert _checks(home, hear(2, 1))["versions"][0]["ok"], "it was brought up to date since"
