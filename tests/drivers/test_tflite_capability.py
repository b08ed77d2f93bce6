"""What a node says of its interpreter, without importing one; and what a hostile one can make it say."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.core.messages import Present
from ipdc_edge.drivers import sandbox
from ipdc_edge.drivers import tflite_capability as capability
from ipdc_edge.home import Home
from tests.core.scenario import record

GOOD = {"interpreter": "ai_edge_litert", "version": "2.3.0", "operators": "637e", "pillow": "12.0.0"}


def packages(venv: Path) -> Path:
    place = Path(capability.packages_of(str(venv)))
    place.mkdir(parents=True)
    return place


def test_what_is_installed_is_seen_in_the_order_of_choice(tmp_path: Path) -> None:
    assert capability.installed(str(tmp_path / "none"), []) == []
    place = packages(tmp_path / "venv")
    (place / "tensorflow").mkdir()
    (place / "tflite_runtime").mkdir()
    (tmp_path / "dist-packages" / "ai_edge_litert").mkdir(parents=True)
    found = capability.installed(str(tmp_path / "venv"), [str(tmp_path / "dist-packages")])
    assert found == ["ai_edge_litert", "tflite_runtime", "tensorflow"]
    assert capability.look(str(tmp_path / "venv")) is capability.UNKNOWN
    assert capability.UNKNOWN.described() == ((), (capability.PROVING,))


@pytest.mark.parametrize("machine, version, bits, wanted", [
    ("x86_64", (3, 11), 64, "pip install ai-edge-litert"),
    ("aarch64", (3, 13), 64, "pip install ai-edge-litert"),
    ("armv7l", (3, 11), 32, "pip install tflite-runtime"),
    ("aarch64", (3, 11), 32, "pip install tflite-runtime"),
    ("armv7l", (3, 13), 32, "there is no interpreter for Python 3.13 on armv7l with 32 bits"),
    ("aarch64", (3, 13), 32, "there is no interpreter for Python 3.13 on aarch64 with 32 bits"),
    ("riscv64", (3, 11), 64, "there is no interpreter for Python 3.11 on riscv64"),
])
def test_a_node_without_one_says_the_way_to_one_or_that_there_is_none(
    machine: str, version: tuple[int, int], bits: int, wanted: str
) -> None:
    told = capability.absent("/nowhere/venv", machine, version, bits)
    assert wanted in told and len(told) < capability.MOST_REASON
    assert ("install" in told) == ("python3 -m venv --system-site-packages /nowhere/venv &&" in told)


def test_the_record_names_it_within_what_a_record_may_say() -> None:
    found = capability._checked({**GOOD, "operators": "z" * 230})
    words, unable = found.described()
    assert words[0] == "tflite=ai_edge_litert 2.3.0" and words[2] == "pillow=12.0.0" and unable == ()
    assert all(len(word) <= 256 for word in words)
    assert capability._checked({**GOOD, "pillow": ""}).described()[0][-1].startswith("tflite-operators=")


@pytest.mark.parametrize("answer", [
    None, [], {}, {**GOOD, "interpreter": "a b"}, {**GOOD, "version": "1\n2"}, {**GOOD, "operators": ""},
    {**GOOD, "operators": "z" * 231}, {**GOOD, "operators": 3}, {"reason": "x\x1b[2J\n" + "y" * 999},
])
def test_what_the_libraries_say_is_bounded_and_printable(answer: Any) -> None:
    words, unable = capability._checked(answer).described()
    assert words == () and len(unable) == 1 and unable[0].startswith("tflite: ")
    assert len(unable[0]) <= 256 and unable[0].isprintable()
    codec, told = MessageCodec((), ()), Present(record("w1", unable=unable))
    assert codec.decode("node", codec.encode(told, 1).payload) == (1, told), "it goes into a record"


def prove(tmp_path: Path, kind: str = "rlimits") -> capability.Found:
    home = Home({"IPDC_HOME": str(tmp_path)})
    home.prepare()

    async def proving() -> capability.Found:
        return await capability.prove(sandbox.choose(home, kind, lambda line: None), home.venv)

    return asyncio.run(proving())


def test_an_interpreter_that_ends_its_process_is_a_reason_too(tmp_path: Path) -> None:
    place = packages(tmp_path / "venv")
    for name in ("numpy", "ai_edge_litert"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("" if name == "numpy" else "import os; os._exit(7)\n")
    assert "exit status 7" in prove(tmp_path).reason


def test_one_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    place = packages(tmp_path / "venv")
    (place / "ai_edge_litert").mkdir()
    (place / "ai_edge_litert" / "__init__.py").write_text("")
    assert "numpy is missing" in prove(tmp_path).reason
    (place / "numpy").mkdir()
    (place / "numpy" / "__init__.py").write_text("")
    (place / "ai_edge_litert" / "interpreter.py").write_text("raise OSError('wrong ELF class')\n")
    found = prove(tmp_path)
    assert found.reason == "ai_edge_litert: OSError: wrong ELF class"
    assert "numpy" not in sys.modules, "never in this process"
