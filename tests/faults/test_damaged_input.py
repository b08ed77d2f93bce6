"""A bit is flipped in the only copy of a job's input: nobody can make that good, and nobody may take it for the
input."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.faults import flip
from tests.faults.house import MAPS, PATIENCE, Away, House
from tests.waiting import eventually

pytestmark = pytest.mark.faults


def nobody_takes_work(house: House) -> bool:
    """Whether each node knows that of every node."""
    with suppress(Away):
        return all(seen["state"] != "ready" for node in house.members for seen in node.ask("nodes")["nodes"])
    return False


def test_a_damaged_input_fails_the_job_and_says_which_block(house: House) -> None:
    master = house.members[0]
    text = "".join(Path(house.directory, f"text{number}").read_text() for number in range(MAPS))
    for node in house.members:
        node.ask("drain")
    eventually(lambda: nobody_takes_work(house), "nobody takes work", PATIENCE)
    words = [os.path.join(house.directory, "count.py"), "--input", "-", "-k", str(len(house.members)), "--id-only"]
    job = master.ipdc("submit", *words, input=text).stdout.strip()
    (copy,) = (path for path in Path(master.home, "blocks", "files").rglob("*")
               if path.is_file() and path.stat().st_size >= len(text))
    flip(copy, random.Random(1))
    for node in house.members:
        node.ask("drain", off=True)
    eventually(lambda: master.ask("status", id=job)["state"] not in ("queued", "running"), "the job's end", PATIENCE)
    view = master.ask("status", id=job)
    print(view["state"], view["error"])
    assert view["state"] == "failed" and "could not be had" in view["error"]
    house.wait_ready()
    house.wait_clean()
