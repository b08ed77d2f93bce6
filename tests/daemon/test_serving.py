"""Which node is asked, and asked again; the other daemons are what this test says for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.codec import serving as codec
from ipdc_edge.daemon import serving as module
from ipdc_edge.daemon.background import Background
from ipdc_edge.daemon.places import Place
from ipdc_edge.daemon.serving import Asked, Serving
from ipdc_edge.drivers.mqtt_link import Raw
from tests.core.scenario import ident, record

ME, ONE, TWO = ident("me"), ident("one"), ident("two")


class Domain:
    """A daemon's surroundings: who serves, and what was sent to whom."""

    def __init__(self) -> None:
        self.serve = {ONE: ("t",), TWO: ("t",)}
        self.sent: list[tuple[str, codec.Infer]] = []
        self.answers: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        names = {ONE: "one", TWO: "two"}

        async def look() -> None:
            return None

        def candidates() -> list[Any]:
            return [replace(record(names[node]), capabilities=tuple(codec.SERVES + topic for topic in topics))
                    for node, topics in self.serve.items()]

        def send(node: str, address: str, message: Raw) -> None:
            assert message.channel == codec.INFER and address == "a:1"
            self.sent.append((node, codec.decode_infer(message.payload)))

        self.daemon = SimpleNamespace(
            id=ME, background=Background(), loop=asyncio.get_running_loop(), look=look,
            node=SimpleNamespace(membership=SimpleNamespace(candidates=candidates, own=SimpleNamespace(mqtt="me:1"),
                                                            addresses={ONE: ("a:1", ""), TWO: ("a:1", "")})),
            mqtt=SimpleNamespace(send=send, own=SimpleNamespace(publish=self.published)),
            domain=SimpleNamespace(admits=lambda node: node in (ONE, TWO)),
            offer=SimpleNamespace(tell=lambda: None))
        self.serving = Serving(self.daemon)  # type: ignore[arg-type]

    def published(self, to: str, body: bytes, *more: object) -> None:
        self.answers.setdefault(to, []).append(("", json.loads(body)))

    def ticks(self) -> None:
        """As the timer does."""
        if self.serving.ticker is not None:
            self.serving.ticker.cancel()
        self.serving._tick()

    def ask_health(self, name: str) -> None:
        properties = SimpleNamespace(CorrelationData=b"", ResponseTopic=codec.ANSWERS + name)
        self.serving.asked(f"{codec.ROOT}t/health", b"", properties)

    def ask(self, name: str, size: int = 0, topic: str = "t") -> None:
        def reply(state: str, body: bytes) -> None:
            self.answers.setdefault(name, []).append((state, json.loads(body)))

        self.serving.ask(Asked(topic, "predict", "raw", name, bytes(size), reply))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    def says(self, node: str, asked: codec.Infer, state: str) -> None:
        answer = codec.encode_answer(codec.Answer(asked.number, state, b'{"by": 1}'))
        self.serving.heard(node, codec.ANSWER, answer)

    def asked(self, name: str) -> list[tuple[str, codec.Infer]]:
        return [(node, infer) for node, infer in self.sent if infer.name == name]


