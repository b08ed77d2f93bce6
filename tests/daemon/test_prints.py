"""What a follower hears of a runner's prints: real outputs, and a runner that prints what it is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.codec.prints import MOST_TEXT, BadPrint, Lost, Piece, encode, parse
from ipdc_edge.core.effects import KeepLog
from ipdc_edge.core.values import Attempt, JobKey
from ipdc_edge.daemon import prints as module
from ipdc_edge.daemon import results
from ipdc_edge.daemon.following import MOST_WAITING, Following
from ipdc_edge.daemon.prints import Prints
from ipdc_edge.daemon.requests import MOST_FOLLOWERS
from ipdc_edge.daemon.results import LOG_NAME, Results
from ipdc_edge.drivers.gateway import TOO_MANY
from ipdc_edge.drivers.prints import OUTPUT_KEPT, Output
from tests.drivers.providers import provider

KEY, OTHER = JobKey("Qm" + "a" * 44, "20260101-000000-abcd"), JobKey("Qm" + "b" * 44, "20260101-000000-abcd")
FIRST, SECOND = Attempt(7, 1), Attempt(7, 2)


class Printer:
    """As drivers/runner.py has it, which reads its pipe when somebody asks what was printed."""

    def __init__(self) -> None:
        self.output, self.listener, self.pipe = Output(), None, bytearray()

    def pieces(self) -> list[tuple[int, bytes]]:
        self.drain()
        return self.output.pieces()

    def puts(self, data: bytes) -> None:
        """Prints into the pipe."""
        self.pipe += data

    def drain(self) -> None:
        data = bytes(self.pipe)
        self.pipe.clear()
        self.output.add(data)
        if data and self.listener is not None:
            self.listener(data)

    def prints(self, data: bytes) -> None:
        self.puts(data)
        self.drain()


class Node:
    """A node that holds two jobs of the same id."""

    def __init__(self) -> None:
        self.running: dict[Any, Any] = {}
        self.held = {KEY, OTHER}
        self.prints = Prints(self.running, lambda key: key in self.held)

    def begin(self, key: JobKey, attempt: Attempt, task: str) -> Printer:
        printer: Any = Printer()
        self.running[key, attempt] = task, printer
        self.prints.begin(key, attempt, task, printer)
        return printer  # type: ignore[no-any-return]

    def end(self, key: JobKey, attempt: Attempt) -> None:
        del self.running[key, attempt]
        self.prints.end(key, attempt)

    def free(self, key: JobKey) -> None:
        self.held.remove(key)
        self.prints.wake(key)


def stream(node: Node, key: JobKey = KEY) -> AsyncGenerator[bytes, None]:
    found = node.prints.stream(key)
    assert found is not None
    return found


async def rest(lines: AsyncGenerator[bytes, None]) -> list[dict[str, Any]]:
    """All that comes until the job is gone."""
    return [json.loads(line) for line in [line async for line in lines] if line.strip()]


def text(found: list[dict[str, Any]], task: str) -> str:
    """What one task printed; each byte once, in its order."""
    at, whole = 0, ""
    for line in found:
        if line.get("task") == task:
            assert line["at"] == at and line["size"] == len(line["text"].encode())
            at, whole = at + line["size"], whole + line["text"]
    return whole


def test_all_that_was_and_will_be_printed_is_heard_once_by_each_and_by_whole_lines() -> None:
    async def test() -> None:
        node = Node()
        one = node.begin(KEY, FIRST, "map-0")
        one.prints(b"before\nhal")
        first, told = stream(node), []
        told.append(json.loads(await anext(first)))
        assert told[0]["text"] == "before\n" and told[0]["attempt"] == [7, 1]
        one.prints(b"f a line\nand")
        two = node.begin(KEY, SECOND, "map-1")
        stranger = node.begin(OTHER, FIRST, "map-0")
        second = stream(node)
        again = [json.loads(await anext(second))]
        two.prints(b"two\n")
        stranger.prints(b"of another master\n")
        one.prints(b" the end")
        node.end(KEY, FIRST)
        node.end(KEY, SECOND)
        node.free(KEY)
        told += await rest(first)
        again += await rest(second)
        for heard in told, again:
            assert text(heard, "map-0") == "before\nhalf a line\nand the end"
            assert text(heard, "map-1") == "two\n" and len(heard) < 6
        assert one.listener is two.listener is stranger.listener is None and not node.prints.streams

    asyncio.run(test())


def test_who_comes_second_hears_all_from_the_beginning_though_some_is_in_the_pipe() -> None:
    async def test() -> None:
        node = Node()
        one = node.begin(KEY, FIRST, "map-0")
        one.prints(b"before\n")
        first = stream(node)
        told = [json.loads(await anext(first))]
        one.puts(b"in the pipe\n")
        second = stream(node)
        again = [json.loads(await anext(second))]
        one.prints(b"after\n")
        node.end(KEY, FIRST)
        node.free(KEY)
        for heard in told + await rest(first), again + await rest(second):
            assert text(heard, "map-0") == "before\nin the pipe\nafter\n"

    asyncio.run(test())


def test_a_flood_costs_no_memory_and_is_told() -> None:
    async def test() -> None:
        node = Node()
        one = node.begin(KEY, FIRST, "map-0")
        line = b"x" * 99 + b"\n"
        one.prints(line)
        lines = stream(node)
        await anext(lines)
        for _ in range(20_000):
            one.prints(line)
        one.prints(b"y" * 10_000)
        assert node.prints.streams[0].size <= module.MOST_WAITING
        assert len(node.prints.heard[KEY, FIRST].rest) <= MOST_TEXT
        node.end(KEY, FIRST)
        node.free(KEY)
        found = await rest(lines)
        lost = found[0]["lost"]
        assert lost + sum(line["size"] for line in found[1:]) == 20_000 * 100 + 10_000 and lost > 1_000_000
        assert max(line["size"] for line in found[1:]) <= MOST_TEXT
        # who begins now hears what is kept: the first and the last
        node.held.add(KEY)
        node.running[KEY, FIRST] = "map-0", one
        late = stream(node)
        assert json.loads(await anext(late))["at"] == 0
        node.end(KEY, FIRST)
        node.free(KEY)
        kept = await rest(late)
        assert kept[-1]["at"] + kept[-1]["size"] == 20_001 * 100 + 10_000
        assert sum(line["size"] for line in kept) <= 2 * OUTPUT_KEPT

    asyncio.run(test())


def test_a_line_without_an_end_comes_with_the_next_beat(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)

    async def test() -> None:
        node = Node()
        one = node.begin(KEY, FIRST, "map-0")
        async with aclosing(stream(node)) as lines:
            assert await anext(lines) == b"\n"
            one.prints(b"step 1 ")
            heard = [line for line in [await anext(lines), await anext(lines)] if line.strip()]
            assert [json.loads(line)["text"] for line in heard] == ["step 1 "]
        assert one.listener is None and not node.prints.heard

    asyncio.run(test())


def test_so_many_may_follow_and_no_more() -> None:
    async def test() -> None:
        node = Node()
        node.begin(KEY, FIRST, "map-0").prints(b"x\n")
        node.begin(OTHER, FIRST, "map-0").prints(b"x\n")
        open_now = []
        for key in [KEY] * module.MOST_OF_ONE + [OTHER] * module.MOST_OF_ONE:
            open_now.append(stream(node, key))
            await anext(open_now[-1])
        assert node.prints.stream(KEY) is None and len(open_now) == module.MOST_FOLLOWED
        await open_now.pop(0).aclose()
        assert node.prints.stream(KEY) is not None
        for lines in open_now:
            await lines.aclose()

    asyncio.run(test())


def test_a_line_of_the_stream_is_bounded_and_hostile_ones_are_refused() -> None:
    piece = Piece("map-0", FIRST, 5, 3, "a\n")
    assert parse(encode(piece)) == piece and parse(encode(Lost(7))) == Lost(7) and parse(b" ") is None
    good = piece._asdict()
    for bad in ({"task": 7}, {"task": "x" * 65}, {"attempt": [1]}, {"attempt": [1, True]}, {"at": -1}, {"size": 0},
                {"size": MOST_TEXT + 1}, {"text": 1}, {"text": "x" * (MOST_TEXT + 1)}, {"lost": "x"}, {"at": 1 << 50}):
        with pytest.raises(BadPrint):
            parse(json.dumps({**good, **bad}).encode())
    for line in (b"[", b"7", b'{"lost": NaN}', b"[" * 100_000, b"\xff"):
        with pytest.raises(BadPrint):
            parse(line)
    found = parse(b'{"task": "map-0", "attempt": [7, 1], "at": 0, "size": 3, "text": "\\ud800"}')
    assert isinstance(found, Piece) and found.text == "?"


def test_a_client_that_does_not_read_costs_no_memory_and_is_told_what_it_missed() -> None:
    async def test() -> None:
        nobody: Any = None
        following, told = Following(nobody, "20260101-000000-abcd"), []
        for number in range(1000):
            following._add("map-0", FIRST, "pi", f"{number:1023}\n")
        assert following.size <= MOST_WAITING and len(following.waiting) <= MOST_WAITING // 1024

        async def tell(line: dict[str, object]) -> None:
            told.append(line)

        await following._tell(tell)
        assert told[0]["lost"] == 1000 * 1024 - MOST_WAITING and told[-1]["text"].split() == ["999"]
        assert not following.size and sum(len(line["text"]) for line in told[1:]) == MOST_WAITING

    asyncio.run(test())


class Followed:
    """One client of a job whose only task was ordered on two nodes."""

    def __init__(self, directory: str = "/nowhere") -> None:
        self.node, self.address = Node(), ""
        state = SimpleNamespace(issued={FIRST: KEY.master, SECOND: OTHER.master}, failed={})
        self.failed: dict[Attempt, str] = state.failed
        names = {KEY.master: "node1", OTHER.master: "node2"}
        master = SimpleNamespace(tasks=SimpleNamespace(states={"map-0": state}),
                                 participants=SimpleNamespace(name=names.__getitem__))
        daemon: Any = SimpleNamespace(
            id=KEY.master, node=SimpleNamespace(masters={KEY.job: master}), gateway_of=lambda node: self.address,
            tasks=SimpleNamespace(prints=lambda: self.node.prints), mqtt=SimpleNamespace(context=None),
            results=SimpleNamespace(directory=lambda job: directory))
        self.following = Following(daemon, KEY.job)
        self.told: list[dict[str, Any]] = []

    def streams(self, attempt: Attempt, at: int, data: bytes) -> None:
        """A line of the stream of the attempt's node."""
        node = KEY.master if attempt == FIRST else OTHER.master
        self.following._heard(node, encode(Piece("map-0", attempt, at, len(data), data.decode())))

    async def tell(self, line: dict[str, object]) -> None:
        self.told.append(line)

    async def hears(self) -> str:
        """All the text that the client was told."""
        await self.following._tell(self.tell)
        return "".join(line.get("text", "") for line in self.told)


