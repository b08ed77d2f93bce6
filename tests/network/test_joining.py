"""Joining, with real processes: how fast it is, when the port is open, what a token is good for, and what is left of a
domain when a node, or the authority's own one, is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ipdc_edge.codec import join_messages as m
from ipdc_edge.codec import join_token
from tests.network.hosts import Domain, DomainNode
from tests.network.raw import JOIN, Newcomer, attempt, logged, measured, own_domain, refused, reinstalled
from tests.waiting import eventually

pytestmark = pytest.mark.network

JOINING, LISTED = 2.0, 5.0  # seconds that are promised
WHOLE = 60.0  # seconds that a domain whose authority's node was lost may take to be whole again; nothing is promised


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    with own_domain(3) as made:
        yield made


@pytest.fixture(scope="module")
def fourth(domain: Domain) -> DomainNode:
    """A node that is alone until a test lets it join."""
    return domain.add("node4")


@pytest.fixture(scope="module")
def passphrase(domain: Domain) -> str:
    """A file that has one."""
    path = os.path.join(domain.directory, "passphrase")
    with open(path, "w") as file:
        file.write("a phrase that nobody guesses\n")
    return path


def fails(node: DomainNode, *words: str) -> str:
    """What a command says that does not succeed."""
    done = node.ipdc(*words, check=False)
    assert done.returncode, f"{words} on {node} succeeded: {done.stdout}"
    return done.stderr.strip()


def members(node: DomainNode) -> dict[str, str]:
    """Names of the members by id."""
    return {member["id"]: member["name"] for member in node.json("domain", "show")["members"]}


def alone(node: DomainNode) -> bool:
    """Whether its daemon, which begins anew about now, says so."""
    done = node.ipdc("domain", "show", "--json", check=False)
    return done.returncode == 0 and bool(json.loads(done.stdout)["alone"])


def closed(domain: Domain) -> bool:
    return refused(domain.nodes[2].host, domain.nodes[0].host.address, JOIN)


@pytest.mark.alone
def test_a_node_joins_in_two_seconds_and_is_in_everybodys_list_in_five(domain: Domain, fourth: DomainNode) -> None:
    token = domain.nodes[0].invite()
    began = time.monotonic()
    fourth.ipdc("join", token)
    took = time.monotonic() - began
    print(f"ipdc-edge join: {took:.2f} s (at most {JOINING:g})")
    everybody = {node.host.name for node in domain.nodes}
    measured("every node lists every node", lambda: all(node.ready() == everybody for node in domain.nodes), LISTED,
             began)
    assert took < JOINING


def test_the_join_port_is_open_only_while_a_token_is_valid(domain: Domain) -> None:
    inviter, newcomer = domain.nodes[0], Newcomer(domain.nodes[2].host, "brief")
    eventually(lambda: closed(domain), "the join port is closed")
    attempt("a host", "connect", "join port before an invitation", "refused")
    token = join_token.parse(inviter.invite())
    assert not closed(domain)
    attempt("a host", "connect", "join port with a token", "open")
    assert newcomer.ask(token).certificate
    eventually(lambda: closed(domain), "the join port is closed")
    attempt("a host", "connect", "join port after the token was used", "refused",
            logged(inviter, "the join port is closed"))
    inviter.ipdc("expel", "brief")


def test_a_token_lets_one_node_in(domain: Domain) -> None:
    inviter, fifth, sixth = domain.nodes[0], domain.add("node5"), domain.add("node6")
    used, other = inviter.invite(), inviter.invite()
    fifth.ipdc("join", used)
    said = fails(sixth, "join", used)
    assert "This token was used already" in said and "ipdc-edge invite" in said
    attempt("another node", "join with a used token", "join port", said, logged(inviter, "used token"))
    sixth.ipdc("join", other)
    attempt("the same node", "join with a fresh token", "join port", "joined")
    eventually(lambda: closed(domain), "the join port is closed")
    for node in (fifth, sixth):
        inviter.ipdc("expel", node.host.name)
        eventually(lambda node=node: alone(node), f"{node} is alone")
        domain.nodes.remove(node)
    said = fails(fifth, "join", used)
    assert "Nobody answers where the token says" in said and "used already?" in said
    attempt("another node", "join with a used token", "join port, closed", said)


@pytest.mark.alone
def test_wrong_secrets_slow_the_host_that_they_come_from_and_no_other(domain: Domain) -> None:
    inviter, guesser, guest = domain.nodes[0], domain.network.host("guesser"), domain.network.host("guest")
    token, another = (join_token.parse(inviter.invite()) for _ in range(2))
    wrong = replace(token, secret=bytes(16))
    stranger = Newcomer(guesser)
    with pytest.raises(m.WrongSecret):
        stranger.ask(wrong)
    attempt("guesser", "a wrong secret", "join port", "refused: wrong", logged(inviter, guesser.address, "wrong token"))
    for _ in range(2):  # 1 s, then 2 s, then 4 s
        eventually(lambda: wrong_again(stranger, wrong), "the guesser is listened to again")
    for asked in (wrong, token):
        with pytest.raises(m.MustWait) as waits:
            stranger.ask(asked)
        attempt("guesser", "a wrong secret" if asked is wrong else "a right secret", "join port", str(waits.value))
    began = time.monotonic()
    assert Newcomer(guest, "guest").ask(token).certificate
    took = time.monotonic() - began
    attempt("guest, another host", "a right secret", "join port", f"joined in {took:.2f} s")
    assert took < JOINING
    eventually(lambda: joined(stranger, another), "the guesser is let in with a right secret in the end", 20)
    attempt("guesser", "a right secret after its pause", "join port", f"joined {time.monotonic() - began:.1f} s later")
    for name in ("guest", "newcomer"):
        inviter.ipdc("expel", name)


def wrong_again(stranger: Newcomer, token: join_token.Token) -> bool:
    try:
        stranger.ask(token)
    except m.MustWait:
        return False
    except m.WrongSecret:
        return True
    raise AssertionError("a wrong secret was taken")


def joined(stranger: Newcomer, token: join_token.Token) -> bool:
    try:
        return bool(stranger.ask(token).certificate)
    except m.MustWait:
        return False


def test_only_the_node_with_the_key_invites_and_the_others_name_it(domain: Domain) -> None:
    holder, other = domain.nodes[:2]
    said = fails(other, "invite")
    assert "the key of domain house's authority is on node1" in said
    attempt("node2", "invite", "its daemon", said)
    said = fails(other, "expel", "node3")
    attempt("node2", "expel", "its files", said)
    assert "does not hold the key" in said and "node3" in members(holder).values()


def test_a_reinstalled_node_joins_anew_and_the_old_one_can_be_expelled(domain: Domain, fourth: DomainNode) -> None:
    inviter = domain.nodes[0]
    if fourth.id not in members(inviter):  # no test let it join before
        domain.join(fourth)
    old = fourth.id
    reinstalled(fourth)
    new = fourth.id
    assert new != old
    domain.join(fourth)
    assert members(inviter)[new] == members(inviter)[old] == "node4"
    said = fails(inviter, "expel", "node4")
    assert old in said and new in said, said
    attempt("node1", "expel by a name that two have", "domain", said)
    inviter.ipdc("expel", old)
    attempt("node1", "expel by id", "domain", "expelled")
    domain.wait_ready(seconds=30)
    eventually(lambda: all(new in members(node) and old not in members(node) for node in domain.nodes),
               "the one is off everybody's list, and the other on it", 10)


def lose(domain: Domain, node: DomainNode) -> str:
    """The node's id, once it has burnt."""
    lost = node.id
    node.kill()
    node.host.cut()
    domain.nodes.remove(node)
    return lost


