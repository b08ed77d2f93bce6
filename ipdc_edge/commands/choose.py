"""Which job a word on the command line means: its id, or the beginning of one.

Owns only that. Ids sort by time (UTC, then four letters), so the last is the newest.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipdc_edge.commands.client import call
from ipdc_edge.errors import AmbiguousId, UnknownJob
from ipdc_edge.home import Home

SHOWN = 8  # candidates that an error lists


def choose(prefix: str, ids: Iterable[str]) -> str:
    """The one id that begins with `prefix`. Four letters at an id's end serve as well, as people remember
    them. Raises UnknownJob or AmbiguousId, which list what there is."""
    known = sorted(set(ids))
    if prefix in known:
        return prefix
    found = [job for job in known if prefix and (job.startswith(prefix) or job.endswith(f"-{prefix}"))]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousId(id=prefix, count=len(found), candidates=_listed(found))
    there = f"There are: {_listed(known)}" if known else "No job was submitted here yet."
    raise UnknownJob(id=prefix, known=there)


def job_id(home: Home, prefix: str) -> str:
    """As choose, among the jobs that the daemon knows."""
    return choose(prefix, [str(job.get("id")) for job in jobs(home)])


def jobs(home: Home) -> list[dict[str, object]]:
    """The daemon's jobs, oldest first."""
    found = call(home, "jobs").get("jobs")
    known = [job for job in found if isinstance(job, dict)] if isinstance(found, list) else []
    return sorted(known, key=lambda job: str(job.get("id")))


def _listed(ids: list[str]) -> str:
    rest = len(ids) - SHOWN
    return (f"{rest} older ones, " if rest > 0 else "") + ", ".join(ids[-SHOWN:])
