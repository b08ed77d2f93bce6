"""What `doctor --domain` says of what members tell."""

from __future__ import annotations

from typing import Any

from ipdc_edge.commands.doctor.domain import KINDS, node_checks, text
from ipdc_edge.daemon import leftovers


def node(**fields: Any) -> dict[str, Any]:
    return {"id": "Qm", "name": "kitchen", "self": False, "why": "", "found": {}, "unseen": {}, "names": {},
            "forgotten": 0} | fields


def checks(*nodes: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for each in nodes for check in node_checks(each, "restart-it")]


def test_every_kind_that_the_daemon_knows_has_words_and_advice() -> None:
    assert set(KINDS) == {*leftovers.KINDS, "forgotten"}
    for own in (True, False):
        found = checks(node(self=own, found={kind: [2, 0] for kind in leftovers.KINDS}, forgotten=1))
        assert [check["check"] for check in found] == list(KINDS)
        assert all(check["ok"] is False and check["advice"] and "@" not in check["advice"] for check in found)
        assert all(check["advice"].startswith("on that machine") for check in found if not own
                   and check["check"] != "forgotten")


def test_what_is_named_here_and_counted_elsewhere() -> None:
    names = [f"job{number}.QmA" for number in range(9)]
    (here,) = checks(node(self=True, found={"blocks": [9, 2048]}, names={"blocks": names}))
    assert here["detail"] == ("9 jobs that are no more still own blocks, 2.0 kB: "
                              f"{', '.join(names[:8])}, ...")
    assert (here["count"], here["bytes"], here["names"], here["advice"]) == (9, 2048, names, "restart-it")
    (there,) = checks(node(found={"blocks": [1, 2048]}))
    assert there["detail"] == "1 job that is no more still owns blocks, 2.0 kB" and there["names"] == []


def test_who_does_not_answer_is_not_called_clean() -> None:
    found = checks(node(id="a", name="attic"), node(id="b", why="it was silent for 20 s"),
                   node(id="c", name="cellar", unseen={"retained": ""}), node(id="d", name="den", forgotten=1))
    assert [check["ok"] for check in found] == [True, None, None, False]
    told = text(found)
    assert "note  kitchen  leftovers  not checked: it was silent for 20 s\n" in told
    assert "LEFT  den      forgotten  1 job is held whose master has it no more\n" in told
    assert told.endswith("\n1 of 4 nodes has nothing left over; 2 could not be checked wholly.")
