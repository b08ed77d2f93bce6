"""The picture of the domain: whom it believes, and when the own record is shown."""

from __future__ import annotations

from dataclasses import replace

from ipdc_edge.core.effects import KeepPortals, PublishRecord, Save, Send, WatchRecords
from ipdc_edge.core.events import OWN
from ipdc_edge.core.membership import CONNECTIONS, REFRESH, STALE, Membership
from ipdc_edge.core.messages import Ask, Present
from tests.core.scenario import VITALS, ident, member_list, record


def alive(membership: Membership) -> list[str]:
    membership.check()
    return [found.name for found in membership.candidates()]


def test_a_node_is_lost_only_when_no_portal_says_otherwise() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    for portal in ("p", "q"):
        membership.record_heard(portal, 5, record("a"))
    membership.loss_heard("p", 5, ident("a"))
    assert alive(membership) == ["me", "a"]
    membership.loss_heard("q", 5, ident("a"))
    assert alive(membership) == ["me"]
    membership.record_heard("q", 6, record("a"))
    assert alive(membership) == ["me", "a"]


def test_what_is_older_than_the_newest_connection_says_nothing() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard("p", 7, record("a"))
    membership.loss_heard("p", 6, ident("a"))
    membership.record_heard("p", 6, record("a", state="gone"))
    assert alive(membership) == ["me", "a"]


def test_without_portals_the_nodes_last_seen_are_remembered() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard("p", 1, record("a"))
    membership.record_heard("q", 1, record("a"))
    membership.portal_left("p")
    membership.portal_left("q")
    assert alive(membership) == ["me", "a"]


def test_a_node_that_says_goodbye_is_no_candidate() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard("p", 1, record("a", state="gone"))
    assert alive(membership) == ["me"]


def test_the_own_record_is_no_peer() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard("p", 1, record("me"))
    assert not membership.peers and alive(membership) == ["me"]


def test_the_record_is_shown_on_material_change_but_not_too_often() -> None:
    membership = Membership(record("me", members=5), member_list(5))

    def shown(now: float, **vitals: object) -> int:
        membership.effects.clear()
        membership.measured(replace(VITALS, **vitals), now)  # type: ignore[arg-type]
        return sum(isinstance(effect, PublishRecord) for effect in membership.effects)

    assert shown(0.0) == 1
    assert shown(5.0, cpu_idle=0.9) == 0, "a small change"
    assert shown(6.0, cpu_idle=0.1) == 0, "a large one, too soon"
    assert shown(REFRESH + 1, cpu_idle=0.1) == 1
    assert shown(2 * STALE, cpu_idle=0.1) == 1, "nothing changed, but it grew stale"
    assert shown(2 * STALE + REFRESH, cpu_idle=0.1, undervoltage=True) == 1, "somebody should look at its power supply"
    assert shown(2 * STALE + 2 * REFRESH, cpu_idle=0.1, undervoltage=True, undervoltage_before=True) == 0


def test_a_risen_start_number_shows_a_start_and_a_risen_connection_does_not() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    node = ident("a")
    spoke = [membership.peer_spoke(node, birth) for birth in (3 * CONNECTIONS, 3 * CONNECTIONS + 1, 4 * CONNECTIONS)]
    assert spoke == [True, False, True]
    assert not membership.peer_spoke(node, 3 * CONNECTIONS + 2), "late"
    assert membership.is_stale(node, 3 * CONNECTIONS + 1) and not membership.is_stale(node, 4 * CONNECTIONS)


def test_watching_ends_by_itself() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.watch(30.0, 0.0)
    membership.watch(40.0, 1.0)
    membership.tick(39.0)
    membership.tick(40.0)
    watching = [effect for effect in membership.effects if isinstance(effect, WatchRecords)]
    assert watching == [WatchRecords(True), WatchRecords(False)] and not membership.knows_the_domain(41.0)


def test_addresses_are_remembered_when_they_change_and_portals_followed() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.keep_portals()
    membership.record_heard(OWN, 1, record("portal"))
    membership.record_heard(OWN, 1, record("portal"))
    membership.record_heard(OWN, 2, replace(record("portal"), mqtt="new:1"))
    membership.found(ident("portal"), "newer:1")
    membership.found(ident("portal"), "newer:1")
    told = ["portal:1", "new:1", "newer:1"]
    kept = [effect.portals for effect in membership.effects if isinstance(effect, KeepPortals)]
    assert kept == [(), *(((ident("portal"), address),) for address in told)]


def test_a_portal_that_was_cut_off_does_not_bring_back_an_old_address() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard("p", 7, replace(record("a"), mqtt="new:1"))
    membership.record_heard("q", 5, record("a"))
    assert membership.addresses[ident("a")][0] == "new:1"
    membership.loss_heard("p", 7, ident("a"))
    membership.record_heard("q", 6, replace(record("a"), mqtt="newest:1"))
    assert membership.addresses[ident("a")][0] == "newest:1", "the other one is lost, whatever its number"


