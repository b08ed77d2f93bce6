"""What is learnt of a provider's speed, by a clock that the test turns."""

from __future__ import annotations

from ipdc_edge.drivers.provider import Provider
from ipdc_edge.drivers.speeds import MOST_SPEEDS, Speed, speed_of

MB = 1 << 20


def deliver(speed, size, begun, seconds):
    """A block in ten pieces, evenly."""
    speed.begin(size)
    speed.count(begun)
    for piece in range(10):
        speed.received(size // 10, begun + seconds * (piece + 1) / 10)
    speed.end(size, size // 10 * 10, True, begun + seconds)


def test_it_is_bytes_by_seconds_and_follows_what_changes():
    speed = Speed()
    assert speed.rate(0) is None
    deliver(speed, MB, 0, 1)
    assert 0.9 * MB < speed.rate(1) < 1.3 * MB
    for at in range(1, 6):
        deliver(speed, MB // 10, at, 1)
    assert 0.09 * MB < speed.rate(6) < 0.2 * MB
    assert speed.left == 0


def test_two_blocks_at_once_are_not_counted_double():
    speed = Speed()
    for _ in range(2):
        speed.begin(MB)
        speed.count(0)
    for piece in range(10):
        for _ in range(2):
            speed.received(MB // 10, (piece + 1) / 10)
    assert 1.8 * MB < speed.rate(1) < 2.6 * MB  # both came in one second
    assert 0 < speed.left < 20


def test_who_stalls_becomes_slower_and_who_waits_for_nothing_does_not():
    speed = Speed()
    deliver(speed, MB, 0, 1)
    before = speed.rate(1)
    assert speed.rate(30) == before  # it was not asked
    speed.begin(MB)
    speed.count(30)
    assert speed.rate(32) < before / 2
    speed.end(MB, 0, True, 40)
    assert speed.rate(40) < before / 10


def test_old_knowledge_is_forgotten():
    speed = Speed()
    deliver(speed, MB, 10, 1)
    assert speed.rate(70) is not None and speed.rate(72) is None


def test_those_used_last_are_remembered():
    speeds = {}
    first = speed_of(speeds, Provider("first", "a:1"))
    for number in range(2 * MOST_SPEEDS):
        speed_of(speeds, Provider(str(number), "a:1"))
        assert speed_of(speeds, Provider("first", "a:1")) is first and len(speeds) <= MOST_SPEEDS