def test_what_a_file_had_is_not_told_again_when_the_stream_brings_it_late() -> None:
    async def test() -> None:
        followed = Followed()
        followed.streams(FIRST, 0, b"one\n")
        followed.following._file("map-0", FIRST, b"one\ntwo\nthree\n")
        followed.streams(FIRST, 4, b"two\n")
        followed.streams(FIRST, 8, b"three\n")
        followed.following._file("map-0", SECOND, b"another attempt\n")
        followed.streams(SECOND, 0, b"another attempt\n")
        assert await followed.hears() == "one\ntwo\nthree\nanother attempt\n"

    asyncio.run(test())


@pytest.mark.parametrize("seen", [100, OUTPUT_KEPT, OUTPUT_KEPT + 5000, 199_900, 200_000])
def test_of_a_long_log_the_rest_is_told_and_how_much_is_missing(seen: int) -> None:
    async def test() -> None:
        printed = b"".join(b"%099d\n" % number for number in range(2000))
        output, followed = Output(), Followed()
        output.add(printed)
        for at in range(0, seen, 1000):
            followed.streams(FIRST, at, printed[at : min(seen, at + 1000)])
        followed.following._file("map-0", FIRST, output.text())
        heard = await followed.hears()
        lost = sum(line.get("lost", 0) for line in followed.told)
        assert heard.startswith(printed[:seen].decode()) and "bytes left out" not in heard
        assert len(heard) + lost == len(printed) and (lost > 0) == (seen < 200_000 - OUTPUT_KEPT)
        first = max(seen, OUTPUT_KEPT)
        last = max(seen, 200_000 - OUTPUT_KEPT)
        assert heard == (printed[:first] + printed[last:]).decode()

    asyncio.run(test())


