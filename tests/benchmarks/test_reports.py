"""What benchmarks say of their figures: medians within pairs, and whether a goal holds. Nothing is measured here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import content
import flash
import latency
import scaling
import transfer
from trial import Took

MB = 1 << 20


def took(*walls: float) -> list[Took]:
    return [Took(wall, wall / 2) for wall in walls]


@pytest.mark.parametrize("many, missed", [((10, 11, 9), False), ((13, 14, 12), True)])
def test_scaling_compares_within_pairs(many, missed):
    """16 nodes: 160 s, 176 s and 140 s alone are speed-ups of 16.0, 16.0 and 15.6, or of 12.3, 12.6 and 11.7."""
    found = {"nodes": 16, "share": 10, "work": 64.0, "times": {"one": took(160, 176, 140), "many": took(*many)}}
    text, over = scaling.report(found)
    assert over is missed and ("MISSED" in text) is missed
    assert ("0.77 of 16" if missed else "1.00 of 16") in text


@pytest.mark.parametrize("workers, missed", [(50, False), (49, True)])
def test_a_crowd_is_all_of_it(workers, missed):
    found = {"wall": 9.0, "processor": 8.0, "state": "succeeded", "workers": workers, "daemon": [18.0], "broker": [1.8]}
    text, over = latency.report({"crowd": found}, 2000, 50)
    assert over is missed and f"{workers} of 50 nodes took part" in text


@pytest.mark.parametrize("many, missed", [(11.0, False), (31.0, True)])
def test_an_empty_task_is_what_many_take_longer_than_one(many, missed):
    """2001 less 1: 10 s more are 5 ms for each, 30 s are 15."""
    text, over = latency.report({"tasks": {"1": took(1.0), "2001": took(many)}}, 2001, 50)
    assert over is missed and ("15.00" if missed else "5.00") in text


@pytest.mark.parametrize("own, missed", [((10, 11), False), ((13, 14), True)])
def test_a_transfer_is_held_to_curls_where_the_link_is_shaped(own, missed):
    free = {transfer.OURS: took(90, 90), transfer.OTHERS: took(1, 1)}  # only told
    found = {"1gbit": {transfer.OURS: took(*own), transfer.OTHERS: took(10, 10)}, transfer.FREE: free}
    text, over = transfer.report(found, 1024 * MB)
    assert over is missed and ("1gbit: 0.74" if missed else "1gbit: 0.95") in text and "none: 0.01" in text
    assert text.count("at least") == 1


@pytest.mark.parametrize("copy, missed", [(1.5, False), (2.0, True)])
def test_copying_is_held_to_openssl(copy, missed):
    runs = {content.OPENSSL: [{"wall": 1.0, "processor": 1.0, "memory": 2.0}],
            content.COPY: [{"wall": copy, "processor": 1.0, "memory": 20.0}]}
    text = content.table({"size": MB, "figures": runs})
    assert ("MISSED" in text) is missed and (content.copying_ratio(runs) < content.LEAST_COPY) is missed


def test_a_shifted_text_is_the_same_behind_an_empty_line(tmp_path):
    (tmp_path / "text").write_bytes(b"one\ntwo\n")
    flash.shift(str(tmp_path / "text"))
    assert (tmp_path / "text").read_bytes() == b"\none\ntwo\n" and len(list(tmp_path.iterdir())) == 1


def test_bytes_are_told_for_each_byte_of_input():
    job = {"input": 4 * MB, "combines": True, "shuffle_bytes": MB, "spilled_bytes": 0, "wire": 6 * MB,
           "output_bytes": 2 * MB, "nodes": [{"daemon": MB, "broker": 0, "fsyncs": 1}, {"daemon": MB, "broker": 4096,
                                                                                        "fsyncs": 0}]}
    last = flash.for_each_byte({"jobs": [job]}).splitlines()[-1]
    assert last == "| 4 MB, combine | 0.250 | 0.000 | 1.500 | 0.500 | 0.501 |"
