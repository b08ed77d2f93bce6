"""What is still to be fetched at the hosts of one partition, and when each host may be asked again.

Owns politeness: one request to a host at a time, a pause after each answer, robots.txt before all else, no host beyond
its pages. Fetches nothing and has no clock of its own. A host is a name without a port: two servers on one machine are
one machine.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from heapq import heappop, heappush

from app_crawl.robots import Rules
from app_crawl.urls import Scope, host_of, origin_of, partition_of_host, target_of

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    pass

MOST_DELAY = 600.0  # seconds that a host may ask for between two requests; one that asks for more is left alone
MOST_WAITING = 20_000  # URLs of one host that wait


class Host:
    """One host: what waits, what its servers' robots.txt say, and when it may be asked next."""

    def __init__(self, name: str, due: float) -> None:
        self.name, self.due = name, due
        self.waiting: deque[str] = deque()
        self.rules: dict[str, Rules] = {}  # by origin
        self.pages = 0  # fetched in this crawl
        self.queued = False  # in the heap


class Frontier:
    """Use: `knows` and `add` while reading what is known, then `next` until it gives nothing."""

    def __init__(
        self, partition: int, partitions: int, scope: Scope, pages: int, delay: float, now: float
    ) -> None:
        self._partition, self._partitions, self._scope = partition, partitions, scope
        self._pages, self._delay, self._began = pages, delay, now
        self._hosts: dict[str, Host] = {}
        self._known: set[int] = set()  # URLs fetched or waiting, as numbers: there are many
        self._heap: list[tuple[float, str]] = []
        self.forbidden = self.left_out = 0

    @property
    def hosts(self) -> int:
        """How many hosts it has heard of."""
        return len(self._hosts)

    def _host(self, url: str) -> Host:
        name = host_of(url)
        host = self._hosts.get(name)
        if host is None:
            # Whoever asked it last, in the round before or in an attempt that was given up, may have just done so.
            host = self._hosts[name] = Host(name, self._began + self._delay)
        return host

    def fetched_before(self, url: str) -> None:
        """A page of an earlier round or crawl."""
        number = _number(url)
        if number not in self._known:
            self._known.add(number)
            self._host(url).pages += 1

    def knows_rules(self, origin: str, rules: Rules) -> None:
        """robots.txt of an earlier round, not too old."""
        host = self._host(origin + "/")
        host.rules[origin] = rules
        host.due = max(host.due, self._began + self.pause(host))

    def pause(self, host: Host) -> float:
        """Seconds between an answer and the next request: ours, or what any of its servers asks for."""
        return max([self._delay, *(rules.delay for rules in host.rules.values())])

    def add(self, url: str) -> bool:
        """A URL of the one spelling; whether it was new here, and ours."""
        if not self._scope.has(url) or partition_of_host(host_of(url), self._partitions) != self._partition:
            return False
        number = _number(url)
        if number in self._known or target_of(url) == "/robots.txt":
            return False
        host = self._host(url)
        if len(host.waiting) >= MOST_WAITING or host.pages >= self._pages:
            self.left_out += 1
            return False
        self._known.add(number)
        host.waiting.append(url)
        self._queue(host)
        return True

    def _queue(self, host: Host) -> None:
        if not host.queued and host.waiting:
            host.queued = True
            heappush(self._heap, (host.due, host.name))

    def next(self) -> tuple[Host, str, str] | None:
        """(host, URL, origin) of what is to be asked next, when `host.due` has come: the page, or, when the URL is
        origin + "/robots.txt", that. Then `answered` is due. None at the end."""
        while self._heap:
            due, name = heappop(self._heap)
            host = self._hosts[name]
            host.queued = False
            if host.due > due:  # its robots.txt made it wait longer
                self._queue(host)
                continue
            found = self._of(host)
            if found is not None:
                return host, *found
        return None

    def _of(self, host: Host) -> tuple[str, str] | None:
        while host.waiting:
            url = host.waiting[0]
            origin = origin_of(url)
            rules = host.rules.get(origin)
            if host.pages >= self._pages or (rules is not None and rules.delay > MOST_DELAY):
                self.left_out += len(host.waiting)
                host.waiting.clear()
                return None
            if rules is None:
                return origin + "/robots.txt", origin
            host.waiting.popleft()
            if rules.allows(target_of(url)):
                return url, origin
            self.forbidden += 1
        return None

    def answered(self, host: Host, now: float, page: bool) -> None:
        """An exchange with the host is over; page: with a page of its, which counts."""
        host.pages += page
        host.due = now + self.pause(host)
        self._queue(host)

    def leave(self, host: Host) -> None:
        """The host wants no more of us for now: what waits, waits for the next round."""
        self.left_out += len(host.waiting)
        host.waiting.clear()

    def waiting(self) -> int:
        """How many URLs wait."""
        return sum([len(host.waiting) for host in self._hosts.values()])


def _number(url: str) -> int:
    """64 bits of a URL's hash instead of the URL: a tenth of its memory."""
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest(), "big")