def test_who_is_refused_is_told_by_which_node_and_once() -> None:
    assert MOST_FOLLOWERS == module.MOST_OF_ONE

    async def test() -> None:
        followed, others = Followed(), []
        followed.node.begin(KEY, FIRST, "map-0").prints(b"x\n")
        for _ in range(module.MOST_OF_ONE):
            others.append(stream(followed.node))
            await anext(others[-1])
        answer = b"HTTP/1.1 503 No\r\nContent-Length: 8\r\n\r\ntoo many"
        async with provider(answer) as busy:
            followed.address = busy.address
            for _ in range(3):
                await followed.following._read(KEY.master)
                await followed.following._read(OTHER.master)
        async with asyncio.timeout(20):
            await followed.following._more(asyncio.get_running_loop().time() + 600)  # something waits
        assert await followed.hears() == ""
        assert followed.told == [{"node": "node1", "refused": TOO_MANY},
                                 {"node": "node2", "refused": "it answered 503 too many"}]
        for lines in others:
            await lines.aclose()
        followed.following.refusing.clear()
        await followed.following._read(OTHER.master)  # nobody listens there any more: that is no refusal
        assert await followed.hears() == "" and len(followed.told) == 2

    asyncio.run(test())


def test_a_log_is_not_read_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client looks at the worst of moments."""
    followed, told = Followed(str(tmp_path / KEY.job)), []

    def wrote(job: str, size: int) -> None:
        there = [name for name in os.listdir(tmp_path / KEY.job / "log") if LOG_NAME.fullmatch(name)]
        told.append((job, size, there))

    monkeypatch.setattr(results.FLASH, "wrote", wrote)

    async def test() -> None:
        nothing: Any = None
        kept = Results(str(tmp_path), nothing, nothing, nothing, lambda: 5.0)
        for text in ("half", "all of it\n"):
            await kept._keep_log(KeepLog(KEY.job, "map-0", FIRST, text))
        await followed.following._files(followed.tell)
        assert await followed.hears() == "all of it\n"

    asyncio.run(test())
    assert told == [(KEY.job, 4, []), (KEY.job, 10, ["map-0.7.1.txt"])]
    assert os.listdir(tmp_path / KEY.job / "log") == ["map-0.7.1.txt"]
