"""Requests to a served model as bytes: on MQTT, between daemons, and between a daemon and its runner.

Owns the forms and their bounds; core/PROTOCOL.md documents the first two. Never knows a model, and never trusts a byte.

    MQTT, at the own node's broker      ipdc/serve/TOPIC/request and .../health, answers below ipdc/serve/answer/
    between daemons                     channels `infer` and `answer`: one line of JSON, a newline, the bytes
    to the runner (DATA)                a batch: for each request 1 byte kind, 2 bytes length of its name, 4 bytes
                                        length of its body, then these
    from the runner (WRITE)             2 bytes place in the batch, 1 byte whether it is well, 2 bytes number of inputs,
                                        then JSON
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import IpdcError

ROOT = "ipdc/serve/"
ANSWERS = "ipdc/serve/answer/"
UNANSWERABLE = ANSWERS + "none"  # where it is told of a request that names no place for its answer
INFER, ANSWER = "infer", "answer"  # channels between daemons
TOPIC = re.compile(r"(?!answer\Z)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ANSWER_TOPIC = re.compile(r"ipdc/serve/answer/[\x21-\x22\x24-\x2a\x2c-\x7e]{1,180}")  # ASCII without wildcards
ADDRESS = re.compile(r"[0-9A-Za-z.:\[\]-]{1,255}:[0-9]{1,5}")
NAME = re.compile(r"[\x20-\x7e]{0,100}")
SERVES = "serves="  # begins the word of a node's record for each topic that it serves
MOST_TOPICS = 8  # that one node serves
MOST_REQUEST = 128 << 10  # bytes
MOST_ANSWER = 128 << 10
MOST_CORRELATION = 256
MOST_HEAD = 1024
MOST_IN_BATCH, MOST_BATCH_BYTES = 32, 1 << 20  # requests that a runner is given at once
MOST_INPUTS = 256  # of one request

# what a request's body is, by its Content Type
KINDS = ("json", "csv", "npy", "image", "raw")
CONTENT_TYPES = {
    "application/json": "json", "text/csv": "csv", "application/x-npy": "npy", "image/png": "image",
    "image/jpeg": "image", "application/octet-stream": "raw",
}
STATES = ("ok", "error", "busy", "elsewhere")
WHATS = ("predict", "health")
HEALTH: dict[str, tuple[type, ...]] = {  # what a node may say of itself, and as what
    "job": (str,), "model": (str,), "p50_ms": (int, float, type(None)), "p99_ms": (int, float, type(None)),
    "queue": (int,), "most_queue": (int,), "since": (int,), "answered": (int,), "errors": (int,), "busy": (int,),
    "inputs": (int,), "batches": (int,), "deaths": (int,),
}
_REQUEST, _ANSWER = struct.Struct(">BHI"), struct.Struct(">HBH")


class BadInference(IpdcError):
    """{reason}"""


class Infer(NamedTuple):
    """What one daemon asks of another: `number` is the asker's own, `address` where its broker is."""

    number: int
    topic: str
    what: str  # one of WHATS
    kind: str  # one of KINDS
    name: str
    address: str
    body: bytes


class Answer(NamedTuple):
    """What comes back."""

    number: int
    state: str  # one of STATES: "ok" and "error" have a body for who asked
    body: bytes


def address(text: str) -> tuple[str, str] | None:
    """(topic, "request" or "health") of an MQTT topic that somebody asks on; None where it is none."""
    topic, _, word = text.removeprefix(ROOT).partition("/")
    return (topic, word) if text.startswith(ROOT) and word in ("request", "health") and TOPIC.fullmatch(topic) else None


def kind_of(content_type: str, body: bytes) -> str:
    """One of KINDS. Without a Content Type, what begins as JSON's object, an image or .npy is that. BadInference."""
    if content_type:
        if kind := CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower()):
            return kind
        raise BadInference(reason=f"Content Type {content_type[:60]!r} is none of {', '.join(CONTENT_TYPES)}")
    for start, kind in ((b"{", "json"), (b"\x93NUMPY", "npy"), (b"\x89PNG", "image"), (b"\xff\xd8\xff", "image")):
        if body.startswith(start):
            return kind
    raise BadInference(reason="it has no Content Type, and does not begin as JSON, .npy, PNG or JPEG")


