"""The member list: total on any bytes, and the rules for portals and for finding a member by a person's word."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.member_list import (
    MOST_BYTES,
    MOST_MEMBERS,
    MOST_VERSION,
    AmbiguousMember,
    BadMemberList,
    UnknownMember,
    find_member,
    parse,
    payload,
    signed,
    with_member,
    without_member,
)
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core.values import Member, MemberList

CRL = "-----BEGIN X509 CRL-----\nMIH1MIGbAgEB\n-----END X509 CRL-----\n"
SIGNATURE = bytes(70)
OWN = node_id(bytes(32))


def member(number: int, memory: int = 1, portal: bool = False, name: str = "") -> Member:
    return Member(node_id(number.to_bytes(32, "big")), name or f"node{number}", memory, portal, f"{number + 1:x}")


def members(*found: Member, version: int = 1) -> MemberList:
    return MemberList("home", OWN, version, found, ("ff00", "ff01"), CRL)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
lists = st.builds(
    lambda name, version, entries, revoked: MemberList(
        name, OWN, version, tuple(replace(member(n), name=c, memory=m, portal=p) for n, (c, m, p) in entries.items()),
        tuple(f"f{number:x}0" for number in sorted(revoked)), CRL,
    ),
    names, st.integers(0, MOST_VERSION),
    st.dictionaries(st.integers(0, 999), st.tuples(names, st.integers(0, 1 << 50), st.booleans()), max_size=20),
    st.sets(st.integers(1 << 20, 1 << 60), max_size=20),
)


@given(lists)
def test_a_list_comes_back_as_it_was(value: MemberList) -> None:
    data = signed(payload(value), SIGNATURE)
    assert parse(data) == (value, payload(value), SIGNATURE)


def test_the_payload_has_one_form() -> None:
    """What is signed: sorted keys, no spaces. Changing it would make every stored list unreadable to older nodes."""
    assert payload(members(member(1, 5, True))) == (
        b'{"authority":"QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51",'
        b'"crl":"-----BEGIN X509 CRL-----\\nMIH1MIGbAgEB\\n-----END X509 CRL-----\\n","domain":"home",'
        b'"members":[{"id":"QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh52","memory":5,"name":"node1","portal":true,'
        b'"serial":"2"}],"revoked":["ff00","ff01"],"v":1,"version":1}'
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_bad(data: bytes) -> None:
    with pytest.raises(BadMemberList):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(lists, st.sampled_from(["v", "domain", "authority", "version", "members", "revoked", "crl"]), json_values)
def test_any_value_in_any_field_is_believed_or_bad(value: MemberList, name: str, other: object) -> None:
    fields = json.loads(payload(value))
    fields[name] = other
    changed = json.dumps(fields).encode()
    try:
        found = parse(signed(changed, SIGNATURE))[0]
    except BadMemberList:
        return
    assert json.loads(payload(found)).keys() == fields.keys()


@given(st.sampled_from(["id", "name", "memory", "portal", "serial"]), json_values)
def test_any_value_in_any_field_of_a_member_is_believed_or_bad(name: str, other: object) -> None:
    fields = json.loads(payload(members(member(1), member(2))))
    fields["members"][1][name] = other
    try:
        found = parse(signed(json.dumps(fields).encode(), SIGNATURE))[0]
    except BadMemberList:
        return
    assert json.loads(payload(found))["members"][1][name] == other


@pytest.mark.parametrize("change", [
    {"v": 2}, {"domain": "a b"}, {"domain": ""}, {"domain": "a\n"}, {"domain": "a/b"}, {"domain": "#"},
    {"authority": "Qm"}, {"version": -1}, {"version": MOST_VERSION + 1}, {"version": True}, {"version": 1.0},
    {"members": None},
    {"members": [{}]}, {"revoked": ["0"]}, {"revoked": ["F0"]}, {"revoked": [7]}, {"revoked": ["2"]},
    {"crl": ""}, {"crl": CRL + "user root\n"}, {"crl": "password_file /etc/passwd\n" + CRL},
])  # fmt: skip
def test_what_may_not_be_in_a_list(change: dict[str, object]) -> None:
    fields = json.loads(payload(members(member(1))))
    assert parse(signed(json.dumps(fields).encode(), SIGNATURE))
    with pytest.raises(BadMemberList):
        parse(signed(json.dumps({**fields, **change}).encode(), SIGNATURE))


@pytest.mark.parametrize("change", [
    {"portal": 1}, {"portal": None}, {"memory": True}, {"memory": -1}, {"name": "a b"}, {"id": "Qm"}, {"serial": "0"},
])  # fmt: skip
def test_what_may_not_be_in_a_member(change: dict[str, object]) -> None:
    fields = json.loads(payload(members(member(1))))
    fields["members"][0].update(change)
    with pytest.raises(BadMemberList):
        parse(signed(json.dumps(fields).encode(), SIGNATURE))


@pytest.mark.parametrize("second", [replace(member(2), id=member(1).id), replace(member(2), serial=member(1).serial)])
def test_two_members_never_share_an_id_or_a_certificate(second: Member) -> None:
    with pytest.raises(BadMemberList, match="two members"):
        parse(signed(payload(members(member(1), second)), SIGNATURE))


@pytest.mark.parametrize("data", [
    b"[" * 50_000, b'{"payload":"' + b"x" * MOST_BYTES + b'","signature":""}', b'{"payload":"{}","signature":"AAAA"}',
    b'{"payload":"\\u00e4","signature":"AAAA"}', b'{"payload":"' + b"[" * 50_000 + b'","signature":"AAAA"}',
    b'{"payload":"{}","signature":"not base64"}', b'{"payload":' + b"9" * 5000 + b"}", b"null", b"\xff",
], ids=lambda data: repr(data[:24]))  # fmt: skip
def test_hostile_forms_are_bad(data: bytes) -> None:
    with pytest.raises(BadMemberList):
        parse(data)


def test_the_bytes_are_bounded_before_they_are_read() -> None:
    data = signed(payload(members(member(1))), SIGNATURE)
    assert parse(data + b" " * (MOST_BYTES - len(data)))
    with pytest.raises(BadMemberList, match="at most 65536"):
        parse(data + b" " * (MOST_BYTES + 1 - len(data)))


def test_a_signature_has_the_length_of_one() -> None:
    for length, good in ((7, False), (8, True), (72, True), (73, False)):
        data = signed(payload(members(member(1))), bytes(length))
        if good:
            assert parse(data)[2] == bytes(length)
        else:
            with pytest.raises(BadMemberList, match="signature"):
                parse(data)


def test_as_many_members_as_there_may_be_fit_into_the_bytes() -> None:
    full = [replace(member(n, 1 << 40, True), name="x" * 24, serial=f"{(1 << 62) + n:x}") for n in range(MOST_MEMBERS)]
    data = signed(payload(members(*full)), SIGNATURE)
    assert len(parse(data)[0].members) == MOST_MEMBERS
    with pytest.raises(BadMemberList):
        parse(signed(payload(members(*full, member(5000))), SIGNATURE))


def portals(found: tuple[Member, ...]) -> set[str]:
    return {member.name for member in found if member.portal}


def joined(*memories: int) -> tuple[Member, ...]:
    """The members after the authority's node (1 byte of memory) and then these joined."""
    found = with_member((), member(0, 1, name="own"), member(0).id)
    for number, memory in enumerate(memories, 1):
        found = with_member(found, member(number, memory), member(0).id)
    return found


