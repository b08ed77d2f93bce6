"""One request and its answer, bounded in size and time.

Owns what goes over the wire: one GET, no redirects followed, no cookies, no passwords (.netrc), no proxies, no
compression asked for, a connection for each request. An answer is kept as it came. An alarm ends an exchange that takes
too long as a whole; the time-outs of sockets would begin anew with every byte.
"""

from __future__ import annotations

import time
from http.client import HTTPException

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from app_crawl.alarm import TookTooLong, within
from app_crawl.urls import target_of

PIECE = 64 * 1024


class Unreachable(Exception):
    """No answer: the host is not there, does not answer in time, or speaks no HTTP."""


class Answer:
    """What a server said. `headers` in their order and spelling; `cut` is "", "length" or "time"."""

    def __init__(self, url: str, date: str, request: bytes) -> None:
        self.url, self.date, self.request = url, date, request
        self.version, self.status, self.reason = "1.1", 0, ""
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.cut = ""


class Web:
    """The way to servers, for one task."""

    def __init__(self, agent: str, largest: int, seconds: float) -> None:
        """agent: the User-Agent; largest: bytes of a body that are kept; seconds: for an exchange as a whole."""
        self._largest, self._seconds = largest, seconds
        # Without a Session: that would read .netrc and proxies from its environment, keep cookies, and read the whole
        # body of a redirect, however long, even when it is not to follow it.
        self._adapter = HTTPAdapter(pool_connections=1, pool_maxsize=1)
        self._headers = {"User-Agent": agent, "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}

    def get(self, url: str, largest: int = 0) -> Answer:
        """The answer to one request. Unreachable when not even its headers came in time."""
        names = {"Host": url.split("/", 3)[2], **self._headers}
        lines = [f"GET {target_of(url)} HTTP/1.1", *(f"{name}: {value}" for name, value in names.items()), "", ""]
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        answer = Answer(url, date, "\r\n".join(lines).encode())
        try:
            with within(self._seconds):
                self._exchange(answer, names, largest or self._largest)
        except TookTooLong:
            if not answer.status:
                raise Unreachable(f"no answer within {self._seconds:g} s") from None
            answer.cut = "time"
        except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            if not answer.status:
                raise Unreachable(f"{type(error).__name__}: {error}"[:500]) from None
            answer.cut = "disconnect"  # in the middle of its body
        return answer

    def _exchange(self, answer: Answer, names: dict[str, str], largest: int) -> None:
        prepared = requests.Request("GET", answer.url, headers=names).prepare()
        with self._adapter.send(prepared, stream=True, timeout=self._seconds) as response:
            raw = response.raw
            answer.version = "1.0" if raw.version == 10 else "1.1"
            answer.reason = raw.reason or ""
            answer.headers = list(raw.headers.items())
            answer.status = raw.status
            while len(answer.body) <= largest:
                # read1, because what came stays ours when the alarm rings
                piece = raw.read1(min(PIECE, largest + 1 - len(answer.body)), decode_content=False)
                if not piece:
                    return
                answer.body += piece
            del answer.body[largest:]
            answer.cut = "length"

    def close(self) -> None:
        """No connection stays."""
        self._adapter.close()
