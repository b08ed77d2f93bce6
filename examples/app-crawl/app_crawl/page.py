"""What an answer leads to: the links of an HTML page, the target of a redirect.

Owns which links are followed: those of `a`, `area`, `frame` and `iframe`, seen from `base`; not those that the page
asks crawlers to leave (`nofollow` at a link, in `<meta name="robots">` or in X-Robots-Tag). Holds little of a page
beside its bytes: text is decoded and parsed in pieces. Whatever the bytes are, what was found by then counts.
"""

from __future__ import annotations

import codecs
import re
import zlib
from html.parser import HTMLParser

from app_crawl.alarm import TookTooLong, within
from app_crawl.urls import normal

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    Headers = list[tuple[str, str]]

REDIRECTS = (301, 302, 303, 307, 308)
MOST_LINKS = 5000  # of a page
PARSING = 20.0  # seconds that the links of one page may take: parsers have bad days
PIECE = 32 * 1024  # bytes parsed at a time
LINKS = {"a": "href", "area": "href", "frame": "src", "iframe": "src"}
_CHARSET = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_SAFE = ("utf-8", "utf-16", "iso8859", "cp125", "koi8", "gb", "big5", "shift_jis", "euc_", "ascii")


def header(headers: Headers, name: str) -> str:
    """The first header of that name, "" without one."""
    return next((value for found, value in headers if found.lower() == name), "")


def links_of(url: str, status: int, headers: Headers, body: bytes, most: int) -> list[str]:
    """The links of an answer in the one spelling, each once, in their order. most: bytes that a compressed body may
    become."""
    found = [header(headers, "location")] if status in REDIRECTS else []
    base = url
    kind = header(headers, "content-type")
    if re.match(r"\s*(text/html|application/xhtml\+xml)\b", kind, re.IGNORECASE) and not _nofollow(
        ",".join(value for name, value in headers if name.lower() == "x-robots-tag")
    ):
        page = Page()
        page.take(plain(body, header(headers, "content-encoding"), most), kind)
        base = normal(page.base, url) or url if page.base else url
        found += [] if page.nofollow else page.links
    spelled = (normal(link, base if number or status not in REDIRECTS else url) for number, link in enumerate(found))
    return list(dict.fromkeys(link for link in spelled if link is not None))


def quick_links(url: str, status: int, headers: Headers, body: bytes, most: int) -> list[str]:
    """`links_of`, or nothing when that takes too long."""
    try:
        with within(PARSING):
            return links_of(url, status, headers, body, most)
    except TookTooLong:
        return []


def plain(body: bytes, encoding: str, most: int) -> bytes:
    """A body without its Content-Encoding, cut after `most` bytes; nothing for an encoding that we do not know."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip"):
        return b""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS + 16).decompress(body, most)
    except zlib.error:
        return b""


def _nofollow(words: str) -> bool:
    return bool({"nofollow", "none"} & set(re.split(r"[\s,:]+", words.lower())))


class Page(HTMLParser):
    """The links of one page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.base = ""
        self.nofollow = False

    def take(self, body: bytes, kind: str) -> None:
        """All of a page's bytes; kind: its Content-Type."""
        named = _CHARSET.search(kind) or _CHARSET.search(body[:1024].decode("latin-1"))
        decoder = codecs.getincrementaldecoder(_codec(named[1] if named else "utf-8"))("replace")
        try:
            for start in range(0, len(body), PIECE):
                if len(self.links) >= MOST_LINKS:
                    return
                self.feed(decoder.decode(body[start : start + PIECE]))
            self.close()
        except (AssertionError, ValueError):  # html.parser's words for markup that it cannot read
            return

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A link, where a base is, or what the page asks of crawlers."""
        if tag in LINKS:
            found = {name: value or "" for name, value in reversed(attrs)}  # the first of two of a name counts
            link = found.get(LINKS[tag], "")
            if link and not _nofollow(found.get("rel", "")) and len(self.links) < MOST_LINKS:
                self.links.append(link)
        elif tag == "base" and not self.base:
            self.base = dict(attrs).get("href") or ""
        elif tag == "meta":
            found = {name: value or "" for name, value in attrs}
            if found.get("name", "").lower() == "robots" and _nofollow(found.get("content", "")):
                self.nofollow = True


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    return found if found.startswith(_SAFE) else "utf-8"
