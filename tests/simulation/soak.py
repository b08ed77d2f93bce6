"""Seeds without end: runs one after the other, names those that fail and says how to see them again.

    tests/simulation/soak --seeds 10000 --from 1 --jobs 2
    tests/simulation/soak --show 4711            the scenario of a seed, as a file for scenarios/
    tests/simulation/soak --shrink 4711          the same without the lines that it fails without
    tests/simulation/soak --replay 4711          run it and print its trace; --replay FILE does so with a scenario

Ctrl-C ends it and sums up. The exit code is 1 if any seed failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.simulation.scenario import Run, Scenario, parse
from tests.simulation.seeds import scenario_of

AT_ONCE = 10  # seeds that a process takes at a time


def failure_of(scenario: Scenario) -> str:
    """What is not as it must be; "" when all is well."""
    try:
        Run(scenario).run()
    except Exception as error:  # whatever it is, this seed is not well
        return f"{type(error).__name__}: {error}"
    return ""


def outcome(seed: int) -> tuple[int, str]:
    """(seed, what is wrong with it)."""
    return seed, failure_of(scenario_of(seed))


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[tuple[int, str]]:
    """Run them all, in processes if more than one may be used; in the order of their ends."""
    if jobs == 1:
        yield from map(outcome, seeds)
        return
    with multiprocessing.Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap_unordered(outcome, seeds, AT_ONCE)


def shrink(scenario: Scenario) -> Scenario:
    """The scenario without the lines that it fails without, as far as leaving out one after the other goes."""
    fewer = True
    while fewer:
        fewer = False
        for step in list(scenario.steps):
            smaller = replace(scenario, steps=[other for other in scenario.steps if other is not step])
            if failure_of(smaller):
                scenario, fewer = smaller, True
    return scenario


def soak(seeds: Iterable[int], jobs: int) -> bool:
    """Whether all went well; prints what did not."""
    began, done, failed = time.monotonic(), 0, []
    try:
        print("from now on Ctrl-C sums up", file=sys.stderr, flush=True)
        for seed, failure in outcomes(seeds, jobs):
            done += 1
            if failure:
                failed.append(seed)
                print(f"seed {seed}: {failure[:400]}\n  replay: tests/simulation/soak --replay {seed}", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    seconds = time.monotonic() - began
    print(f"{done} seeds in {seconds:.0f} s, {len(failed)} failed", *sorted(failed))
    return not failed


def replay(what: str) -> bool:
    """Run one seed or file and print every event; whether it went well."""
    scenario = _read(what)
    run = Run(scenario, tracing=True, tell=sys.stdout.write)
    try:
        run.run()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return False
    print(f"well: {run.world.steps} events, {run.world.now:.0f} s; trace {run.world.trace.hexdigest()}")
    return True


def _read(what: str) -> Scenario:
    if what.isdigit():
        return scenario_of(int(what))
    with open(what, encoding="utf-8") as file:
        return parse(file.read())


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each processor)")
    parser.add_argument("--show", metavar="SEED", help="print its scenario")
    parser.add_argument("--shrink", metavar="SEED|FILE", help="print what is left of it when it must still fail")
    parser.add_argument("--replay", metavar="SEED|FILE", help="run it and print every event")
    options = parser.parse_args()
    if options.show:
        print(_read(options.show), end="")
    elif options.shrink:
        print(shrink(_read(options.shrink)), end="")
    elif options.replay:
        return 0 if replay(options.replay) else 1
    else:
        return 0 if soak(range(options.first, options.first + options.seeds), options.jobs) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
