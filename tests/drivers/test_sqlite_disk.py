"""Commits go to a log, or nobody may take them for durable. A database in memory has none, and SQLite is silent."""

from __future__ import annotations

import pytest

from ipdc_edge.drivers.block_index import BlockIndex
from ipdc_edge.drivers.block_rows import IndexFailed
from ipdc_edge.drivers.ledger import Ledger, LedgerFailed


def test_without_a_log_nothing_is_opened() -> None:
    with pytest.raises(LedgerFailed, match="stays in mode memory"):
        Ledger(":memory:")
    with pytest.raises(IndexFailed, match="stays in mode memory"):
        BlockIndex(":memory:")
