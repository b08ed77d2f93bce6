"""The n-th write fails, for every n: what was acknowledged stays, what was not does not look whole, and it is told."""

from __future__ import annotations

import pytest

from .disk_errors import disk_errors

pytestmark = pytest.mark.faults

SYNC = {"store": "fdatasync", "ledger": "fdatasync", "identity": "fsync", "results": "fsync", "job": "pwrite64"}


@pytest.mark.parametrize(("name", "least"), [
    ("store", 500), ("ledger", 150), ("identity", 50), ("results", 90), ("job", 30),
])
def test_every_write_may_fail(name: str, least: int) -> None:
    """`least` says that the faults were there."""
    report = disk_errors([name], every=False)
    assert not report.violations, f"{len(report.violations)} of {report.runs} runs, the first:\n{report.violations[0]}"
    assert sum(report.faults.values()) >= least, report.faults
    assert {"open", SYNC[name]} <= report.faults.keys()
    assert report.told > sum(report.faults.values()) // 2


@pytest.mark.parametrize(("name", "broken", "found"), [
    ("ledger", "acknowledges early", "not what was acknowledged"),
    ("store", "forgets doubt", "are counted"),
    ("results", "leaves results", "after a quiet run"),
])
def test_a_build_that_is_broken_on_purpose_is_found_out(name: str, broken: str, found: str) -> None:
    report = disk_errors([name], every=False, broken=broken, stop=True)
    assert any(found in violation for violation in report.violations), report
