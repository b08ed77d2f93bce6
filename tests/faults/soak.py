"""Random faults over real jobs, for as long as you like: real daemons, brokers and networks, kill -9. Needs root.

    tests/faults/soak --hours 2                    every write fails once, then fresh seeds until the time is up
    tests/faults/soak --hours 2 --table FILE       and the table in a file, which is kept up to date
    tests/faults/soak --seed 17 --trials 1         one seed, and nothing else

Every tenth trial is followed by power cuts with the same seed.

Ctrl-C ends it and sums up. The exit code is 1 if any trial went wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import disk_errors, power_cuts
from tests.faults.disk_files import WORKLOADS
from tests.faults.house import House
from tests.faults.table import Table
from tests.faults.trial import Trial, draw
from tests.network.hosts import Network

LONG = 0.1  # of the faults outlast a lease
MOST_WRONG = 5  # trials in a row that went wrong: the house itself is broken
ENDLESS = 1 << 30  # trials
TRIALS, CUTS = 10, 25  # so many trials, then so many power cuts


def soak(hours: float, seed: int, trials: int, table_file: str) -> bool:
    """Whether all went well; prints what did not, and the table."""
    end, table, wrong, in_a_row = time.monotonic() + hours * 3600, Table(), [], 0
    disks = [] if trials < ENDLESS else [_write_errors()]
    directory = tempfile.mkdtemp(prefix="ipdc-soak-", dir="/tmp")
    try:
        with Network() as network:
            house = House(network, directory)
            house.run_quietly()
            while time.monotonic() < end and table.trials < trials and in_a_row < MOST_WRONG:
                trial = Trial(house, draw(seed + table.trials, long=LONG))
                began, error = time.monotonic(), None
                try:
                    trial.play()
                    in_a_row = 0
                except AssertionError as found:
                    error, in_a_row = found, in_a_row + 1
                    wrong.append(trial.plan.seed)
                    print(found, flush=True)
                table.add(trial, error)
                print(f"{trial.plan}\n  {'wrong' if error else 'well'}, {time.monotonic() - began:.0f} s", flush=True)
                if trials == ENDLESS and table.trials % TRIALS == 0:
                    disks.append(_power_cuts(trial.plan.seed))
                if table_file:
                    Path(table_file).write_text(table.markdown() + "\n")
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(table.markdown(), *(f"wrong: seed {found}" for found in wrong), sep="\n")
    return not wrong and all(disks)


def _write_errors() -> bool:
    report = disk_errors.disk_errors(list(WORKLOADS))
    print(f"{sum(report.faults.values())} write errors: {report.told} told, {len(report.silent)} that cost nothing, "
          f"{len(report.violations)} that lost something", *report.violations, sep="\n", flush=True)
    return not report.violations


def _power_cuts(seed: int) -> bool:
    report = power_cuts.power_cuts(seed, CUTS)
    print(f"{report.cuts} power cuts, {report.facts} facts acknowledged, {len(report.lost)} lost", *report.lost,
          sep="\n", flush=True)
    return not report.lost


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.1, help="how long (0.1)")
    parser.add_argument("--trials", type=int, default=ENDLESS, help="at most so many, and nothing else")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="the first (a random one)")
    parser.add_argument("--table", default="", metavar="FILE", help="where the table is kept up to date")
    options = parser.parse_args()
    return 0 if soak(options.hours, options.seed, options.trials, options.table) else 1


if __name__ == "__main__":
    sys.exit(main())
