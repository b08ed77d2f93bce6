"""The power goes at any moment: what ledger, store, identity and results told to be durable is there and right."""

from __future__ import annotations

import os

import pytest

from .power_cuts import power_cuts

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_forty_cuts_lose_nothing() -> None:
    report = power_cuts(seed=1, count=40)
    assert not report.lost, "\n".join(report.lost)
    assert report.cuts == 40 and report.facts >= 400
    assert report.kinds.keys() == {"birth", "save", "block", "file", "members", "result"}


@pytest.mark.parametrize(("broken", "found"), [
    ("no fsync", "lost"),
    ("no fsync of the ledger", "save"),
    ("no fsync of the index", "block"),
    ("no fsync of directories", "cut"),  # of the list, a result or a block
])
def test_a_build_that_does_not_sync_is_found_out(broken: str, found: str) -> None:
    """Until the first loss, which is no later than the end of this list: a cut takes what was told just before it."""
    report = power_cuts(seed=1, count=100, broken=broken)
    assert any(found in what for what in report.lost), f"{report.cuts} cuts and {report.facts} facts: {report.lost}"
