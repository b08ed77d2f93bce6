"""The memory budgets of a node hold, measured by benchmarks/memory.py over 64 MB and 1 GB of text; each node lives in
a cgroup of 64 MB without swap, in which nothing is killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/memory.py"


@pytest.mark.memory
def test_a_node_stays_within_its_budgets() -> None:
    command = ["/usr/bin/python3", str(BENCHMARK), "--sizes", "64M,1G", "--limit", "64M"]
    ended = subprocess.run(command, capture_output=True, text=True)
    print(ended.stdout)
    assert ended.returncode == 0, f"exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
