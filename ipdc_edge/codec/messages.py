"""Messages between nodes as bytes: MQTT topics and JSON payloads.

Owns the wire form that `core/PROTOCOL.md` documents: `ipdc/1/<domain>/<from>/<channel>`, one JSON object of
at most 16 kB with a version `v` and the birth number of the sender's connection. Never trusts a byte: every
field has a type and a bound, unknown fields are ignored, unknown versions and channels refused. A command
whose parameters are too long for a message has them as a block of content, of which the message names the
CID; the caller stores the block before it sends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..core.messages import (
    Accept,
    Cancel,
    CleanUp,
    Command,
    Download,
    Failed,
    Held,
    Lost,
    Message,
    Present,
    Received,
    Refuse,
    Renew,
    Renewed,
    Report,
)
from ..core.values import Attempt, Failure, NodeRecord, Result, Vitals
from ..errors import IpdcError
from .cid import raw_cid
from .node_id import NODE_ID

VERSION = 1
MOST_BYTES = 16 * 1024  # of a payload; brokers refuse more
MOST_PARAMS = 12 * 1024  # of a command's parameters within a payload; longer ones become content
JOB_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z]{4}")
CHANNEL = re.compile(r"[a-z][a-z-]{0,31}")
ADDRESS = re.compile(r"[0-9A-Za-z.:\[\]-]{1,255}:[0-9]{1,5}")
CID_TEXT = re.compile(r"b[a-z2-7]{8,120}")
TASK = re.compile(r"[a-z][a-z0-9-]{0,63}")


class BadMessage(IpdcError):
    """a message is not as the protocol says: {reason}"""


class MessageTooLong(Exception):
    """Our own bug: a message that we made does not fit into a payload."""


def topic(domain: str, sender: str, channel: str) -> str:
    """The topic on which `sender` speaks on a channel, at the receiver's broker."""
    return f"ipdc/1/{domain}/{sender}/{channel}"


def parse_topic(text: str, domain: str) -> tuple[str, str]:
    """(sender, channel) of a topic of this domain; BadMessage for any other."""
    parts = text.split("/")
    if len(parts) != 5 or parts[:3] != ["ipdc", "1", domain]:
        raise BadMessage(reason=f"topic {text[:200]!r}")
    if not NODE_ID.fullmatch(parts[3]) or not CHANNEL.fullmatch(parts[4]):
        raise BadMessage(reason=f"topic {text[:200]!r}")
    return parts[3], parts[4]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message ready to be published, and the blocks that must be in the store before it is."""

    channel: str
    payload: bytes
    blocks: tuple[tuple[str, bytes], ...] = ()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


class Fields:
    """Reads a peer's JSON object field by field; BadMessage names what is missing, of a wrong type, or out of
    bounds."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise BadMessage(reason=f"{what} is not an object")
        self.value, self.what = value, what

    def _bad(self, name: str) -> BadMessage:
        return BadMessage(reason=f"{self.what}: {name} is {str(self.value.get(name))[:100]!r}")

    def text(self, name: str, most: int = 256, form: re.Pattern[str] | None = None) -> str:
        value = self.value.get(name)
        if not isinstance(value, str) or len(value) > most or (form is not None and not form.fullmatch(value)):
            raise self._bad(name)
        return value

    def number(self, name: str, most: int = 1 << 62) -> int:
        value = self.value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self._bad(name)
        return value

    def real(self, name: str) -> float:
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
            raise self._bad(name)
        return float(value)

    def items(self, name: str, most: int) -> list[Any]:
        value = self.value.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._bad(name)
        return value

    def object(self, name: str) -> dict[str, Any]:
        value = self.value.get(name)
        if not isinstance(value, dict):
            raise self._bad(name)
        return value

    def attempt(self, name: str = "attempt") -> Attempt:
        pair = Fields({"birth": 0, "number": 0} | dict(zip(("birth", "number"), self.items(name, 2))), name)
        return Attempt(pair.number("birth"), pair.number("number"))

    def optional_cid(self, name: str) -> str:
        return self.text(name, 128, CID_TEXT) if self.value.get(name) else ""


class MessageCodec:
    """Encodes and decodes; knows the channels of the architectures beside the protocol's own."""

    def __init__(self, commands: Iterable[str], reports: Iterable[str]) -> None:
        self.decoders: dict[str, Callable[[str, Fields], Message]] = {
            "node": _node, "lost": lambda channel, f: Lost(), "download": _download, "accept": _accept,
            "refuse": _refuse,
            "failed": _failed, "fetch-failed": _failed, "received": _received, "renew": _renew, "renewed": _renewed,
            "cancel": lambda channel, f: Cancel(f.text("job", 32, JOB_ID), f.text("reason", 512)),
            "clean-up": lambda channel, f: CleanUp(f.text("job", 32, JOB_ID)),
        }
        for channel in commands:
            self.decoders[channel] = _command
        for channel in reports:
            self.decoders[channel] = _report

    def encode(self, message: Message, birth: int) -> Encoded:
        """Channel and payload for a message sent over the connection with this birth number."""
        channel, fields, blocks = _fields(message)
        payload = _dump({"v": VERSION, "birth": birth, **fields})
        if len(payload) > MOST_BYTES:
            raise MessageTooLong(f"{channel}: {len(payload)} bytes")
        return Encoded(channel, payload, blocks)

    def decode(self, channel: str, payload: bytes) -> tuple[int, Message]:
        """(birth number, message) of what a peer published on a channel; BadMessage when it is not as it must be."""
        if len(payload) > MOST_BYTES:
            raise BadMessage(reason=f"{len(payload)} bytes on {channel}; at most {MOST_BYTES}")
        decoder = self.decoders.get(channel)
        if decoder is None:
            raise BadMessage(reason=f"unknown channel {channel[:40]!r}")
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise BadMessage(reason=f"{channel}: not JSON: {str(error)[:100]}") from None
        fields = Fields(value, channel)
        if fields.number("v") != VERSION:
            raise BadMessage(reason=f"{channel}: version {fields.value['v']}; this node speaks version {VERSION}")
        return fields.number("birth"), decoder(channel, fields)


