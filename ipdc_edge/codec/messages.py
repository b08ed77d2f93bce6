"""Messages between nodes as bytes: MQTT topics and JSON payloads.

Owns the wire form that `core/PROTOCOL.md` documents: `ipdc/1/<domain>/<from>/<channel>`, one JSON object of
at most 16 kB with a version `v` and the birth number of the sender's connection. Never trusts a byte: every
field has a type and a bound, unknown fields are ignored, unknown versions and channels refused. A command
whose parameters are too long for a message has them as a block of content, of which the message names the
CID; the caller stores the block before it sends.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..core.bounds import MOST_PRIORITY
from ..core.messages import (
    Accept,
    Ask,
    Cancel,
    CleanUp,
    Command,
    Download,
    Failed,
    Held,
    Leave,
    Lost,
    Members,
    Message,
    Present,
    Received,
    Refuse,
    Renew,
    Renewed,
    Report,
)
from ..core.values import MOST_RANGES, Attempt, Failure, InputRange, NodeRecord, Result, Vitals
from ..errors import IpdcError
from .cid import raw_cid
from .node_id import NODE_ID
from .serving import ANSWER, INFER

VERSION = 1
MOST_BYTES = 16 * 1024  # of a payload; brokers let larger ones pass, for requests to served models
MOST_PARAMS = 12 * 1024  # of a command's parameters within a payload; longer ones become content
MOST_INPUTS = 1_000_000  # of a job, that a worker numbers
MOST_COUNTERS = 100  # of one kind in a report
MOST_DEPTH = 32  # of a peer's JSON: what stands deeper, our own encoder or printer might not take
JOB_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z]{4}")
SERVING = (INFER, ANSWER)  # channels whose messages are in codec/serving.py, and reach no core
CHANNEL = re.compile(r"[a-z][a-z-]{0,31}")
ADDRESS = re.compile(r"[0-9A-Za-z.:\[\]-]{1,255}:[0-9]{1,5}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")  # of a node or a domain, as ipdc.conf allows it
CID_TEXT = re.compile(r"b[a-z2-7]{8,120}")
BASE64 = re.compile(r"[0-9A-Za-z+/]*={0,2}")
TASK = re.compile(r"[a-z][a-z0-9-]{0,63}")
# What moves a terminal's cursor, forges a line of a log or turns the reading direction, and lone surrogates.
CONTROL = "\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
LINE = re.compile(f"[^{CONTROL}]*")


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


def load(data: bytes) -> Any:
    """A peer's JSON. ValueError for anything else: no NaN or infinity, nothing deeper than MOST_DEPTH."""
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"more than {MOST_DEPTH} deep") from None
    depth = 0
    level: list[Any] = [[value]]
    while level := [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
                    if isinstance(inner, (dict, list))]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"more than {MOST_DEPTH} deep")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not -math.inf < value < math.inf:
        raise ValueError(f"{text[:20]} is no number")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


