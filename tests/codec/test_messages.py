"""Messages survive the wire as they are; anything else that arrives is refused with a reason, whatever its
bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec import messages as codec
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core.messages import (
    Accept,
    Ask,
    Cancel,
    CleanUp,
    Command,
    Download,
    Failed,
    Held,
    Leave,
    Lost,
    Members,
    Present,
    Received,
    Refuse,
    Renew,
    Renewed,
    Report,
)
from ipdc_edge.core.values import MOST_RANGES, Attempt, Failure, InputRange, NodeRecord, Result, Vitals

CODEC = codec.MessageCodec(MapReduce.commands, MapReduce.reports)
JOB, CID, NODE = "20260101-000000-abcd", raw_cid(b"x"), node_id(hashlib.sha256(b"n").digest())
VITALS = Vitals(1 << 30, 1 << 29, 4, 0.5, 1.25, 0.9, 1 << 33, 48.5, True, True, True, True)
ATTEMPT = Attempt(7, 12)
MESSAGES = [
    Present(
        NodeRecord(
            NODE, "pi-2", "ready", "10.0.0.1:18830", "[::1]:18831", "0.1.0", ("mapreduce",), 2, "rlimits", VITALS, 7,
            "armhf on aarch64",
        )
    ),
    Lost(),
    Ask("10.0.0.1:18830", "10.0.0.1:18831"),
    Members(7, CID, "10.0.0.1:18830", "10.0.0.1:18831", "eJwr"),
    Leave(),
    Download(JOB, CID, "mapreduce", 24 << 20, "10.0.0.1:18830", "10.0.0.1:18831"),
    Download(JOB, CID, "mapreduce", 24 << 20, "10.0.0.1:18830", "10.0.0.1:18831", -10),
    Accept(JOB, 2, "pi.local:18830", "pi.local:18831"),
    Accept(JOB, 2, "pi.local:18830", "pi.local:18831", (InputRange(0, 0, 1 << 20), InputRange(9, 1 << 30, 1 << 40))),
    Refuse(JOB, "memory: 3 MB"),
    Command(JOB, "do-map", "map-00001", ATTEMPT, "buffer", {"inputs": [{"range": {"start": 0}}]}),
    Report(JOB, "buffer", "map-00001", ATTEMPT, Result(NODE, CID, 1000, {"counters": {"lines": 5}})),
    Report(JOB, "get-result", "reduce-00001", ATTEMPT, Result(NODE, CID, 1000, {"log": CID})),
    Failed(JOB, "map-00001", ATTEMPT, Failure("user", "ValueError: no", "", {"traceback": "File…", "offset": 3})),
    Failed(JOB, "reduce-00001", ATTEMPT, Failure("fetch", "gone", CID)),
    Received(JOB, "map-00001", ATTEMPT),
    Renew(JOB, (Held("map-00001", ATTEMPT, 77, "half \u2026 done"), Held("map-00002", Attempt(7, 13), 0))),
    Renewed(JOB, (ATTEMPT,)),
    Cancel(JOB, "by its owner"),
    CleanUp(JOB),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: codec.Message) -> None:
    encoded = CODEC.encode(message, 42)
    assert CODEC.decode(encoded.channel, encoded.payload) == (42, message)
    assert not encoded.blocks


def test_a_record_of_the_version_before_is_still_read() -> None:
    """It has no architecture, and tells nothing of the board's power."""
    record = MESSAGES[0]
    assert isinstance(record, Present)
    told = json.loads(CODEC.encode(record, 42).payload)
    del told["architecture"]
    for field in ("undervoltage", "throttled_before", "undervoltage_before"):
        del told["vitals"][field]
    _, message = CODEC.decode("node", json.dumps(told).encode())
    assert isinstance(message, Present) and message.record.architecture == ""
    assert message.record.vitals == Vitals(1 << 30, 1 << 29, 4, 0.5, 1.25, 0.9, 1 << 33, 48.5, True)


def test_what_a_node_can_do_are_at_most_64_lines() -> None:
    """16 directories of its own, 8 models that it serves, and what it has itself are 35."""
    record = MESSAGES[0]
    assert isinstance(record, Present)
    for count in (35, 64):
        more = Present(replace(record.record, capabilities=tuple(f"input-local:/srv/{n}" for n in range(count))))
        assert CODEC.decode("node", CODEC.encode(more, 42).payload) == (42, more)
    told = json.loads(CODEC.encode(record, 42).payload)
    with pytest.raises(codec.BadMessage, match="capabilities"):
        CODEC.decode("node", json.dumps({**told, "capabilities": ["x"] * 65}).encode())


