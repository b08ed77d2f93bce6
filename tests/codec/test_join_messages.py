"""The two lines of the join port: round trips, and total on any bytes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import swarm_key
from ipdc_edge.codec.join_messages import (
    KINDS,
    MOST_ANSWER,
    MOST_REQUEST,
    BadJoinMessage,
    JoinAnswer,
    JoinRefused,
    JoinRequest,
    encode_answer,
    encode_refusal,
    encode_request,
    parse_answer,
    parse_request,
)
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.codec.swarm_key import SwarmKey

PEM = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\nAAA=\n-----END CERTIFICATE REQUEST-----\n"
REQUEST = JoinRequest(bytes(range(16)), PEM, "pi", 1 << 30)
SECRET = SwarmKey(node_id(bytes(32)), 1, bytes(range(32)))
SWARM = swarm_key.signed(swarm_key.payload(SECRET), bytes(70))
ANSWER = JoinAnswer(PEM, PEM, b"{list}", {node_id(bytes(32)): ("10.0.0.1:18830", "10.0.0.1:18831")}, SWARM)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(min_size=16, max_size=16), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True),
       st.integers(0, 1 << 60))
def test_a_request_comes_back_as_it_was(secret: bytes, name: str, memory: int) -> None:
    line = encode_request(JoinRequest(secret, PEM, name, memory))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert parse_request(line) == JoinRequest(secret, PEM, name, memory)


def test_an_answer_comes_back_as_it_was() -> None:
    line = encode_answer(ANSWER)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and parse_answer(line) == ANSWER


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_the_error_of_its_kind(kind: str) -> None:
    with pytest.raises(KINDS[kind]) as caught:
        parse_answer(encode_refusal(kind, "no place", 7))
    assert type(caught.value) is KINDS[kind]
    assert ("7 seconds" in str(caught.value)) == (kind == "wait")
    assert ("no place" in str(caught.value)) == (kind == "refused")


def test_a_refusal_of_a_kind_from_the_future_is_one() -> None:
    with pytest.raises(JoinRefused, match="no place"):
        parse_answer(encode_refusal("moon", "no place"))


def test_a_refusals_reason_cannot_steer_the_terminal() -> None:
    with pytest.raises(JoinRefused) as caught:
        parse_answer(encode_refusal("refused", "\x1b[2Jowned\r\n\u202e"))
    assert str(caught.value).isprintable() and "owned" in str(caught.value)


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_message_or_bad(line: bytes) -> None:
    for read in (parse_request, parse_answer):
        with pytest.raises(BadJoinMessage):
            read(line)


@given(st.sampled_from(["v", "secret", "request", "name", "memory"]), json_values)
def test_any_value_in_a_request_is_believed_or_bad(name: str, value: object) -> None:
    fields = {**json.loads(encode_request(REQUEST)), name: value}
    try:
        found = parse_request(json.dumps(fields).encode())
    except BadJoinMessage:
        return
    assert json.loads(encode_request(found)) == fields


@given(st.sampled_from(["v", "certificate", "authority", "members", "peers", "swarm", "refused"]), json_values)
def test_any_value_in_an_answer_is_believed_or_bad(name: str, value: object) -> None:
    fields = {**json.loads(encode_answer(ANSWER)), name: value}
    try:
        found = parse_answer(json.dumps(fields).encode())
    except (BadJoinMessage, JoinRefused):
        return
    assert json.loads(encode_answer(found)) == fields


@pytest.mark.parametrize("change", [
    {"v": 2}, {"secret": "00"}, {"secret": "0" * 31 + "G"}, {"name": "a b"}, {"name": "a/b"}, {"name": "x" * 64},
    {"name": ""}, {"memory": -1}, {"memory": True}, {"request": PEM + PEM}, {"request": PEM.replace("\n", " ")},
    {"request": "x" * 5000},
])  # fmt: skip
def test_what_may_not_be_in_a_request(change: dict[str, object]) -> None:
    fields = json.loads(encode_request(REQUEST))
    with pytest.raises(BadJoinMessage):
        parse_request(json.dumps({**fields, **change}).encode())


@pytest.mark.parametrize("peers", [
    [], {"x": ["a:1", "a:2"]}, {node_id(bytes(32)): ["a:1"]}, {node_id(bytes(32)): ["a:1", 5]},
    {node_id(bytes(32)): ["a:1", "a\n:2"]}, {node_id(n.to_bytes(32, "big")): ["a:1", "a:2"] for n in range(257)},
])  # fmt: skip
def test_what_may_not_be_among_the_peers(peers: object) -> None:
    fields = json.loads(encode_answer(ANSWER))
    with pytest.raises(BadJoinMessage):
        parse_answer(json.dumps({**fields, "peers": peers}).encode())


def test_an_authority_of_an_older_version_tells_no_key_of_the_swarm() -> None:
    fields = json.loads(encode_answer(ANSWER))
    del fields["swarm"]
    assert parse_answer(json.dumps(fields).encode()) == replace(ANSWER, swarm=b"")


@pytest.mark.parametrize("swarm", [
    None, "", 5, [], {}, "\x00", "?", "e30=", bytes(range(32)).hex(), base64.b64encode(SWARM * 2).decode(),
    base64.b64encode(SWARM).decode() + "\n", base64.b64encode(SWARM + b" " * 2000).decode(),
    base64.b64encode(SWARM.replace(b"1f", b"1G")).decode(),
])  # fmt: skip
def test_what_may_not_be_the_key_of_the_swarm_is_bad_and_not_shown(swarm: object) -> None:
    fields = json.loads(encode_answer(ANSWER))
    with pytest.raises(BadJoinMessage) as caught:
        parse_answer(json.dumps({**fields, "swarm": swarm}).encode())
    assert bytes(range(32)).hex()[:16] not in str(caught.value) and "swarm" not in repr(ANSWER)


def test_lines_are_bounded() -> None:
    with pytest.raises(BadJoinMessage, match="more than"):
        parse_request(b" " * MOST_REQUEST + encode_request(REQUEST))
    with pytest.raises(BadJoinMessage, match="more than"):
        parse_answer(b" " * MOST_ANSWER + encode_answer(ANSWER))
    for read in (parse_request, parse_answer):
        with pytest.raises(BadJoinMessage):
            read(b"[" * 7000)
