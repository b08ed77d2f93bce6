"""A run that is none says whose it is."""

from __future__ import annotations

import pytest

from ipdc_edge.apps.mapreduce.merge import merge_runs
from ipdc_edge.codec.runs import BadRun


@pytest.mark.parametrize("block", [b"no zlib", b""], ids=ascii)
def test_a_broken_run_names_its_node(block: bytes) -> None:
    reads = [iter([b, None]).__next__ for b in (b"", block)]
    batches = []

    def merged() -> None:
        batches.extend(merge_runs(reads, None, 1 << 20, origins=["node A", "node B"]))  # type: ignore[arg-type]

    if not block:
        return merged()  # empty runs are runs
    with pytest.raises(BadRun, match="from node B: a damaged run"):
        merged()
