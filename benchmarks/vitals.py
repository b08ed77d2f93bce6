"""What it costs a node to look at itself: processor time of a sample of the vitals, as a share of one core.

    python3 benchmarks/vitals.py

Owns the measurement and the bound of 0.1 % of a core, which must hold at the daemon's interval, and by arithmetic on a
core that is ten times as slow; the last line says how slow a core may be. Time in the kernel counts too. The median of
rounds, so that a busy machine changes little.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ipdc_edge.daemon.main import SAMPLE
from ipdc_edge.drivers.vitals import VitalsSampler

MOST = 0.001  # of one core
SLOWER = 10
ROUNDS, SAMPLES = 15, 200


def cost() -> float:
    """Seconds of processor time that one sample takes."""
    with tempfile.TemporaryDirectory() as directory:
        sampler = VitalsSampler(directory)
        sampler.sample()
        found = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            for _ in range(SAMPLES):
                sampler.sample()
            found.append((time.process_time() - begun) / SAMPLES)
    return statistics.median(found)


def main() -> int:
    """0 when the bound holds."""
    seconds = cost()
    share = seconds / SAMPLE
    print(f"one sample: {seconds * 1e6:.1f} us of processor time, every {SAMPLE:g} s: {share:.5%} of a core")
    print(f"on a core {SLOWER} times as slow: {share * SLOWER:.4%}; the bound is {MOST:.1%}")
    print(f"it would hold on a core {MOST / share:.0f} times as slow")
    return 0 if share * SLOWER < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
