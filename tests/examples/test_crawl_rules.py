"""app-crawl's rules, without a network: the one spelling of a URL, the scope, robots.txt, the links of a page, who is
asked when."""

from __future__ import annotations

from urllib.robotparser import RobotFileParser

import pytest
from app_crawl import knowledge
from app_crawl.frontier import Frontier
from app_crawl.page import links_of
from app_crawl.robots import Rules, parse, read
from app_crawl.urls import Scope, host_of, normal, origin_of, partition_of_host, spelled, target_of
from hypothesis import given
from hypothesis import strategies as st

PAGE = "http://one.example/dir/page"
HTML = [("Content-Type", "text/html; charset=utf-8")]


# URLs

@pytest.mark.parametrize(("link", "url"), [
    ("other", "http://one.example/dir/other"),
    ("/top", "http://one.example/top"),
    ("../up", "http://one.example/up"),
    ("../../../up", "http://one.example/up"),
    ("/a/./b/../c", "http://one.example/a/c"),
    ("/a/..", "http://one.example/"),
    ("?q=1", "http://one.example/dir/page?q=1"),
    ("#part", "http://one.example/dir/page"),
    ("", "http://one.example/dir/page"),
    ("http://ONE.example", "http://one.example/"),
    ("HTTP://one.example.:80/a", "http://one.example/a"),
    ("https://one.example:443/", "https://one.example/"),
    ("https://one.example:80/", "https://one.example:80/"),
    ("//two.example/x", "http://two.example/x"),
    ("http://one.example//a//b", "http://one.example/a//b"),
    ("/a b", "http://one.example/a%20b"),
    ("/%7Eme/%c3%a9", "http://one.example/~me/%C3%A9"),
    ("/é", "http://one.example/%C3%A9"),
    ("/%2e%2e/secret", "http://one.example/secret"),
    ("/x%2Fy", "http://one.example/x%2Fy"),
    ("/100%", "http://one.example/100%25"),
    ("/a?b=c d&e=ü", "http://one.example/a?b=c%20d&e=%C3%BC"),
    ("http://münchen.example/", "http://xn--mnchen-3ya.example/"),
    ("http://[::1]:8080/", "http://[::1]:8080/"),
    ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
    ("  /spaces\n", "http://one.example/spaces"),
])
def test_a_page_has_one_spelling(link: str, url: str) -> None:
    assert normal(link, PAGE) == url


@pytest.mark.parametrize("link", [
    "mailto:me@one.example", "javascript:void(0)", "ftp://one.example/", "data:text/html,x", "https://", "https:///a",
    "http://me@one.example/", "http://me:pw@one.example/", "http://one.example:99999/", "http://one.example:x/",
    "http://[::1/", "http://one..example/", "http://-one.example/", "http://o_n e/", "http://one.example\\@two/",
    "http://" + "a" * 64 + ".example/", "/" + "a" * 2000, "/" + "é" * 500,
])
def test_what_is_no_page_is_left_alone(link: str) -> None:
    assert normal(link, PAGE) is None


@given(st.text(max_size=80))
def test_the_one_spelling_stays_as_it_is(text: str) -> None:
    for url in (normal(text, PAGE), normal("http://one.example/" + text), normal("http://" + text)):
        assert url is None or (normal(url) == url and url.isascii() and " " not in url and "#" not in url)


@given(st.text(max_size=40))
def test_the_spelling_of_a_path_keeps_its_meaning(text: str) -> None:
    from urllib.parse import unquote_to_bytes

    assert unquote_to_bytes(spelled(text)) == unquote_to_bytes(text.encode("utf-8", "surrogatepass"))


def test_the_pieces_of_a_url() -> None:
    url = "http://one.example:8080/a/b?c=/d"
    assert (host_of(url), origin_of(url), target_of(url)) == ("one.example", "http://one.example:8080", "/a/b?c=/d")
    assert host_of("http://[::1]:80/") == "[::1]"


def test_the_scope_is_the_seeds_hosts_unless_it_names_some() -> None:
    seeds = ["http://one.example/", "http://two.example:81/"]
    urls = [*seeds, "http://two.example/x", "http://x.one.example/"]
    assert [Scope("seed-hosts", seeds).has(url) for url in urls] == [True, True, True, False]
    named = Scope(["One.example", "*.two.example"], seeds)
    hosts = ["one.example", "two.example", "a.two.example", "xtwo.example"]
    assert [named.has(f"http://{host}/") for host in hosts] == [True, False, True, False]


