"""app-crawl installed by pip and run on three nodes, over a web of three hosts on loopback: the servers' own log says
whether it was polite, the WARC files whether it kept what they sent."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from app_crawl.urls import partition_of_host

from tests.examples.labs import Lab
from tests.examples.site import Page, Site, chunked, linking, redirect, silent, stalling, text
from tests.waiting import eventually

pytestmark = pytest.mark.examples

DELAY, LONGER = 0.1, 0.35
LARGEST, TIMEOUT = 50_000, 1.0
NODES = 3
BINARY = b'<a href="/end">\x00\xff\xfe</a>' + bytes(range(256)) * 9


class Web:
    """The hosts of the test, one for each partition, and what a crawl of them must and must not do."""

    def __init__(self) -> None:
        self.site = Site()
        self.gone = threading.Event()
        hosts: dict[int, str] = {partition_of_host("localhost", NODES): "localhost"}
        for number in range(1, 255):
            hosts.setdefault(partition_of_host(f"127.0.0.{number}", NODES), f"127.0.0.{number}")
        self.hosts = [host for _, host in sorted(hosts.items())]
        a, b, c = map(self.site.serve, self.hosts)
        self.seed = f"{a}/"
        one, two, three = (self.site.pages[host] for host in self.hosts)
        stranger = f"http://127.9.9.9:{a.rpartition(':')[2]}/"
        one |= {
            "/robots.txt": text("User-agent: *\nDisallow: /private\nDisallow: /*.pdf$\n\nUser-agent: x\nDisallow: /"),
            "/": linking("/loop1", "/old", "/trap", "/away", "/missing", "/bad", "/chunked", f"{b}/", "/private/diary",
                         "/paper.pdf", "/a b?q=é", "#top"),
            "/loop1": linking("loop2", "/", "/loop1#again"),
            "/loop2": linking("loop1", "./x/../loop2"),
            "/old": redirect("/new", 301),
            "/new": linking("/old"),
            "/trap": redirect("/private/trapped"),
            "/away": redirect(f"{b}/arrived"),
            "/bad": linking("mailto:me@one.example", "javascript:x()", f"http://me:secret@{a[7:]}/secret", "http://[",
                            "ftp://one.example/", stranger, "//", "http://:80/", "/bad#x", "data:text/html,x"),
            "/chunked": Page(act=chunked(BINARY)),
            "/a%20b?q=%C3%A9": linking(),
            "/end": text("the end"),
            "/back": linking("/new", f"{b}/b2"),
        }
        two |= {
            "/": linking("/big", "/slow", "/never", "/nowhere", f"{c}/", "/b1"),
            "/b1": linking("/b2", "/late"),
            "/b2": linking("/b1"),
            "/big": Page(b"<a href='/from-the-big-one'>" + b"x" * 200_000 + b"<a href='/beyond'>"),
            "/from-the-big-one": text("found"),
            "/slow": Page(act=stalling(b"<a href='/from-the-slow-one'>" + b" " * 9000, 1_000_000, self.gone)),
            "/from-the-slow-one": text("found"),
            "/never": Page(act=silent(self.gone)),
            "/arrived": text("by a redirect"),
            "/late": text("late"),
        }
        three |= {
            "/robots.txt": text(f"User-agent: *\nCrawl-delay: {LONGER}\nDisallow: /cgi\nAllow: /cgi/fine\n"),
            "/": linking("/cgi/x", "/cgi/fine", "/c1", f"{a}/back"),
            "/c1": linking("/c2"),
            "/c2": linking("/"),
            "/cgi/fine": text("allowed"),
        }
        self.once = {
            *(a + path for path in ("/", "/loop1", "/loop2", "/old", "/new", "/trap", "/away", "/missing", "/bad",
                                    "/chunked", "/a%20b?q=%C3%A9", "/end", "/back")),
            *(b + path for path in ("/", "/b1", "/b2", "/big", "/from-the-big-one", "/slow", "/from-the-slow-one",
                                    "/nowhere", "/arrived", "/late")),
            *(c + path for path in ("/", "/c1", "/c2", "/cgi/fine")),
        }
        self.never = f"{b}/never"
        self.slow, self.big, self.chunked = f"{b}/slow", f"{b}/big", f"{a}/chunked"

    def arguments(self, **said: Any) -> dict[str, Any]:
        return {"seeds": [self.seed], "scope": self.hosts, "delay": DELAY, "largest": LARGEST, "timeout": TIMEOUT,
                "agent": "test-bot", "contact": "http://127.0.0.1/who", "rounds": 8, **said}

    def check_polite(self, since: int) -> None:
        """Between two requests to a host, robots.txt among them, there is its pause."""
        for host in self.hosts:
            times = [entry.when for entry in self.site.log[since:] if entry.host == host]
            pauses = [later - earlier for earlier, later in pairwise(times)]
            assert min(pauses, default=1) >= DELAY, (host, pauses)
            if host == self.hosts[2]:  # its robots.txt, which is read first, asks for more
                assert min(pauses, default=1) >= LONGER, pauses


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    try:
        yield made
    finally:
        made.gone.set()
        made.site.close()


def records(parts: dict[str, bytes]) -> list[Any]:
    """What warcio reads of all parts, digests checked: (part, type, URL, record headers, HTTP headers, body)."""
    from warcio.archiveiterator import ArchiveIterator

    found = []
    for name, data in parts.items():
        for record in ArchiveIterator(io.BytesIO(data), check_digests="raise"):
            head, body = record.rec_headers, record.raw_stream.read()
            found.append((name, record.rec_type, head.get_header("WARC-Target-URI"), head, record.http_headers, body))
    return found


def responses(parts: dict[str, bytes]) -> dict[str, Any]:
    """{URL: record} of all pages; each is there once."""
    found = [record for record in records(parts) if record[1] == "response" and not record[2].endswith("/robots.txt")]
    assert len({record[2] for record in found}) == len(found)
    return {record[2]: record for record in found}


def test_the_package_registers_its_architecture(crawl_environment: Any) -> None:
    assert "crawl=app_crawl.plan:Crawl" in crawl_environment.registered()


def test_a_web_is_crawled_whole_once_and_politely(crawl_lab: Lab, web: Web) -> None:
    view = crawl_lab.submit("crawl", web.arguments(), "-k", str(NODES))
    asked = web.site.asked()
    assert set(asked) - {web.never} == web.once
    assert {url: len(entries) for url, entries in asked.items() if len(entries) > 1 and url != web.never} == {}
    assert {entry.agent for entry in web.site.log} == {"test-bot/1.0 (+http://127.0.0.1/who)"}
    web.check_polite(0)

    # one host, one node: a host is in the parts of one partition only, and those were made at one node
    parts = crawl_lab.parts(view)
    pages = responses(parts)
    assert set(pages) == web.once
    nodes: dict[int, set[str]] = {}
    for done in crawl_lab.record(view)["tasks"]:
        if done["task"].startswith("fetch-"):
            nodes.setdefault(int(done["task"][-4:]), set()).add(done["node"])
    assert all(len(found) == 1 for found in nodes.values()), nodes
    for name, _, url, *_ in pages.values():
        assert int(name.removeprefix("part-")) % NODES == web.hosts.index(url.split("/")[2].partition(":")[0])

    # what the servers sent
    for host in web.hosts:
        for path, page in web.site.pages[host].items():
            url = web.site.origin(host) + path
            if page.act is None and url in pages:
                _, _, _, head, http, body = pages[url]
                assert body == page.body[:LARGEST] and http.get_statuscode() == str(page.status)
                assert all(http.get_header(name) == value for name, value in page.headers)
                assert head.get_header("WARC-Truncated") == ("length" if url == web.big else None)
    assert pages[web.chunked][5] == BINARY
    assert pages[web.slow][3].get_header("WARC-Truncated") == "time" and pages[web.slow][5].startswith(b"<a href")
    requests = [record for record in records(parts) if record[1] == "request"]
    assert {record[2] for record in requests} == {r[2] for r in records(parts) if r[1] == "response"}
    assert all(record[4].get_header("User-Agent").startswith("test-bot/1.0") for record in requests)

    counters = view["counters"]
    assert counters["crawl: pages"] == len(web.once)
    # /private/diary, /private/trapped, /paper.pdf, /cgi/x; links are seen again in each round
    assert counters["crawl: times robots.txt forbade"] >= 4 and view["bad_records"] == len(asked[web.never])
    assert counters["crawl: times not answered"] == len(asked[web.never])


def test_a_resumed_crawl_fetches_nothing_twice(crawl_lab: Lab, web: Web) -> None:
    first = crawl_lab.submit("crawl", web.arguments(pages=3), "-k", str(NODES))
    before = len(web.site.log)
    some = set(web.site.asked()) - {web.never}
    assert some < web.once
    found = [f"{first['directory']}/{name}" for name in crawl_lab.parts(first)]
    second = crawl_lab.submit("crawl", web.arguments(), "--input", *found, "-k", str(NODES))
    rest = set(web.site.asked(before)) - {web.never}
    assert not some & rest and some | rest == web.once
    assert set(responses(crawl_lab.parts(second))) == rest
    assert not [entry for entry in web.site.log[before:] if entry.path == "/robots.txt" and entry.host == web.hosts[0]]
    web.check_polite(before)

    after = len(web.site.log)
    found += [f"{second['directory']}/{name}" for name in crawl_lab.parts(second)]
    crawl_lab.submit("crawl", web.arguments(), "--input", *found, "-k", str(NODES))
    assert set(web.site.asked(after)) <= {web.never}


def test_a_worker_that_dies_takes_no_page_along(crawl_lab: Lab, web: Web) -> None:
    """Its hosts are another node's then, from the start, and no sooner than they may be asked."""
    words = ("submit", "--app", "crawl", "--args", json.dumps(web.arguments()), "-k", str(NODES), "--id-only")
    job = crawl_lab.ipdc(*words, node=1).stdout.strip()
    eventually(lambda: len(web.site.log) > 9, "the crawl's beginning", 60)
    crawl_lab.kill(3)
    try:
        eventually(lambda: crawl_lab.status(job)["state"] != "running", "the end of the crawl", 120)
        view = crawl_lab.status(job)
        assert view["state"] == "succeeded", view
        assert set(responses(crawl_lab.parts(view))) == web.once
        assert set(web.site.asked()) - {web.never} == web.once
        web.check_polite(0)
    finally:
        crawl_lab.ipdc("lab", "up", "--nodes", str(NODES), "--dir", crawl_lab.directory)


def test_a_node_whose_owner_did_not_allow_it_does_not_crawl(crawl_environment: Any, web: Web) -> None:
    lab = Lab(crawl_environment.python, 1)
    for _ in lab.serve():
        assert "crawl" not in json.loads(lab.ipdc("nodes", "--json", node=1).stdout)[0]["capabilities"]
        done = lab.ipdc("submit", "--app", "crawl", "--args", json.dumps(web.arguments()), "--no-queue", node=1,
                        check=False)
        assert done.returncode == 4 and not web.site.log
