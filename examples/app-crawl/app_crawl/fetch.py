"""A `fetch` task: all that is due at the hosts of one partition in one round, into one WARC.

Owns the order of things: what is known is read, then one exchange after the other, each when its host may be asked
again. Decides nothing of politeness (`frontier.py`) and opens no connection (`web.py`).
"""

from __future__ import annotations

import time

from app_crawl import robots
from app_crawl.archive import Archive, FileOutput
from app_crawl.frontier import Frontier
from app_crawl.knowledge import read_robots
from app_crawl.page import quick_links
from app_crawl.robots import Rules
from app_crawl.urls import Scope, host_of, normal
from app_crawl.web import Answer, Unreachable, Web
from ipdc_edge.codec.records import decode_values
from ipdc_edge.codec.runs import RunReader

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from app_crawl.frontier import Host
    from app_crawl.work import Wanted
    from ipdc_edge.runner.task_io import TaskIo

BUSY = (429, 503)  # come back later
NAP = 1.0  # seconds of waiting between two words to people
MOST_HOPS = 5  # redirects of a robots.txt


class FetchTask:
    """One partition of one round."""

    def __init__(self, wanted: Wanted, params: dict[str, Any], io: TaskIo) -> None:
        self._wanted, self._io, self._streams = wanted, io, len(params["inputs"])
        self._output = FileOutput(io.write)
        round_, partition = params["round"], params["partition"]
        info = {"software": "ipdc-edge app-crawl", "format": "WARC File Format 1.0", "isPartOf": f"job {io.job}",
                "description": f"round {round_ + 1}, partition {partition}", "robots": "RFC 9309",
                "http-header-user-agent": wanted.user_agent}
        self._archive = Archive(self._output, info)
        self._web = Web(wanted.user_agent, wanted.largest, wanted.timeout)
        self._scope = Scope(wanted.scope, wanted.seeds)
        self._frontier = Frontier(partition, params["partitions"], self._scope, wanted.pages, wanted.delay,
                                  time.monotonic())
        names = ("pages", "bytes", "cut", "robots.txt", "times not answered", "times told to come later")
        self._counts = dict.fromkeys(names, 0)
        self._at = ""

    def run(self) -> dict[str, Any]:
        """Fetches until nothing is due; what was counted."""
        self._read_known()
        try:
            while (due := self._frontier.next()) is not None:
                host, self._at, origin = due
                self._wait(host)
                if self._at == origin + "/robots.txt":
                    host.rules[origin] = self._robots(host, origin)
                    self._frontier.answered(host, time.monotonic(), page=False)
                else:
                    self._page(host)
        finally:
            self._web.close()
        self._output.finish()
        counts = {**self._counts, "times robots.txt forbade": self._frontier.forbidden,
                  "times left out": self._frontier.left_out}
        counters = {"answers": self._counts["pages"], "bad_records": self._counts["times not answered"],
                    "hosts": self._frontier.hosts, "output_bytes": self._output.bytes}
        return {"counters": counters, "user_counters": {f"crawl: {name}": n for name, n in counts.items()},
                "streams": [{"records": self._archive.records, "bytes": self._output.bytes}]}

    def position(self) -> dict[str, object]:
        """Which URL was asked for."""
        return {"where": "fetch", "record": self._at}

    def _read_known(self) -> None:
        """First what was fetched, then what is to be: a link may come before the page that it leads to."""
        links: list[str] = []
        now = time.time()
        for value in self._values():
            if value.startswith("-"):
                self._frontier.fetched_before(value[1:])
            elif value.startswith("+"):
                links.append(value[1:])
            elif (found := read_robots(value, now)) is not None:
                origin, status, body = found
                self._frontier.knows_rules(origin, robots.read(status, body, self._wanted.agent))
        for url in (*self._wanted.seeds, *links):
            self._frontier.add(url)

    def _values(self) -> Iterator[str]:
        for stream in range(self._streams):
            reader = RunReader(lambda stream=stream: self._io.read(stream))
            while lines := reader.lines():
                for line in lines:
                    yield from map(str, decode_values(line.partition("\0")[2]))

    def _wait(self, host: Host) -> None:
        while (left := host.due - time.monotonic()) > 0:
            self._tell(f"{left:.0f} s until {host.name} is asked again, " if left > NAP else "")
            time.sleep(min(left, NAP))
        self._tell("")

    def _tell(self, doing: str) -> None:
        pages, waiting = self._counts["pages"], self._frontier.waiting()
        self._io.status(f"{doing}{pages} pages, {waiting} wait, at {self._at}"[:100])
        self._io.progress(pages, self._counts["bytes"])

    def _get(self, url: str, largest: int = 0) -> Answer | None:
        """The answer, in the archive; None when there is none."""
        try:
            answer = self._web.get(url, largest)
        except Unreachable as error:
            self._counts["times not answered"] += 1
            self._io.set_aside({"where": "fetch", "input": url, "error": str(error)})
            return None
        self._archive.add(answer)
        self._counts["bytes"] += len(answer.body)
        self._counts["cut"] += bool(answer.cut)
        return answer

    def _page(self, host: Host) -> None:
        answer = self._get(self._at)
        busy = answer is not None and answer.status in BUSY
        counts = answer is not None and not busy
        self._counts["pages"] += counts
        if answer is not None and counts:
            for url in quick_links(answer.url, answer.status, answer.headers, bytes(answer.body), self._wanted.largest):
                self._frontier.add(url)
        if busy:
            self._counts["times told to come later"] += 1
            self._frontier.leave(host)
        self._frontier.answered(host, time.monotonic(), page=counts)

    def _robots(self, host: Host, origin: str) -> Rules:
        """What an origin's robots.txt says. Redirects are followed on the same host only: another host may be another
        node's, so we take it that everything is forbidden here."""
        url = origin + "/robots.txt"
        for _ in range(MOST_HOPS + 1):
            answer = self._get(url, robots.MOST_BYTES)
            self._counts["robots.txt"] += 1
            if answer is None:
                break
            if answer.status not in (301, 302, 303, 307, 308):
                return robots.read(answer.status, bytes(answer.body), self._wanted.agent)
            location = next((value for name, value in answer.headers if name.lower() == "location"), "")
            target = normal(location, url)
            if target is None or host_of(target) != host.name:
                print(f"{url} redirects to {location[:300]!a}: give that host as a seed; nothing is fetched from here")
                break
            self._frontier.answered(host, time.monotonic(), page=False)
            self._wait(host)
            url = target
        return Rules(everything=True)
