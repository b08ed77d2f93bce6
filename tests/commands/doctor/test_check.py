"""Looking at many things at once: their order, what does not end, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ipdc_edge.commands.doctor.check import Check, Look, together
from ipdc_edge.errors import IpdcError

WELL = Check("a", True, "is well")


def _raises(error: Exception) -> Iterator[Check]:
    yield WELL
    raise error


def test_all_are_seen_in_their_order() -> None:
    last = threading.Event()

    def first() -> Iterator[Check]:
        assert last.wait(20)
        yield WELL

    def second() -> list[Check]:
        last.set()
        return [Check("b", None, ""), Check("c", False, "")]

    assert [check.check for check in together([Look("a", first), Look("b", second)])] == ["a", "b", "c"]
    advised = [Check("a", True, "", "do"), Check("b", None, "", "do"), Check("c", False, "", "do")]
    assert [check.advice for check in together([Look("a", lambda: advised)])] == ["", "do", "do"]


def test_what_does_not_end_is_one_line_and_holds_up_nothing() -> None:
    never = threading.Event()
    hangs = Look("card", lambda: iter([WELL] if never.wait() else []), "pull it out")
    seen = together([hangs, Look("a", lambda: [WELL])], 0.1)
    assert seen == [Check("card", False, "gave no answer within 0.1 s", "pull it out"), WELL]
    never.set()


def test_a_disk_that_cannot_be_read_is_what_was_seen_and_a_bug_is_a_bug() -> None:
    seen = together([Look("disk", lambda: _raises(OSError(5, "Input/output error"))),
                     Look("b", lambda: _raises(IpdcError(reason="no")))])
    assert seen == [Check("disk", False, "cannot be looked at: [Errno 5] Input/output error"),
                    Check("b", False, "cannot be looked at: no")]
    with pytest.raises(ZeroDivisionError):
        together([Look("x", lambda: [Check("x", True, str(1 // 0))])])
