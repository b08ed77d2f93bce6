"""A small web of several hosts on loopback, and a log of who asked for what, when.

Owns the servers and their pages. A page is bytes, or a function that answers a request by itself. Times are of the
moment at which a request's first line was read, by one clock for all hosts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

HTML = "text/html; charset=utf-8"


class Page(NamedTuple):
    """An answer: by what it says, or by `act`, which gets the handler."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("Content-Type", HTML),)
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


def linking(*urls: str) -> Page:
    """A page with links."""
    return Page("".join(f'<p><a href="{url}">{url}</a></p>\n' for url in urls).encode())


def text(words: str) -> Page:
    return Page(words.encode(), headers=(("Content-Type", "text/plain"),))


def redirect(url: str, status: int = 302) -> Page:
    return Page(b"moved", status, (("Location", url),))


class Asked(NamedTuple):
    """One request."""

    when: float
    host: str
    path: str
    agent: str


class Site:
    """Hosts by name, each at an address of its own with a port of its own."""

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Page]] = {}
        self.log: list[Asked] = []
        self.lock = threading.Lock()
        self.servers: dict[str, ThreadingHTTPServer] = {}

    def serve(self, host: str) -> str:
        """A new host; gives its origin."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                when = time.monotonic()
                with site.lock:
                    site.log.append(Asked(when, host, self.path, self.headers["User-Agent"]))
                page = site.pages[host].get(self.path) or Page(b"nothing here", 404, (("Content-Type", "text/plain"),))
                if page.act is not None:
                    return page.act(self)
                self.send_response(page.status)
                for name, value in page.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                """The site's own log is enough."""

        server = ThreadingHTTPServer((host, 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers[host] = server
        self.pages[host] = {}
        return self.origin(host)

    def origin(self, host: str) -> str:
        return f"http://{host}:{self.servers[host].server_address[1]}"

    def asked(self, since: int = 0) -> dict[str, list[Asked]]:
        """The log by URL without robots.txt, from its entry number `since` on."""
        found: dict[str, list[Asked]] = {}
        for entry in self.log[since:]:
            if entry.path != "/robots.txt":
                found.setdefault(self.origin(entry.host) + entry.path, []).append(entry)
        return found

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()


def chunked(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Sends a body in chunks."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", HTML)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(body), 100):
            piece = body[start : start + 100]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return act


def stalling(body: bytes, length: int, gone: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """Announces more than it ever sends, and keeps the connection until the test is over."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", HTML)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body)
        gone.wait(60)
        handler.close_connection = True

    return act


def silent(gone: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """Never answers."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        gone.wait(60)
        handler.close_connection = True

    return act
