"""100 nodes, 5 masters, 20 jobs in a storm; prints how many events it took and the digest of the trace.

Run it with any Python from 3.11 on and any hash seed: the digest is the same. `python3 -m
tests.simulation.digest`
"""

from __future__ import annotations

from tests.simulation.world import STORM, World

NODES, MASTERS, JOBS, SPLITS, WORKERS, SEED = 100, 5, 20, 800, 12, 20261123
# The trace of `storm()`. It changes with every change of the protocol's behaviour; then pin the new one.
PINNED = "f79fce4c9d5ad414dd8784512854987cf6c9dd9816fc8e436516a9cfd55ccd0e"


def storm(seed: int = SEED) -> World:
    """The run whose digest is pinned; every job has ended and every worker is free when it returns."""
    world = World(NODES, seed, STORM, failing=0.01, check_every=50, boast=0.3)
    for number in range(JOBS):
        world.after(5.0 + 3.0 * number, world.submit, world.nodes[7 + number % MASTERS], SPLITS + number, WORKERS)
    world.run(lambda: len(world.ended) == JOBS and not world.holding())
    return world


if __name__ == "__main__":
    finished = storm()
    states = [view["state"] for view in finished.ended.values()]
    print(f"{finished.steps} events, {states.count('succeeded')} jobs succeeded")
    print(finished.trace.hexdigest())