def test_what_a_node_is_unable_to_do_comes_along_and_an_older_one_says_nothing_of_it() -> None:
    record = MESSAGES[0]
    assert isinstance(record, Present)
    more = replace(record.record, unable=("tensorflow: not installed",))
    assert CODEC.decode("node", CODEC.encode(Present(more), 42).payload) == (42, Present(more))
    told = json.loads(CODEC.encode(MESSAGES[0], 42).payload)
    assert "unable" not in told
    _, message = CODEC.decode("node", json.dumps(told).encode())
    assert isinstance(message, Present) and message.record.unable == ()


@pytest.mark.parametrize("said", [7, None, "x", [7], ["a\x1b[2J"], ["x" * 257], ["two\nlines"], ["x"] * 17], ids=ascii)
def test_what_a_node_is_unable_to_do_are_a_few_short_lines(said: object) -> None:
    told = json.loads(CODEC.encode(MESSAGES[0], 42).payload)
    with pytest.raises(codec.BadMessage, match="unable|u "):
        CODEC.decode("node", json.dumps({**told, "unable": said}).encode())


@pytest.mark.parametrize("said", [7, None, [], "a\x1b[2J", "x" * 65, "two\nlines"], ids=ascii)
def test_an_architecture_is_a_short_line(said: object) -> None:
    told = json.loads(CODEC.encode(MESSAGES[0], 42).payload)
    with pytest.raises(codec.BadMessage, match="architecture"):
        CODEC.decode("node", json.dumps({**told, "architecture": said}).encode())


@pytest.mark.parametrize("said", [1, "yes", [True], None], ids=ascii)
def test_what_is_no_truth_value_warns_of_nothing(said: object) -> None:
    told = json.loads(CODEC.encode(MESSAGES[0], 42).payload)
    told["vitals"].update(undervoltage=said, throttled_before=said)
    _, message = CODEC.decode("node", json.dumps(told).encode())
    assert isinstance(message, Present)
    assert (message.record.vitals.undervoltage, message.record.vitals.throttled_before) == (False, False)


def test_every_kind_of_message_is_among_those_tried() -> None:
    assert {type(message) for message in MESSAGES} == set(codec.Message.__args__)


def test_failures_go_on_their_channels() -> None:
    assert [CODEC.encode(m, 1).channel for m in MESSAGES if isinstance(m, Failed)] == ["failed", "fetch-failed"]


def test_long_parameters_become_a_block_of_content() -> None:
    params = {"inputs": [{"run": {"manifest": raw_cid(b"%d" % n)}} for n in range(1000)]}
    encoded = CODEC.encode(Command(JOB, "do-reduce", "reduce-00000", ATTEMPT, "get-result", params), 1)
    ((cid, block),) = encoded.blocks
    assert cid == raw_cid(block) and json.loads(block) == params
    assert len(encoded.payload) < 1000
    _, message = CODEC.decode(encoded.channel, encoded.payload)
    assert isinstance(message, Command) and message.params == {"/": cid}


def test_a_message_over_the_limit_is_our_bug() -> None:
    with pytest.raises(codec.MessageTooLong):
        CODEC.encode(Failed(JOB, "map-00001", ATTEMPT, Failure("user", "x" * 20000)), 1)


@pytest.mark.parametrize(
    "details",
    [{"counters": [[7]]}, {"counters": {"x": "1"}}, {"counters": {"x": True}}, {"user_counters": {"x": 1.5}},
     {"user_counters": {"x": 1 << 63}}, {"user_counters": {"\x1b[2J": 1}},
     {"counters": {str(n): n for n in range(101)}}, {"read": -1}, {"read": "9"}, {"aside": "../x"}, {"log": "../x"}])
def test_what_a_master_reads_of_a_results_details_is_checked(details: dict[str, object]) -> None:
    """Or a lying worker's nonsense would be summed, shown at a terminal, or fetched."""
    report = Report(JOB, "buffer", "map-00001", ATTEMPT, Result(NODE, CID, 1, details))
    with pytest.raises(codec.BadMessage):
        CODEC.decode("buffer", CODEC.encode(report, 1).payload)


@pytest.mark.parametrize("priority", [11, -11, 1 << 70, 1.5, True, "high", None])
def test_the_priority_of_an_offer_is_bounded(priority: object) -> None:
    offer = json.loads(CODEC.encode(Download(JOB, CID, "mapreduce", 1, "10.0.0.1:1", "10.0.0.1:2"), 1).payload)
    with pytest.raises(codec.BadMessage):
        CODEC.decode("download", json.dumps(offer | {"priority": priority}).encode())


@pytest.mark.parametrize("held", [
    1, "0", {}, [[0, 0]], [[0, 0, 1, 2]], [[0, 1, 1]], [[0, 2, 1]], [[-1, 0, 1]], [[0, -1, 1]], [[0, 0, 1.5]],
    [[0, 0, True]], [["0", 0, 1]], [[0, 0, 1 << 63]], [[codec.MOST_INPUTS + 1, 0, 1]], [[0, 0, 1]] * (MOST_RANGES + 1),
])
def test_what_a_worker_says_it_holds_is_checked(held: object) -> None:
    told = {"v": 1, "birth": 1, "job": JOB, "slots": 1, "address": "a:1", "gateway": "a:2"}
    assert CODEC.decode("accept", json.dumps(told).encode())[1].held == ()  # type: ignore[union-attr]
    with pytest.raises(codec.BadMessage, match="accept"):
        CODEC.decode("accept", json.dumps(told | {"held": held}).encode())


