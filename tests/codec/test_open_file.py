"""Which files of a job's travel open."""

from __future__ import annotations

from ipdc_edge.codec.open_file import MOST_HELD, not_held


def test_the_biggest_travel_open_until_the_rest_is_small() -> None:
    most = MOST_HELD
    assert not_held([]) == not_held([("a", most)]) == not_held([("Map.py", most * 20)]) == set()
    assert not_held([("a", most + 1)]) == {"a"}
    assert not_held([("big", most), ("small", 1), ("none", 0), ("Map.py", most)]) == {"big"}
    assert len(not_held([(f"f{number}", most // 4) for number in range(10)])) == 6
