"""demo: the whole story with a small text, and what it says when the text is not there."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import demo
from ipdc_edge.commands.laboratory import Lab
from ipdc_edge.commands.processes import running
from ipdc_edge.commands.program import Files
from ipdc_edge.commands.steps import python_steps


def test_the_word_count_that_is_shipped_passes_submits_own_checks() -> None:
    directory = os.path.join(os.path.dirname(demo.__file__), "wordcount")
    files = Files()
    steps = python_steps([os.path.join(directory, name) for name in ("Map.py", "Reduce.py")], (), files)
    assert steps == [{"map": "Map.py", "reduce": "Reduce.py"}] and list(files.paths) == ["Map.py", "Reduce.py"]


def test_without_the_text_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "TEXT", str(tmp_path / "gcide.dict.dz"))
    assert main(["demo"]) == 1
    assert "sudo apt install dict-gcide" in capsys.readouterr().err
    assert main(["demo", "--text", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_unpack(tmp_path: Path) -> None:
    packed, plain = tmp_path / "gcide.dict.dz", tmp_path / "plain"
    packed.write_bytes(gzip.compress(b"text"))
    plain.write_bytes(b"as it is")
    assert demo.unpack(str(packed), str(tmp_path)) == str(tmp_path / "gcide.txt")
    assert (tmp_path / "gcide.txt").read_bytes() == b"text"
    assert demo.unpack(str(plain), str(tmp_path)) == str(plain)
    packed.write_bytes(gzip.compress(b"text")[:-9])
    with pytest.raises(demo.TextBroken, match=r"gcide\.dict\.dz is not a whole gzip file"):
        demo.unpack(str(packed), str(tmp_path))


def test_most_frequent_merges_the_parts_and_orders_equal_counts(tmp_path: Path) -> None:
    for name, text in {"part-0": "a\t5\nd\t1\n", "part-1": "b\t7\nc\t5\n"}.items():
        (tmp_path / name).write_text(text)
    parts = [str(tmp_path / "part-1"), str(tmp_path / "part-0")]
    assert demo.most_frequent(parts, 3) == [("b", 7), ("a", 5), ("c", 5)]


@pytest.mark.outside("three real nodes")
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress(b"the cat and the dog\nThe end\n" * 1000))
    directory = tmp_path / "d"
    assert main(["demo", "--dir", str(directory), "--text", str(text)]) == 0
    out = capsys.readouterr().out
    words = re.findall(r"^ +(\d+)  (\w+)$", out, re.M)
    assert words == [("3000", "the"), ("1000", "and"), ("1000", "cat"), ("1000", "dog"), ("1000", "end")]
    lab = Lab(str(directory))
    assert not [node for node in lab.nodes for part in ("broker", "daemon") if running(node.pid_file(part))]
    found = re.search(r"IPDC_HOME=(\S+) .*(?:ipdc-edge|ipdc_edge) result (\S+)", out)
    assert found and found[1] == str(directory / "node1")
    parts = sorted(Path(found[1], "jobs", found[2]).glob("part-*"))
    assert len(parts) == 3
    assert sum(part.read_text().count("\n") for part in parts) == 5
