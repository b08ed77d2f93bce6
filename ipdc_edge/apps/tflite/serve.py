"""A served model, as the runner does it: batches of requests in, an answer to each.

Owns what happens between a request's bytes and its answer. Decoding, Pre.py, Post.py and what stands for them are those
of a job of inference (task.py, source.py). The runner reads input 0, on which the daemon has the next batch as soon as
there is one (codec/serving.py), and writes an answer for each request on output 0. What is wrong with one request is
told to who made it, and touches no other.
"""

from __future__ import annotations

import json

from ipdc_edge.apps.mapreduce import program as mapreduce
from ipdc_edge.apps.tflite import interpreter
from ipdc_edge.apps.tflite.batches import Batched, NoBatch
from ipdc_edge.apps.tflite.source import File, InferenceSource
from ipdc_edge.apps.tflite.task import DoesNotFit, _as, _listing, _tensors
from ipdc_edge.codec import serving
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.link import DaemonGone
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

MOST_REASON = 1000  # characters


class BadInput(IpdcError):
    """{reason}"""


class Served:
    """The model, and what stands before and after it."""

    def __init__(self, model: Batched, pre: Callable[..., Any] | None, post: Callable[..., Any] | None) -> None:
        self.model, self.pre, self.post = model, pre, post
        self.prepare = _tensors(model) if pre is None else _listing(pre)


def load(spec: dict[str, Any], code: dict[str, bytes]) -> Served:
    """The model and the user's functions. NoInterpreter, ModelRefused, and what mapreduce's `load` raises."""
    options = spec["options"]
    file, content = options["model"], code[options["model"]]
    found = interpreter.find()
    if isinstance(content, OpenFile):
        model = Batched(found, file, None, content.link())
    else:
        model = Batched(found, file, content, "")
    rest = {name: data for name, data in code.items() if name != file}
    step = {"map": None, **{role: options[role] for role in ("pre", "post") if options.get(role)}}
    program = mapreduce.load({**spec, "options": {"steps": [step]}}, rest)
    return Served(model, program.steps[0].pre, program.steps[0].post)


def make_task(program: Served, task_id: str, params: dict[str, Any], io: TaskIo) -> ServeTask:
    """A place."""
    return ServeTask(program, io)


class Decoder(InferenceSource):
    """Bytes of a request as Pre.py gets them; of the sources of a job nothing but the decoding."""

    def __init__(self, name: str) -> None:
        self.name = name or "the request"

    def records(self, kind: str, body: bytes) -> Iterator[object]:
        """Each record of a request. BadInput, Undecodable, NoPillow."""
        if kind == "json":
            yield from _instances(body)
        elif kind == "csv":
            import csv
            import io

            try:  # newline: which letters end a line is the CSV's own matter
                yield from (row for row in csv.reader(io.StringIO(body.decode(), newline=""), strict=True) if row)
            except (csv.Error, UnicodeDecodeError) as error:
                raise BadInput(reason=f"it is no CSV: {error}") from None
        else:
            yield self.record(File(kind, body))


