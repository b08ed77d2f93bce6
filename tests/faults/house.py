"""A house of real nodes under test: hosts on a network, a domain on them, jobs that take a while, and what is asked of
them without a process for each question.

Owns the nodes, the jobs' programs and inputs, and the parts that a quiet run makes of them. Never breaks anything: that
is `faults.py`; never judges: that is `trial.py`.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ipdc_edge.commands.client import Conversation
from ipdc_edge.drivers.block_rows import outlives
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from tests.network.hosts import PYTHON, DomainNode, Host, Network
from tests.waiting import eventually

NODES = 4  # that are members all the time; one more is a guest
MAPS, LINES, WORDS = 12, 30, 40  # input files, lines of each, words of each line
PATIENCE = 240.0  # seconds for whatever must come: a lease is 25, a master is waited for 120
SILENCE = 5  # seconds after which a daemon that says nothing counts as away
# Tasks take their time by sleeping, so that faults fall into them whatever the machine's speed.
PROGRAMS = {
    "count": """
import time
def map(key, line, context):
    time.sleep(0.02)
    context.count("lines")
    for word in line.split()[1:]:
        context.count("pairs")
        yield word, 1
def reduce(key, values, context):
    time.sleep(0.002)
    total = sum(values)
    context.count("keys")
    context.count("counted", total)
    yield key, total
""",
    "index": """
import time
def map(key, line, context):
    time.sleep(0.02)
    context.count("lines")
    place, *words = line.split()
    for number, word in enumerate(words):
        context.count("pairs")
        yield word + str(number), place
def reduce(key, values, context):
    time.sleep(0.0005)
    places = sorted(values)
    context.count("keys")
    context.count("counted", len(places))
    yield key, " ".join(places)
""",
}


class Result(NamedTuple):
    """What a job made: its parts byte for byte, and what its tasks counted."""

    parts: tuple[bytes, ...]
    counters: dict[str, int]


class Away(Exception):
    """The daemon cannot be asked at present."""


class Unknown(AssertionError):
    """The daemon answers that it does not know the job."""


class Member(DomainNode):
    """A node whose daemon a test may break; `lock` is held by who does."""

    def __init__(self, host: Host, directory: str, **conf: str) -> None:
        self.lock = threading.Lock()
        super().__init__(host, directory, **conf)

    def rebuilt(self, sabotage: str) -> None:
        """From now on its daemon is a build that is broken on purpose."""
        self.daemon.stop()
        self.daemon.words = (PYTHON, "-P", "-m", "tests.faults.broken", sabotage)
        self.start()

    @property
    def name(self) -> str:
        return self.host.name

    def ask(self, operation: str, **fields: object) -> dict[str, Any]:
        """The daemon's own answer; Away where it has none, or says nothing for a while; Unknown."""
        silent = 0

        def idle() -> None:
            nonlocal silent
            silent += 1
            if silent >= SILENCE:
                raise Away("it is silent")

        try:
            with Conversation(Home({"IPDC_HOME": self.home})) as conversation:
                conversation.idle = idle
                conversation.request(operation, dict(fields))
                return dict(conversation.answer())
        except (IpdcError, OSError) as error:
            if str(error).startswith("No job here"):
                raise Unknown(str(error)) from error
            raise Away(str(error)) from error

    def there(self) -> bool:
        """Whether the daemon answers."""
        with suppress(Away):
            return bool(self.ask("domain"))
        return False

    def sees(self) -> set[str]:
        """The names of the nodes that it sees ready; empty while it does not answer."""
        with suppress(Away):
            return {str(node["name"]) for node in self.ask("nodes")["nodes"] if node["state"] == "ready"}
        return set()

    def runners(self) -> set[int]:
        """The processes of its runners, and of what they started."""
        process = self.daemon.process
        return set(_below(process.pid)) if process is not None else set()

    def left(self) -> str:
        """What is left of jobs here that are over; "" when nothing is."""
        try:
            found = self.ask("counters")
        except Away as error:
            return f"{self.name}: {error}"
        owners = [owner for owner in found["owners"] if owner != "members" and not outlives(owner)]
        files = [str(path) for place in ("scratch", "blocks/files", "blocks/new")
                 for path in Path(self.home, place).rglob("*") if not path.is_dir() and "members" not in path.parts
                 and not any(map(outlives, path.parts))]
        left = {"jobs": found["held_jobs"], "owners": owners, "files": files, "processes": sorted(self.runners())}
        return "" if not any(left.values()) else f"{self.name}: { {k: v for k, v in left.items() if v} }"