def played(scenario: Callable[[Domain], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        domain = Domain()
        try:
            await scenario(domain)
        finally:
            if domain.serving.ticker is not None:
                domain.serving.ticker.cancel()
            await domain.daemon.background.close()

    asyncio.run(play())


def test_requests_are_spread_and_an_answer_counts_only_from_who_was_asked() -> None:
    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        domain.ask("b")
        await domain.until(lambda: len(domain.sent) == 2)
        assert {node for node, _ in domain.sent} == {ONE, TWO}
        (node, asked), = domain.asked("a")
        domain.says(TWO if node == ONE else ONE, asked, "ok")
        assert not domain.answers
        domain.says(node, asked, "ok")
        domain.says(node, asked, "ok")
        assert domain.answers == {"a": [("ok", {"by": 1})]}

    played(scenario)


def test_a_busy_node_has_another_asked_and_where_all_are_the_program_is_told() -> None:
    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        await domain.until(lambda: domain.sent)
        domain.says(*domain.sent[0], "busy")
        assert {node for node, _ in domain.sent} == {ONE, TWO} and not domain.answers
        domain.says(*domain.sent[1], "busy")
        assert domain.answers["a"][0][0] == "busy" and domain.answers["a"][0][1]["busy"] is True

    played(scenario)


def test_a_node_gets_no_more_at_once_than_its_broker_takes() -> None:
    async def scenario(domain: Domain) -> None:
        size = codec.MOST_REQUEST
        for number in range(20):
            domain.ask(str(number), size)
        await domain.until(lambda: len(domain.sent) + len(domain.answers) == 20)
        most = module.MOST_BYTES_TO_ONE // size
        assert sorted(node for node, _ in domain.sent) == sorted([ONE] * most + [TWO] * most)
        assert all(state == "busy" for told in domain.answers.values() for state, _ in told)

    played(scenario)


def test_what_a_lost_node_had_is_asked_of_the_other() -> None:
    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        await domain.until(lambda: domain.sent)
        first, asked = domain.sent[0]
        domain.serving.lost(first)
        second, again = domain.sent[1]
        assert second != first and again.name == "a"
        domain.says(first, asked, "busy")  # it was only slow, and has not got it
        assert len(domain.sent) == 2 and not domain.answers
        domain.says(first, asked, "ok")
        domain.says(second, again, "ok")
        assert domain.answers["a"] == [("ok", {"by": 1})]

    played(scenario)


def test_a_silent_node_is_asked_whether_it_is_there_and_given_up_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.2)
    monkeypatch.setattr(module, "GONE", 0.2)
    monkeypatch.setattr(module, "AGAIN", 1000.0)

    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        await domain.until(lambda: any(infer.what == "health" for _, infer in domain.sent))
        first = domain.sent[0][0]
        ping = next(infer for node, infer in domain.sent if infer.what == "health")
        assert ping.number == 0
        await domain.until(lambda: len(domain.asked("a")) == 2)
        assert domain.asked("a")[1][0] != first

    played(scenario)


def test_a_node_that_answers_when_asked_keeps_its_request_which_is_made_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.1)
    monkeypatch.setattr(module, "GONE", 5.0)
    monkeypatch.setattr(module, "AGAIN", 1.0)

    async def scenario(domain: Domain) -> None:
        del domain.serve[TWO]
        domain.ask("a")
        for pings in (1, 2):
            await domain.until(lambda pings=pings: sum(i.what == "health" for _, i in domain.sent) == pings)
            domain.serving.heard(ONE, codec.ANSWER, codec.encode_answer(codec.Answer(0, "ok", b"{}")))
        await domain.until(lambda: len(domain.asked("a")) == 2)
        assert [node for node, _ in domain.asked("a")] == [ONE, ONE]
        domain.says(*domain.asked("a")[0], "ok")
        assert domain.answers["a"] == [("ok", {"by": 1})]

    played(scenario)


def test_nobody_serves_it_and_who_says_elsewhere_is_not_asked_again() -> None:
    async def scenario(domain: Domain) -> None:
        domain.ask("a", topic="other")
        await domain.until(lambda: domain.answers)
        assert domain.answers["a"] == [("error", {"error": "no node serves other"})]
        domain.ask("b")
        await domain.until(lambda: domain.sent)
        domain.says(*domain.sent[0], "elsewhere")
        assert len({node for node, _ in domain.sent}) == 2
        domain.ask("c")
        assert domain.asked("c")[0][0] == domain.sent[1][0]

    played(scenario)


def test_only_members_are_heard_and_nonsense_is_dropped() -> None:
    async def scenario(domain: Domain) -> None:
        place = Place("job", "t", "cid", 10, 60)
        domain.serving.open(place)
        asked = codec.Infer(1, "t", "predict", "raw", "", "a:1", b"x")
        domain.serving.heard(ident("stranger"), codec.INFER, codec.encode_infer(asked))
        for payload in (b"", b"{}\n", b"\xff" * 100):
            domain.serving.heard(ONE, codec.INFER, payload)
            domain.serving.heard(ONE, codec.ANSWER, payload)
        assert place.load() == 0
        domain.serving.heard(ONE, codec.INFER, codec.encode_infer(asked))
        assert place.load() == 1
        assert domain.serving.words() == ("serves=t",)

    played(scenario)


def test_a_request_that_waits_long_is_made_again_and_never_given_up_for_that() -> None:
    """Its node says busy of a repeat only where it does not know it: the first copy is still to be answered."""
    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        await domain.until(lambda: domain.sent)
        first, asked = domain.sent[0]
        domain.serving.asked_now[asked.number].again = 0.0
        domain.ticks()
        (_, _), (second, again) = domain.asked("a")
        assert second != first and again.number == asked.number
        domain.says(second, again, "busy")
        assert not domain.answers and domain.serving.asked_now[asked.number].node == first
        assert domain.asked("a")[2:] == [(first, asked)], "it may have been lost there"
        domain.says(first, asked, "ok")
        assert domain.answers == {"a": [("ok", {"by": 1})]}

    played(scenario)