@pytest.mark.parametrize(("memories", "expected"), [
    ((), {"own"}),
    ((5,), {"own", "node1"}),
    ((5, 6), {"own", "node1", "node2"}),
    ((5, 6, 9), {"own", "node1", "node2"}),  # more, but not twice as much
    ((5, 6, 10), {"own", "node2", "node3"}),
    ((5, 6, 10, 100), {"own", "node3", "node4"}),
    ((5, 6, 10, 100, 19), {"own", "node3", "node4"}),
])  # fmt: skip
def test_the_creator_and_two_with_much_memory_are_portals(memories: tuple[int, ...], expected: set[str]) -> None:
    assert portals(joined(*memories)) == expected


def test_who_joins_again_stays_one_member_and_a_portal() -> None:
    before = joined(5, 6, 9)
    after = with_member(before, replace(member(1, 4), serial="abc"), member(0).id)
    assert [m.id for m in after] == [m.id for m in before]
    assert after[1].serial == "abc" and after[1].memory == 4 and portals(after) == portals(before)


def test_a_new_authority_is_a_portal_and_never_a_fourth() -> None:
    after = with_member(joined(50, 60, 9), member(3, 9), member(3).id)
    assert portals(after) == {"node1", "node2", "node3"}


def test_the_place_of_an_expelled_portal_goes_to_who_has_the_most_memory() -> None:
    left = without_member(joined(50, 60, 8, 9, 7), member(1).id, member(0).id)
    assert portals(left) == {"own", "node2", "node4"} and len(left) == 5


@given(st.lists(st.integers(0, 100), max_size=30), st.data())
def test_there_are_three_portals_or_as_many_as_members(memories: list[int], data: st.DataObject) -> None:
    found = joined(*memories)
    while len(found) > 1:
        assert len(portals(found)) == min(3, len(found)) and "own" in portals(found)
        found = without_member(found, data.draw(st.sampled_from(found[1:])).id, member(0).id)
    assert portals(found) == {"own"}


def test_a_member_is_found_by_id_its_ends_and_its_name() -> None:
    found = members(member(1, name="pi"), member(2, name="pi"), member(300, name="desk"))
    third = member(300).id
    for text in (third, third[-4:], third[:44] if third[:44] != member(1).id[:44] else third, "desk"):
        assert find_member(found, text).name == "desk"
    with pytest.raises(AmbiguousMember, match="2: pi Qm"):
        find_member(found, "pi")
    with pytest.raises(AmbiguousMember):
        find_member(found, "QmN")
    for text in ("", "Q", "garage", third[-2:]):
        with pytest.raises(UnknownMember):
            find_member(found, text)


def test_a_name_that_looks_like_the_end_of_anothers_id_hides_nobody() -> None:
    """A newcomer chooses its name; the owner who types the end of an id means the node of that id."""
    meant = member(1)
    found = members(meant, member(2, name=meant.id[-10:]))
    with pytest.raises(AmbiguousMember, match="not one member but 2"):
        find_member(found, meant.id[-10:])
    assert find_member(found, meant.id) == meant
