"""Inference with the real interpreters, in real runners: what TensorFlow says comes out, whichever way it goes in."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.codec.answers import TaskFailed
from ipdc_edge.drivers.runner import Runner, RunnerDied
from tests.tensorflow import inference, installed
from tests.tensorflow.inference import Inference

pytestmark = pytest.mark.tensorflow
RELU = tiny.model(tiny.RELU)
KINDS = ("ai_edge_litert", "tflite_runtime")
# Outputs are probabilities. TensorFlow's own float function, and its interpreter: of another version, so a step or two.
FROM_FLOAT = {"float32": 1e-5, "float16": 2e-3, "dynamic": 2e-2, "int8": 6e-2}
FROM_INTERPRETER = {"float32": 1e-5, "float16": 1e-5, "dynamic": 2e-2, "int8": 2.1 / 256}


@pytest.fixture(params=KINDS)
def venv(request: pytest.FixtureRequest) -> Path:
    """The jobs' environment of each interpreter."""
    if request.param not in (found := inference.environments()):
        pytest.skip(f"does not apply: {request.param} has no wheel for this Python")
    return found[request.param]


@pytest.fixture(scope="module")
def litert() -> Path:
    return installed.litert_venv()


def images() -> dict[str, bytes]:
    directory = inference.models() / "images"
    return {f"images/{path.name}": path.read_bytes() for path in sorted(directory.iterdir())}


def flat(pairs: list[Any]) -> dict[Any, list[float]]:
    return {str(key): value[0] for key, value in pairs}


