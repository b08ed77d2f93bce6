"""Frames: how two processes of one machine talk over a stream socket.

Owns the framing of the runner's socket (daemon and sandboxed child) and of the control socket (daemon and
command line), and the list of frame kinds. Never interprets a payload beyond "this is a JSON object". A
frame is

    1 byte kind | 4 bytes payload length, big-endian | payload, at most 2 MiB

Control travels as one JSON object, data as raw bytes. The length is checked before memory is taken for it,
because either side may be a stranger's program. Descriptors (SCM_RIGHTS) ride on the first byte of the frame
they belong to.

Runner's socket, daemon to runner:
    JOB       JSON {"spec", "code": [{"name", "size"}, ...], "limits": {"memory", "file_size"}, "module", "job",
              "prints", "tunnels"}; once, first, with descriptors: where "prints" is true, the end of a pipe for what
              the user's code prints; where "tunnels" is, a socket (daemon/tunnels.py); then the spill files. module:
              dotted name of the architecture's runner side; job: the job's id
    CODE      raw: the code files' bytes, one after the other in the order of "code", in pieces
    FILE      empty, with a descriptor: instead of CODE frames, a file that is not held in memory (open_file.py)
    TASK      JSON {"id", "params"}
    DATA      raw: the answer to READ; empty means the end of that stream
    CLOSE     empty: leave
Runner's socket, runner to daemon:
    HELLO     JSON {"unit"}: once, first, before there is any code of the user's; unit: the systemd unit that it
              runs in, "" where it does not
    READY     JSON {}: the user's code is loaded and set up
    READ      JSON {"stream"}: asks for the next block of input `stream`
    WRITE     4 bytes stream number, big-endian, + raw bytes (a run's block: at most 32 KiB; a file's: 1 MiB
              exactly, the last one shorter); no answer, the socket is the back-pressure
    PROGRESS  JSON {"records", "bytes"}: read so far by this task; a few a second. "status" beside them when the
              task has a new line for people
    ASIDE     JSON {"where", "input", "offset", "record", "error"}: a record that the task goes on without; input,
              offset and record may be None; at most 2 KiB
    DONE      JSON {"counters": {name: int}, "user_counters": {name: int}, "streams": [{"records", "bytes"}, ...]}:
              the task ended well; at most 50 of the user's, with names of at most 80 characters
    FAILED    JSON {"where", "type", "message", "traceback", "input", "offset", "record"}: it did not;
              also instead of READY
Control socket, client to daemon:
    REQUEST   JSON: one request, first on a connection; may carry descriptors
    BLOCK     raw: CID in ASCII, NUL, the block
    END       empty: nothing more comes from this side
Control socket, daemon to client:
    ANSWER    JSON: the request's result, or {"error": ...}; last
    EVENT     JSON: one of a stream of objects, before the answer
    DATA      raw bytes of content, before the answer
    END       empty: the content is complete
"""

from __future__ import annotations

import json
import struct

MAX_PAYLOAD = 2 * 1024 * 1024  # bytes
MAX_ASIDE = 2 * 1024  # bytes of an ASIDE's payload

JOB, CODE, TASK, DATA, CLOSE, FILE = 1, 2, 3, 4, 5, 6
READY, READ, WRITE, PROGRESS, DONE, FAILED, ASIDE, HELLO = 16, 17, 18, 19, 20, 21, 22, 23
REQUEST, ANSWER, EVENT, BLOCK, END = 32, 33, 34, 35, 36

NAMES = {
    **{JOB: "JOB", CODE: "CODE", TASK: "TASK", DATA: "DATA", CLOSE: "CLOSE", FILE: "FILE"},
    **{READY: "READY", READ: "READ", WRITE: "WRITE", PROGRESS: "PROGRESS", DONE: "DONE", FAILED: "FAILED"},
    **{ASIDE: "ASIDE", HELLO: "HELLO"},
    **{REQUEST: "REQUEST", ANSWER: "ANSWER", EVENT: "EVENT", BLOCK: "BLOCK", END: "END"},
}

HEADER = struct.Struct(">BI")
_STREAM = struct.Struct(">I")


class BadFrame(ValueError):
    """The other side broke the framing: its fault, never ours; the connection is of no more use."""


def encode(kind: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """The frame's bytes. ValueError for a payload over MAX_PAYLOAD or an unknown kind (our bug)."""
    return encode_header(kind, len(payload)) + payload


def encode_header(kind: int, length: int) -> bytes:
    """The five bytes before a payload, for senders that do not want to copy a big one."""
    if kind not in NAMES:
        raise ValueError(f"no frame kind {kind}")
    if length > MAX_PAYLOAD:
        raise ValueError(f"a {NAMES[kind]} frame of {length} bytes; at most {MAX_PAYLOAD}")
    return HEADER.pack(kind, length)


def encode_json(kind: int, value: dict[str, object]) -> bytes:
    """A control frame. Lone surrogates (undecodable bytes in file names or records) travel as JSON escapes."""
    return encode(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))


def parse_header(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """(kind, payload length) from five bytes; BadFrame when either is out of bounds."""
    kind: int
    length: int
    kind, length = HEADER.unpack(data)
    if kind not in NAMES:
        raise BadFrame(f"no frame kind {kind}")
    if length > MAX_PAYLOAD:
        raise BadFrame(f"a frame of {length} bytes announced; at most {MAX_PAYLOAD}")
    return kind, length


def parse_json(payload: bytes | bytearray | memoryview) -> dict[str, object]:
    """The object of a control frame; BadFrame for anything else, however deep or broken."""
    try:
        value = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadFrame("JSON, but not an object")
    return value


def bounded_aside(record: dict[str, object]) -> dict[str, object]:
    """The fields of an ASIDE, their texts cut so that the frame is no longer than MAX_ASIDE."""
    fields = {name: record.get(name) for name in ("where", "input", "offset", "record", "error")}
    most = MAX_ASIDE
    while len(json.dumps(fields, separators=(",", ":"))) > MAX_ASIDE:
        most //= 2
        fields = {name: value[:most] if isinstance(value, str) else value for name, value in fields.items()}
    return fields


def encode_write(stream: int, length: int) -> bytes:
    """Header and stream number of a WRITE of `length` data bytes, which follow."""
    return encode_header(WRITE, length + _STREAM.size) + _STREAM.pack(stream)


def parse_write(payload: bytes | bytearray | memoryview) -> tuple[int, memoryview]:
    """(stream, data) of a WRITE payload; the data is a view on it."""
    if len(payload) < _STREAM.size:
        raise BadFrame("a WRITE frame without a stream number")
    view = memoryview(payload)
    stream: int = _STREAM.unpack(view[: _STREAM.size])[0]
    return stream, view[_STREAM.size :]


class Decoder:
    """Pure decoding: feed what arrived, get the frames that became whole. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame; at the end of a connection anything but 0 means it was cut."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """[(kind, payload), ...]. BadFrame as soon as a header is out of bounds, before its payload is awaited."""
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        with memoryview(buffer) as view:
            while len(buffer) - start >= HEADER.size:
                body = start + HEADER.size
                kind, length = parse_header(view[start:body])
                if len(buffer) - body < length:
                    break
                start = body + length
                frames.append((kind, bytes(view[body:start])))
        del buffer[:start]
        return frames
