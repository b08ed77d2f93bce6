"""What the frames of the control socket say: requests, answers, errors, blocks. Pure.

Owns the control protocol's values, for the daemon (drivers/control.py) and the command line
(commands/client.py) alike; frames as such are codec/frames.py's. Opens nothing and waits for nothing. A
connection carries one request:

    client -> daemon   REQUEST {"operation": name, ...}, descriptors on its first byte
                       then, only for `add` of a file with its tree, and `add_tree`: BLOCK ..., END
    daemon -> client   EVENT {...} and DATA, any number, then ANSWER {...} or END

An ANSWER whose only key is "error" is an error (IpdcError.to_dict); it may also end a stream that began
well. JSON that is longer than a frame comes as DATA frames, which an EVENT or ANSWER without payload ends.
"""

from __future__ import annotations

import json

from ipdc_edge.codec import frames
from ipdc_edge.errors import BadRequest, ControlBroken, IpdcError

ANSWER_LIMIT = 64 << 20  # bytes of a JSON text that comes in pieces
CID_LIMIT = 128  # characters of a CID in a BLOCK frame


def object_frames(kind: int, value: dict[str, object]) -> list[tuple[int, bytes]]:
    """(kind, payload) of the frames that carry a JSON object as EVENT or ANSWER."""
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    if len(text) <= frames.MAX_PAYLOAD:
        return [(kind, text)]
    cuts = range(0, len(text), frames.MAX_PAYLOAD)
    return [*((frames.DATA, text[at : at + frames.MAX_PAYLOAD]) for at in cuts), (kind, b"")]


def parse_object(payload: bytes | bytearray) -> dict[str, object]:
    """A JSON object. Raises ControlBroken for anything else."""
    try:
        return frames.parse_json(payload)
    except frames.BadFrame as error:
        raise ControlBroken(reason=str(error)[:500]) from error


def parse_answer(payload: bytes | bytearray) -> dict[str, object]:
    """The object of an ANSWER. Raises the error that it carries."""
    answer = parse_object(payload)
    if answer.keys() == {"error"}:
        raise IpdcError.from_dict(answer["error"])
    return answer


def parse_request(kind: int, payload: bytes | bytearray) -> dict[str, object]:
    """The request of a connection's first frame. Raises BadRequest."""
    if kind != frames.REQUEST:
        raise BadRequest(reason=f"the first frame is {frames.NAMES[kind]}, not REQUEST")
    try:
        request = frames.parse_json(payload)
    except frames.BadFrame as error:
        raise BadRequest(reason=str(error)[:500]) from error
    operation = request.get("operation")
    if not isinstance(operation, str) or not operation.isidentifier():
        raise BadRequest(reason="it names no operation")
    return request


def block_payload(cid: str, block: bytes) -> bytes:
    """The payload of a BLOCK frame: CID as text, NUL, the block's bytes."""
    return cid.encode("ascii") + b"\0" + block


def parse_block(payload: bytes | bytearray) -> tuple[str, bytes]:
    """(CID as text, block) of a BLOCK frame. The CID is not parsed and the block not verified here."""
    end = payload.find(b"\0", 0, CID_LIMIT + 1)
    if end < 1 or not payload[:end].isalnum():
        raise BadRequest(reason="a BLOCK frame without a CID")
    return payload[:end].decode("ascii"), bytes(payload[end + 1 :])
