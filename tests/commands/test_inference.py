"""submit --model: what the flags become, and what is refused before anything is sent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.apps.tflite import tiny
from ipdc_edge.commands import inference, submit
from ipdc_edge.commands.inputs import Input
from ipdc_edge.errors import IpdcError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "Pre.py": "import shared\ndef pre(name, data):\n    yield data\n", "shared.py": "",
        "Post.py": "def post(name, outputs):\n    yield name, 1\ndef other(name, outputs):\n    yield 1, 2\n",
        "Count.py": "def reduce(key, values):\n    yield key, 1\ndef combine(key, values):\n    yield key, 1\n",
        "Sum.py": "def reduce(key, values):\n    yield key, 1\n", "rows.csv": "1,2,3,4\n",
        "note.txt": "hello there, all",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "m.tflite").write_bytes(tiny.model(9, 12))
    (tmp_path / "odd.lite").write_bytes(tiny.model(32, 1, "FlexErf"))
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    submit.configure(parser)
    args = parser.parse_args(words)
    inference.check(args, submit.MAPREDUCE)
    return args


def job(*words: str) -> Any:
    return inference.read(parsed(*words, "--input", "rows.csv"))


def test_a_model_is_the_map_of_the_first_step(files: Path) -> None:
    found = job("--model", "m.tflite", "--pre", "Pre.py", "--post", "Post.py:other", "Count.py")
    step = {"map": "m.tflite", "pre": "Pre.py", "post": "Post.py:other", "reduce": "Count.py", "combine": "Count.py"}
    assert found.options == {"steps": [step], "output_format": "json", "operators": [[9, 12]]}
    assert sorted(found.paths) == ["Count.py", "Post.py", "Pre.py", "m.tflite", "shared.py"], "with what Pre.py imports"


def test_only_a_model_is_enough_and_its_name_tells_what_it_is(files: Path) -> None:
    found = job("--model", str(files / "odd.lite"), "--skip-bad", "3", "--output-format", "text", "--args", '{"a": 1}')
    assert found.options == {"steps": [{"map": "odd.lite.tflite"}], "output_format": "text",
                             "operators": [[32, 1, "FlexErf"]], "skip_bad": 3}
    assert found.paths == {"odd.lite.tflite": str(files / "odd.lite")} and found.arguments == {"a": 1}
    assert "combine" not in job("--model", "m.tflite", "Sum.py").options["steps"][0]


@pytest.mark.parametrize("words, said", [
    (["--pre", "Pre.py"], "--pre belongs to a model"),
    (["--post", "Post.py"], "--post belongs to a model"),
    (["--model", "m.tflite", "--app", "search"], "--model and --app search"),
    (["--model", "m.tflite", "Count.py", "Sum.py"], "Count.py Sum.py with --model"),
    (["--model", "m.tflite", "--mapper", "cat"], "--mapper with --model"),
    (["--model", "m.tflite", "--step", "Sum.py"], "--step with --model"),
    (["--model", "m.tflite", "--input-format", "json"], "--input-format json with --model"),
    (["--model", "m.tflite", "--sort-values"], "--sort-values does nothing"),
    (["--model", "m.tflite", "--pre", "Post.py"], "Post.py defines no pre.name, data."),
    (["--model", "m.tflite", "--post", "Post.py:nothing"], "Post.py defines no nothing"),
    (["--model", "m.tflite", "Pre.py"], "Pre.py defines no reduce"),
    (["--model", "none.tflite"], "Cannot read none.tflite: No such file or directory"),
    (["--model", "empty.tflite"], "empty.tflite is no TensorFlow Lite model: it is empty"),
    (["--model", "rows.csv"], "rows.csv is no TensorFlow Lite model that can be read"),
])
def test_what_makes_no_sense_is_told_before_anything_is_sent(files: Path, words: list[str], said: str) -> None:
    with pytest.raises(IpdcError, match=said):
        job(*words)


def test_other_jobs_do_not_have_its_formats(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "Map.py").write_text("def map(key, line):\n    yield 1, 1\n")
    assert main(["submit", "Map.py", "--input", "rows.csv", "--input-format", "npy"]) == 2
    assert "--input-format npy is for --model" in capsys.readouterr().err


def test_images_are_seen_by_name_or_by_their_first_bytes(files: Path) -> None:
    def images(*names: str, wanted: str = "auto", pattern: str | None = None) -> bool:
        return inference.has_images([Input(name, name) for name in names], wanted, pattern)

    assert images("photo", "rows.csv") and not images("rows.csv") and images("rows.csv", wanted="image")
    assert images(pattern="/srv/camera/*.jpg") and not images(pattern="/srv/*.csv")
    assert not inference.has_images([Input("bafk", None, "bafk")], "auto", None), "whoever reads it will see"
    with pytest.raises(inference.WhatIsIt, match="^note.txt: neither its name nor its first bytes"):
        images("note.txt")
