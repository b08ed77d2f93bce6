"""A place's queue, its batches, and what becomes of requests when runners die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipdc_edge.codec import serving as codec
from ipdc_edge.codec.answers import RunnerBroken
from ipdc_edge.daemon import place_keeper
from ipdc_edge.daemon.places import MOST_BYTES, SOON, WAITS, Place, Request, milliseconds
from ipdc_edge.drivers.runner_child import RunnerProcess
from ipdc_edge.drivers.runner_socket import Gone


class Desk:
    """A place, and the answers to what was asked of it by number."""

    def __init__(self, most: int = 100, patience: float = 60.0) -> None:
        self.place = Place("job", "topic", "cid", most, patience)
        self.answers: dict[int, tuple[str, bytes]] = {}

    def ask(self, number: int, size: int = 1, sender: str = "") -> None:
        def reply(state: str, body: bytes) -> None:
            assert number not in self.answers, "it is answered twice"
            self.answers[number] = (state, body)

        self.place.ask(Request("raw", str(number), bytes(size), sender or str(number), number, reply))

    async def batch(self) -> list[int]:
        data = await asyncio.wait_for(self.place.read(0), 5)
        return [int(name) for _, name, _ in codec.unpack_batch(data or b"")]

    async def answer(self, place: int) -> None:
        await self.place.write(0, codec.pack_result(place, True, 1, b"{}"))


def test_what_waits_goes_together_and_no_more_than_a_batch() -> None:
    async def scenario() -> None:
        desk = Desk()
        for number in range(codec.MOST_IN_BATCH + 3):
            desk.ask(number)
        assert await desk.batch() == list(range(codec.MOST_IN_BATCH))
        for place in range(codec.MOST_IN_BATCH):
            await desk.answer(place)
        assert len(desk.answers) == codec.MOST_IN_BATCH
        assert await desk.batch() == [codec.MOST_IN_BATCH + more for more in range(3)]
        large = Desk()
        for number in range(3):
            large.ask(number, codec.MOST_BATCH_BYTES // 2)
        assert await large.batch() == [0, 1]

    asyncio.run(scenario())


def test_a_full_place_says_busy_at_once_and_one_sender_never_fills_it() -> None:
    async def scenario() -> None:
        desk = Desk(most=4)
        for number in range(4):
            desk.ask(number, sender="greedy")
        assert {number: state for number, (state, _) in desk.answers.items()} == {2: "busy", 3: "busy"}
        for number in range(10, 14):
            desk.ask(number, sender="other")
        assert desk.place.load() == 4 and desk.answers[12] == ("busy", b"")
        assert await desk.batch() == [0, 1, 10, 11]
        desk.ask(20, sender="third")
        assert desk.answers[20] == ("busy", b""), "what the runner has counts too"
        for place in range(4):
            await desk.answer(place)
        desk.ask(21, sender="greedy")
        assert 21 not in desk.answers and desk.place.load() == 1
        heavy = Desk()
        heavy.ask(0, MOST_BYTES)
        heavy.ask(1)
        assert heavy.answers[1] == ("busy", b"")

    asyncio.run(scenario())


def test_of_a_batch_whose_runner_died_each_is_tried_alone_and_only_the_culprit_pays() -> None:
    async def scenario() -> None:
        desk = Desk()
        for number in range(3):
            desk.ask(number)
        assert await desk.batch() == [0, 1, 2]
        await desk.answer(0)
        assert desk.place.died("signal SIGSEGV")
        desk.ask(3)
        assert await desk.batch() == [1]
        assert desk.place.died("signal SIGSEGV")
        assert desk.answers[1][0] == "error" and "signal SIGSEGV" in json.loads(desk.answers[1][1])["error"]
        assert await desk.batch() == [2]
        await desk.answer(0)
        assert await desk.batch() == [3]
        await desk.answer(0)
        assert {number: state for number, (state, _) in desk.answers.items()} == {0: "ok", 1: "error", 2: "ok", 3: "ok"}
        assert desk.place.bytes == 0 and not desk.place.held

    asyncio.run(scenario())


def test_a_runner_that_dies_of_nothing_ends_the_place() -> None:
    desk = Desk()
    assert [desk.place.died("exit status 1") for _ in range(SOON)] == [True] * (SOON - 1) + [False]


def test_what_a_runner_says_is_not_believed() -> None:
    async def scenario() -> None:
        desk = Desk()
        desk.ask(0)
        await desk.batch()
        for data in (b"", codec.pack_result(1, True, 1, b"{}"), codec.pack_result(0xFFFF, True, 1, b"{}")):
            with pytest.raises(RunnerBroken):
                await desk.place.write(0, data)
        await desk.answer(0)
        with pytest.raises(RunnerBroken):
            await desk.answer(0)
        desk.ask(1)
        await desk.batch()
        desk.ask(2)
        assert await desk.batch() == [2]  # it wants more, and has forgotten one
        assert "gave no answer" in json.loads(desk.answers[1][1])["error"]

    asyncio.run(scenario())


def test_who_waited_too_long_is_told_so_and_costs_no_inference() -> None:
    async def scenario() -> None:
        desk = Desk()
        desk.ask(0)
        desk.place.waiting[0].came -= WAITS + 1
        desk.ask(1)
        assert await desk.batch() == [1]
        assert desk.answers[0][0] == "error" and "waited" in json.loads(desk.answers[0][1])["error"]

    asyncio.run(scenario())


def test_who_waits_at_a_place_that_closes_may_ask_elsewhere() -> None:
    async def scenario() -> None:
        desk = Desk()
        desk.ask(0)
        await desk.batch()
        desk.ask(1)
        desk.place.close()
        assert desk.answers == {0: ("elsewhere", b""), 1: ("elsewhere", b"")}

    asyncio.run(scenario())


def test_a_repeat_of_what_is_here_is_the_same_request() -> None:
    async def scenario() -> None:
        desk = Desk(most=2)
        desk.ask(0, sender="one")
        desk.ask(0, sender="one")
        assert desk.place.load() == 1 and not desk.answers, "it was not refused, though the sender has its half"
        assert await desk.batch() == [0]
        desk.ask(0, sender="one")
        await desk.answer(0)
        assert desk.answers == {0: ("ok", b"{}")} and desk.place.load() == 0 and not desk.place.held
        del desk.answers[0]
        desk.ask(0, sender="one")
        assert await desk.batch() == [0], "the answer may have been lost"

    asyncio.run(scenario())


def test_patience_is_for_an_answer_and_who_takes_longer_is_told_that() -> None:
    async def scenario() -> None:
        desk = Desk(patience=1000)
        ended: list[bool] = []
        desk.place.overdue = lambda: ended.append(True)
        for number in range(2):
            desk.ask(number)
        await desk.batch()
        timer = desk.place.timer
        assert timer is not None
        await desk.answer(0)
        assert timer.cancelled() and desk.place.timer is not None and desk.place.timer.when() >= timer.when()
        desk.place.patience = 0.01
        desk.place._rearm()
        async with asyncio.timeout(20):
            while not ended:
                await asyncio.sleep(0.01)
        assert desk.place.died("signal SIGKILL")
        assert json.loads(desk.answers[1][1])["error"].endswith(": it worked longer than 0.01 s (--patience)")
        desk.ask(2)
        await desk.batch()
        desk.place.died("signal SIGSEGV")
        assert json.loads(desk.answers[2][1])["error"].endswith(": signal SIGSEGV")

    asyncio.run(scenario())


MODULE = b"""
def map(key, line):
    yield line, 1
