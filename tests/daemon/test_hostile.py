"""Bytes of a peer at the daemon's own parts: refused where they are read, whoever gave them is named, and what was a
flood is over after a while."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec import member_list, messages
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.codec.runs import MAX_BLOCK, encode_manifest
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.architecture import BadSpec
from ipdc_edge.core.values import Attempt, JobKey, JobSpec
from ipdc_edge.daemon import domain as domain_module
from ipdc_edge.daemon import job_source, tasks
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.local_inputs import LocalInputs
from ipdc_edge.daemon.streams import FetchFailed, Inputs
from ipdc_edge.drivers import mqtt
from ipdc_edge.drivers.broker_files import access_path
from ipdc_edge.drivers.fetcher import BlockUnavailable
from ipdc_edge.drivers.refusals import Refusals
from tests.daemon.test_daemon import daemon_in
from tests.waiting import eventually_async

MALLORY, OTHER = (node_id(bytes([number]) * 32) for number in (1, 2))
JOB = "20260101-000000-abcd"
CODEC = messages.MessageCodec(MapReduce.commands, MapReduce.reports)
VITALS = {"memory_total": 1, "memory_available": 1, "cpu_count": 1, "cpu_idle": 1.0, "load": 0, "speed": 1,
          "disk_free": 1, "temperature": None, "throttled": False}
RECORD = {"id": MALLORY, "name": "pi", "state": "ready", "mqtt": "a:1", "gateway": "a:2", "version": "1",
          "capabilities": ["x"], "slots": 1, "sandbox": "no", "vitals": VITALS, "members": 1}
CONTROLS = ("\x1b", "\x9b", "\n", "\x00", "\x7f", "\u202e", "\u2028", "\ud800", "\u200f")


def decoded(channel: str, **fields: object) -> m.Message:
    return CODEC.decode(channel, json.dumps({"v": 1, "birth": 1, **fields}).encode())[1]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# -- JSON and texts

@pytest.mark.parametrize("text", [
    nested(messages.MOST_DEPTH + 1), nested(990), nested(100_000), "NaN", "-Infinity", "1e999", "9" * 5000, '"\xff', "",
    "[" * 100_000, '{"a":' * 50 + "1" + "}" * 50,
], ids=lambda text: ascii(text[:10]))
def test_json_that_our_own_encoder_might_not_take(text: str) -> None:
    with pytest.raises(ValueError):
        messages.load(text.encode("latin-1"))


def test_json_as_deep_as_it_may_be() -> None:
    assert json.dumps(messages.load(nested(messages.MOST_DEPTH).encode())) == nested(messages.MOST_DEPTH)
    assert messages.load(b"7") == 7 and messages.load(b'"\\ud800"') == "\ud800"


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
@pytest.mark.parametrize("field", ["name", "version", "sandbox", "capabilities"])
def test_a_record_has_nothing_but_words(field: str, control: str) -> None:
    said = f"a{control}b"
    with pytest.raises(messages.BadMessage):
        decoded("node", **{**RECORD, field: [said] if field == "capabilities" else said})
    assert decoded("node", **{**RECORD, "sandbox": "é 日本"})


@pytest.mark.parametrize("name", ["", "a b", "é", "-l", "$(reboot)", "a" * 64])
def test_a_record_bears_a_name_as_ipdc_conf_allows_it(name: str) -> None:
    """Who reads a list of nodes shall not take one for two, or for another's line."""
    with pytest.raises(messages.BadMessage):
        decoded("node", **{**RECORD, "name": name})
    assert decoded("node", **{**RECORD, "name": "Pi-4_a.b"})


@pytest.mark.parametrize(("field", "value"), [
    ("speed", 1e7), ("speed", -1), ("cpu_idle", 1.1), ("load", 1e300), ("temperature", -1e9), ("cpu_count", 1 << 40)])
def test_vitals_are_those_of_a_machine(field: str, value: float) -> None:
    with pytest.raises(messages.BadMessage):
        decoded("node", **{**RECORD, "vitals": {**VITALS, field: value}})


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_what_peers_tell_people_moves_no_cursor(control: str) -> None:
    for channel in ("refuse", "cancel"):
        message = decoded(channel, job=JOB, reason=f"a{control}b")
        assert isinstance(message, (m.Refuse, m.Cancel)) and message.reason == "a?b"
    failure = {"kind": "user", "message": f"a\n\tb{control}", "cid": "", "details": None}
    message = decoded("failed", job=JOB, task="map-00001", attempt=[1, 2], failure=failure)
    assert isinstance(message, m.Failed) and message.failure.message == "a\n\tb" + ("\n" if control == "\n" else "?")