def _below(pid: int) -> Iterator[int]:
    """The descendants of a process that are runners or were started by one."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(entry))
    ahead = [child for child in children.get(pid, []) if b"ipdc_edge.runner" in command_of(child)]
    while ahead:
        found = ahead.pop()
        yield found
        ahead += children.get(found, [])


def command_of(pid: int) -> bytes:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
    return b""


class House:
    """Nodes 1 to NODES of one domain, on a network, below a directory; `guest` is one more, alone."""

    def __init__(self, network: Network, directory: str, nodes: int = NODES, **conf: str) -> None:
        self.network, self.directory = network, directory
        self.members: list[Member] = []
        self.quiet: dict[str, Result] = {}
        for number in range(1, nodes + 2):
            name = f"node{number}" if number <= nodes else "guest"
            node = Member(network.host(name), directory, **conf)
            self.members.append(node)
            node.start()
            if number == 1:
                node.ipdc("domain", "create", "house")
            elif number <= nodes:
                self.join(node)
        self.guest = self.members.pop()
        self.wait_ready()
        self._write_inputs()

    def _write_inputs(self) -> None:
        """The jobs' programs and texts: the same ones every time."""
        drawn = random.Random(6)
        words = ["".join(drawn.choice("abcdefghijklmnop") for _ in range(6)) for _ in range(400)]
        for name, text in PROGRAMS.items():
            Path(self.directory, f"{name}.py").write_text(text)
        for number in range(MAPS):
            lines = [f"{number}:{line} " + " ".join(drawn.choices(words, k=WORDS)) for line in range(LINES)]
            Path(self.directory, f"text{number}").write_text("\n".join(lines) + "\n")

    def join(self, node: Member) -> None:
        """Has a node join; again until it worked, since whoever invites may be broken at the moment."""
        node.ipdc("join", self.members[0].invite())

    def wait_ready(self, seconds: float = PATIENCE) -> None:
        """Until every member sees exactly the members ready."""
        names = {node.name for node in self.members}
        for node in self.members:
            eventually(lambda node=node: node.sees() == names, f"{node} sees {sorted(names)} ready", seconds)

    def submit(self, master: Member, program: str) -> str:
        """Hands a job in, for all nodes; its id."""
        inputs = [os.path.join(self.directory, f"text{number}") for number in range(MAPS)]
        return master.ipdc("submit", os.path.join(self.directory, f"{program}.py"), "--input", *inputs,
                           "--id-only").stdout.strip()

    def result(self, master: Member, job: str) -> Result:
        """What lies in the result's directory of a job that succeeded, and its counters."""
        directory = os.path.join(master.home, "jobs", job)
        names = sorted(name for name in os.listdir(directory) if name.startswith("part-"))
        parts = tuple(Path(directory, name).read_bytes() for name in names)
        counters = master.ask("status", id=job)["counters"]
        return Result(parts, {name: int(count) for name, count in counters.items()})

    def run_quietly(self, *programs: str) -> None:
        """Each program (or those named) once, without a fault: what every later result must be."""
        for program in programs or PROGRAMS:
            job = self.submit(self.members[0], program)
            eventually(lambda job=job: self.members[0].ask("status", id=job)["state"] == "succeeded", program, PATIENCE)
            self.quiet[program] = self.result(self.members[0], job)
            assert self.quiet[program].counters["lines"] == MAPS * LINES
            assert self.quiet[program].counters["counted"] == MAPS * LINES * WORDS
        self.wait_clean()

    def wait_clean(self) -> None:
        """Until no node holds anything of any job."""
        for node in (*self.members, self.guest):
            last = [""]

            def clean(node: Member = node, last: list[str] = last) -> bool:
                last[0] = node.left()
                return not last[0]

            try:
                eventually(clean, "no node holds anything of a job", PATIENCE)
            except AssertionError:
                raise AssertionError(f"what is left: {last[0]}") from None

    def stories(self, job: str, master: Member) -> str:
        """The job's story and where it stands, as far as its master can be asked."""
        story = master.ipdc("story", job, check=False)
        try:
            status = json.dumps(master.ask("status", id=job))[:3000]
        except (Away, Unknown) as error:
            status = str(error)
        return f"{story.stdout}{story.stderr}\n{status}"