def test_with_no_portal_everybody_is_asked_and_who_cannot_be_reached_is_lost() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.portal_joined(ident("portal"))
    for name in ("a", "b"):
        membership.record_heard(ident("portal"), 1, record(name))
    membership.unreachable(ident("a"))
    assert alive(membership) == ["me", "a", "b"], "the portal says that it is there"
    membership.portal_left(ident("portal"))
    membership.effects.clear()
    for now in (10.0, 12.0, 16.0):
        membership.watch(now + 30, now)
    sent = [effect for effect in membership.effects if isinstance(effect, Send)]
    asked = [effect.node for effect in sent if isinstance(effect.message, Ask)]
    assert asked == [ident("a"), ident("b")] * 2, "at most every five seconds"
    membership.unreachable(ident("a"))
    membership.record_heard(OWN, 2, record("b"))
    assert alive(membership) == ["me", "b"]
    membership.record_heard(OWN, 3, record("a"))
    assert alive(membership) == ["me", "a", "b"], "it is back, and says so itself"
    membership.loss_heard(OWN, 3, ident("a"))
    assert alive(membership) == ["me", "b"]
    membership.portal_joined(ident("portal"))
    membership.record_heard(ident("portal"), 4, record("a"))
    assert alive(membership) == ["me", "a", "b"], "from now on the portal testifies"


def test_a_portal_that_moves_tells_everybody() -> None:
    def told(portal: bool) -> list[str]:
        members = member_list(5, portals=("me",) if portal else ("portal",))
        membership = Membership(record("me", members=5), members)
        for name in ("portal", "w1", "w2"):
            membership.remember(ident(name), f"{name}:1", f"{name}:2")
        membership.moved("new:1", "new:2", [ident("w2")], 1.0)
        membership.check()
        sent = [effect for effect in membership.effects if isinstance(effect, Send)]
        assert all(isinstance(effect.message, Present) and effect.message.record.mqtt == "new:1" for effect in sent)
        return [effect.address for effect in sent]

    assert told(portal=False) == ["w2:1"]
    assert told(portal=True) == ["w2:1", "portal:1", "w1:1"]


def test_who_is_expelled_is_forgotten() -> None:
    membership = Membership(record("me", members=5), member_list(5))
    membership.record_heard(ident("portal"), 1, record("w1"))
    membership.record_heard(ident("portal"), 1, record("w2"))
    membership.admitted(member_list(6, ("me", "w2", "portal")), 1.0)
    assert alive(membership) == ["me", "w2"] and ident("w1") not in membership.addresses
    assert membership.own.members == 6


def test_a_newcomers_record_that_came_before_the_list_with_it_is_asked_for_again() -> None:
    membership = Membership(record("me", members=5), member_list(5, ("me", "portal")))
    membership.record_heard(ident("portal"), 1, record("portal"))
    membership.watch(30.0, 0.0)
    membership.effects.clear()
    membership.admitted(member_list(6, ("me", "portal", "w1")), 1.0)
    assert WatchRecords(True) in membership.effects


def test_a_portal_of_which_no_address_is_known_is_looked_for() -> None:
    membership = Membership(record("me", members=5), member_list(5, ("me", "portal")))
    membership.record_heard(ident("portal"), 1, record("portal"))
    membership.admitted(member_list(6, ("me", "portal", "w1"), portals=("portal", "w1")), 1.0)
    assert WatchRecords(True) in membership.effects and membership.watching_since == 1.0


def test_addresses_are_saved_in_batches_however_often_they_change() -> None:
    membership = Membership(record("me", members=5), member_list(5))

    def saved(now: float) -> list[tuple[str, str]]:
        membership.effects.clear()
        membership.tick(now)
        return [(effect.key, effect.value["mqtt"]) for effect in membership.effects if isinstance(effect, Save)]

    membership.learn(ident("w1"), "a:1", "a:2")
    assert saved(100.0) == [(ident("w1"), "a:1")]
    for number in range(50):
        membership.learn(ident("w1"), f"b{number}:1", "b:2")
        membership.learn(ident("w2"), "c:1", "c:2")
        assert saved(101.0 + number / 2) == []
    assert membership.next_wakeup(126.0) <= 130.0
    assert saved(130.0) == [(ident("w1"), "b49:1"), (ident("w2"), "c:1")]
    assert saved(200.0) == []


def test_what_a_node_says_itself_counts_more_than_what_a_portal_says_of_it() -> None:
    """A portal can show any record of anybody, with any birth: it must not make a node unreachable to those to whose
    brokers that node speaks, as to the authority's, or it would hear of no expulsion."""
    own = record("me", members=5)
    membership = Membership(own, replace(member_list(5), members=(replace(
        member_list(5).members[0], id=own.id, portal=True),)))
    assert membership.is_portal
    honest, false = record("a"), replace(record("a"), mqtt="192.0.2.1:1", gateway="192.0.2.1:2")
    membership.record_heard("p", 1 << 61, false)
    membership.record_heard(OWN, 7, honest)
    assert membership.addresses[ident("a")] == (honest.mqtt, honest.gateway)
    assert membership.peers[ident("a")].record == honest
    membership.record_heard("p", 1 << 62, false)
    assert membership.addresses[ident("a")] == (honest.mqtt, honest.gateway)
