"""What a runner calls: reads a job's arguments, and makes its tasks.

Owns the reading of arguments on the runner's side; the master's side (`plan.py`) has checked them, and is imported by
no runner. The defaults are said twice, and a test compares them.
"""

from __future__ import annotations

from app_crawl.fetch import FetchTask
from app_crawl.links import LinksTask
from app_crawl.urls import normal
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

VERSION = "1.0"


class NoSeed(IpdcError):
    """the seed {url} is no URL that can be fetched: http or https, a host, no user name"""


class Wanted:
    """A job's arguments, seeds in their one spelling."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """NoSeed for the first one that cannot be fetched."""
        self.seeds = list(map(_seed, arguments["seeds"]))
        self.scope: str | list[str] = arguments.get("scope", "seed-hosts")
        self.pages = int(arguments.get("pages", 100))
        self.delay = float(arguments.get("delay", 1.0))
        self.agent = str(arguments.get("agent", "ipdc-edge-crawl"))
        self.largest = int(arguments.get("largest", 1 << 20))
        self.timeout = float(arguments.get("timeout", 30.0))
        contact = arguments.get("contact", "")
        self.user_agent = f"{self.agent}/{VERSION}" + (f" (+{contact})" if contact else "")


def _seed(text: str) -> str:
    url = normal(text)
    if url is None:
        raise NoSeed(url=repr(text))
    return url


def load(spec: dict[str, Any], code: dict[str, bytes]) -> Wanted:
    """What all tasks of a job share."""
    return Wanted(spec["arguments"])


def make_task(wanted: Wanted, task_id: str, params: dict[str, Any], io: TaskIo) -> FetchTask | LinksTask:
    """The task that `params` describe."""
    return (FetchTask if params["kind"] == "fetch" else LinksTask)(wanted, params, io)
