"""What a follower hears of a runner's prints: real outputs, and a runner that prints what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from ipdc_edge.codec.prints import MOST_TEXT, BadPrint, Lost, Piece, encode, parse
from ipdc_edge.core.values import Attempt, JobKey
from ipdc_edge.daemon import prints as module
from ipdc_edge.daemon.following import MOST_WAITING, Following
from ipdc_edge.daemon.prints import Prints
from ipdc_edge.drivers.prints import OUTPUT_KEPT, Output

KEY, OTHER = JobKey("Qm" + "a" * 44, "20260101-000000-abcd"), JobKey("Qm" + "b" * 44, "20260101-000000-abcd")
FIRST, SECOND = Attempt(7, 1), Attempt(7, 2)


class Printer:
    """As drivers/runner.py has it."""

    def __init__(self) -> None:
        self.output, self.listener = Output(), None

    def pieces(self) -> list[tuple[int, bytes]]:
        return self.output.pieces()

    def prints(self, data: bytes) -> None:
        self.output.add(data)
        if self.listener is not None:
            self.listener(data)


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
