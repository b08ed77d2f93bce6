"""URLs as a crawler must see them: one spelling for one page, and nothing that leads where it should not.

Owns what a URL may be, its one spelling, the scope, and which partition a host belongs to. Looks nothing up. A URL of
this spelling is sent as it is: what `requests` would change is changed here already, so that what robots.txt was asked
for is what is asked of the server.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urljoin, urlsplit

from ipdc_edge.codec.keys import encode_key, partition_of

MOST_URL = 2000  # characters
DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986
_PATH = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/")
_QUERY = _PATH | frozenset(b"?")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def normal(text: str, base: str = "") -> str | None:
    """The one spelling of a URL, or of a link on the page `base`; None for what a crawler leaves alone."""
    try:
        joined = urljoin(base, text.strip()) if base else text.strip()
        parts = urlsplit(joined)
        if len(joined) > MOST_URL or parts.scheme not in DEFAULT_PORTS or "@" in parts.netloc or "\\" in joined:
            return None
        authority = _authority(parts)
    except (ValueError, UnicodeError):  # urllib's word for brackets, ports and names that are none
        return None
    path = _dotless(spelled(parts.path, _PATH)) or "/"
    query = f"?{spelled(parts.query, _QUERY)}" if parts.query else ""
    url = f"{parts.scheme}://{authority}{path}{query}"
    return url if len(url) <= MOST_URL else None


def _authority(parts: SplitResult) -> str:
    """host[:port], the port only when it says something. ValueError for what is no host."""
    host = (parts.hostname or "").removesuffix(".")
    if ":" in host:
        from ipaddress import IPv6Address

        host = f"[{IPv6Address(host)}]"
    else:
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
        if len(host) > 253 or not _NAME.fullmatch(host):
            raise ValueError(host)
    port = parts.port
    return host if port is None or port == DEFAULT_PORTS[parts.scheme] else f"{host}:{port}"


def spelled(text: str, allowed: frozenset[int] = _QUERY) -> str:
    """Percent-encoding in its one form: unreserved characters plain, all else that is not allowed as %XX."""

    def decoded(match: re.Match[bytes]) -> bytes:
        byte = int(match[1], 16)
        return bytes((byte,)) if byte in _UNRESERVED else b"%" + match[1].upper()

    data = _ESCAPE.sub(decoded, text.encode("utf-8", "surrogatepass"))
    out = []
    for place, byte in enumerate(data):
        escape = byte == 0x25 and _ESCAPE.match(data, place)
        out.append(chr(byte) if byte in allowed or escape else f"%{byte:02X}")
    return "".join(out)


def _dotless(path: str) -> str:
    """RFC 3986, 5.2.4: without "." and ".." """
    out: list[str] = []
    segments = path.split("/")
    for segment in segments[1:] if path.startswith("/") else segments:
        if segment == "..":
            del out[-1:]
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/" + "/".join(out).lstrip("/")  # requests would join several at the beginning to one


def host_of(url: str) -> str:
    """The host name of a URL of the one spelling, without port: delays and partitions go by it."""
    authority = url.split("/", 3)[2]
    return authority[: authority.index("]") + 1] if authority.startswith("[") else authority.partition(":")[0]


def origin_of(url: str) -> str:
    """scheme://host[:port]: what one robots.txt speaks for."""
    return "/".join(url.split("/", 3)[:3])


def target_of(url: str) -> str:
    """Path and query, as a request names them."""
    return "/" + url.split("/", 3)[3]


def partition_of_host(host: str, partitions: int) -> int:
    """Which partition a host belongs to: that of runs with the host as key, the same at every node."""
    return partition_of(encode_key(host), partitions)


class Scope:
    """Which hosts a crawl may touch."""

    def __init__(self, wanted: str | list[str], seeds: list[str]) -> None:
        """wanted: "seed-hosts", or names with "*.name" for all below a name; seeds: of the one spelling."""
        names = list(map(host_of, seeds)) if isinstance(wanted, str) else [name.lower() for name in wanted]
        self._exact = frozenset(name for name in names if not name.startswith("*."))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    def has(self, url: str) -> bool:
        """Whether a URL of the one spelling is inside."""
        host = host_of(url)
        return host in self._exact or bool(self._below) and host.endswith(self._below)
