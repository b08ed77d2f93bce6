"""The signed key of the Kubo nodes' network: round trips, total on any bytes, and silent about the key itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import swarm_key
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.codec.swarm_key import BadSwarmKey, SwarmKey

KEY = SwarmKey(node_id(bytes(32)), 7, bytes(range(32)))
SIGNED = swarm_key.signed(swarm_key.payload(KEY), bytes(70))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(min_size=32, max_size=32), st.integers(0, swarm_key.MOST_VERSION),
       st.binary(min_size=8, max_size=72))
def test_a_key_comes_back_as_it_was(secret: bytes, version: int, signature: bytes) -> None:
    key = SwarmKey(KEY.authority, version, secret)
    found, text, proof = swarm_key.parse(swarm_key.signed(swarm_key.payload(key), signature))
    assert (found, text, proof) == (key, swarm_key.payload(key), signature)


def test_kubos_file_is_as_libp2ps_specification_says() -> None:
    lines = swarm_key.kubos_file(KEY).split(b"\n")
    assert lines[:2] == [b"/key/swarm/psk/1.0.0/", b"/base16/"] and bytes.fromhex(lines[2].decode()) == KEY.key
    assert lines[3:] == [b""]


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_key_or_bad(data: bytes) -> None:
    with pytest.raises(BadSwarmKey):
        swarm_key.parse(data)


@given(st.sampled_from(["v", "authority", "version", "swarm"]), json_values)
def test_any_value_in_a_key_is_believed_or_bad(name: str, value: object) -> None:
    fields = {**json.loads(swarm_key.payload(KEY)), name: value}
    data = swarm_key.signed(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), bytes(70))
    try:
        found = swarm_key.parse(data)[0]
    except BadSwarmKey:
        return
    assert json.loads(swarm_key.payload(found)) == fields


@pytest.mark.parametrize("data", [
    SIGNED + b" " * swarm_key.MOST_BYTES, swarm_key.signed(swarm_key.payload(KEY), bytes(7)),
    swarm_key.signed(swarm_key.payload(KEY), bytes(73)), b"[" * 1000, SIGNED.replace(b"1f", b"1F"),
    SIGNED.replace(b"1f", b"1f20"), SIGNED.replace(b'\\"v\\":1', b'\\"v\\":2'), SIGNED.replace(b"version", b"Version"),
])  # fmt: skip
def test_what_may_not_be_in_a_key(data: bytes) -> None:
    with pytest.raises(BadSwarmKey):
        swarm_key.parse(data)


@pytest.mark.parametrize("shown", [
    repr(KEY), *[f"{wrong!r}" for data in (
        SIGNED.replace(b"1f", b"1G"), SIGNED.replace(b'\\"v\\":1', b'\\"v\\":2'), SIGNED.replace(b'"payload"', b'"x"'),
        SIGNED[:-5], swarm_key.signed(swarm_key.payload(KEY)[:-1], bytes(70)),
        SIGNED.replace(b'{"payload":"', b'{"payload":"' + b" " * 1200),
    ) for wrong in [pytest.raises(BadSwarmKey, swarm_key.parse, data).value.details]],
])  # fmt: skip
def test_nothing_that_is_shown_has_the_key_in_it(shown: str) -> None:
    assert KEY.key.hex()[:16] not in shown and KEY.key.hex()[-16:] not in shown
    assert repr(KEY.key)[2:34] not in shown
