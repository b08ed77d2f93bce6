"""A lab shares a disk, and nothing may use that: the gateways' own counters tell what crossed the network."""

from __future__ import annotations

import json
import os

from tests.lab.conftest import Lab
from tests.lab.test_jobs import program

BLOCK = 1 << 20


def test_every_remote_block_crossed_the_network(lab: Lab, book: str) -> None:
    for node in (1, 2, 3):
        lab.run(node, "gc")  # what jobs of other tests left of the same input
    before = [lab.ask(node, "counters") for node in (1, 2, 3)]
    job = lab.submit(1, program("words.py"), "--input", book, "-k", "3")
    after = [lab.ask(node, "counters") for node in (1, 2, 3)]
    ids = {node["id"]: number for number in (1, 2, 3) for node in lab.json(number, "nodes") if node["self"]}
    view = json.load(open(os.path.join(lab.home(1), "jobs", job, "job.json")))
    maps = [task for task in view["tasks"] if task["task"].startswith("map-")]
    reduces = [task for task in view["tasks"] if task["task"].startswith("reduce-")]
    assert len(maps) == view["maps"]["total"] and len(reduces) == 3

    def grown(node: int, kind: str, name: str) -> int:
        return int(after[node - 1][kind][name] - before[node - 1][kind][name])

    # The master's gateway: every block of every split that another node mapped, and its parts do not pass it
    # twice.
    split = BLOCK * -(-(64 << 20) // (3 * 4 * BLOCK))
    remote = sum(min(split, (64 << 20) - split * number) for number, task in enumerate(maps) if ids[task["node"]] != 1)
    assert remote > 0, "all maps ran on the master: the test says nothing"
    assert grown(1, "gateway", "bytes") >= remote
    # A mapper's gateway: of each of its maps the runs of all partitions that were reduced elsewhere, and, but for the
    # master's own, its parts.
    reducer = {int(task["task"].removeprefix("reduce-")): ids[task["node"]] for task in reduces}
    crossed = 0
    for node in (1, 2, 3):
        own = [task for task in maps if ids[task["node"]] == node]
        runs = sum(size for task in own for partition, size in enumerate(task["outputs"]) if reducer[partition] != node)
        parts = sum(task["size"] for task in reduces if ids[task["node"]] == node and node != 1)
        assert grown(node, "gateway", "bytes") >= runs + parts + (remote if node == 1 else 0)
        crossed += runs
    assert crossed > 0, "every run was reduced where it was made: the test says nothing"
    served = sum(grown(node, "gateway", "bytes") for node in (1, 2, 3))
    fetched = sum(grown(node, "fetched", "bytes") for node in (1, 2, 3))
    assert served == fetched, "what the gateways served is what the nodes fetched: there is no other way in"
