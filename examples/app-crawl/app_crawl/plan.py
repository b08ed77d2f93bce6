"""How a crawl becomes tasks: rounds of fetching and of sorting out links. Pure; the daemon's core calls it.

Owns what a job's arguments may be, the channels, and when there is enough. Fetches nothing and knows no URL's host:
which partition a host belongs to is the runner's rule (`urls.partition_of_host`), the same at every node.

A round r has two stages. `fetch-r-p` is all that is done at the hosts of partition p: it reads what is known of them
(links found, pages fetched, robots.txt) from run p of every `links` task before it, and writes one WARC, a part of the
result. `links-r-p` reads that WARC and writes for each partition what it found out. Each goes beside the one before
it in its partition, so a host stays at one node. Inputs of the job are WARCs of earlier crawls: `read-n` makes of each
what `links` makes, so their pages count as fetched, and their links as found.

Arguments of a job (JSON):
    seeds       URLs to begin with
    scope       host names, "*.example.org" for those below a name; or "seed-hosts", those of the seeds (default)
    rounds      most rounds (5). A link to a host of another partition is followed in the round after it was found
    pages       most pages of a host (100)
    delay       least seconds between the end of one answer of a host and the next request to it (1.0); robots.txt may
                ask for more
    agent       our name in robots.txt, the first word of User-Agent ("ipdc-edge-crawl"): letters, - and _
    contact     URL or mail address for those who read their logs; becomes a part of User-Agent
    largest     bytes of a page that are kept (1048576); what is longer is cut, and its record says so
    timeout     seconds that an answer may take as a whole (30); what came by then is kept
    partitions  into how many parts the hosts are divided (as many as workers)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ipdc_edge.core.architecture import Architecture, BadSpec
from ipdc_edge.core.values import JobSpec, Json, Result, Task

URL = re.compile(r"https?://[^\s/@?#\\]{1,260}(?:[/?#]\S*)?", re.IGNORECASE)  # the runner reads it with more care
HOST = re.compile(r"(?:\*\.)?[^\s/@?#\\*]{1,253}")
AGENT = re.compile(r"[A-Za-z][A-Za-z_-]{0,49}")
CONTACT = re.compile(r"[!-'*-~]{3,200}")  # printable, no parentheses: they enclose it
MOST_URL = 2000  # characters
MOST_SEEDS, MOST_SCOPE = 5000, 5000
MOST_FETCHES = 5000  # tasks: rounds times partitions
MOST_INPUTS = 10_000  # of one task: a fetch reads a run of every links task before it
SCARCE_MEMORY = 20 << 20  # bytes of a runner for interpreter, libraries and what is known of hosts
COPIES = 4  # of a page, at most, while it is read
DEFAULTS = {"rounds": 5, "pages": 100, "delay": 1.0, "agent": "ipdc-edge-crawl", "contact": "", "largest": 1 << 20,
            "timeout": 30.0, "scope": "seed-hosts"}


class Shape(NamedTuple):
    """How many tasks there are."""

    inputs: int
    rounds: int
    partitions: int

    @property
    def before(self) -> int:
        """Stages before the first round."""
        return 1 if self.inputs else 0


def shape(spec: JobSpec) -> Shape:
    """The shape of a checked job."""
    arguments = spec.body["arguments"]
    rounds, partitions = arguments.get("rounds", DEFAULTS["rounds"]), arguments.get("partitions", spec.workers)
    return Shape(len(spec.body.get("inputs") or ()), rounds, partitions)


class Crawl(Architecture):
    """The architecture `crawl`: `do-fetch` answered by `fetched`, `do-links` by `linked`."""

    name = "crawl"
    module = "app_crawl.work"
    commands: tuple[str, ...] = ("do-fetch", "do-links")
    reports: tuple[str, ...] = ("fetched", "linked")
    network = True

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the arguments are as above and the tasks not too many; makes none."""
        arguments = spec.body.get("arguments")
        check_arguments(arguments, spec.workers)
        for item in spec.body.get("inputs") or ():
            well = isinstance(item, dict) and isinstance(item.get("cid"), str) and isinstance(item.get("size"), int)
            if not well or not 0 <= item["size"] < 1 << 50:
                raise BadSpec(reason=f"input {str(item)[:100]} has no CID and size")
        found = shape(spec)
        if found.rounds * found.partitions > MOST_FETCHES:
            raise BadSpec(reason=f"{found.rounds} rounds of {found.partitions} partitions are more than {MOST_FETCHES} "
                                 "tasks: give fewer 'rounds' or 'partitions'")
        if found.inputs + found.rounds * found.partitions > MOST_INPUTS:
            raise BadSpec(reason=f"{found.inputs} inputs are too many: join some, WARC files may be put together")
        largest = arguments.get("largest", DEFAULTS["largest"])
        needed = -(-(SCARCE_MEMORY + COPIES * largest) >> 20)
        if spec.memory < needed << 20:
            raise BadSpec(reason=f"pages of {largest} bytes need runners of {needed} MB, not {spec.memory >> 20}: "
                                 f"give a smaller 'largest', or submit with --memory {needed}M")

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """What earlier crawls left, then the rounds; after the last round's pages nobody asks for links."""
        found = shape(spec)
        tasks = [Task(f"read-{n:05d}", 0, "do-links", "linked", n, False, spec.body["inputs"][n]["size"], {"input": n})
                 for n in range(found.inputs)]
        for r in range(found.rounds):
            stage = found.before + 2 * r
            for p in range(found.partitions):
                before = fetch_id(r - 1, p) if r else ""
                tasks.append(Task(fetch_id(r, p), stage, "do-fetch", "fetched", r * found.partitions + p, True, 0,
                                  {"round": r, "partition": p}, beside=before, single=True))
            if r < found.rounds - 1:
                for p in range(found.partitions):
                    tasks.append(Task(links_id(r, p), stage + 1, "do-links", "linked", p, False, 0,
                                      {"round": r, "partition": p}, beside=fetch_id(r, p)))
        return tuple(tasks)

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """What the runner and the worker's node need for one task; see `Architecture.params`."""
        data, found = task.data or {}, shape(spec)
        if task.command == "do-links":
            if "input" in data:
                item = spec.body["inputs"][data["input"]]
                archive, provider = {"cid": item["cid"], "size": item["size"]}, holder
            else:
                result = results[fetch_id(data["round"], data["partition"])]
                archive, provider = {"cid": result.output, "size": result.size}, result.node
            split = {**archive, "name": task.id, "start": 0, "end": archive["size"]}
            return {"kind": "links", "partitions": found.partitions, "inputs": [{"range": split}],
                    "outputs": {"kind": "runs", "count": found.partitions}, "providers": [provider]}
        known = [results[f"read-{n:05d}"] for n in range(found.inputs)]
        known += [results[links_id(r, p)] for r in range(data["round"]) for p in range(found.partitions)]
        partition = data["partition"]
        return {"kind": "fetch", "round": data["round"], "partition": partition, "partitions": found.partitions,
                "inputs": [{"run": {"manifest": r.output, "index": partition, "node": r.node}} for r in known],
                "outputs": {"kind": "files", "count": 1}, "providers": list(dict.fromkeys(r.node for r in known))}

    def enough(self, spec: JobSpec, results: Mapping[str, Result]) -> bool:
        """A whole round in which nothing was fetched: another would find nothing new."""
        found = shape(spec)
        last = max((r for r in range(found.rounds) if fetch_id(r, 0) in results), default=None)
        if last is None:
            return False
        fetches = [results.get(fetch_id(last, p)) for p in range(found.partitions)]
        return all(result is not None and not _answers(result) for result in fetches)

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """"earlier crawls", "round 1", "links of round 1" and so on."""
        number = stage - shape(spec).before
        if number < 0:
            return "earlier crawls"
        return f"{'links of ' if number % 2 else ''}round {number // 2 + 1}"