def furthest(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> float:
    assert sorted(found) == sorted(wanted)
    return max(abs(a - b) for name in wanted for a, b in zip(found[name], wanted[name], strict=True))


@pytest.mark.parametrize("kind", FROM_FLOAT)
def test_outputs_agree_with_tensorflow(venv: Path, kind: str) -> None:
    if kind == "dynamic" and "tflite" in venv.name:
        pytest.skip("does not apply: tflite-runtime 2.14 does not know FULLY_CONNECTED version 12 (a test of its own)")
    model, expected = (inference.models() / f"{kind}.tflite").read_bytes(), inference.expected()
    rows = inference.pixels()
    with_rows = Inference(venv, model).run({f"{name}.csv": row.encode() for name, row in rows.items()})[0]
    found = {key[0].removesuffix(".csv"): value[0] for key, value in with_rows}
    assert furthest(found, expected[kind]) <= FROM_INTERPRETER[kind]
    assert furthest(found, expected["float"]) <= FROM_FLOAT[kind]
    best = {name: max(range(5), key=values.__getitem__) for name, values in expected["float"].items()}
    assert len(set(best.values())) > 1, "a data set that tells the classes apart"


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_images_are_the_same_as_their_pixels(litert: Path, kind: str) -> None:
    model = (inference.models() / f"{kind}.tflite").read_bytes()
    found = flat(Inference(litert, model).run(images())[0])
    assert furthest(found, inference.expected()[kind]) <= FROM_INTERPRETER[kind]


QUANTIZED = """
import json, numpy
from ipdc_edge.apps.tflite.interpreter import Model, Tensor, WrongTensor
def typed(kind, scale, values):
    tensor = Tensor("x", {"index": 0, "dtype": kind, "shape": [5], "quantization": (scale, 3)})
    try:
        return Model._typed(None, tensor, numpy.array(values), "given").tolist()
    except WrongTensor as error:
        return str(error)
print(json.dumps([typed(numpy.int8, 0.5, [0.24, 0.25, -0.25, 100.0, -100.0]),
                  typed(numpy.uint8, 0.5, [0.25, -1.5, -2.0, 126.0, 127.0]), typed(numpy.int32, 0.0, [1.5]),
                  typed(numpy.int8, 0.5, [-128, 127, 0]), typed(numpy.int8, 0.5, [128])]))
"""


def test_real_values_are_quantized_as_tensorflow_does_it(litert: Path) -> None:
    """The nearest step, halves away from zero, and the ends of the type for what is beyond; whole numbers as they
    are."""
    command = [litert / "bin" / "python", "-c", QUANTIZED]
    done = subprocess.run(command, cwd=inference.ROOT, capture_output=True, check=True)
    signed, unsigned, no_scale, whole, too_big = json.loads(done.stdout)
    assert signed == [3, 4, 2, 127, -128] and unsigned == [4, 0, 0, 255, 255] and whole == [-128, 127, 0]
    assert "Give whole numbers" in no_scale and "from -128 to 127" in too_big


def array(text: str) -> bytes:
    """The .npy file of an expression."""
    script = f"import numpy, sys; numpy.save(sys.stdout.buffer, {text})"
    return subprocess.run([installed.litert_venv() / "bin" / "python", "-c", script], check=True,
                          capture_output=True).stdout


def test_every_kind_of_input_is_keyed_by_its_name_and_by_its_place_where_it_has_several(venv: Path) -> None:
    (found,) = Inference(venv, RELU).run({
        "a.csv": b"-1,2,-3,4\n5,6,7,8\n",
        "b.bin": struct.pack("<4f", -1, 0, 1, 2), "c.bin": struct.pack("<8f", *range(8)),
        "d.npy": array("numpy.array([[1, -2, 3, -4]], 'float32')"), "e.npy": array("numpy.arange(8).reshape(2, 4)"),
        "f.npy": array("numpy.array([1, -2, 3, -4.5])"), "named by nothing": array("numpy.ones(4, 'int8')"),
    })
    assert found == [
        [["a.csv", 0], [[0, 2, 0, 4]]], [["a.csv", 10], [[5, 6, 7, 8]]], ["b.bin", [[0, 0, 1, 2]]],
        [["c.bin", 0], [[0, 1, 2, 3]]], [["c.bin", 1], [[4, 5, 6, 7]]], ["d.npy", [[1, 0, 3, 0]]],
        [["e.npy", 0], [[0, 1, 2, 3]]], [["e.npy", 1], [[4, 5, 6, 7]]], ["f.npy", [[1, 0, 3, 0]]],
        ["named by nothing", [[1, 1, 1, 1]]],
    ]


def test_pre_and_post_get_what_the_manual_says(litert: Path) -> None:
    pre = """
import numpy
def setup(args):
    print("once")
def pre(name, data, context):
    context.count("inputs")
    buffer = numpy.zeros(4)
    for number in range(len(data)):
        buffer[:] = -1
        buffer[number % 4] = float(data[number])
        yield buffer
"""
    post = """
def post(name, outputs):
    assert outputs[0] is outputs["output"] and list(outputs) == ["output"]
    try:
        outputs["nothing"]
    except KeyError as error:
        assert "'output'" in str(error)
    yield name, (float(outputs[0].sum()), str(outputs[0].dtype), list(outputs[0].shape))
"""
    job = Inference(litert, RELU, code={"Pre.py": pre, "Post.py": post})
    first, second = job.run({"a.csv": b"1,2\n7\n"}, {"b.csv": b"9\n"})
    assert first == [[["a.csv", 0, 0], [1.0, "float32", [1, 4]]], [["a.csv", 0, 1], [2.0, "float32", [1, 4]]],
                     [["a.csv", 4], [7.0, "float32", [1, 4]]]], "one array, filled anew, is two inferences"
    assert second == [[["b.csv", 0], [9.0, "float32", [1, 4]]]]
    assert job.printed == b"once\n", "the model is loaded once for all tasks, and says nothing itself"


@pytest.mark.parametrize("name, data, wanted", [
    ("bad.png", b"junk", "bad.png is no PNG or JPEG image that can be decoded: it does not begin as one"),
    ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cut.png is no PNG or JPEG image"),
    ("bad.npy", b"\x93NUMPY\x01\x00", "bad.npy is no .npy array that can be decoded"),
    ("evil.npy",
     b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n",
     "evil.npy is no .npy array that can be decoded: Object arrays cannot be loaded"),
    ("what", b"hello there", "what is no image, .npy or CSV that can be decoded: neither its name"),
    ("three.csv", b"1,2,3\n", "a row of 3 values does not fit the model's input input, which is float32 [1, 4]"),
    ("words.csv", b"1,2,3,four\n", "a row in which could not convert string to float: 'four'"),
    ("quoted.csv", b'1,"2\n', "quoted.csv, byte offset 0: a record that is no CSV row"),
    ("short.bin", b"123", "a file of 3 bytes does not fit the model's input input, which is float32 [1, 4], 16 bytes"),
    ("wide.npy", None, "the model's input input takes float32 [1, 4], and was given float32 [1, 5]"),
    ("text.npy", "numpy.array(['a'])", "Give numbers"),
])
def test_what_cannot_be_decoded_is_named_and_can_be_skipped(
    litert: Path, name: str, data: bytes | str | None, wanted: str
) -> None:
    content = array(data or "numpy.zeros((1, 5), 'float32')") if not isinstance(data, bytes) else data
    inputs = {"good.csv": b"1,2,3,4\n", name: content, "last.csv": b"5,6,7,8\n"}
    with pytest.raises(TaskFailed) as failed:
        Inference(litert, RELU).run(inputs)
    details = failed.value.details
    assert wanted in details["message"] and details["input"] == name
    job = Inference(litert, RELU, skip_bad=1)
    found = job.run(inputs)[0]
    assert [key[0] for key, _ in found] == ["good.csv", "last.csv"]
    assert [(record["input"], bool(record["error"])) for record in job.aside] == [(name, True)]


def test_the_users_own_errors_say_whose_they_are(litert: Path) -> None:
    for name, role, code in (
        ("Pre.py", "pre", "def pre(name, data):\n    yield 1 / 0\n"),
        ("Post.py", "post", "def post(name, outputs):\n    yield 1 / 0\n"),
    ):
        with pytest.raises(TaskFailed) as failed:
            Inference(litert, RELU, code={name: code}).run({"a.csv": b"1,2,3,4\n"})
        details = failed.value.details
        assert (details["where"], details["input"], details["type"]) == (role, "a.csv", "ZeroDivisionError")
        assert f'File "{name}", line 2' in details["traceback"]


def test_a_model_that_the_interpreter_refuses_names_the_operator(venv: Path) -> None:
    for model, wanted in ((tiny.model(9, 30), "FULLY_CONNECTED"), (tiny.model(32, 1, "MyOwn"), "MyOwn"),
                          (b"\0" * 100, "m.tflite")):
        with pytest.raises(TaskFailed) as failed:
            Inference(venv, model).run()
        details = failed.value.details
        assert details["type"] == "ModelRefused" and wanted in details["message"] and details["where"] == "load"


def test_the_real_operators_of_a_dynamic_range_model_are_more_than_tflite_runtime_knows() -> None:
    assert [9, 12] in inference.operators("dynamic.tflite"), "FULLY_CONNECTED version 12"
    assert [9, 1] in inference.operators("float32.tflite")
    assert [32, 1, "FlexSinh"] in inference.operators("flex.tflite")


def test_images_of_every_kind_are_bytes_of_one_or_three_channels(litert: Path) -> None:
    post = "def post(name, outputs):\n    yield name, 1\n"
    pre = """
def pre(name, data):
    print(name, data.dtype, *data.shape, data[0, 0].tolist())
    yield [0.0] * 4
"""
    job = Inference(litert, RELU, code={"Pre.py": pre, "Post.py": post})
    kinds = {"L": 7, "RGB": (1, 2, 3), "RGBA": (1, 2, 3, 4), "LA": (7, 9), "1": 1, "P": 0}
    files = {f"{mode}.png": picture(mode, color) for mode, color in kinds.items()}
    files["c.jpg"] = picture("CMYK", (0, 0, 0, 0), "JPEG")
    job.run(files)
    assert job.printed.decode().splitlines() == [
        "L.png uint8 2 3 1 [7]", "RGB.png uint8 2 3 3 [1, 2, 3]", "RGBA.png uint8 2 3 3 [1, 2, 3]",
        "LA.png uint8 2 3 1 [7]", "1.png uint8 2 3 1 [255]", "P.png uint8 2 3 3 [0, 0, 0]",
        "c.jpg uint8 2 3 3 [255, 255, 255]"]
    with pytest.raises(TaskFailed, match="deep is no PNG or JPEG image that can be decoded: its pixels are no bytes"):
        Inference(litert, RELU).run({"deep": picture("I;16", 300)})


def picture(mode: str, color: object, kind: str = "PNG") -> bytes:
    script = (f"import io, sys; from PIL import Image; file = io.BytesIO(); "
              f"Image.new({mode!r}, (3, 2), {color!r}).save(file, {kind!r}); sys.stdout.buffer.write(file.getvalue())")
    return subprocess.run([installed.litert_venv() / "bin" / "python", "-c", script], check=True,
                          capture_output=True).stdout


def test_an_image_that_says_it_is_huge_is_not_decoded(litert: Path) -> None:
    small = bytearray(picture("L", 1))
    small[16:24] = struct.pack(">II", 60_000, 60_000)  # IHDR's width and height
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    with pytest.raises(TaskFailed, match="bomb.png is no PNG or JPEG image that can be decoded"):
        Inference(litert, RELU).run({"bomb.png": bytes(small)})


def test_a_model_that_crashes_the_library_ends_its_runner_and_says_how(litert: Path) -> None:
    """This operator reads options that the model does not have."""
    with pytest.raises(RunnerDied, match="SIGSEGV"):
        Inference(litert, tiny.model(32, 1, "TFLite_Detection_PostProcess")).run()


class Measured(Inference):
    """Takes the memory of the runner's own process at its end."""

    pss = 0.0

    def look(self, runner: Runner) -> None:
        processes = [runner.process]
        for pid in processes:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
                processes += map(int, children.read().split())
        self.pss = max(_pss(pid) for pid in processes)


def _pss(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) / 1024 for line in rollup if line.startswith("Pss:"))


