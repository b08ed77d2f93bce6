"""The chart: what it draws is what was measured, on light pages and dark ones, and nothing is drawn of nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = sorted((ROOT / "benchmarks/figures").glob("*.json"))
SVG = "{http://www.w3.org/2000/svg}"
MB = 1 << 20


def load():
    """benchmarks/ is no package: its files import each other from beside them."""
    found = importlib.util.spec_from_file_location("chart", ROOT / "benchmarks/chart.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


chart = load()


def draw(tmp_path, *figures, options=("--caption", "a machine, a day")):
    """The picture of files with these figures."""
    files = []
    for number, one in enumerate(figures):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(one))
    output = tmp_path / "chart.svg"
    assert chart.main([*map(str, files), "--output", str(output), *options]) == 0
    return ElementTree.parse(output).getroot()


def bars(root):
    """(kind, length) of each."""
    return [(bar.get("class"), float(bar.get("width"))) for bar in root.iter(f"{SVG}rect")]


def words(root):
    return [text.text for text in root.iter(f"{SVG}text")]


def test_bars_are_as_long_as_what_was_measured_is_fast(tmp_path):
    times = {"lab, combine": [[2, 9], [4, 9], [1, 9]], "loop by hand": [[4, 9]], "PySpark RDD": [[8, 9], [8, 9]]}
    root = draw(tmp_path, {"size": 64 * MB, "times": times})
    (first, one), (second, two), (third, three) = bars(root)
    assert (first, second, third) == ("ours", "theirs", "theirs")
    assert two == pytest.approx(one / 2, rel=0.01) and three == pytest.approx(one / 4, rel=0.01)
    said = words(root)
    assert said[0] == "Word count, 64 MB: MB/s, more is better" and said[-1] == "a machine, a day"
    assert "32.0 (16.0 to 64.0)" in said and "16.0" in said and "8.0 (8.0 to 8.0)" in said
    spreads = [float(line.get("x2")) - float(line.get("x1")) for line in root.iter(f"{SVG}line")]
    assert spreads[0] == pytest.approx(1.5 * one, rel=0.01) and spreads[1:] == [0]


def test_each_benchmarks_figures_are_a_panel(tmp_path):
    sort = {"size": MB, "times": {"lab": [[2, 3]], "GNU sort": [[1, 1]]}}
    moved = {"size": MB, "figures": {"curl from nginx": [{"wall": 1}], "ipdc-edge get": [{"wall": 2}]}}
    said = words(draw(tmp_path, sort, moved))
    assert "Sort, 1 MB: MB/s, more is better" in said and "Moving content, 1 MB: MB/s, more is better" in said


def test_a_slices_time_is_not_drawn_nor_who_is_left_out(tmp_path):
    times = {"lab, combine": [[1, 1]], "mrjob local": [[1, 1]], "dask.bag": [[1, 1]]}
    root = draw(tmp_path, {"size": MB, "times": times}, options=("--caption", "x", "--leave-out", "dask.bag"))
    assert len(bars(root)) == 1 and "mrjob local" not in words(root)


def test_names_are_text_and_no_markup(tmp_path):
    root = draw(tmp_path, {"size": MB, "times": {"<b>&": [[1, 1]]}})
    assert "<b>&" in words(root) and not list(root.iter(f"{SVG}b"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"size": 1, "times": {}}', '{"size": 1, "times": {"a": [[0, 1]]}}',
                                  '{"size": 1, "times": {"a": 3}}', '{"size": "x", "times": {"a": [[1, 1]]}}',
                                  '{"size": -1, "times": {"a": [[1, 1]]}}'])
def test_a_file_without_figures_is_named(tmp_path, capsys, text):
    path, output = tmp_path / "figures.json", tmp_path / "chart.svg"
    path.write_text(text)
    assert chart.main([str(path), "--output", str(output), "--caption", "x"]) == 2
    assert str(path) in capsys.readouterr().err and not output.exists()


def test_nothing_is_drawn_of_which_nobody_says_where_it_is_from(tmp_path, capsys):
    path, output = tmp_path / "figures.json", tmp_path / "chart.svg"
    path.write_text(json.dumps({"size": MB, "times": {"lab": [[1, 1]]}}))
    assert chart.main([str(path), "--output", str(output)]) == 2
    assert "--caption" in capsys.readouterr().err and not output.exists()


def test_it_is_readable_on_dark_pages_too(tmp_path):
    """Every class that has a colour on light pages has another one on dark ones."""
    light, dark = chart.STYLE.split("@media (prefers-color-scheme: dark)")
    for name in re.findall(r"\.(?:small|ours|theirs|spread)\b|^text\b", light, re.MULTILINE):
        colours = [re.search(rf"{re.escape(name)} {{[^}}]*(#\w+)", part).group(1) for part in (light, dark)]
        assert colours[0] != colours[1], name


def test_the_chart_in_the_documents_is_of_the_figures_that_are_kept(tmp_path):
    output = tmp_path / "chart.svg"
    assert FIGURES and chart.main([*map(str, FIGURES), "--output", str(output)]) == 0
    assert output.read_text() == (ROOT / "docs/speed.svg").read_text(), "run: python3 benchmarks/chart.py " \
        "benchmarks/figures/*.json"
