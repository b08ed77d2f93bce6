"""How the nodes do that serve a topic: what a program of this node asks on its health topic.

Owns the question to each node that serves, and what of its answer is believed. Who serves is `serving.py`'s.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from ..codec import serving as codec

if TYPE_CHECKING:
    from .places import Reply
    from .serving import Serving

WITHIN = 3.0  # seconds in which a node has to say how it does
MOST_TOLD = 100  # nodes in one answer: more than any job of `serve` has, and within codec.MOST_ANSWER


def ask_health(serving: Serving, topic: str, reply: Reply) -> None:
    """Replies soon."""
    serving.healths += 1
    serving.daemon.background.start(_health(serving, topic, reply))


async def _health(serving: Serving, topic: str, reply: Reply) -> None:
    try:
        serving.look()
        if serving.looking is not None:
            await asyncio.wait([serving.looking])
        names = dict(sorted(serving.known.get(topic, {}).items())[:MOST_TOLD])
        told = await asyncio.gather(*(_health_of(serving, node, topic) for node in names))
    finally:
        serving.healths -= 1
    found, silent = [], []
    for (node, name), health in zip(names.items(), told):
        if health is not None:
            found.append({**health, "node": node, "name": name})  # these two are known here
        else:
            silent.append(name)
    reply("ok", json.dumps({"topic": topic, "nodes": found, "silent": silent}, separators=(",", ":")).encode())


async def _health_of(serving: Serving, node: str, topic: str) -> dict[str, object] | None:
    if node == serving.daemon.id:
        place = serving.place(topic)
        return place.health() if place is not None else None
    future: asyncio.Future[bytes] = serving.daemon.loop.create_future()

    def reply(state: str, body: bytes) -> None:
        if not future.done():
            future.set_result(body if state == "ok" else b"")

    number = serving.ask_one(node, topic, reply)
    try:
        with suppress(TimeoutError):
            return codec.health_of(await asyncio.wait_for(future, WITHIN))
    finally:
        serving.asked_now.pop(number, None)
    return None