def test_a_message_of_wrong_types_is_told_in_a_few_words() -> None:
    for value in ([[[]]], {"a": "b" * 9000}, "x" * 9000, 7, None, True):
        with pytest.raises(messages.BadMessage) as refused:
            decoded("cancel", job=value, reason="")
        assert len(str(refused.value)) < 250


def test_a_packed_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50 << 20), 9)).decode()
    with pytest.raises(member_list.BadMemberList, match="more than"):
        member_list.unpack(bomb)


# -- what a runner is given

@pytest.mark.parametrize("block", [
    json.dumps({"x": "é" * 900_000}, ensure_ascii=False).encode(), json.dumps({"x": "\x01" * 325_000}).encode(),
    b"\0", b'{"x":' + nested(200).encode() + b"}",
], ids=["two bytes become six", "too long", "no JSON", "deep"])
def test_json_that_no_runner_can_be_given_is_refused_where_it_is_read(block: bytes) -> None:
    with pytest.raises(BadSpec):
        job_source.json_of(block)


def test_ordinary_parameters_are_taken() -> None:
    params = {"inputs": [{"run": {"manifest": raw_cid(b"%d" % n), "index": 1, "node": OTHER}} for n in range(9000)]}
    assert job_source.json_of(json.dumps(params).encode()) == params


