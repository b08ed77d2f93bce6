"""The picture of the domain: whom it believes, and when the own record is shown."""

from __future__ import annotations

from dataclasses import replace

from ipdc_edge.core.events import PublishRecord, WatchRecords
from ipdc_edge.core.membership import CONNECTIONS, REFRESH, STALE, Membership
from tests.core.scenario import VITALS, ident, record


def alive(membership: Membership) -> list[str]:
    membership.check()
    return [found.name for found in membership.candidates()]


def test_a_node_is_lost_only_when_no_portal_says_otherwise() -> None:
    membership = Membership(record("me"))
    for portal in ("p", "q"):
        membership.record_heard(portal, 5, record("a"))
    membership.loss_heard("p", 5, ident("a"))
    assert alive(membership) == ["me", "a"]
    membership.loss_heard("q", 5, ident("a"))
    assert alive(membership) == ["me"]
    membership.record_heard("q", 6, record("a"))
    assert alive(membership) == ["me", "a"]


def test_what_is_older_than_the_newest_connection_says_nothing() -> None:
    membership = Membership(record("me"))
    membership.record_heard("p", 7, record("a"))
    membership.loss_heard("p", 6, ident("a"))
    membership.record_heard("p", 6, record("a", state="gone"))
    assert alive(membership) == ["me", "a"]


def test_without_portals_the_nodes_last_seen_are_remembered() -> None:
    membership = Membership(record("me"))
    membership.record_heard("p", 1, record("a"))
    membership.record_heard("q", 1, record("a"))
    membership.portal_left("p")
    membership.portal_left("q")
    assert alive(membership) == ["me", "a"]


def test_a_node_that_says_goodbye_is_no_candidate() -> None:
    membership = Membership(record("me"))
    membership.record_heard("p", 1, record("a", state="gone"))
    assert alive(membership) == ["me"]


def test_the_own_record_is_no_peer() -> None:
    membership = Membership(record("me"))
    membership.record_heard("p", 1, record("me"))
    assert not membership.peers and alive(membership) == ["me"]


def test_the_record_is_shown_on_material_change_but_not_too_often() -> None:
    membership = Membership(record("me"))

    def shown(now: float, **vitals: object) -> int:
        membership.effects.clear()
        membership.measured(replace(VITALS, **vitals), now)  # type: ignore[arg-type]
        return sum(isinstance(effect, PublishRecord) for effect in membership.effects)

    assert shown(0.0) == 1
    assert shown(5.0, cpu_idle=0.9) == 0, "a small change"
    assert shown(6.0, cpu_idle=0.1) == 0, "a large one, too soon"
    assert shown(REFRESH + 1, cpu_idle=0.1) == 1
    assert shown(2 * STALE, cpu_idle=0.1) == 1, "nothing changed, but it grew stale"


def test_a_risen_start_number_shows_a_restart_and_a_risen_connection_does_not() -> None:
    membership = Membership(record("me"))
    node = ident("a")
    spoke = [membership.peer_spoke(node, birth) for birth in (3 * CONNECTIONS, 3 * CONNECTIONS + 1, 4 * CONNECTIONS)]
    assert spoke == [False, False, True]
    assert not membership.peer_spoke(node, 3 * CONNECTIONS + 2), "late"
    assert membership.is_stale(node, 3 * CONNECTIONS + 1) and not membership.is_stale(node, 4 * CONNECTIONS)


def test_watching_ends_by_itself() -> None:
    membership = Membership(record("me"))
    membership.watch(30.0, 0.0)
    membership.watch(40.0, 1.0)
    membership.tick(39.0)
    membership.tick(40.0)
    watching = [effect for effect in membership.effects if isinstance(effect, WatchRecords)]
    assert watching == [WatchRecords(True), WatchRecords(False)] and not membership.knows_the_domain(41.0)
