"""WARC files: what was asked and answered, written to an output stream of a task and read from an input stream.

Owns the records (ISO 28500, WARC/1.0, by `warcio`): a response as it came, and its request. Each record is a gzip
member, so files may be put one after another. A body that came in chunks stands without them, and its Transfer-Encoding
is named X-Archive-Orig-Transfer-Encoding, as other crawlers do.
"""

from __future__ import annotations

from io import BytesIO

from warcio.archiveiterator import ArchiveIterator
from warcio.bufferedreaders import ChunkedDataReader
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app_crawl.web import Answer

CHUNK = 1 << 20  # bytes of a block of a file
ORIGINAL = "X-Archive-Orig-"


class NoArchive(IpdcError):
    """{name} is not a WARC file that can be read: {reason}"""


class Head(StatusAndHeaders):
    """HTTP headers as they came: warcio would percent-encode what is not ASCII."""

    def to_ascii_bytes(self, filter_func: object = None) -> bytes:
        """What http.client read, byte for byte."""
        return self.to_str().encode("latin-1", "replace") + b"\r\n"


class FileOutput:
    """A file object over an output stream: blocks of a chunk each, the last one shorter."""

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._write, self._waiting = write, bytearray()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Takes bytes; full blocks go."""
        self._waiting += data
        self.bytes += len(data)
        while len(self._waiting) >= CHUNK:
            self._write(0, bytes(self._waiting[:CHUNK]))
            del self._waiting[:CHUNK]
        return len(data)

    def flush(self) -> None:
        """warcio asks for it after each record; blocks go when they are full."""

    def finish(self) -> None:
        """The last block goes."""
        if self._waiting:
            self._write(0, bytes(self._waiting))
            self._waiting.clear()


class Archive:
    """One WARC under way. It begins with a `warcinfo` record, but only when there is something to tell."""

    def __init__(self, output: FileOutput, info: dict[str, str]) -> None:
        self._writer = WARCWriter(output, gzip=True)
        self._info: dict[str, str] | None = info
        self.records = 0

    def add(self, answer: Answer) -> None:
        """A response and its request."""
        if self._info is not None:
            self._writer.write_record(self._writer.create_warcinfo_record(None, self._info))
            self._info = None
            self.records += 1
        named = {"WARC-Date": answer.date}
        cut = {"WARC-Truncated": answer.cut} if answer.cut else {}
        headers = [(ORIGINAL + name if name.lower() == "transfer-encoding" else name, value)
                   for name, value in answer.headers]
        head = Head(f"{answer.status} {answer.reason}", headers, protocol=f"HTTP/{answer.version}")
        response = self._record("response", answer, bytes(answer.body), head, {**named, **cut})
        first, *lines = answer.request.decode("ascii").split("\r\n")[:-2]
        asked = Head(first, [tuple(line.split(": ", 1)) for line in lines], is_http_request=True)
        request = self._record("request", answer, b"", asked, named)
        self._writer.write_request_response_pair(request, response)
        self.records += 2

    def _record(self, kind: str, answer: Answer, body: bytes, head: Head, named: dict[str, str]) -> object:
        return self._writer.create_warc_record(
            answer.url, kind, payload=BytesIO(body), length=len(body), warc_headers_dict=named, http_headers=head
        )


class FileInput:
    """A file object over an input stream."""

    def __init__(self, read: Callable[[int], bytes | bytearray | None], stream: int) -> None:
        self._read, self._stream, self._block, self._at = read, stream, b"", 0
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes, at least one until the end."""
        if self._at >= len(self._block):
            self._block, self._at = bytes(self._read(self._stream) or b""), 0
        end = len(self._block) if size < 0 else self._at + size
        data = self._block[self._at : end]
        self._at += len(data)
        self.bytes += len(data)
        return data


class Kept:
    """A response as a WARC holds it. `date` as WARC-Date has it."""

    def __init__(self, url: str, date: str, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.url, self.date, self.status, self.headers, self.body = url, date, status, headers, body


def responses(source: FileInput, name: str, most: int) -> Iterator[Kept]:
    """The responses of a WARC, each body cut after `most` bytes. NoArchive for anything that is no WARC."""
    try:
        for record in ArchiveIterator(source):
            if record.rec_type != "response" or record.http_headers is None:
                continue
            head = record.http_headers
            chunked = "chunked" in (head.get_header("Transfer-Encoding") or "").lower()
            stream = ChunkedDataReader(record.raw_stream) if chunked else record.raw_stream
            code = head.get_statuscode()
            url, date = record.rec_headers.get_header("WARC-Target-URI"), record.rec_headers.get_header("WARC-Date")
            status = int(code) if code.isdecimal() and len(code) == 3 else 0
            yield Kept(url or "", date or "", status, head.headers, _most(stream, most))
    except ArchiveLoadFailed as error:
        raise NoArchive(name=name, reason=str(error).strip()[:300]) from None


def _most(stream: BytesIO, most: int) -> bytes:
    body = bytearray()
    while len(body) < most:
        piece = stream.read(min(16 * 1024, most - len(body)))
        if not piece:
            break
        body += piece
    return bytes(body)
