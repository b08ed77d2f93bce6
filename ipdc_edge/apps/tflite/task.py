"""Inference, as the runner does it: a model is the map of a Map-Reduce job's first step.

Owns what happens between an input and the pairs that go on: Pre.py, the model, Post.py, and what stands for them where
there are none. Reading, sorting, reducing, writing, and what is told of errors are Map-Reduce's
(apps/mapreduce/task.py). The runner knows this module by `load` and `make_task`; a runner loads the model once, for all
tasks that it does.

    pre(name, data)        yields the tensors of one inference, as often as it likes
    post(name, outputs)    yields pairs (key, value)

`name` is the input's, or (name, place) where one file gives several: the byte offset of a CSV row, the number of an
array's row or of what Pre.py yields. See formats.py for `data`, interpreter.py for `outputs`. """

from __future__ import annotations

from itertools import chain

from ipdc_edge.apps.mapreduce import program as mapreduce
from ipdc_edge.apps.mapreduce.task import make_task
from ipdc_edge.apps.tflite import interpreter
from ipdc_edge.apps.tflite.source import InferenceSource
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ipdc_edge.apps.mapreduce.program import Program
    from ipdc_edge.apps.tflite.interpreter import Model, Outputs, Tensor

__all__ = ["load", "make_task"]


class DoesNotFit(IpdcError):
    """{what} does not fit the model's input {tensor}, which is {wanted}. A Pre.py with pre(name, data) can make what
    fits"""


def load(spec: dict[str, Any], code: dict[str, bytes]) -> Program:
    """The program with its model. NoInterpreter, ModelRefused, and what mapreduce's `load` raises."""
    step, *others = spec["options"]["steps"]
    file = step["map"]
    found = interpreter.find()
    model = _model(found, file, code[file])
    rest = {name: content for name, content in code.items() if name != file}
    without = {**spec, "options": {**spec["options"], "steps": [{**step, "map": None}, *others]}}
    program = mapreduce.load(without, rest)
    first = program.steps[0]
    first.map = inference(model, first.pre, first.post)
    source = type("Source", (InferenceSource,), {"wanted": spec["options"].get("input_format", InferenceSource.wanted)})
    program.source = source
    return program


def _model(found: interpreter.Found, file: str, content: bytes) -> Model:
    if isinstance(content, OpenFile):
        return interpreter.Model(found, file, None, content.link())
    return interpreter.Model(found, file, content, "")


def inference(
    model: Model, pre: Callable[..., object] | None, post: Callable[..., object] | None
) -> Callable[[object, object], Iterator[object]]:
    """The map: all pairs of one record."""
    prepare = _tensors(model) if pre is None else _listing(pre)
    answer = _plain if post is None else _listing(post)

    def infer(name: object, data: object) -> Iterator[object]:
        many = iter(prepare(name, data))
        for first in many:
            outputs = model.run(first)  # before the next is made: it may be the same array, filled anew
            second = next(many, many)  # many itself: there is none
            if second is many:
                yield from answer(name, outputs)
                return
            yield from answer(_place(name, 0), outputs)
            for number, tensors in enumerate(chain((second,), many), 1):
                yield from answer(_place(name, number), model.run(tensors))

    return infer


def _place(name: object, number: int) -> tuple[object, ...]:
    return (*name, number) if isinstance(name, tuple) else (name, number)


def _listing(function: Callable[..., object]) -> Callable[..., Iterable[object]]:
    """A function that may return None for nothing, or one thing that it forgot to yield as an error."""

    def call(name: object, thing: object) -> Iterable[object]:
        found = function(name, thing)
        return () if found is None else found  # type: ignore[return-value]

    return call


def _plain(name: object, outputs: Outputs) -> Iterator[tuple[object, object]]:
    """Without Post.py: the only output, or all by name, as lists."""
    if len(outputs) == 1:
        yield name, outputs[0].tolist()
    else:
        yield name, {key: value.tolist() for key, value in outputs.items()}


def _tensors(model: Model) -> Callable[[object, object], Iterator[object]]:
    """Without Pre.py: what is made of each kind of data."""

    def prepare(name: object, data: Any) -> Iterator[object]:
        tensor = model.inputs[0]
        if len(model.inputs) != 1:
            what = f"one value for a model of {len(model.inputs)} inputs"
            raise DoesNotFit(what=what, tensor=tensor.name, wanted=tensor)
        if isinstance(data, list):
            yield _row(tensor, data)
        elif isinstance(data, bytes):
            yield from _raw(tensor, data)
        elif data.dtype == "uint8" and data.ndim == 3 and len(tensor.free) == 4 and tensor.free[3] in (1, 3):
            yield _picture(tensor, data)
        else:
            yield from _arrays(tensor, data)

    return prepare


def _row(tensor: Tensor, row: list[str]) -> object:
    """A CSV row: numbers, as many as the input has values."""
    import numpy

    try:
        values = numpy.array([float(cell) for cell in row])
    except ValueError as error:
        raise DoesNotFit(what=f"a row in which {error}", tensor=tensor.name, wanted=tensor) from None
    if not numpy.issubdtype(tensor.type, numpy.floating) and not tensor.scale:
        values = values.astype("int64")
    return _as(tensor, values, f"a row of {len(row)} values")


def _as(tensor: Tensor, values: Any, what: str) -> object:
    """In the input's shape, one element of its batch."""
    shape = [1, *tensor.free[1:]] if tensor.free[:1] in ([-1], [1]) else tensor.free
    known = 1
    for size in shape:
        known *= size
    if shape.count(-1) == 0 and known != values.size:
        raise DoesNotFit(what=what, tensor=tensor.name, wanted=tensor)
    try:
        return values.reshape(shape)
    except ValueError:
        raise DoesNotFit(what=what, tensor=tensor.name, wanted=tensor) from None


def _raw(tensor: Tensor, data: bytes) -> Iterator[object]:
    """The bytes of one tensor or of several, one after the other."""
    import numpy

    kind = numpy.dtype(tensor.type)
    count = 1
    for size in tensor.shape:
        count *= size
    size = count * kind.itemsize
    if not data or len(data) % size:
        raise DoesNotFit(what=f"a file of {len(data)} bytes", tensor=tensor.name, wanted=f"{tensor}, {size} bytes")
    for at in range(0, len(data), size):
        yield numpy.frombuffer(data, kind, count, at).reshape(tensor.shape)


def _picture(tensor: Tensor, data: Any) -> object:
    """An image: made as large as the input, with its channels; 0 to 255 are 0.0 to 1.0, which a quantized input has in
    its own way. An input of plain bytes gets them as they are."""
    import numpy
    from PIL import Image

    height, width, channels = tensor.free[1:]
    image = Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data)
    image = image.convert("L" if channels == 1 else "RGB")
    size = (width if width > 0 else image.width, height if height > 0 else image.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = numpy.asarray(image).reshape(1, size[1], size[0], channels)
    if numpy.dtype(tensor.type).kind in "iu" and not tensor.scale:
        return pixels
    return pixels.astype("float32") / numpy.float32(255)


def _arrays(tensor: Tensor, data: Any) -> Iterator[object]:
    """An array: the input itself, with or without the dimension of its batch, or one inference for each of its rows."""
    free = tensor.free
    alike = [a == b or b < 0 for a, b in zip(data.shape[1:], free[1:])]
    if data.ndim == len(free) and all(alike) and free[:1] in ([1], [-1]):
        for number in range(len(data)):
            yield data[number : number + 1]
    else:
        yield data

