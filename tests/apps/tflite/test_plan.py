"""What a description of inference may say, how inputs are cut, and which nodes can do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipdc_edge.apps.mapreduce.plan import BLOCK
from ipdc_edge.apps.tflite.formats import format_by_start, format_of
from ipdc_edge.apps.tflite.plan import TFLite, unknown
from ipdc_edge.codec.bundle import MOST_MODEL_BYTES, bundle_items
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.tflite_model import Operator
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.placement import judge
from ipdc_edge.core.values import JobSpec, NodeRecord, Vitals

PLAN = TFLite()
KNOWN = "6" * 9 + "e"  # FULLY_CONNECTED up to version 14


def spec(names: list[str], size: int = 9 * BLOCK, step: dict[str, Any] | None = None, **options: Any) -> JobSpec:
    code = {name: {"cid": raw_cid(name.encode()), "size": 1} for name in ("m.tflite", "Pre.py", "Post.py", "Reduce.py")}
    inputs = [{"name": name, "cid": raw_cid(name.encode()), "size": size} for name in names]
    body = {"version": 1, "app": "tflite", "workers": 2, "memory": 48 << 20, "code": code, "inputs": inputs,
            "options": {"steps": [{"map": "m.tflite", **(step or {})}], "operators": [[9, 12]], **options}}
    return spec_of(raw_cid(b"spec"), body)


def record(*capabilities: str, **changes: Any) -> NodeRecord:
    vitals = Vitals(1 << 30, 1 << 29, 1, 1.0, 0.0, 1.0, 1 << 30)
    node = NodeRecord("Qm" + "a" * 44, "board", "ready", "", "", "1", capabilities, 1, "bubblewrap", vitals)
    return replace(node, **changes)


ABLE = ("mapreduce", "tflite", "tflite=ai_edge_litert 2.3.0", f"tflite-operators={KNOWN}")


def test_rows_are_cut_and_everything_else_is_whole() -> None:
    job = spec(["a.csv", "b.PNG", "c.npy", "d.bin", "nothing", "e.csv.gz"])
    PLAN.check(job)
    tasks = PLAN.plan(job)
    cuts: dict[int, int] = {}
    for task in tasks:
        assert task.data is not None
        for number, _start, _end in task.data["ranges"]:
            cuts[number] = cuts.get(number, 0) + 1
    assert cuts == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 2}, "splits of 7 MB"
    assert {(task.command, task.report, task.final) for task in tasks} == {("do-infer", "get-inferred", True)}
    all_rows = PLAN.plan(spec(["a.txt"], input_format="csv"))
    assert len(all_rows) > len(PLAN.plan(spec(["a.txt"])))


def test_a_reduce_follows_on_channels_of_its_own() -> None:
    told = [(task.command, task.report, task.final) for task in PLAN.plan(spec(["a.png"], 9, {"reduce": "Reduce.py"}))]
    assert told == [("do-infer", "inferred", False)] + [("do-summarise", "get-inferred", True)] * 2


@pytest.mark.parametrize("change, reason", [
    ({"step": {"map": "Pre.py"}}, "no file of a model"),
    ({"step": {"pre": "No.py"}}, "pre program 'No.py' is not among"),
    ({"step": {"post": 3}}, "post program '3'"),
    ({"input_format": "video"}, "input_format 'video'"),
    ({"images": "yes"}, "images 'yes'"),
    ({"operators": None}, "'operators' is not a list"),
    ({"operators": []}, "'operators' is not a list"),
    ({"operators": [[9, 12]] * 1001}, "'operators' is not a list"),
    ({"operators": [[9]]}, "is not .code, version."),
    ({"operators": [[-1, 1]]}, "is not .code, version."),
    ({"operators": [[True, 1]]}, "is not .code, version."),
    ({"operators": [[32, 1, "x" * 101]]}, "is not .code, version."),
    ({"operators": [[32, 1, "\x1b[2J"]]}, "operator"),
])
def test_what_makes_no_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSpec, match=reason):
        PLAN.check(spec(["a.png"], **change))


def test_operators_are_known_up_to_a_version() -> None:
    assert unknown([Operator(9, 14), Operator(0, 6)], KNOWN) == []
    assert unknown([Operator(9, 15)], KNOWN) == ["FULLY_CONNECTED version 15 (only up to version 14)"]
    assert unknown([Operator(150, 1)], KNOWN) == ["GELU version 1"]
    assert unknown([Operator(32, 1, "FlexErf")], KNOWN) == ["FlexErf, an operator of TensorFlow (a Flex one)"]
    assert unknown([Operator(32, 1, "Own")], KNOWN) == ["Own, an operator of its own"]
    assert unknown([Operator(32, 1, "TFLite_Detection_PostProcess")], KNOWN) == []
    assert unknown([Operator(0, 1)], "²"), "a peer's record, which may say anything"


def test_placement_says_what_a_node_lacks() -> None:
    old = record("tflite", "tflite=tflite_runtime 2.14.0", "tflite-operators=" + "a" * 10)
    job = spec(["a.png"])
    assert PLAN.unfit(job, record(*ABLE)) == ()
    assert PLAN.unfit(job, old) == (
        "its interpreter, tflite_runtime 2.14.0, does not know the model's FULLY_CONNECTED version 12 (only up to "
        "version 10)",)
    pictures = spec(["a.png"], images=True)
    assert "no Pillow" in PLAN.unfit(pictures, record(*ABLE))[0]
    assert PLAN.unfit(pictures, record(*ABLE, "pillow=12.0.0")) == ()
    heavy = record("tflite", "tflite=tensorflow 2.21.0", f"tflite-operators={KNOWN}")
    assert "needs --memory 640M" in PLAN.unfit(job, heavy)[0]
    none = record("mapreduce", unable=("tensorflow: none", "tflite: there is no interpreter for Python 3.13 on armv7l"))
    verdict = judge(none, job, "", 0, PLAN.unfit(job, none))
    assert not verdict.suitable
    assert verdict.reasons == ("cannot do tflite: there is no interpreter for Python 3.13 on armv7l",)
    assert judge(record(*ABLE), job, "", 0, ()).suitable


def test_formats_go_by_name_or_by_the_first_bytes() -> None:
    names = {"a.jpeg": "image", "A.JPG": "image", "x.csv.gz": "csv", "x.npy": "npy", "x.bin": "raw", "x": "auto",
             "": "auto"}
    assert {name: format_of(name) for name in names} == names
    assert format_of("x.png", "raw") == "raw", "what the job says goes before"
    starts = (b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0", b"\x93NUMPY", b"1,2")
    assert [format_by_start(start) for start in starts] == ["image", "image", "npy", "auto"]


def test_a_model_may_be_bigger_than_code_and_is_bounded_all_the_same() -> None:
    def body(**sizes: int) -> dict[str, Any]:
        return {"code": {name: {"cid": raw_cid(b"x"), "size": size} for name, size in sizes.items()}}

    assert bundle_items(body(**{"m.tflite": MOST_MODEL_BYTES, "Pre.py": 10}))
    two = {"a.tflite": MOST_MODEL_BYTES, "b.tflite": 1}
    for wrong in ({"m.tflite": MOST_MODEL_BYTES + 1}, two, {"m.bin": 17 << 20}):
        with pytest.raises(BadSpec, match="at most"):
            bundle_items(body(**wrong))