def test_a_host_has_one_partition_whatever_its_port() -> None:
    hosts = [host_of(url) for url in ("http://one.example:1/", "https://one.example/")]
    assert len({partition_of_host(host, 7) for host in hosts}) == 1


# robots.txt

def allowed(text: str, target: str, agent: str = "our-bot") -> bool:
    return parse(text.encode(), agent).allows(target)


@pytest.mark.parametrize(("text", "target", "may"), [
    ("", "/x", True),
    ("User-agent: *\nDisallow: /", "/x", False),
    ("User-agent: *\nDisallow:", "/x", True),
    ("User-agent: *\nDisallow: /private", "/private/x", False),
    ("User-agent: *\nDisallow: /private", "/public", True),
    ("User-agent: *\nAllow: /\nDisallow: /private", "/private", False),  # the longest rule, not the first
    ("User-agent: *\nDisallow: /\nAllow: /public", "/public/x", True),
    ("User-agent: *\nDisallow: /x\nAllow: /x", "/x", True),  # a tie is for us
    ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf", False),
    ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf?x", True),
    ("User-agent: *\nDisallow: /*.pdf", "/a/b.pdf?x", False),
    ("User-agent: *\nDisallow: /a*b*c", "/axxbxxc", False),
    ("User-agent: *\nDisallow: /a*b*c", "/axxcxxb", True),
    ("User-agent: *\nDisallow: /ab*bc$", "/abc", True),
    ("User-agent: *\nDisallow: /exact$", "/exact", False),
    ("User-agent: *\nDisallow: /exact$", "/exactly", True),
    ("User-agent: *\nDisallow: /a%c3%a9", "/a%C3%A9", False),
    ("User-agent: *\nDisallow: /é", "/%C3%A9", False),
    ("User-agent: *\nDisallow: /%7Eme", "/~me", False),
    ("user-AGENT: our-bot\ndisallow: /", "/x", False),
    ("User-agent: our-bot\nDisallow: /a\n\nUser-agent: *\nDisallow: /b", "/b", True),  # our own group alone
    ("User-agent: our-bot\nDisallow: /a\n\nUser-agent: *\nDisallow: /b", "/a", False),
    ("User-agent: OUR-BOT/2.0\nDisallow: /", "/x", False),
    ("User-agent: our\nDisallow: /", "/x", True),
    ("User-agent: other\nUser-agent: our-bot\nDisallow: /", "/x", False),
    ("User-agent: our-bot\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: our-bot\nDisallow: /c", "/c", False),
    ("User-agent: our-bot\nSitemap: http://x/\nDisallow: /a", "/a", False),
    ("Disallow: /", "/x", True),  # before any group
    ("User-agent: * # all\nDisallow: /a # this", "/a", False),
    ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", "/a", False),
    ("User-agent: *\nDisallow: /", "/robots.txt", True),
    ("<html>not found</html>", "/x", True),
])
def test_robots_txt_is_read_as_its_rfc_says(text: str, target: str, may: bool) -> None:
    assert allowed(text, target) is may


paths = st.text("abc/", max_size=6).map(lambda text: "/" + text)


@given(st.lists(paths, max_size=5), paths)
def test_where_pythons_own_reader_knows_enough_it_says_the_same(forbidden: list[str], target: str) -> None:
    lines = ["User-agent: *", *(f"Disallow: {path}" for path in forbidden)]
    own = RobotFileParser()
    own.parse(lines)
    collapsed = target.replace("//", "/")  # it takes //x for a host's name
    if "//" not in collapsed and not any("//" in path for path in forbidden):
        assert allowed("\n".join(lines), collapsed) is own.can_fetch("our-bot", f"http://one.example{collapsed}")


@pytest.mark.parametrize(("text", "delay"), [
    ("User-agent: *\nCrawl-delay: 7", 7), ("User-agent: *\nCrawl-delay: 0.5\nDisallow: /x", 0.5),
    ("Crawl-delay: 7", 0), ("User-agent: other\nCrawl-delay: 7", 0), ("User-agent: *\nCrawl-delay: soon", 0),
    ("User-agent: *\nCrawl-delay: -1", 0), ("User-agent: *\nCrawl-delay: inf", 0),
])
def test_robots_txt_may_ask_for_a_delay(text: str, delay: float) -> None:
    assert parse(text.encode(), "our-bot").delay == delay


@pytest.mark.parametrize(("status", "may"), [
    (200, False), (404, True), (410, True), (401, False), (403, False), (429, False), (500, False), (503, False)])
