"""A `links` task: reads one WARC and tells every partition what concerns its hosts.

Owns what is told: which pages were fetched, which links inside the scope they have, what robots.txt said. Reads WARCs
of other crawlers too.
"""

from __future__ import annotations

from app_crawl import knowledge
from app_crawl.archive import FileInput, responses
from app_crawl.fetch import BUSY
from app_crawl.page import REDIRECTS, quick_links
from app_crawl.urls import Scope, host_of, normal, origin_of, target_of
from ipdc_edge.apps.mapreduce.sorter import Sorter

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from app_crawl.archive import Kept
    from app_crawl.work import Wanted
    from ipdc_edge.runner.task_io import TaskIo

SORT_BUDGET = 2 << 20  # bytes


class LinksTask:
    """One WARC."""

    def __init__(self, wanted: Wanted, params: dict[str, Any], io: TaskIo) -> None:
        self._wanted, self._io = wanted, io
        self._scope = Scope(wanted.scope, wanted.seeds)
        self._source = FileInput(io.read, 0)
        self._name = str(params["inputs"][0]["range"]["name"])
        self._sorter = Sorter(SORT_BUDGET, params["outputs"]["count"], knowledge.each_once, io.scratch)
        self._pages = 0
        self._at = ""

    def run(self) -> dict[str, Any]:
        """Runs by partition; what was counted."""
        self._sorter.add(self._pairs())
        streams = self._sorter.finish(self._io.write)
        counters = {"pages": self._pages, "told": self._sorter.pairs, "input_bytes": self._source.bytes,
                    "output_bytes": sum([stream["bytes"] for stream in streams])}
        return {"counters": counters, "user_counters": {}, "streams": streams}

    def position(self) -> dict[str, object]:
        """Which page was read."""
        return {"where": "links", "input": self._name, "record": self._at}

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for kept in responses(self._source, self._name, self._wanted.largest):
            self._io.progress(self._pages, self._source.bytes)
            url = normal(kept.url)
            if url is None or not self._scope.has(url) or kept.status in BUSY or not kept.status:
                continue
            self._at = url
            if target_of(url) == "/robots.txt":
                yield from self._robots(url, kept)
                continue
            self._pages += 1
            yield host_of(url), knowledge.fetched(url)
            for link in quick_links(url, kept.status, kept.headers, kept.body, self._wanted.largest):
                if self._scope.has(link):
                    yield host_of(link), knowledge.link(link)

    def _robots(self, url: str, kept: Kept) -> Iterator[tuple[str, str]]:
        """Answers that hold for a day; those that may change soon, and redirects, are asked for again."""
        if kept.status < 500 and kept.status not in REDIRECTS and len(kept.body) <= knowledge.MOST_CARRIED:
            yield host_of(url), knowledge.robots(origin_of(url), kept.date, kept.status, kept.body)
