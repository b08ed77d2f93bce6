"""What one round tells the next of a host, as values under the host's name in a run.

Owns their form: "+URL" is a link, "-URL" a page that was fetched, "r" and JSON a robots.txt. Texts, because those
travel fastest.
"""

from __future__ import annotations

import calendar
import json
import time

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROBOTS_LASTS = 24 * 3600  # seconds that a robots.txt may be believed (RFC 9309, 2.4)
MOST_CARRIED = 128 * 1024  # bytes of a robots.txt that travels; a longer one is fetched again


def link(url: str) -> str:
    """A link was found."""
    return "+" + url


def fetched(url: str) -> str:
    """A page was fetched."""
    return "-" + url


def robots(origin: str, date: str, status: int, body: bytes) -> str:
    """An origin's answer to /robots.txt; date as WARC-Date has it."""
    return "r" + json.dumps([origin, date, status, body.decode("latin-1")], ensure_ascii=False)


def read_robots(value: str, now: float) -> tuple[str, int, bytes] | None:
    """(origin, status, body) of such a value; None when it is too old."""
    origin, date, status, text = json.loads(value[1:])
    return (origin, status, text.encode("latin-1")) if 0 <= now - _seconds(date) < ROBOTS_LASTS else None


def _seconds(date: str) -> float:
    try:
        return calendar.timegm(time.strptime(date[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0


def each_once(host: object, values: Iterable[str]) -> Iterator[tuple[object, str]]:
    """What a map's `combine` is: the same link on many pages travels once."""
    for value in dict.fromkeys(values):
        yield host, value
