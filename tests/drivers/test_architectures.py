"""Architectures of others' packages: found by their entry points, loaded, and left out when they are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
GOOD = """
from ipdc_edge.core.architecture import Architecture

class Count(Architecture):
    name, module = "count", "count_task"
    commands, reports = ("do-count",), ("counted",)
"""


def install(site: Path, module: str, code: str, *entries: str) -> None:
    """A package as pip leaves it: a module, and the metadata that registers it."""
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    lines = [f"{entry.partition(':')[0]} = {entry.partition(':')[2]}" for entry in entries]
    (info / "entry_points.txt").write_text("[ipdc_edge.apps]\n" + "\n".join(lines) + "\n")


def found(tmp_path: Path) -> tuple[str, str]:
    """What a node with tmp_path/site among its packages finds: names with their channels, and what it complains of."""
    python = tmp_path / "venv/bin/python"
    if not python.exists():
        make = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", tmp_path / "venv"]
        subprocess.run(make, check=True)
        (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
        (packages / "site.pth").write_text(f"{tmp_path / 'site'}\n")
    code = ("from ipdc_edge.drivers.architectures import architectures, channels\n"
            "print(*architectures(), 'do-count' in channels(), 'do-map' in channels())")
    answer = subprocess.run([python, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(TOP)}, cwd="/",
                            capture_output=True, text=True, check=True)
    return answer.stdout.strip(), answer.stderr


def test_without_packages_there_are_the_built_in_ones(tmp_path: Path) -> None:
    assert found(tmp_path) == ("mapreduce tflite serve tensorflow False True", "")


def test_a_package_adds_its_architecture_and_its_channels(tmp_path: Path) -> None:
    install(tmp_path / "site", "good", GOOD, "count:good:Count")
    assert found(tmp_path) == ("mapreduce tflite serve tensorflow count True True", "")


@pytest.mark.parametrize(
    ("code", "entry", "words"),
    [
        (GOOD, "count:good:Missing", "no attribute 'Missing'"),
        (GOOD, "other:good:Count", "no ipdc_edge.core.architecture.Architecture of the name 'other'"),
        ("raise SystemError('dead on arrival')", "count:good:Count", "dead on arrival"),
        ("import nothing_of_that_name", "count:good:Count", "nothing_of_that_name"),
        ("Count = dict", "count:good:Count", "no ipdc_edge.core.architecture.Architecture"),
        (GOOD.replace('"do-count"', '"do-map"'), "count:good:Count", "the channel 'do-map' is taken"),
        (GOOD.replace('"do-count"', '"renew"'), "count:good:Count", "the channel 'renew' is taken"),
        (GOOD.replace('"do-count"', '"Do/Count"'), "count:good:Count", "'Do/Count'"),
        (GOOD.replace('"count_task"', '"../x"'), "count:good:Count", "module '../x'"),
        (GOOD.replace('"count"', '"mapreduce"'), "mapreduce:good:Count", "its name is taken"),
    ],
)
def test_a_broken_package_is_left_out_and_named(tmp_path: Path, code: str, entry: str, words: str) -> None:
    install(tmp_path / "site", "good", code, entry)
    there, told = found(tmp_path)
    assert there == "mapreduce tflite serve tensorflow False True"
    assert told.count("\n") == 1 and words in told and entry.partition(":")[0] in told
