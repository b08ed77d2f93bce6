"""Parsers that are broken on purpose, each in a way of its own: the harness must find every one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import time

from ipdc_edge.codec import join_token
from ipdc_edge.codec.messages import BadMessage
from tests.fuzz import targets
from tests.fuzz.engine import Target


def raises(data: bytes) -> None:
    if b"x" in data:
        raise KeyError(data)


def deep(data: bytes) -> None:
    """Only an input that passes the whole of a real parser, with one field at its edge, comes here."""
    targets.message(data)
    if json.loads(data.partition(b"\n")[2]).get("birth") == 0:
        raise ZeroDivisionError


def hidden(data: bytes) -> None:
    """The fault lies behind a checksum."""
    text = join_token.parse(data.decode("utf-8", "replace"))
    if len(text.addresses) > 2:
        raise IndexError(base64.b64encode(hashlib.sha256(data).digest()))


def staged(data: bytes) -> None:
    """Four bytes in a row are never guessed at once: one after the other, each has to be noticed and kept."""
    if data[:1] == b"\x12":
        if data[1:2] == b"\x70":
            if data[2:3] == b"\x55":
                if data[3:4] == b"\x7f":
                    raise OverflowError


def slow(data: bytes) -> None:
    if len(data) > 40:
        time.sleep(3600)


def greedy(data: bytes) -> None:
    if len(data) > 40:
        bytearray(1 << 30)


def dies(data: bytes) -> None:
    if len(data) > 40:
        os.kill(os.getpid(), signal.SIGSEGV)


def assertion(data: bytes) -> None:
    assert data.count(b"\0") < 2


SMALL = (b"a little text",)
MESSAGES = next(target for target in targets.TARGETS if target.name == "messages")
TARGETS = (
    Target("raises", raises, (ValueError,), SMALL, ()),
    Target("deep", deep, (BadMessage,), MESSAGES.seeds, MESSAGES.traced, unpack=MESSAGES.unpack, pack=MESSAGES.pack),
    Target("hidden", hidden, (join_token.BadToken,), (targets.TOKEN,), ("codec/join_token.py",), (b",", b":1"),
           targets.token_inside, targets.token_around),
    Target("staged", staged, (), SMALL, ("../tests/fuzz/broken.py",)),
    Target("slow", slow, (), SMALL, ()), Target("greedy", greedy, (), SMALL, ()), Target("dies", dies, (), SMALL, ()),
    Target("assertion", assertion, (), SMALL, ()),
)
