"""app-crawl's way to servers and to archives: what goes over the wire, answers that are broken, slow or endless, and
what a WARC gives back. In one process, with requests and warcio as pip installed them."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.examples, pytest.mark.usefixtures("crawl_environment")]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Twice: a\r\nX-Twice: b\r\nX-Latin: \xe9\r\n\r\nhello"


class Server:
    """Reads one request, then does as told with the connection."""

    def __init__(self, act: Callable[[socket.socket], object]) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.request = b""
        self.act = act
        self.gone = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/a?b=c"

    def serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            while not self.request.endswith(b"\r\n\r\n"):
                self.request += connection.recv(4096)
            try:
                self.act(connection)
            except OSError:
                return  # the client has had enough


@pytest.fixture
def server() -> Iterator[Callable[[Any], Server]]:
    made: list[Server] = []

    def make(answer: Any) -> Server:
        made.append(Server(answer if callable(answer) else lambda connection: connection.sendall(answer)))
        return made[-1]

    yield make
    for one in made:
        one.gone.set()
        one.socket.close()


def web(largest: int = 1000, seconds: float = 5.0) -> Any:
    from app_crawl.web import Web

    return Web("test-bot/1.0", largest, seconds)


def test_what_is_asked_is_what_the_record_says(server: Any) -> None:
    made = server(PLAIN)
    answer = web().get(made.url)
    assert made.request == answer.request
    assert made.request.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert (answer.status, answer.reason, bytes(answer.body), answer.cut) == (200, "OK", b"hello", "")
    assert answer.headers == [("Content-Length", "5"), ("X-Twice", "a"), ("X-Twice", "b"), ("X-Latin", "\xe9")]


@pytest.mark.parametrize(("answer", "body", "cut"), [
    (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end", ""),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc", ""),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000, b"x" * 1000, ""),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, b"x" * 1000, "length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc", b"abc", "disconnect"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", b"abc", "disconnect"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip", b"not gzip", ""),
    (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 5\r\n\r\nmoved", b"moved", ""),
    (b"HTTP/1.1 301 X\r\nLocation: /b\r\n\r\n" + b"y" * 5000, b"y" * 1000, "length"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"", ""),
])
def test_a_body_is_kept_as_far_as_it_came(server: Any, answer: bytes, body: bytes, cut: str) -> None:
    got = web().get(server(answer).url)
    assert (bytes(got.body), got.cut) == (body, cut)


@pytest.mark.parametrize("answer", [
    b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
], ids=["nothing", "another protocol", "a long header", "many headers"])
def test_what_is_no_answer_is_told(server: Any, answer: bytes) -> None:
    from app_crawl.web import Unreachable

    with pytest.raises(Unreachable):
        web().get(server(answer).url)


def test_nobody_there_is_told() -> None:
    from app_crawl.web import Unreachable

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="ConnectionError"):
        web().get(f"http://127.0.0.1:{port}/")


def dribble(start: bytes) -> Callable[[socket.socket], None]:
    """A byte now and then, for ever: each begins a socket's time-out anew."""

    def act(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            threading.Event().wait(0.05)

    return act


def test_headers_that_dribble_end_in_time(server: Any) -> None:
    from app_crawl.web import Unreachable

    with pytest.raises(Unreachable, match="no answer within 0.5 s"):
        web(seconds=0.5).get(server(dribble(b"HTTP/1.1 200 OK\r\nX: ")).url)


def test_a_body_that_dribbles_is_cut_in_time(server: Any) -> None:
    got = web(seconds=0.5).get(server(dribble(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")).url)
    assert got.cut == "time" and 0 < len(got.body) < 900 and set(got.body) == {ord("x")}


@given(st.text(max_size=60))
def test_requests_sends_the_one_spelling_as_it_is(path: str) -> None:
    import requests
    from app_crawl.urls import normal, target_of

    url = normal("http://one.example/" + path)
    if url is not None:
        prepared = requests.Request("GET", url).prepare()
        assert prepared.url == url and prepared.path_url == target_of(url)


def test_an_archive_gives_back_what_it_was_given() -> None:
    from app_crawl.archive import CHUNK, Archive, FileInput, FileOutput, responses
    from app_crawl.web import Answer
    from warcio.archiveiterator import ArchiveIterator

    blocks: list[bytes] = []
    output = FileOutput(lambda stream, data: blocks.append(data))
    archive = Archive(output, {"software": "test"})
    bodies = [b"", bytes(range(256)) * 20, b"\r\n\r\nWARC/1.0\r\n", __import__("random").Random(7).randbytes(CHUNK * 2)]
    for number, body in enumerate(bodies):
        answer = Answer(f"http://one.example/{number}", "2026-01-01T00:00:00Z", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer.status, answer.reason, answer.cut = 200, "F\xefne", "length" if number == 1 else ""
        answer.headers = [("X-Latin", "\xe9"), ("X-Twice", "a"), ("X-Twice", "b"), ("Transfer-Encoding", "chunked")]
        answer.body += body
        archive.add(answer)
    output.finish()
    assert len(blocks) > 2 and {len(block) for block in blocks[:-1]} == {CHUNK} and len(blocks[-1]) < CHUNK
    source = iter(blocks)
    kept = list(responses(FileInput(lambda stream: next(source, b""), 0), "test", 10 << 20))
    assert [one.body for one in kept] == bodies and {one.status for one in kept} == {200}
    assert kept[0].headers == [("X-Latin", "\xe9"), ("X-Twice", "a"), ("X-Twice", "b"),
                               ("X-Archive-Orig-Transfer-Encoding", "chunked")]  # the chunks are gone
    found = list(ArchiveIterator(io.BytesIO(b"".join(blocks)), check_digests="raise"))
    assert [record.rec_type for record in found] == ["warcinfo", *["response", "request"] * 4]


def test_other_files_are_no_archives() -> None:
    from app_crawl.archive import FileInput, NoArchive, responses

    source = iter([b"<html>a page</html>\n" * 100])
    with pytest.raises(NoArchive, match="photo.jpg is not a WARC file"):
        list(responses(FileInput(lambda stream: next(source, b""), 0), "photo.jpg", 1000))


def test_an_empty_archive_has_nothing() -> None:
    from app_crawl.archive import FileInput, responses

    assert list(responses(FileInput(lambda stream: b"", 0), "part-00000", 1000)) == []


def test_defaults_are_the_same_on_both_sides() -> None:
    from app_crawl.plan import DEFAULTS
    from app_crawl.work import Wanted

    wanted = Wanted({"seeds": ["http://one.example"]})
    assert {name: getattr(wanted, name) for name in ("pages", "delay", "agent", "largest", "timeout", "scope")} == {
        name: DEFAULTS[name] for name in ("pages", "delay", "agent", "largest", "timeout", "scope")}
    assert wanted.seeds == ["http://one.example/"] and wanted.user_agent == "ipdc-edge-crawl/1.0"


def test_a_seed_that_is_no_url_is_named() -> None:
    from app_crawl.work import NoSeed, Wanted

    with pytest.raises(NoSeed, match="'http://one.example:99999/'"):
        Wanted({"seeds": ["http://one.example:99999/"]})
