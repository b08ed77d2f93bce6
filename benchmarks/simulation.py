"""How the simulation and the core grow with the domain: events per second, memory, messages per node, time to converge.

    python3 -m benchmarks.simulation [NODES ...]        100, 1000 and 10000 when none are given

Each size is a process of its own: so many nodes of the daemon's own core, all started at once, and 100 jobs on ten
masters beside the portals. A new member list is signed before, and the time until everybody holds it is the time to
converge.

Prints a table in Markdown. Nothing is traced, and invariants are checked at every 1000th event only. "events/s" and
"took" are of processor time, so that other work on the machine changes neither.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from tests.simulation.world import CALM, World

SIZES = (100, 1000, 10_000)
JOBS, MASTERS, SPLITS, WORKERS, SEED = 100, 10, 16, 8, 20261129
COLUMNS = ("nodes", "jobs", "events", "events/s", "memory MB", "kB/node", "messages/node", "kB sent/node",
           "list everywhere s", "jobs done s", "took s")


def measure(nodes: int) -> list[str]:
    """One line of the table."""
    began = time.process_time()
    world = World(nodes, SEED, CALM, check_every=1000, tracing=False)
    world.run_to(5.0)
    authority = world.nodes[0]
    authority.sign(lambda now: now.members[:-1])
    left = world.nodes[:-1]
    while any(node.members.version != 2 for node in left):
        world.run_to(world.now + 0.01)
    listed = world.now - 5.0
    submitted = world.now
    masters = left[3 : 3 + MASTERS]
    for number in range(JOBS):
        world.after(number * 0.5, world.submit, masters[number % MASTERS], SPLITS, WORKERS)
    while len(world.ended) < JOBS:
        world.run_to(world.now + 1.0)
    world.assert_right()
    done = world.now - submitted
    took = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    network = world.network
    values = (nodes, JOBS, world.steps, world.steps / took, memory, memory * 1024 / nodes, network.carried / nodes,
              network.bytes / 1024 / nodes, listed, done, took)
    return [_shown(value) for value in values]


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 and value != int(value) else f"{value:.0f}"


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    if len(sizes) == 1:
        print("| " + " | ".join(measure(sizes[0])) + " |")
        return
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |", flush=True)
    for size in sizes:
        subprocess.run([sys.executable, "-m", "benchmarks.simulation", str(size)], check=True)


if __name__ == "__main__":
    main()