class Fields:
    """Reads a peer's JSON object field by field; BadMessage names what is missing, of a wrong type, or out of
    bounds."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise BadMessage(reason=f"{what} is not an object")
        self.value, self.what = value, what

    def _bad(self, name: str) -> BadMessage:
        value = self.value.get(name)
        shown = type(value).__name__ if isinstance(value, (dict, list)) else repr(str(value)[:100])
        return BadMessage(reason=f"{self.what}: {name} is {shown}")

    def text(self, name: str, most: int = 256, form: re.Pattern[str] | None = None) -> str:
        value = self.value.get(name)
        if not isinstance(value, str) or len(value) > most or (form is not None and not form.fullmatch(value)):
            raise self._bad(name)
        return value

    def said(self, name: str, most: int, kept: str = "") -> str:
        """What a peer tells people, without CONTROL but for the characters in `kept`."""
        return re.sub(f"[{CONTROL}]", lambda found: found[0] if found[0] in kept else "?", self.text(name, most))

    def number(self, name: str, most: int = 1 << 62) -> int:
        value = self.value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self._bad(name)
        return value

    def whole(self, name: str, most: int) -> int:
        """A number from -most to most."""
        value = self.value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > most:
            raise self._bad(name)
        return value

    def real(self, name: str, most: float, least: float = 0.0) -> float:
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise self._bad(name)
        return float(value)

    def flag(self, name: str) -> bool:
        """Whether it is true; false for what is missing, as from an older version."""
        return self.value.get(name) is True

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
            "node": _node, "lost": lambda channel, f: Lost(), "ask": _ask, "members": _members,
            "leave": lambda channel, f: Leave(), "download": _download, "accept": _accept, "refuse": _refuse,
            "failed": _failed, "fetch-failed": _failed, "received": _received, "renew": _renew, "renewed": _renewed,
            "cancel": lambda channel, f: Cancel(f.text("job", 32, JOB_ID), f.said("reason", 512)),
            "clean-up": lambda channel, f: CleanUp(f.text("job", 32, JOB_ID)),
        }
        for channel in commands:
            self.decoders[channel] = _command
        for channel in reports:
            self.decoders[channel] = _report

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that a node may speak on."""
        return (*self.decoders, *SERVING)

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
            value = load(payload)
        except ValueError as error:
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
        held = [[h.task, h.attempt, h.bytes_done, *([h.status] if h.status else [])] for h in message.held]
        return "renew", {"job": message.job, "held": held}, blocks
    if isinstance(message, Present):
        record = asdict(message.record)
        if not record["unable"]:
            del record["unable"]  # a few bytes less for every node that has all
        return "node", record, blocks
    return _CHANNELS[type(message)], asdict(message), blocks


_CHANNELS: dict[type, str] = {
    Lost: "lost", Ask: "ask", Members: "members", Leave: "leave", Download: "download", Accept: "accept",
    Refuse: "refuse", Received: "received", Renewed: "renewed", Cancel: "cancel", CleanUp: "clean-up",
}


def _node(channel: str, f: Fields) -> Message:
    v = Fields(f.object("vitals"), "vitals")
    temperature = None if v.value.get("temperature") is None else v.real("temperature", 1000.0, -300.0)
    vitals = Vitals(
        v.number("memory_total"), v.number("memory_available"), v.number("cpu_count", 65536), v.real("cpu_idle", 1.0),
        v.real("load", 1e6), v.real("speed", 1e6), v.number("disk_free"), temperature, v.flag("throttled"),
        v.flag("undervoltage"), v.flag("throttled_before"), v.flag("undervoltage_before"),
    )
    capabilities = tuple(Fields({"c": c}, "capabilities").text("c", 256, LINE) for c in f.items("capabilities", 64))
    state = f.text("state", 16)
    if state not in ("ready", "draining", "gone"):
        raise BadMessage(reason=f"node: state {state!r}")
    return Present(NodeRecord(
        f.text("id", 64, NODE_ID), f.text("name", 64, NAME), state,
        f.text("mqtt", 262, ADDRESS), f.text("gateway", 262, ADDRESS),
        f.text("version", 32, LINE), capabilities, f.number("slots", 1024), f.text("sandbox", 32, LINE), vitals,
        f.number("members"), f.text("architecture", 64, LINE) if "architecture" in f.value else "",
        tuple(Fields({"u": u}, "unable").text("u", 256, LINE) for u in f.items("unable", 16))
        if "unable" in f.value else (),
    ))


def _ask(channel: str, f: Fields) -> Message:
    return Ask(f.text("address", 262, ADDRESS), f.text("gateway", 262, ADDRESS))


def _members(channel: str, f: Fields) -> Message:
    return Members(f.number("version"), f.text("cid", 128, CID_TEXT), f.text("address", 262, ADDRESS),
                   f.text("gateway", 262, ADDRESS), f.text("packed", MOST_PARAMS, BASE64))