def test_where_nobody_else_serves_a_waiting_request_stays_with_its_node_and_is_sent_once_more() -> None:
    async def scenario(domain: Domain) -> None:
        del domain.serve[TWO]
        domain.ask("a")
        await domain.until(lambda: domain.sent)
        asked = domain.sent[0][1]
        waiting = domain.serving.asked_now[asked.number]
        waiting.again = 0.0
        for _ in range(3):
            domain.ticks()
        assert [node for node, _ in domain.asked("a")] == [ONE, ONE] and waiting.node == ONE
        assert domain.asked("a")[0] == domain.asked("a")[1], "it is known by its number"
        domain.serving.lost(ONE)
        assert waiting.node == "" and not waiting.held

    played(scenario)


def test_how_long_a_node_may_be_silent_counts_from_the_question() -> None:
    async def scenario(domain: Domain) -> None:
        domain.ask("a")
        await domain.until(lambda: domain.sent)
        node = domain.sent[0][0]
        domain.serving.heard_at[node] -= 1000  # as after this daemon itself was stopped
        for _ in range(3):
            domain.ticks()
        assert node in domain.serving.pinged and node not in domain.serving.shunned
        domain.serving.pinged[node] -= module.GONE + 1
        domain.ticks()
        assert node in domain.serving.shunned

    played(scenario)


def test_of_two_jobs_on_one_topic_the_older_is_asked_again_when_the_newer_has_ended() -> None:
    async def scenario(domain: Domain) -> None:
        older, newer = (Place(job, "t", "cid", 10, 60) for job in ("older", "newer"))
        asked = codec.Infer(1, "t", "predict", "raw", "", "a:1", b"x")

        def ask(number: int) -> list[int]:
            domain.serving.heard(ONE, codec.INFER, codec.encode_infer(asked._replace(number=number)))
            return [older.load(), newer.load()]

        domain.serving.open(older)
        assert ask(1) == [1, 0]
        domain.serving.open(newer)
        assert ask(2) == [1, 1], "what the older has it keeps"
        domain.daemon.mqtt.send = lambda *told: None
        domain.serving.close(newer)
        assert domain.serving.words() == ("serves=t",) and ask(3) == [2, 0]
        domain.serving.close(older)
        domain.serving.close(older)
        assert domain.serving.words() == () and not domain.serving.places

    played(scenario)


def test_a_request_that_another_node_makes_again_is_the_same_one() -> None:
    async def scenario(domain: Domain) -> None:
        place = Place("job", "t", "cid", 2, 60)
        domain.serving.open(place)
        sent: list[tuple[str, codec.Answer]] = []
        domain.daemon.mqtt.send = lambda node, to, raw: sent.append((node, codec.decode_answer(raw.payload)))
        asked = codec.Infer(1, "t", "predict", "raw", "", "a:1", b"x")
        for _ in range(2):
            domain.serving.heard(ONE, codec.INFER, codec.encode_infer(asked))
        assert place.load() == 1 and not sent
        domain.serving.heard(TWO, codec.INFER, codec.encode_infer(asked))
        assert place.load() == 2, "another node counts its own"

    played(scenario)


def test_what_a_node_says_of_its_health_is_not_believed_beyond_what_is_known() -> None:
    async def scenario(domain: Domain) -> None:
        del domain.serve[TWO]
        domain.ask_health("h")
        await domain.until(lambda: domain.sent)
        told = {"node": "someone", "name": "else", "queue": "many", "answered": 3, "errors": True, "busy": 1 << 70,
                "model": "x" * 1000, "p50_ms": float("nan"), "p99_ms": 1.5, "job": "a job", "more": [1]}
        number = domain.sent[0][1].number
        answer = codec.Answer(number, "ok", json.dumps(told).encode())
        domain.serving.heard(ONE, codec.ANSWER, codec.encode_answer(answer))
        to = codec.ANSWERS + "h"
        await domain.until(lambda: domain.answers)
        node = {"job": "a job", "p99_ms": 1.5, "answered": 3, "node": ONE, "name": "one"}
        assert domain.answers[to][0][1] == {"topic": "t", "nodes": [node], "silent": []}
        assert domain.serving.healths == 0

    played(scenario)


def test_questions_about_health_count_as_what_this_node_has_under_way() -> None:
    async def scenario(domain: Domain) -> None:
        for number in range(module.MOST_ASKED + 1):
            domain.ask_health(str(number))
        (told,) = domain.answers.values()
        assert told[0][1]["busy"] is True and domain.serving.healths == module.MOST_ASKED

    played(scenario)
