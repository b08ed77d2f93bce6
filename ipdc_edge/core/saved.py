"""What a node's ledger holds, sorted by what it is about.

Owns what a master saves of its jobs, how saves are read back, and which jobs this version can go on with. What stands
in other saves, who makes them (`membership.py`, `node.py`) says. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .architecture import Architecture, BadSpec, spec_of
from .effects import Save
from .participant import Participant
from .values import JobSpec, Json, Result


def job(ident: str, spec: JobSpec, submitted: float, utc: str) -> Save:
    """A job is accepted."""
    return Save("job", ident, {"cid": spec.cid, "body": spec.body, "submitted": submitted, "utc": utc})


def worker(ident: str, participant: Participant, addresses: tuple[str, str] | None) -> Save:
    """A node was given the job; with its broker and gateway, where they are known."""
    known: dict[str, object] = {"name": participant.name, "slots": participant.slots, "start": participant.start}
    if addresses:  # else kept now and then only
        known |= {"mqtt": addresses[0], "gateway": addresses[1]}
    return Save("worker", f"{ident}/{participant.node}", known)


def task(ident: str, name: str, result: Result) -> Save:
    """A task of the job is committed."""
    body = {"node": result.node, "output": result.output, "size": result.size, "details": dict(result.details)}
    return Save("task", f"{ident}/{name}", body)


def ended(ident: str, view: Json) -> Save:
    """The job is over; this is what people see of it."""
    return Save("ended", ident, view)


@dataclass(slots=True)
class Saved:
    """All that a node takes up at its start; jobs are those that have not ended."""

    draining: bool = False  # whether its owner wants it to take no work
    peers: dict[str, tuple[str, str]] = field(default_factory=dict)  # node -> its broker and gateway
    jobs: dict[str, Json] = field(default_factory=dict)
    workers: dict[str, dict[str, Json]] = field(default_factory=dict)  # job -> node -> what is known of it
    results: dict[str, dict[str, Result]] = field(default_factory=dict)  # job -> committed task -> its result


def sort(saves: Iterable[Save]) -> Saved:
    """The saves in the order in which they were made; later ones replace earlier ones."""
    found = Saved()
    for save in saves:
        job, _, rest = save.key.partition("/")
        value = save.value
        if save.kind == "node":
            found.draining = bool(value["draining"])
        elif save.kind == "peer":
            found.peers[save.key] = str(value["mqtt"]), str(value["gateway"])
        elif save.kind == "job":
            found.jobs[job] = value
        elif save.kind == "worker":
            found.workers.setdefault(job, {})[rest] = value
            if "gateway" in value:  # what it holds is to be had from there, however soon after that we went down
                found.peers.setdefault(rest, (str(value["mqtt"]), str(value["gateway"])))
        elif save.kind == "task":
            result = Result(str(value["node"]), str(value["output"]), int(value["size"]), value["details"])
            found.results.setdefault(job, {})[rest] = result
        elif save.kind == "ended":
            found.jobs.pop(job, None)
    return found


def runnable(
    jobs: Mapping[str, Json], architectures: Mapping[str, Architecture]
) -> tuple[dict[str, tuple[JobSpec, Architecture]], list[str]]:
    """The jobs that can go on, and for each of the others why it waits. Those stay in the ledger as they are."""
    found: dict[str, tuple[JobSpec, Architecture]] = {}
    waiting = []
    for job, value in jobs.items():
        try:
            spec = spec_of(str(value["cid"]), value["body"])
            if spec.app not in architectures:  # a package that was removed
                waiting.append(f"job {job} waits: there is no architecture '{spec.app}' here any more")
                continue
            architectures[spec.app].check(spec)
        except BadSpec as error:  # it may have been saved by another version, of us or of a package
            waiting.append(f"job {job} is left alone, another version has to go on with it: {error}")
            continue
        found[job] = spec, architectures[spec.app]
    return found, waiting
