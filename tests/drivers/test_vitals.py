"""Vitals are the machine's own: compared with what the kernel says by other means."""

from __future__ import annotations

import os

import pytest

from ipdc_edge.drivers import vitals
from ipdc_edge.drivers.vitals import VitalsSampler


def kernel_memory() -> dict[str, int]:
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in file if line.split()[-1] == "kB"}


def test_a_sample_agrees_with_the_kernel(tmp_path) -> None:  # type: ignore[no-untyped-def]
    sample = VitalsSampler(str(tmp_path)).sample()
    memory = kernel_memory()
    assert sample.memory_total == memory["MemTotal"]
    assert abs(sample.memory_available - memory["MemAvailable"]) < memory["MemTotal"] / 10
    assert sample.cpu_count == os.cpu_count()
    assert 0 <= sample.cpu_idle <= 1 and sample.load >= 0
    assert 0 < sample.disk_free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


def test_speed_is_measured_once_and_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    first = VitalsSampler(str(tmp_path)).speed
    assert first > 0
    monkeypatch.setattr(vitals, "_rounds", lambda seconds: pytest.fail("measured again"))
    assert VitalsSampler(str(tmp_path)).speed == first


def test_a_broken_speed_file_is_measured_anew(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "speed").write_text("fast")
    assert VitalsSampler(str(tmp_path)).speed > 0
    assert float((tmp_path / "speed").read_text()) > 0
