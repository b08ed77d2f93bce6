"""Models of a few hundred bytes, made byte by byte: what an interpreter is proven with, and asked with which operators
it knows.

Owns just enough of a FlatBuffer writer for that. Source: the FlatBuffers internals ("flatbuffer_internals") and
TensorFlow Lite's schema.fbs, version 3, whose field numbers stand here. """

from __future__ import annotations

import struct

FLOAT32 = 0  # TensorType
RELU = 19  # BuiltinOperator
WIDTH = 4  # values of the proof's input

Field = "bytes | int | Table | Vector"


class Table:
    """A table: {field number: (struct format, number), or what it refers to}."""

    def __init__(self, **fields: object) -> None:
        self.fields = {int(name.removeprefix("f")): value for name, value in fields.items()}


class Vector:
    """A vector of numbers (struct format), or of what it refers to (format "")."""

    def __init__(self, form: str, values: list[object]) -> None:
        self.form, self.values = form, values


def model(code: int, version: int = 1, custom: str = "") -> bytes:
    """A model of one operator, `outputs = OPERATOR(inputs)` over float32 [1, WIDTH]. code: its BuiltinOperator."""
    operator = Table(f0=("b", min(code, 127)), f2=("i", version), f3=("i", code))
    if custom:
        operator.fields[1] = custom.encode()
    tensors: list[object] = [
        Table(f0=Vector("i", [1, WIDTH]), f1=("b", FLOAT32), f2=("I", number + 1), f3=name)
        for number, name in enumerate((b"input", b"output"))
    ]
    graph = Table(
        f0=Vector("", tensors),
        f1=Vector("i", [0]),
        f2=Vector("i", [1]),
        f3=Vector("", [Table(f0=("I", 0), f1=Vector("i", [0]), f2=Vector("i", [1]))]),
        f4=b"main",
    )
    buffers: list[object] = [Table(), Table(), Table()]
    whole = Table(f0=("I", 3), f1=Vector("", [operator]), f2=Vector("", [graph]), f3=b"ipdc-edge",
                  f4=Vector("", buffers))
    return written(whole)


def written(root: Table) -> bytes:
    """The file, with TensorFlow Lite's identifier."""
    data = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    waiting: list[tuple[int, object]] = [(0, root)]  # (where the offset to it stands, what it is)
    for place, thing in waiting:  # grows while it is walked
        at = _put(data, thing, waiting)
        struct.pack_into("<I", data, place, at - place)
    return bytes(data)


def _put(data: bytearray, thing: object, waiting: list[tuple[int, object]]) -> int:
    """Appends one thing; where it begins. Offsets always point forward, to what is appended later."""
    data += bytes(-len(data) % 4)
    at = len(data)
    if isinstance(thing, bytes):
        data += struct.pack("<I", len(thing)) + thing + b"\0"
    elif isinstance(thing, Vector):
        data += struct.pack("<I", len(thing.values))
        for value in thing.values:
            if thing.form:
                data += struct.pack(f"<{thing.form}", value)
            else:
                waiting.append((len(data), value))
                data += bytes(4)
    else:
        assert isinstance(thing, Table)
        slots = max(thing.fields, default=-1) + 1
        offsets = {number: 4 + 4 * index for index, number in enumerate(thing.fields)}
        size = 4 + 4 * len(offsets)
        words = [4 + 2 * slots, size, *(offsets.get(number, 0) for number in range(slots))]
        data += struct.pack(f"<{len(words)}H", *words)
        data += bytes(-len(data) % 4)
        table = len(data)
        data += struct.pack("<i", table - at) + bytes(4 * len(offsets))
        for number, value in thing.fields.items():
            place = table + offsets[number]
            if isinstance(value, tuple):
                struct.pack_into(f"<{value[0]}", data, place, value[1])
            else:
                waiting.append((place, value))
        return table
    return at