def _download(channel: str, f: Fields) -> Message:
    return Download(
        f.text("job", 32, JOB_ID), f.text("cid", 128, CID_TEXT), f.text("app", 64, LINE), f.number("memory"),
        f.text("address", 262, ADDRESS), f.text("gateway", 262, ADDRESS),
        f.whole("priority", MOST_PRIORITY) if "priority" in f.value else 0,
    )


def _accept(channel: str, f: Fields) -> Message:
    held = tuple(map(_input_range, f.items("held", MOST_RANGES))) if "held" in f.value else ()
    return Accept(f.text("job", 32, JOB_ID), f.number("slots", 1024), f.text("address", 262, ADDRESS),
                  f.text("gateway", 262, ADDRESS), held)


def _input_range(item: object) -> InputRange:
    if not isinstance(item, list) or len(item) != 3:
        raise BadMessage(reason=f"accept: held is {str(item)[:100]!r}")
    f = Fields(dict(zip(("number", "start", "end"), item)), "accept: held")
    found = InputRange(f.number("number", MOST_INPUTS), f.number("start"), f.number("end"))
    if found.start >= found.end:
        raise BadMessage(reason=f"accept: held is {item}")
    return found


def _refuse(channel: str, f: Fields) -> Message:
    return Refuse(f.text("job", 32, JOB_ID), f.said("reason", 512))


def _command(channel: str, f: Fields) -> Message:
    return Command(f.text("job", 32, JOB_ID), channel, f.text("task", 64, TASK), f.attempt(),
                   f.text("report", 32, CHANNEL), f.object("params"))


def _report(channel: str, f: Fields) -> Message:
    r = Fields(f.object("result"), "result")
    details = r.object("details")
    _check_details(Fields(details, "details"))
    result = Result(r.text("node", 64, NODE_ID), r.text("output", 128, CID_TEXT), r.number("size"), details)
    return Report(f.text("job", 32, JOB_ID), channel, f.text("task", 64, TASK), f.attempt(), result)


def _check_details(f: Fields) -> None:
    """What the master reads of a result's details: content, and what the runner and the user's code counted."""
    f.optional_cid("log")
    f.optional_cid("aside")
    Fields({"read": 0} | f.value, "details").number("read")
    for name in ("counters", "user_counters"):
        counters = f.object(name) if name in f.value else {}
        for counter, count in counters.items():
            well = LINE.fullmatch(counter) and type(count) is int and -(1 << 63) < count < 1 << 63
            if len(counters) > MOST_COUNTERS or not well:
                raise BadMessage(reason=f"details: {name} has {str(counter)[:100]!r}: {str(count)[:40]}")


def _failed(channel: str, f: Fields) -> Message:
    r = Fields(f.object("failure"), "failure")
    details = r.object("details") if r.value.get("details") is not None else None
    failure = Failure(r.text("kind", 16, LINE), r.said("message", 2000, "\n\t"), r.optional_cid("cid"), details)
    return Failed(f.text("job", 32, JOB_ID), f.text("task", 64, TASK), f.attempt(), failure)


def _received(channel: str, f: Fields) -> Message:
    return Received(f.text("job", 32, JOB_ID), f.text("task", 64, TASK), f.attempt())


def _renew(channel: str, f: Fields) -> Message:
    held = []
    for item in f.items("held", 1024):
        if not isinstance(item, list) or not 3 <= len(item) <= 4:
            raise BadMessage(reason=f"renew: held is {str(item)[:100]!r}")
        line = Fields({"status": ""} | dict(zip(("task", "attempt", "bytes_done", "status"), item)), "renew")
        done, status = line.number("bytes_done"), line.said("status", 100)
        held.append(Held(line.text("task", 64, TASK), line.attempt(), done, status))
    return Renew(f.text("job", 32, JOB_ID), tuple(held))


def _renewed(channel: str, f: Fields) -> Message:
    drop = tuple(Fields({"drop": item}, "renewed").attempt("drop") for item in f.items("drop", 1024))
    return Renewed(f.text("job", 32, JOB_ID), drop)
