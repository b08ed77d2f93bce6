"""Which job a word on the command line means: its id, or the beginning of one.

Owns only that, and which job is the newest: by the time of its submission, as ids of one second end in random letters.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import moment
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
    return sorted(known, key=lambda job: (_submitted(job), str(job.get("id"))))


def _submitted(job: dict[str, object]) -> float:
    found = moment(job.get("submitted"))
    return found.timestamp() if found else 0.0


def _listed(ids: list[str]) -> str:
    rest = len(ids) - SHOWN
    return (f"{rest} older ones, " if rest > 0 else "") + ", ".join(ids[-SHOWN:])