"""


async def serving_runner(path: Path) -> RunnerProcess:
    """A runner that has one task, and asks for its next input as one with a model does."""
    async def pieces() -> AsyncIterator[bytes]:
        yield MODULE

    runner = RunnerProcess(str(path))
    spec = {"version": 1, "app": "mapreduce", "memory": 24 << 20, "arguments": {},
            "options": {"steps": [{"map": "Map.py"}]}}
    await runner.start(spec, [("Map.py", len(MODULE), pieces())], "ipdc_edge.apps.mapreduce.task", "job")
    return runner


def test_a_runner_that_ends_with_nothing_to_do_is_noticed_and_no_request_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place_keeper, "PARAMS", {
        "stage": "map", "index": 0, "outputs": {"kind": "files", "count": 1},
        "inputs": [{"range": {"name": "requests", "start": 0, "end": 1000}}]})

    async def scenario() -> None:
        desk = Desk()
        asked = asyncio.Event()
        read = desk.place.read

        async def heard(stream: int) -> bytes | None:
            asked.set()
            return await read(stream)

        monkeypatch.setattr(desk.place, "read", heard)
        runner = await serving_runner(tmp_path)
        serving = asyncio.create_task(place_keeper.serve(runner, "task", desk.place, lambda: None))
        async with asyncio.timeout(60):
            await asked.wait()
            os.kill(runner.process, signal.SIGKILL)
            await serving
        assert desk.place.deaths == 1 and not desk.answers
        desk.ask(0)
        with pytest.raises(Gone):
            await read(0)  # of the same runner
        assert desk.place.load() == 1 and not desk.answers

    asyncio.run(scenario())


def test_the_line_of_status_is_told_where_it_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_keeper, "TELL_EVERY", 0.001)
    lines = iter([*["one"] * 10, *["two"] * 10])
    monkeypatch.setattr(Place, "line", lambda place: next(lines, "end"))
    told: list[str] = []

    async def scenario() -> None:
        async def started(*which: object) -> RunnerProcess:
            return await serving_runner(tmp_path)

        serving = SimpleNamespace(open=lambda place: None, close=lambda place: place.close())
        tasks = SimpleNamespace(runner=started, serving=lambda: serving, emit=lambda event: told.append(event.status))
        body = {"options": {"topic": "t", "model": "m"}, "code": {"m": {"cid": "c"}}}
        effect = SimpleNamespace(key=SimpleNamespace(job="job"), task="task", attempt=None)
        kept = asyncio.create_task(
            place_keeper.keep(tasks, effect, SimpleNamespace(spec=SimpleNamespace(body=body))))  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            while "end" not in told:
                await asyncio.sleep(0.01)
        kept.cancel()
        await asyncio.wait([kept])

    monkeypatch.setattr(place_keeper, "PARAMS", {
        "stage": "map", "index": 0, "outputs": {"kind": "files", "count": 1},
        "inputs": [{"range": {"name": "requests", "start": 0, "end": 1000}}]})
    asyncio.run(scenario())
    assert told == ["one", "two", "end"]


def test_a_place_that_is_given_up_is_closed_before_its_runner_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        order: list[str] = []
        desk = Desk()
        runner = await serving_runner(tmp_path)
        close = runner.close

        async def closed() -> None:
            order.append("runner")
            await close()

        monkeypatch.setattr(runner, "close", closed)
        serving = asyncio.create_task(place_keeper.serve(runner, "task", desk.place, lambda: order.append("place")))
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert order == ["place", "runner"]

    asyncio.run(scenario())


def test_percentiles() -> None:
    took = [number / 1000 for number in range(1, 101)]
    assert (milliseconds(took, 0.5), milliseconds(took, 0.99), milliseconds([], 0.5)) == (51.0, 100.0, None)
