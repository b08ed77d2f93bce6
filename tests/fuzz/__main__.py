"""`python3 -m tests.fuzz [--seconds 60] [--seed N] [TARGET...]`: damaged inputs for every parser of a peer's bytes.

Two targets at a time. A crashing input is kept below tests/fuzz/found/ and tried by the ordinary tests from then on.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz import engine


def main() -> int:
    """0 when every target survived."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help="names of targets; all if none is given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, help="repeats the inputs of a run that printed it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--targets", default="tests.fuzz.targets", help=argparse.SUPPRESS)
    args = parser.parse_args()
    targets = {target.name: target for target in importlib.import_module(args.targets).TARGETS}
    unknown = [name for name in args.target if name not in targets]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(targets)}")
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    if args.child:
        return engine.child(targets[args.target[0]], args.seconds, seed, args.child)
    print(f"seed {seed}", flush=True)
    good = True

    def one(name: str) -> None:
        nonlocal good
        survived, said, data = engine.run_apart(name, args.seconds, seed, args.targets)
        print(f"{name}: {said}", flush=True)
        if not survived:
            print(f"{name}: kept as {engine.keep(name, data)}", flush=True)
            good = False

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, args.target or targets))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
