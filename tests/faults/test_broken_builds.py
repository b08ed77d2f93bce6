"""The harness has to be seen to catch something: real daemons that are broken on purpose, one rule at a time, and the
fault that shows it. `tests/faults/test_disk_*.py` and `power*.py` show theirs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.house import House
from tests.faults.trial import JobLost, NotRight, Plan, Strike, Trial, WrongCount, WrongResult
from tests.network.hosts import Network

pytestmark = pytest.mark.faults

# Its maps take a second, so that some are under way when it strikes; its reduces never end by themselves, so there is
# all the time that a repeated report takes to come.
ENDLESS = """
import threading, time
def map(key, line, context):
    time.sleep(0.03)
    context.count("lines")
    yield line, 1
def reduce(key, values):
    threading.Event().wait()
    yield key, 1
"""
# Its last map takes so long that what the others made can be damaged before anybody reads it.
WAITING = """
import time
def map(key, line, context):
    if line.startswith("11:0 "):
        time.sleep(12)
    context.count("lines")
    for word in line.split()[1:]:
        yield word, 1
def reduce(key, values, context):
    total = sum(values)
    context.count("counted", total)
    yield key, total
"""


@pytest.fixture
def small(namespaces: None) -> Iterator[House]:
    """Two nodes of their own, since what a broken build leaves behind is nobody's business."""
    directory = tempfile.mkdtemp(prefix="ipdc-flt-", dir="/tmp")
    with Network() as network:
        made = House(network, directory, 2)
        for name, text in (("endless", ENDLESS), ("waiting", WAITING)):
            Path(directory, f"{name}.py").write_text(text)
        yield made
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("sabotage", "program", "strikes", "seen"),
    [
        # the worker's broker is away, so it does not hear that its report was received, and says it again
        ("no-attempt-number", "endless", [Strike("broker", 1, 0, 2, 0.0, 20.0)], WrongCount),
        ("commit-before-save", "endless", [Strike("kill", 0, 0, 2, 0.0, 0.1)], JobLost),
        # the result differs, or no attempt can make sense of what it reads
        ("blocks-unchecked", "waiting", [Strike("flip-stored", node, 0, 11, 0.0, 0.1) for node in range(2)],
         (WrongResult, JobLost)),
    ],
)
def test_a_build_broken_on_purpose_is_caught(
    small: House, sabotage: str, program: str, strikes: list[Strike],
    seen: type[NotRight] | tuple[type[NotRight], ...],
) -> None:
    if program == "waiting":
        small.run_quietly(program)
    for node in small.members:
        node.rebuilt(sabotage)
    with pytest.raises(seen) as caught:
        Trial(small, Plan(0, (0,), tuple((strike,) for strike in strikes)), [program]).play()
    print(f"{sabotage}: {str(caught.value).splitlines()[0]}")