def test_a_robots_txt_that_cannot_be_had_forbids_and_one_that_is_not_there_allows(status: int, may: bool) -> None:
    assert read(status, b"User-agent: *\nDisallow: /", "our-bot").allows("/x") is may


@given(st.binary(max_size=300), st.text(max_size=30))
def test_whatever_robots_txt_is_it_is_read(data: bytes, target: str) -> None:
    assert parse(data, "our-bot").allows("/" + target) in (True, False)


def test_a_rule_of_many_stars_costs_no_more_than_others() -> None:
    rules = parse(b"User-agent: *\nDisallow: /" + b"a*" * 5000 + b"b$", "our-bot")
    assert rules.allows("/" + "a" * 20_000)


# Pages

def links(html: str, url: str = PAGE, headers: list[tuple[str, str]] = HTML) -> list[str]:
    return links_of(url, 200, headers, html.encode(), 1 << 20)


@pytest.mark.parametrize(("html", "found"), [
    ('<a href="x">', ["http://one.example/dir/x"]),
    ("<A HREF=x><area href='/y'><iframe src=z></iframe><frame src=w>",
     ["http://one.example/dir/x", "http://one.example/y", "http://one.example/dir/z", "http://one.example/dir/w"]),
    ('<a href="x">1</a><a href="x#2">2</a>', ["http://one.example/dir/x"]),
    ('<base href="/other/"><a href="x">', ["http://one.example/other/x"]),
    ('<a href="x"><base href="http://two.example/">', ["http://two.example/x"]),
    ('<base href="javascript:1"><a href="x">', ["http://one.example/dir/x"]),
    ('<a href="/a?b=1&amp;c=2">', ["http://one.example/a?b=1&c=2"]),
    ('<a rel="Nofollow noopener" href="x"><a href="y">', ["http://one.example/dir/y"]),
    ('<meta name="ROBOTS" content="noindex, nofollow"><a href="x">', []),
    ('<a href="mailto:a@b"><a href="javascript:x()"><a name="here"><a href="">', []),
    ("<!-- <a href=x> --><script>'<a href=y>'</script>", []),
    ('<a href="x" <a href="y"><<>><![CDATA[<a href="z">', ["http://one.example/dir/x"]),
    ("<a href=x", []),
])
def test_the_links_of_a_page(html: str, found: list[str]) -> None:
    assert links(html) == found


def test_only_html_has_links() -> None:
    assert links('<a href="x">', headers=[("Content-Type", "text/plain")]) == []
    assert links('<a href="x">', headers=[]) == []
    assert links('<a href="x">', headers=[*HTML, ("X-Robots-Tag", "nofollow")]) == []


def test_a_redirect_leads_to_its_target() -> None:
    headers = [("Location", "/elsewhere")]
    assert links_of(PAGE, 302, headers, b"", 100) == ["http://one.example/elsewhere"]
    assert links_of(PAGE, 200, headers, b"", 100) == []
    assert links_of(PAGE, 301, [("Location", "http://me@two.example/")], b"", 100) == []


@pytest.mark.parametrize(("charset", "written"), [("utf-8", "utf-8"), ("ISO-8859-1", "latin-1"), ("utf-16", "utf-16"),
                                                  ("windows-1252", "cp1252"), ("no-such", "utf-8"), ("rot13", "utf-8")])
def test_a_page_is_read_in_its_charset(charset: str, written: str) -> None:
    headers = [("content-type", f"text/html;charset={charset}")]
    assert links_of(PAGE, 200, headers, '<a href="/é">'.encode(written), 1 << 20) == ["http://one.example/%C3%A9"]


def test_a_compressed_page_is_unpacked_within_bounds() -> None:
    import gzip

    packed = gzip.compress(b'<a href="x">' + b" " * 1_000_000 + b'<a href="y">')
    headers = [*HTML, ("Content-Encoding", "gzip")]
    assert links_of(PAGE, 200, headers, packed, 100_000) == ["http://one.example/dir/x"]
    assert links_of(PAGE, 200, headers, b"no gzip", 100_000) == []
    assert links_of(PAGE, 200, [*HTML, ("Content-Encoding", "br")], b'<a href="x">', 100_000) == []


@given(st.text("<>a=\"'/! -[]CDAThref&#;x", max_size=200))
def test_whatever_a_page_is_it_is_read(html: str) -> None:
    assert isinstance(links(html), list)


# Who is asked when

def frontier(pages: int = 10, delay: float = 2.0, partition: int = 0, partitions: int = 1) -> Frontier:
    scope = Scope(["one.example", "two.example"], [])
    return Frontier(partition, partitions, scope, pages, delay, 100.0)