class Given:
    """A fetcher that has these blocks and no others."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = {raw_cid(block): block for block in blocks}

    async def block(self, cid: str, providers: object) -> bytes:
        if not cid.startswith("bafkrei"):
            raise tasks.BadCid(text=cid, reason="none")
        if cid not in self.blocks:
            raise BlockUnavailable(cid=cid, reasons="nobody has it")
        return self.blocks[cid]


def entry(*blocks: bytes, told: int | None = None) -> dict[str, Any]:
    size = sum(map(len, blocks)) if told is None else told
    return {"blocks": [raw_cid(block) for block in blocks], "bytes": size, "records": 1}


BIG = b"x" * (MAX_BLOCK + 1)
MANIFESTS: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "a block longer than a run's": (encode_manifest([entry(BIG, b"y")]), (BIG, b"y")),  # type: ignore[list-item]
    "more bytes than told": (encode_manifest([entry(b"abc", told=2)]), (b"abc",)),  # type: ignore[list-item]
    "fewer bytes than told": (encode_manifest([entry(b"abc", told=4)]), (b"abc",)),  # type: ignore[list-item]
    "a block that is no CID": (json.dumps({"version": 1, "runs": [
        {"blocks": ["../x"], "bytes": 3, "records": 1}]}).encode(), ()),
    "no such run": (encode_manifest([]), ()), "no JSON": (b"\0", ()), "deep": (nested(500).encode(), ()),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_lies_is_the_fault_of_its_node(name: str) -> None:
    manifest, blocks = MANIFESTS[name]

    async def read(manifest: bytes, blocks: tuple[bytes, ...]) -> int:
        item = {"run": {"manifest": raw_cid(manifest), "index": 0, "node": MALLORY}}
        params = {"inputs": [item], "outputs": {"kind": "files", "count": 1}, "gateways": {MALLORY: "a:1"}}
        inputs = Inputs(Given(manifest, *blocks), LocalInputs([]), params)  # type: ignore[arg-type]
        size = 0
        while data := await inputs.read(0):
            size += len(data)
        return size

    with pytest.raises(FetchFailed) as failed:
        asyncio.run(read(manifest, blocks))
    assert failed.value.node == MALLORY and failed.value.cid == raw_cid(manifest)
    good = (b"x" * MAX_BLOCK, b"y")
    assert asyncio.run(read(encode_manifest([entry(*good)]), good)) == MAX_BLOCK + 1  # type: ignore[list-item]


def test_whoever_gave_nonsense_is_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[str]:
        daemon, key = daemon_in(str(tmp_path)), JobKey(MALLORY, JOB)
        seen: list[str] = []
        daemon.tasks.emit = lambda event: seen.append(event.failure.message)  # type: ignore[union-attr]
        daemon.tasks.jobs[key] = tasks.HeldCode(JobSpec(raw_cid(b""), "mapreduce", 1, 1, {"code": {}}))
        wrong: tuple[Any, ...] = ({"/": 7}, {"/": [[]]}, {"/": "b\x1b[2J"}, {}, {"inputs": 3}, {"/": raw_cid(b"none")})
        for number, params in enumerate(wrong):
            await daemon.tasks._attempt(fx.StartTask(key, "map-00000", Attempt(1, number), params))
        daemon.tasks._tell(OTHER, "".join(CONTROLS))
        await daemon.tasks.close()
        return seen

    failures = asyncio.run(main())
    assert len(failures) == 6 and not any("bug" in failure for failure in failures), failures
    log = capfd.readouterr().err
    assert log.count(MALLORY) == 1 and "Traceback" not in log
    assert log.count("\n") == 2 and log.replace("\n", "").isprintable(), log


def test_a_part_that_no_disk_can_hold_is_not_begun(tmp_path: Path) -> None:
    async def main() -> tuple[list[e.Event], list[str]]:
        daemon = daemon_in(str(tmp_path))
        seen: list[e.Event] = []
        daemon.results.emit = seen.append
        effect = fx.FetchPart(JOB, "reduce-00000", 0, raw_cid(b"x"), 1 << 61, MALLORY, "127.0.0.1:1")
        await daemon.results._fetch_part(effect)
        return seen, os.listdir(daemon.results._incoming(JOB))

    (failed,), left = asyncio.run(main())
    assert isinstance(failed, e.ResultFailed) and MALLORY in failed.reason and not left


# -- floods

def say(daemon: Daemon, sender: str, count: int, payload: bytes) -> None:
    for _ in range(count):
        daemon.mqtt.received(daemon.mqtt.own, messages.topic(daemon.mqtt.domain, sender, "ask"), payload)


def test_a_flooder_is_shut_out_and_let_in_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(domain_module, "SHUT_OUT", 0.3)

    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        domain = daemon.domain
        own = domain.members.members[0]
        added = tuple(replace(own, id=node, serial=f"{number}") for number, node in enumerate(
            (MALLORY, OTHER), 2))
        domain.held = replace(domain.held, members=replace(domain.members, members=(own, *added)))
        domain._ids |= {MALLORY, OTHER}
        heard = daemon.mqtt.counters
        ask = CODEC.encode(m.Ask("a:1", "a:2"), 1).payload
        say(daemon, OTHER, 100, ask)
        assert domain.admits(MALLORY)
        most = int(mqtt.FLOOD * daemon.settings.keepalive / 4)
        say(daemon, MALLORY, most, ask)
        assert domain.admits(MALLORY) and not heard["flooded"], "as many as may be"
        say(daemon, MALLORY, 5000, ask)
        assert heard["received"] == most + 100 and heard["flooded"] == 5000, "dropped unread"
        assert not domain.admits(MALLORY) and domain.admits(OTHER)
        say(daemon, OTHER, 100, ask)
        assert heard["received"] == most + 200, "others are heard meanwhile"

        def named() -> set[str]:
            with open(access_path(daemon.home)) as file:
                text = file.read()
            return {node for node in (MALLORY, OTHER) if f"user {node}" in text}

        await domain.enforced.wait()
        await eventually_async(lambda: os.path.exists(access_path(daemon.home)), "the access list is written")
        await eventually_async(lambda: domain.admits(MALLORY), "it is let in again")
        await eventually_async(lambda: named() == {MALLORY, OTHER}, "at the broker too")

    asyncio.run(main())
    log = capfd.readouterr().err
    assert log.count("floods") == 1 and f"{MALLORY} floods" in log


def test_nonsense_is_told_once_a_minute_and_sender(tmp_path: Path) -> None:
    async def main() -> list[str]:
        daemon = daemon_in(str(tmp_path))
        lines: list[str] = []
        daemon.mqtt._refusals = Refusals(lines.append)
        for sender in (MALLORY, OTHER):
            say(daemon, sender, 1000, b"\x1b[2J")
        assert daemon.mqtt.counters["refused"] == 2000
        return lines

    lines = asyncio.run(main())
    assert len(lines) == 2 and MALLORY in lines[0] and OTHER in lines[1] and all(map(str.isprintable, lines))
