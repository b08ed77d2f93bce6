"""How a served model's calls are put together and parted, with real models in a real interpreter: those that do not
keep to what they say of their batch, and those that fail."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.lab.conftest import ROOT
from tests.tensorflow import installed

pytestmark = pytest.mark.tensorflow

SCRIPT = '''
import io, json, struct, sys
import numpy
from ipdc_edge.apps.tflite import interpreter
from ipdc_edge.apps.tflite.batches import Batched, MOST
from ipdc_edge.apps.tflite.serve import Decoder, Served, ServeTask
from ipdc_edge.apps.tflite.tiny import Table, Vector, written
from ipdc_edge.codec import serving

RELU, RESHAPE = 19, 22

def model(code, output, to=None):
    """outputs = OPERATOR(float32 [any, 4]), or RESHAPE to the constant `to`; output: what it says of its output."""
    def tensor(name, shape, kind, buffer):
        return Table(f0=Vector("i", [abs(size) for size in shape]), f1=("b", kind), f2=("I", buffer), f3=name,
                     f7=Vector("i", shape))
    tensors = [tensor(b"input", [-1, 4], 0, 1), tensor(b"output", output, 0, 2)]
    buffers = [Table(), Table(), Table()]
    if to:
        tensors.append(tensor(b"to", [len(to)], 2, 3))
        buffers.append(Table(f0=Vector("B", list(struct.pack(f"<{len(to)}i", *to)))))
    call = Table(f0=("I", 0), f1=Vector("i", [0, 2] if to else [0]), f2=Vector("i", [1]))
    graph = Table(f0=Vector("", tensors), f1=Vector("i", [0]), f2=Vector("i", [1]), f3=Vector("", [call]), f4=b"main")
    whole = Table(f0=("I", 3), f1=Vector("", [Table(f0=("b", code), f2=("i", 1), f3=("i", code))]),
                  f2=Vector("", [graph]), f3=b"test", f4=Vector("", buffers))
    return Batched(interpreter.find(), "m.tflite", written(whole), "")

class Io:
    def __init__(self):
        self.told = {}
    def write(self, stream, data):
        place, well, inputs, body = serving.unpack_result(data)
        assert place not in self.told
        self.told[place] = json.loads(body)

def asked(found, *requests, kind="json", pre=None, post=None):
    task = ServeTask(Served(found, pre, post), Io())
    bodies = [one if isinstance(one, bytes) else json.dumps({"instances": one}).encode() for one in requests]
    task._batch([(kind, "", body) for body in bodies])
    return [task.io.told[place] for place in range(len(bodies))]

def row(*values):
    return [float(value) for value in values]
'''


def told(code: str) -> Any:
    """What the code below the script says, as JSON."""
    done = subprocess.run([str(installed.litert_venv() / "bin" / "python"), "-c", SCRIPT + code], text=True,
                          env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_answers_of_a_batch_go_to_who_asked() -> None:
    found = told("""
relu = model(RELU, [-1, 4])
assert relu.free
print(json.dumps(asked(relu, [row(1, -1, 1, 1)], [row(2, -1, 2, 2), row(3, 3, 3, 3)], [row(4, 4, 4, 4)])))
""")
    assert [one["predictions"] for one in found] == [[[1, 0, 1, 1]], [[2, 0, 2, 2], [3, 3, 3, 3]], [[4, 4, 4, 4]]]


def test_a_model_whose_outputs_are_not_one_for_each_input_gets_one_at_a_time() -> None:
    """Two rows for each input, in one dimension that the model says is free."""
    found = told("""
halves = model(RESHAPE, [-1, 2], [-1, 2])
assert halves.free
first = asked(halves, [row(1, 2, 3, 4)], [row(5, 6, 7, 8)])
assert not halves.free
alone = model(RESHAPE, [-1, 2], [-1, 2])
print(json.dumps([first, asked(halves, [row(1, 1, 2, 2)], [row(3, 3, 4, 4)]), asked(alone, [row(1, 2, 3, 4)])]))
""")
    first, then, alone = ([one["predictions"] for one in told] for told in found)
    assert first == [[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]]
    assert then == [[[[1, 1], [2, 2]]], [[[3, 3], [4, 4]]]]
    assert alone == [[[[1, 2], [3, 4]]]]


def test_where_a_batch_cannot_be_computed_its_halves_are_and_what_was_learnt_is_kept() -> None:
    found = told("""
strict = model(RESHAPE, [-1, 4], [1, 4])  # says that its batch is free, and takes one input
assert strict.free
many = asked(strict, *[[row(n, n, n, n)] for n in range(5)])
print(json.dumps([many, strict.most, asked(strict, [row(7, 7, 7, 7), row(8, 8, 8, 8)]), strict.free]))
""")
    many, most, after, free = found
    assert [one["predictions"] for one in many] == [[[n] * 4] for n in range(5)]
    assert (most, free, after[0]["predictions"]) == (1, True, [[7] * 4, [8] * 4])


def test_an_input_that_fails_makes_no_batch_smaller() -> None:
    found = told("""
relu = model(RELU, [-1, 4])
call = relu._call
def fails(columns):
    if (columns[0] == 13).any():
        raise RuntimeError("thirteen")
    return call(columns)
relu._call = fails
print(json.dumps([asked(relu, *[[row(n, n, n, n)] for n in (12, 13, 14, 15)]), relu.most == MOST]))
""")
    answers, whole = found
    assert [one.get("error") or one["predictions"][0][0] for one in answers] == [12, "RuntimeError: thirteen", 14, 15]
    assert whole


def test_several_outputs_without_a_batch_dimension_are_whole() -> None:
    found = told("""
class Two:
    free, inputs = False, []
    def run(self, given):
        arrays = {"scores": [[1.0, 2.0]], "boxes": [3.0, 4.0], "count": 5}
        return interpreter.Outputs({name: numpy.array(value) for name, value in arrays.items()})
def pre(name, data):
    yield data
print(json.dumps(asked(Two(), [1], pre=pre)))
""")
    assert found == [{"predictions": [{"scores": [1, 2], "boxes": [3, 4], "count": 5}]}]


def test_a_line_of_csv_ends_where_csv_says_so() -> None:
    found = told("""
print(json.dumps(list(Decoder("").records("csv", 'a\\u2028b,"x\\ny"\\r\\n\\nc,\\x0bd\\n'.encode()))))
""")
    assert found == [["a\u2028b", "x\ny"], ["c", "\x0bd"]]


def test_an_error_that_cannot_say_what_it_is_is_told_by_its_type() -> None:
    found = told("""
class Odd(Exception):
    def __str__(self):
        raise SystemExit(3)
def pre(name, data):
    if data == 1:
        raise Odd
    yield numpy.array([[1, 2, 3, 4]], "float32")
print(json.dumps(asked(model(RELU, [-1, 4]), [1], [2], pre=pre)))
""")
    assert found == [{"error": "Odd"}, {"predictions": [[1, 2, 3, 4]]}]
