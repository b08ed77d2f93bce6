"""What a .tflite file says of itself: the operators that it needs. Pure, and as careful as with any stranger's bytes.

Owns the names of the operators and a reader of just that part of the file; weights are never looked at. Whatever the
bytes say, it looks at no place outside them, and at no more than MOST_OPERATORS operators. Source: the FlatBuffers
internals ("flatbuffer_internals") and TensorFlow Lite's schema.fbs, version 3. """

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

from ..errors import IpdcError

IDENTIFIER = b"TFL3"
MOST_OPERATORS = 1000  # kinds in one model; converters make a few dozen
MOST_NAME = 100  # bytes of a custom operator's name
MOST_CODE = MOST_VERSION = 1000
CUSTOM = 32  # BuiltinOperator of an operator that has a name of its own
# BuiltinOperator, by its number
NAMES = tuple("""
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR
ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND
COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE
BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1
UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE
STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL
STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER
STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE
STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE
DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT
STABLEHLO_CASE
""".split())


class BadModel(IpdcError):
    """no TensorFlow Lite model that can be read: {reason}"""


class Data(Protocol):
    """Bytes, or a file that is mapped like them."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: slice, /) -> bytes: ...


class Operator(NamedTuple):
    """A kind of operator that a model needs: BuiltinOperator and version; `custom` is the name of one that is
    CUSTOM."""

    code: int
    version: int
    custom: str = ""

    def __str__(self) -> str:
        """As people know it."""
        name = NAMES[self.code] if 0 <= self.code < len(NAMES) else f"number {self.code}"
        return self.custom or f"{name} version {self.version}"


def operators(data: Data) -> list[Operator]:
    """The kinds of operators of a model, each once, in its order. BadModel."""
    if len(data) < 16 or bytes(data[4:8]) != IDENTIFIER:
        raise BadModel(reason="a .tflite file has TFL3 as its bytes 5 to 8")
    file = _File(data)
    root = file.number("I", 0)
    place = file.field(root, 1)
    if not place:
        raise BadModel(reason="it has no operators")
    vector = place + file.number("I", place)
    count = file.number("I", vector)
    if not 1 <= count <= MOST_OPERATORS:
        raise BadModel(reason=f"it says that it has {count} kinds of operators, and at most {MOST_OPERATORS} are read")
    found: dict[Operator, None] = {}
    for number in range(count):
        at = vector + 4 + 4 * number
        found[_operator(file, at + file.number("I", at))] = None
    return list(found)


def _operator(file: _File, table: int) -> Operator:
    old, version, new = file.scalar(table, 0, "b", 0), file.scalar(table, 2, "i", 1), file.scalar(table, 3, "i", 0)
    code = max(old, new)  # the first was a byte, before there were 127
    if not 0 <= code <= MOST_CODE or not 1 <= version <= MOST_VERSION:
        raise BadModel(reason=f"an operator of number {code}, version {version}")
    if code != CUSTOM:
        return Operator(code, version)
    place = file.field(table, 1)
    name = file.text(place + file.number("I", place)) if place else ""
    if not name:
        raise BadModel(reason="an operator of its own has no name")
    return Operator(code, version, name)


class _File:
    """Reads at places; BadModel for any that is outside."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def number(self, form: str, place: int) -> int:
        """A number of a struct format."""
        size = struct.calcsize(form)
        if not 0 <= place <= len(self._data) - size:
            raise BadModel(reason=f"something in it should stand at byte {place}, and it has {len(self._data)}")
        (found,) = struct.unpack(f"<{form}", self._data[place : place + size])
        return int(found)

    def field(self, table: int, number: int) -> int:
        """Where a field of a table stands; 0 where the table has none."""
        names = table - self.number("i", table)
        slot = 4 + 2 * number
        if slot + 2 > self.number("H", names):
            return 0
        offset = self.number("H", names + slot)
        return table + offset if offset else 0

    def scalar(self, table: int, number: int, form: str, default: int) -> int:
        """The number in a field."""
        place = self.field(table, number)
        return self.number(form, place) if place else default

    def text(self, place: int) -> str:
        """A name, of printable ASCII."""
        length = self.number("I", place)
        if length > MOST_NAME or place + 4 + length > len(self._data):
            raise BadModel(reason=f"an operator's name has {length} bytes, and at most {MOST_NAME} are read")
        raw = bytes(self._data[place + 4 : place + 4 + length])
        if not raw.isascii() or not raw.decode("ascii").isprintable():
            raise BadModel(reason=f"an operator's name is {raw!r}")
        return raw.decode("ascii")