def test_a_runner_with_a_model_of_a_megabyte_takes_at_most_48_mb(venv: Path) -> None:
    model = (inference.models() / "megabyte.tflite").read_bytes()
    assert 1 << 20 < len(model) < 2 << 20
    given = struct.pack("<3072f", *([0.5] * 3072))
    job = Measured(venv, model)
    found = job.run(*[{f"{number}.bin": given} for number in range(30)])
    assert len(found) == 30 and len(found[0][0][1][0]) == 10
    assert 10 < job.pss <= 48, f"{job.pss:.1f} MB"


def test_a_big_model_is_mapped_and_not_read(litert: Path) -> None:
    """A file of 40 MB behind a model of 1 MB: more than the job's memory together with the libraries."""
    model = (inference.models() / "megabyte.tflite").read_bytes()
    job = Measured(litert, model + bytes(40 << 20))
    assert job.run({"0.bin": struct.pack("<3072f", *([0.5] * 3072))})[0]
    assert job.pss <= 48, f"{job.pss:.1f} MB"


def test_memory_that_is_too_small_ends_in_words_and_not_in_a_hang(litert: Path) -> None:
    with pytest.raises((RunnerDied, TaskFailed)):
        Inference(litert, RELU, memory=16 << 20, mapped=0).run({"a.csv": b"1,2,3,4\n"})


def test_json_lines_are_json(litert: Path) -> None:
    (found,) = Inference(litert, RELU).run({"ü ñ.csv": b"1,2,3,4\n"})
    assert json.loads(json.dumps(found)) == [[["ü ñ.csv", 0], [[1.0, 2.0, 3.0, 4.0]]]]