def test_the_longest_answer_to_an_offer_fits() -> None:
    held = tuple(InputRange(codec.MOST_INPUTS, (1 << 60) + at, 1 << 61) for at in range(MOST_RANGES))
    said = Accept(JOB, 1024, f"{'a' * 255}:18830", f"{'a' * 255}:18831", held)
    assert CODEC.decode("accept", CODEC.encode(said, 1).payload) == (1, said)


def test_unknown_fields_are_ignored() -> None:
    assert CODEC.decode("clean-up", json.dumps({"v": 1, "birth": 3, "job": JOB, "new": [1]}).encode()) == (
        3,
        CleanUp(JOB),
    )


@pytest.mark.parametrize(
    ("channel", "payload", "words"),
    [
        ("clean-up", {"v": 2, "birth": 1, "job": JOB}, "version 2"),
        ("clean-up", {"birth": 1, "job": JOB}, "v is 'None'"),
        ("clean-up", {"v": 1, "birth": 1, "job": "../../etc"}, "job is '../../etc'"),
        ("clean-up", {"v": 1, "birth": -1, "job": JOB}, "birth"),
        ("clean-up", {"v": 1, "birth": True, "job": JOB}, "birth"),
        ("clean-up", [1], "not an object"),
        ("do-anything", {"v": 1, "birth": 1}, "unknown channel"),
        ("received", {"v": 1, "birth": 1, "job": JOB, "task": "a/b", "attempt": [1, 2]}, "task is 'a/b'"),
        ("received", {"v": 1, "birth": 1, "job": JOB, "task": "map-00001", "attempt": [1, 2, 3]}, "attempt"),
        (
            "download",
            {
                "v": 1,
                "birth": 1,
                "job": JOB,
                "cid": "../x",
                "app": "m",
                "memory": 1,
                "address": "a:1",
                "gateway": "a:1",
            },
            "cid",
        ),
        (
            "download",
            {"v": 1, "birth": 1, "job": JOB, "cid": CID, "app": "m", "memory": 1, "address": "a b:1", "gateway": "a:1"},
            "address",
        ),
    ],
)
def test_what_is_refused_says_why(channel: str, payload: object, words: str) -> None:
    with pytest.raises(codec.BadMessage, match=words.replace("[", r"\[").replace(".", r"\.")):
        CODEC.decode(channel, json.dumps(payload).encode())


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"[" * 16000, b'{"v":' + b"9" * 9000 + b"}", b"{}" * 9000, b'"' + b"x" * 16000]
)
def test_hostile_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(codec.BadMessage):
        CODEC.decode("renew", payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(CODEC.decoders)),
    st.sampled_from(MESSAGES),
    st.dictionaries(st.text(max_size=8), values, max_size=3),
    st.data(),
)
def test_whatever_arrives_is_a_message_or_a_bad_one(
    channel: str, message: codec.Message, changes: dict, data: st.DataObject
) -> None:  # type: ignore[type-arg]
    """A real message with fields replaced by anything, on any channel: decoded or BadMessage, never another error."""
    fields = json.loads(CODEC.encode(message, 5).payload)
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        fields[name] = data.draw(values)
    fields.update(changes)
    try:
        birth, decoded = CODEC.decode(channel, json.dumps(fields).encode())
    except codec.BadMessage:
        return
    again = CODEC.encode(decoded, birth)
    assert CODEC.decode(again.channel, again.payload)[1] == decoded


@given(st.binary(max_size=300))
def test_any_bytes(payload: bytes) -> None:
    """A message, or refused with a reason that fits into a line of the journal."""
    for channel in CODEC.decoders:
        try:
            birth, decoded = CODEC.decode(channel, payload)
        except codec.BadMessage as error:
            assert 0 < len(error.details["reason"]) < 300
            continue
        again = CODEC.encode(decoded, birth)
        assert CODEC.decode(again.channel, again.payload) == (birth, decoded)


@given(st.text(max_size=200))
def test_any_topic(text: str) -> None:
    try:
        sender, channel = codec.parse_topic(text, "home")
    except codec.BadMessage:
        return
    assert codec.topic("home", sender, channel) == text


def test_topics() -> None:
    text = codec.topic("home", NODE, "do-map")
    assert codec.parse_topic(text, "home") == (NODE, "do-map")
    for bad in (text.replace("home", "else"), text + "/x", text.replace("/do-map", "/../x"), "ipdc/2/home/x/y", ""):
        with pytest.raises(codec.BadMessage):
            codec.parse_topic(bad, "home")