def fetch_id(number: int, partition: int) -> str:
    """The task that fetches a partition's pages in a round."""
    return f"fetch-{number:03d}-{partition:04d}"


def links_id(number: int, partition: int) -> str:
    """The task that sorts out the links of what that one fetched."""
    return f"links-{number:03d}-{partition:04d}"


def _answers(result: Result) -> int:
    counters = result.details.get("counters")
    return int(counters.get("answers", 0)) if isinstance(counters, Mapping) else 0


def check_arguments(arguments: Any, workers: int) -> None:
    """BadSpec names the first argument that is not as it must be."""
    if not isinstance(arguments, dict):
        raise BadSpec(reason="'arguments' is not an object")
    allowed = ("seeds", *DEFAULTS, "partitions")
    strange = sorted(set(arguments) - set(allowed))
    if strange:
        raise BadSpec(reason=f"there is no argument {strange[0]!r:.50}; a crawl has {', '.join(allowed)}")
    said = {**DEFAULTS, "partitions": workers, **arguments}
    _texts("seeds", said.get("seeds"), URL, MOST_SEEDS, "http:// or https:// URLs without a user's name")
    if said["scope"] != "seed-hosts":
        _texts("scope", said["scope"], HOST, MOST_SCOPE, 'host names, or the one word "seed-hosts"')
    for name, kinds, least, most in (
        ("rounds", (int,), 1, 999), ("pages", (int,), 1, 10_000_000), ("delay", (int, float), 0, 3600),
        ("largest", (int,), 1000, 64 << 20), ("timeout", (int, float), 0.1, 3600), ("partitions", (int,), 1, 5000),
    ):
        if type(said[name]) not in kinds or not least <= said[name] <= most:
            raise BadSpec(reason=f"{name} {said[name]!r:.50} is not a number from {least} to {most}")
    if not isinstance(said["agent"], str) or not AGENT.fullmatch(said["agent"]):
        raise BadSpec(reason=f"agent {said['agent']!r:.80} is not a name of letters, - and _ (as robots.txt has them)")
    if not isinstance(said["contact"], str) or said["contact"] and not CONTACT.fullmatch(said["contact"]):
        raise BadSpec(reason=f"contact {said['contact']!r:.100} is not a URL or a mail address")


def _texts(name: str, found: Any, form: re.Pattern[str], most: int, wanted: str) -> None:
    if not isinstance(found, list) or not 1 <= len(found) <= most:
        raise BadSpec(reason=f"{name} {found!r:.100} is not a list of 1 to {most} {wanted}")
    for text in found:
        if not isinstance(text, str) or len(text) > MOST_URL or not form.fullmatch(text):
            raise BadSpec(reason=f"{name}: {text!r:.200} is not among {wanted}")
