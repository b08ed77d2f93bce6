"""A kill at any moment of an import or a collection leaves a store that `store verify` finds sound."""

from __future__ import annotations

import pytest

from .disk_kills import disk_kills

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_any_write_leaves_a_sound_store_with_all_that_is_pinned(torn: bool) -> None:
    report = disk_kills(torn=torn)
    assert not report.violations, f"{len(report.violations)}, the first: {report.violations[0]}"
    assert report.during["add"] > 300 and report.during["collect"] > 30 and report.during["unpin"] > 20, report.during
    assert report.during["compact"] > 10, report.during


@pytest.mark.parametrize(("broken", "found"), [
    ("removes first", "not those that were stored, or gone"), ("forgets to sweep", "no row of the index"),
    ("pins first", "is pinned, and"),
])
def test_a_build_that_is_broken_on_purpose_is_found_out(broken: str, found: str) -> None:
    report = disk_kills(broken)
    assert any(found in violation for violation in report.violations), report