def whole(domain: Domain, lost: str, restored: float) -> None:
    """Every node that is left sees every other, and none knows the lost one."""
    measured("the domain is whole again", lambda: all(
        {other.host.name for other in domain.nodes} <= node.ready() for node in domain.nodes), WHOLE, restored)
    eventually(lambda: all(lost not in members(node) for node in domain.nodes), "the lost node is on no list")


def test_a_member_takes_over_when_the_authoritys_node_is_lost_and_who_came_after_the_backup_stays(
    domain: Domain, passphrase: str
) -> None:
    creator, heir = domain.nodes[0], domain.nodes[2]
    backup = os.path.join(domain.directory, "first.backup")
    creator.ipdc("domain", "backup", backup, "--passphrase-file", passphrase)
    late = domain.add("node7")
    domain.join(late)
    domain.wait_ready()
    lost = lose(domain, creator)
    attempt("node2", "invite without the authority", "its daemon", fails(domain.nodes[0], "invite"))
    heir.ipdc("leave", "--yes")
    heir.ipdc("domain", "restore", backup, "--passphrase-file", passphrase)
    restored = time.monotonic()
    assert late.id in members(heir), "who joined after the backup is a member"
    heir.ipdc("expel", lost)
    newest = domain.add("node8")
    domain.join(newest, heir)
    whole(domain, lost, restored)


def test_a_new_node_takes_over_from_a_backup_and_invites_and_expels(domain: Domain, passphrase: str) -> None:
    """It knows nobody's address but the one in its settings."""
    holder = next(node for node in domain.nodes if node.json("domain", "show")["has_authority"])
    backup = os.path.join(domain.directory, "second.backup")
    holder.ipdc("domain", "backup", backup, "--passphrase-file", passphrase)
    lost = lose(domain, holder)
    heir = domain.add("heir", portals=domain.nodes[0].host.address)
    heir.ipdc("domain", "restore", backup, "--passphrase-file", passphrase)
    restored = time.monotonic()
    heir.ipdc("expel", lost)
    newest = domain.add("node9")
    domain.join(newest, heir)
    whole(domain, lost, restored)
    heir.ipdc("expel", "node9")
    domain.nodes.remove(newest)
    eventually(lambda: "node9" not in {name for node in domain.nodes for name in members(node).values()},
               "an expelled node is on no list")