def encode_infer(asked: Infer) -> bytes:
    """For the channel `infer`."""
    head = {"v": 1, "number": asked.number, "topic": asked.topic, "what": asked.what, "kind": asked.kind}
    return _lined({**head, "name": asked.name, "address": asked.address}, asked.body)


def decode_infer(payload: bytes) -> Infer:
    """BadInference when it is not as it must be."""
    head, body = _split(payload, MOST_REQUEST)
    texts = [head.get(name) for name in ("topic", "what", "kind", "name", "address")]
    if not all(isinstance(text, str) for text in texts):
        raise BadInference(reason="fields that are no text")
    topic, what, kind, name, broker = map(str, texts)
    if not TOPIC.fullmatch(topic) or what not in WHATS or kind not in KINDS or not (
            NAME.fullmatch(name) and ADDRESS.fullmatch(broker)):
        raise BadInference(reason="a field that is out of bounds")
    return Infer(_number(head), topic, what, kind, name, broker, body)


def encode_answer(answer: Answer) -> bytes:
    """For the channel `answer`."""
    return _lined({"v": 1, "number": answer.number, "state": answer.state}, answer.body)


def decode_answer(payload: bytes) -> Answer:
    """BadInference when it is not as it must be."""
    head, body = _split(payload, MOST_ANSWER)
    if head.get("state") not in STATES:
        raise BadInference(reason="a state that is none")
    return Answer(_number(head), str(head["state"]), body)


def health_of(body: bytes) -> dict[str, object] | None:
    """Of what another node says of its health what is known, of its type and within bounds; None where it is no
    object of JSON."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    found = {name: told[name] for name, types in HEALTH.items() if name in told and type(told[name]) in types}
    return {name: value for name, value in found.items() if value is None or (
        NAME.fullmatch(value) is not None if isinstance(value, str) else 0 <= value < 1 << 53)}


def _lined(head: dict[str, object], body: bytes) -> bytes:
    return json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n" + body


def _split(payload: bytes, most: int) -> tuple[dict[str, Any], bytes]:
    end = payload.find(b"\n", 0, MOST_HEAD)
    if end < 0 or len(payload) - end - 1 > most:
        raise BadInference(reason=f"{len(payload)} bytes without a head, or too many")
    try:
        head = json.loads(payload[:end])
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("v") != 1:
        raise BadInference(reason="its head is not JSON of version 1")
    return head, payload[end + 1 :]


def _number(head: dict[str, Any]) -> int:
    number = head.get("number")
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise BadInference(reason="a number out of bounds")
    return number


def pack_batch(requests: Iterable[tuple[str, str, bytes]]) -> bytes:
    """(kind, name, body) of each, for the runner."""
    pieces = []
    for kind, name, body in requests:
        text = name.encode("ascii")
        pieces += [_REQUEST.pack(KINDS.index(kind), len(text), len(body)), text, body]
    return b"".join(pieces)


def unpack_batch(data: bytes | bytearray) -> Iterator[tuple[str, str, bytes]]:
    """What pack_batch was given."""
    at = 0
    while at < len(data):
        kind, named, size = _REQUEST.unpack_from(data, at)
        at += _REQUEST.size
        yield KINDS[kind], bytes(data[at : at + named]).decode("ascii"), bytes(data[at + named : at + named + size])
        at += named + size


def pack_result(place: int, well: bool, inputs: int, body: bytes) -> bytes:
    """One request's answer, from the runner."""
    return _ANSWER.pack(place, well, inputs) + body


def unpack_result(data: bytes) -> tuple[int, bool, int, bytes]:
    """(place in the batch, whether it is well, inputs, JSON). BadInference: the user's code may have written it."""
    if not _ANSWER.size <= len(data) <= _ANSWER.size + MOST_ANSWER:
        raise BadInference(reason=f"an answer of {len(data)} bytes")
    place, well, inputs = _ANSWER.unpack_from(data)
    return place, bool(well), inputs, data[_ANSWER.size :]


def error_body(reason: str, **more: object) -> bytes:
    """What who asked gets instead of predictions."""
    return json.dumps({"error": reason[:2000], **more}, separators=(",", ":")).encode("ascii")