def test_robots_txt_comes_first_and_every_request_waits() -> None:
    front = frontier()
    assert front.add("http://one.example/a") and not front.add("http://one.example/a")
    host, url, origin = front.next() or pytest.fail("nothing is due")
    assert (url, host.due) == ("http://one.example/robots.txt", 102.0)  # another may have asked it just now
    host.rules[origin] = Rules()
    front.answered(host, 105.0, page=False)
    host, url, _ = front.next() or pytest.fail("nothing is due")
    assert (url, host.due) == ("http://one.example/a", 107.0)
    front.answered(host, 108.0, page=True)
    assert front.next() is None


def test_robots_txt_may_make_the_pause_longer_but_not_shorter() -> None:
    for asked, pause in ((5.0, 5.0), (0.5, 2.0)):
        front = frontier()
        front.add("http://one.example/a")
        host, _, origin = front.next() or pytest.fail("nothing is due")
        host.rules[origin] = Rules()
        host.rules[origin].delay = asked
        front.answered(host, 110.0, page=False)
        assert host.due == 110.0 + pause


def test_a_pause_that_was_learnt_before_holds_from_the_start() -> None:
    front = frontier()
    slow = Rules()
    slow.delay = 30.0
    front.knows_rules("http://one.example", slow)
    front.add("http://one.example/a")
    host, url, _ = front.next() or pytest.fail("nothing is due")
    assert (url, host.due) == ("http://one.example/a", 130.0)


def test_two_hosts_take_turns() -> None:
    front = frontier()
    for path in "ab":
        front.add(f"http://one.example/{path}")
        front.add(f"http://two.example/{path}")
    asked, now = [], 100.0
    while (due := front.next()) is not None:
        host, url, origin = due
        now = max(now, host.due)
        robots = url.endswith("/robots.txt")
        if robots:
            host.rules[origin] = Rules()
        front.answered(host, now, page=not robots)
        asked.append((now, url))
    assert [url for _, url in asked] == [f"http://{host}.example/{path}" for path in ("robots.txt", "a", "b")
                                         for host in ("one", "two")]
    assert [when for when, _ in asked] == [102, 102, 104, 104, 106, 106]


def test_a_host_gives_no_more_than_its_pages_counted_over_all_rounds() -> None:
    front = frontier(pages=3)
    front.fetched_before("http://one.example/old")
    front.fetched_before("http://one.example/old")
    for number in range(9):
        front.add(f"http://one.example/{number}")
    front.knows_rules("http://one.example", Rules())
    count = 0
    while (due := front.next()) is not None:
        front.answered(due[0], 100.0, page=True)
        count += 1
    assert (count, front.left_out) == (2, 7)


def test_what_is_forbidden_is_passed_over() -> None:
    front = frontier()
    front.knows_rules("http://one.example", parse(b"User-agent: *\nDisallow: /no", "our-bot"))
    for path in ("no", "yes", "no2"):
        front.add(f"http://one.example/{path}")
    host, url, _ = front.next() or pytest.fail("nothing is due")
    assert url == "http://one.example/yes"
    front.answered(host, 100.0, page=True)
    assert front.next() is None and front.forbidden == 2


@pytest.mark.parametrize("url", ["http://three.example/", "http://one.example/robots.txt"])
def test_what_is_outside_is_not_added(url: str) -> None:
    assert not frontier().add(url)


def test_each_host_is_one_partitions() -> None:
    for host in ("one.example", "two.example"):
        assert sum(frontier(partition=p, partitions=5).add(f"http://{host}/x") for p in range(5)) == 1


def test_a_page_that_was_fetched_before_is_not_fetched_again() -> None:
    front = frontier()
    front.fetched_before("http://one.example/a")
    assert not front.add("http://one.example/a")


def test_a_host_that_asks_for_hours_is_left_alone() -> None:
    front = frontier()
    slow = Rules()
    slow.delay = 3600.0
    front.knows_rules("http://one.example", slow)
    front.add("http://one.example/a")
    assert front.next() is None and front.left_out == 1


def test_a_robots_txt_holds_for_a_day() -> None:
    value = knowledge.robots("http://one.example", "2026-01-01T00:00:00.123Z", 200, b"User-agent: \xff")
    noon = 1767268800.0  # 2026-01-01T12:00:00Z
    assert knowledge.read_robots(value, noon) == ("http://one.example", 200, b"User-agent: \xff")
    assert knowledge.read_robots(value, noon + 86400) is None
    assert knowledge.read_robots(knowledge.robots("http://one.example", "yesterday", 200, b""), noon) is None