def _fields(message: Message) -> tuple[str, dict[str, object], tuple[tuple[str, bytes], ...]]:
    """(channel, payload fields, blocks) of a message."""
    blocks: tuple[tuple[str, bytes], ...] = ()
    if isinstance(message, Command):
        params: object = message.params
        encoded = _dump(params)
        if len(encoded) > MOST_PARAMS:
            cid = raw_cid(encoded)
            params, blocks = {"/": cid}, ((cid, encoded),)
        order = {"report": message.report, "params": params}
        return message.channel, {"job": message.job, "task": message.task, "attempt": message.attempt, **order}, blocks
    if isinstance(message, Report):
        result = asdict(message.result)
        told = {"job": message.job, "task": message.task, "attempt": message.attempt}
        return message.channel, {**told, "result": result}, blocks
    if isinstance(message, Failed):
        channel = "fetch-failed" if message.failure.kind == "fetch" else "failed"
        return channel, asdict(message), blocks
    if isinstance(message, Renew):
        held = [[h.task, h.attempt, h.bytes_done] for h in message.held]
        return "renew", {"job": message.job, "held": held}, blocks
    if isinstance(message, Present):
        return "node", asdict(message.record), blocks
    return _CHANNELS[type(message)], asdict(message), blocks


_CHANNELS: dict[type, str] = {
    Lost: "lost", Download: "download", Accept: "accept", Refuse: "refuse", Received: "received", Renewed: "renewed",
    Cancel: "cancel", CleanUp: "clean-up",
}


def _node(channel: str, f: Fields) -> Message:
    v = Fields(f.object("vitals"), "vitals")
    temperature = None if v.value.get("temperature") is None else v.real("temperature")
    vitals = Vitals(
        v.number("memory_total"), v.number("memory_available"), v.number("cpu_count", 65536), v.real("cpu_idle"),
        v.real("load"), v.real("speed"), v.number("disk_free"), temperature, v.value.get("throttled") is True,
    )
    capabilities = tuple(Fields({"c": c}, "capabilities").text("c", 64) for c in f.items("capabilities", 32))
    state = f.text("state", 16)
    if state not in ("ready", "draining", "gone"):
        raise BadMessage(reason=f"node: state {state!r}")
    return Present(NodeRecord(
        f.text("id", 64, NODE_ID), f.text("name", 64), state,
        f.text("mqtt", 262, ADDRESS), f.text("gateway", 262, ADDRESS),
        f.text("version", 32), capabilities, f.number("slots", 1024), f.text("sandbox", 32), vitals,
    ))


def _download(channel: str, f: Fields) -> Message:
    return Download(
        f.text("job", 32, JOB_ID), f.text("cid", 128, CID_TEXT), f.text("app", 64), f.number("memory"),
        f.text("address", 262, ADDRESS), f.text("gateway", 262, ADDRESS),
    )


def _accept(channel: str, f: Fields) -> Message:
    return Accept(f.text("job", 32, JOB_ID), f.number("slots", 1024), f.text("address", 262, ADDRESS),
                  f.text("gateway", 262, ADDRESS))


def _refuse(channel: str, f: Fields) -> Message:
    return Refuse(f.text("job", 32, JOB_ID), f.text("reason", 512))


def _command(channel: str, f: Fields) -> Message:
    return Command(f.text("job", 32, JOB_ID), channel, f.text("task", 64, TASK), f.attempt(),
                   f.text("report", 32, CHANNEL), f.object("params"))


def _report(channel: str, f: Fields) -> Message:
    r = Fields(f.object("result"), "result")
    details = r.object("details")
    if details.get("log"):
        Fields(details, "details").text("log", 128, CID_TEXT)
    result = Result(r.text("node", 64, NODE_ID), r.text("output", 128, CID_TEXT), r.number("size"), details)
    return Report(f.text("job", 32, JOB_ID), channel, f.text("task", 64, TASK), f.attempt(), result)


def _failed(channel: str, f: Fields) -> Message:
    r = Fields(f.object("failure"), "failure")
    details = r.object("details") if r.value.get("details") is not None else None
    failure = Failure(r.text("kind", 16), r.text("message", 2000), r.optional_cid("cid"), details)
    return Failed(f.text("job", 32, JOB_ID), f.text("task", 64, TASK), f.attempt(), failure)


def _received(channel: str, f: Fields) -> Message:
    return Received(f.text("job", 32, JOB_ID), f.text("task", 64, TASK), f.attempt())


def _renew(channel: str, f: Fields) -> Message:
    held = []
    for item in f.items("held", 1024):
        if not isinstance(item, list) or len(item) != 3:
            raise BadMessage(reason=f"renew: held is {str(item)[:100]!r}")
        line = Fields(dict(zip(("task", "attempt", "bytes_done"), item)), "renew")
        held.append(Held(line.text("task", 64, TASK), line.attempt(), line.number("bytes_done")))
    return Renew(f.text("job", 32, JOB_ID), tuple(held))


def _renewed(channel: str, f: Fields) -> Message:
    drop = tuple(Fields({"drop": item}, "renewed").attempt("drop") for item in f.items("drop", 1024))
    return Renewed(f.text("job", 32, JOB_ID), drop)