def _instances(body: bytes) -> list[object]:
    """Those of {"instances": [...]}, as TensorFlow Serving's REST interface has them."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(reason=f"it is no JSON: {error}") from None
    instances = found.get("instances") if isinstance(found, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadInput(reason='it is not {"instances": [INPUT, ...]}')
    return instances


class ServeTask:
    """Answers requests until the daemon has no more."""

    def __init__(self, served: Served, io: TaskIo) -> None:
        self.served, self.io = served, io
        self.requests = 0

    def position(self) -> dict[str, object]:
        """Nowhere that anybody could look up."""
        return {"where": "serve"}

    def run(self) -> dict[str, object]:
        """Until the end of input 0."""
        while data := self.io.read(0):
            self._batch(list(serving.unpack_batch(data)))
        return {"counters": {"requests": self.requests}, "streams": [{"records": self.requests, "bytes": 0}]}

    def _batch(self, requests: list[tuple[str, str, bytes]]) -> None:
        """Answers one batch: all that go together in as few calls as there can be."""
        together: list[tuple[int, str, list[Any], list[list[Any]]]] = []  # place, name, names of inputs, fitted
        for place, (kind, name, body) in enumerate(requests):
            self.requests += 1
            try:
                names, given = self._given(kind, name, body)
                if self.served.model.free:
                    together.append((place, name, names, [self.served.model.fitted(one) for one in given]))
                    continue
                self._answer(place, names, [self.served.model.run(one) for one in given])
            except DaemonGone:
                raise
            except BaseException as error:  # whatever the user's code or a library raises is about this request
                self._refuse(place, error)
        if together:
            try:
                outputs = iter(self.served.model.run_all([one for *_, fitted in together for one in fitted]))
                found = [[next(outputs) for _ in fitted] for *_, fitted in together]
            except DaemonGone:
                raise
            except BaseException as error:
                if len(together) == 1 and not isinstance(error, NoBatch):
                    return self._refuse(together[0][0], error)
                for place, (kind, name, body) in enumerate(requests):  # each alone says whose fault it is
                    if any(place == one[0] for one in together):
                        self._alone(place, kind, name, body)
                return None
            for (place, _, names, _), results in zip(together, found):
                self._try_to_answer(place, names, results)
        return None

    def _alone(self, place: int, kind: str, name: str, body: bytes) -> None:
        try:
            names, given = self._given(kind, name, body)
            model = self.served.model
            if model.free:
                results = model.run_all([model.fitted(one) for one in given])
            else:
                results = [model.run(one) for one in given]
        except DaemonGone:
            raise
        except BaseException as error:
            return self._refuse(place, error)
        return self._try_to_answer(place, names, results)

    def _given(self, kind: str, name: str, body: bytes) -> tuple[list[str], list[Any]]:
        """What goes into the model of one request, and by which name Post.py knows each."""
        served = self.served
        names: list[Any] = []
        given: list[Any] = []
        for record in Decoder(name).records(kind, body):
            if served.pre is None and kind == "json":
                tensors: Iterator[Any] = iter((self._instance(record),))
            elif served.pre is None and self._is_batch(record):
                tensors = iter((record,))  # not one after the other: it is a batch as it stands
            else:
                tensors = iter(served.prepare(name, record))
            for tensor in tensors:
                names.append(name)
                given.append(tensor)
                if len(given) > serving.MOST_INPUTS:
                    raise BadInput(reason=f"it has more than {serving.MOST_INPUTS} inputs")
        if not given:
            raise BadInput(reason="it has no input")
        return names, given

    def _is_batch(self, record: Any) -> bool:
        model = self.served.model
        return (model.free and len(model.inputs) == 1 and getattr(record, "ndim", 0) == len(model.inputs[0].free)
                and 0 < len(record) <= serving.MOST_INPUTS)

    def _instance(self, value: Any) -> object:
        """An instance of JSON: for a model of several inputs an object by their names."""
        inputs = self.served.model.inputs
        if isinstance(value, dict) and set(value) == {tensor.name for tensor in inputs}:
            return {tensor.name: self._number(tensor, value[tensor.name]) for tensor in inputs}
        if len(inputs) != 1:
            named = ", ".join(f'"{tensor.name}"' for tensor in inputs)
            raise BadInput(reason=f"the model has several inputs: each instance is an object of {named}")
        return self._number(inputs[0], value)

    @staticmethod
    def _number(tensor: interpreter.Tensor, value: Any) -> object:
        import numpy

        try:
            array = numpy.array(value)
        except (ValueError, OverflowError) as error:
            raise BadInput(reason=f"an instance is no tensor: {error}") from None
        if array.dtype.kind not in "biuf":
            raise DoesNotFit(what=f"{type(value).__name__} that is no number", tensor=tensor.name, wanted=tensor)
        return _as(tensor, array, f"an instance of {array.size} values")

    def _try_to_answer(self, place: int, names: list[Any], results: list[interpreter.Outputs]) -> None:
        try:
            self._answer(place, names, results)
        except DaemonGone:
            raise
        except BaseException as error:
            self._refuse(place, error)

    def _answer(self, place: int, names: list[Any], results: list[interpreter.Outputs]) -> None:
        predictions: list[Any] = []
        inputs = 0
        for name, outputs in zip(names, results):
            rows = len(next(iter(outputs.values()))) if self.served.model.free else 1
            if self.served.post is not None:
                post = _listing(self.served.post)
                for row in range(rows):
                    key = name if len(results) == 1 and rows == 1 else (name, inputs + row)
                    one = outputs
                    if rows > 1:
                        one = interpreter.Outputs({of: value[row : row + 1] for of, value in outputs.items()})
                    predictions += [list(pair) for pair in post(key, one)]  # type: ignore[call-overload]
            elif len(outputs) == 1:
                predictions += outputs[0].tolist() if self.served.model.free else _plain(outputs[0])
            elif not self.served.model.free:
                predictions.append({key: _plain(value)[0] for key, value in outputs.items()})
            else:
                columns = {key: value.tolist() for key, value in outputs.items()}
                predictions += [{key: value[row] for key, value in columns.items()} for row in range(rows)]
            inputs += rows
        body = _json({"predictions": predictions})
        if len(body) > serving.MOST_ANSWER:
            raise BadInput(reason=f"its answer has {len(body)} bytes, more than {serving.MOST_ANSWER}: give fewer "
                           "inputs at once, or a Post.py that says less")
        self.io.write(0, serving.pack_result(place, True, min(inputs, 0xFFFF), body))

    def _refuse(self, place: int, error: BaseException) -> None:
        """An error of one request. Of ours the words, of the user's code and libraries the type too."""
        try:
            words = " ".join(str(error).split())[:MOST_REASON]
        except BaseException:  # the user's own __str__
            words = ""
        if not isinstance(error, IpdcError):
            words = f"{type(error).__name__[:MOST_REASON]}: {words}".rstrip(": ")
        self.io.write(0, serving.pack_result(place, False, 0, serving.error_body(words)))


def _plain(array: Any) -> list[Any]:
    """The only output of a model without a free batch dimension: its one row, or all of it as one prediction."""
    return array.tolist() if array.ndim and len(array) == 1 else [array.tolist()]


def _json(value: object) -> bytes:
    """Strict JSON: what is no number of its (NaN, infinities) is null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).encode("ascii")


def _finite(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value
