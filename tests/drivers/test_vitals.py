"""Vitals are the machine's own: compared with what the kernel says by other means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipdc_edge.drivers import vitals
from ipdc_edge.drivers.vitals import Power, Sensors, VitalsSampler, architecture


def kernel_memory() -> dict[str, int]:
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in file if line.split()[-1] == "kB"}


def test_a_sample_agrees_with_the_kernel(tmp_path) -> None:  # type: ignore[no-untyped-def]
    sample = VitalsSampler(str(tmp_path)).sample()
    memory = kernel_memory()
    assert 0 < sample.memory_total <= memory["MemTotal"]  # less where the tests run in a container with a limit
    if sample.memory_total == memory["MemTotal"]:
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


def test_a_disk_that_takes_no_speed_is_no_reason_not_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "_rounds", lambda seconds: 450_000.0)
    (tmp_path / "speed").mkdir()  # nobody can write this file, root neither
    assert VitalsSampler(str(tmp_path)).speed == 1.0


def test_processor_use_is_that_since_the_sample_before(tmp_path: Path) -> None:
    def ticks(user: int, idle: int, iowait: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  {user} 0 20 {idle} {iowait} 0 0 0 7 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")

    ticks(100, 1000, 50)
    sampler = VitalsSampler(str(tmp_path), proc=str(tmp_path))
    ticks(130, 1060, 60)
    assert sampler.sample().cpu_idle == 0.7
    assert sampler.sample().cpu_idle == 1.0, "no tick since"
    (tmp_path / "stat").unlink()
    assert 0 <= sampler.sample().cpu_idle <= 1


class Board:
    """A /sys of our own, its files as the kernel writes them."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def write(self, path: str, text: str) -> None:
        (self.top / path).parent.mkdir(parents=True, exist_ok=True)
        (self.top / path).write_text(text)

    def zones(self, *zones: tuple[str, str]) -> None:
        for number, (kind, degrees) in enumerate(zones):
            self.write(f"class/thermal/thermal_zone{number}/type", f"{kind}\n")
            self.write(f"class/thermal/thermal_zone{number}/temp", f"{degrees}\n")
        self.write("class/thermal/cooling_device0/type", "cpu-fan\n")

    def temperature(self) -> float | None:
        return Sensors(str(self.top)).temperature()

    def power(self) -> Power:
        return Sensors(str(self.top)).power()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize(("zones", "degrees"), [
    ([("cpu-thermal", "48312")], 48.312),  # Raspberry Pi
    ([("acpitz", "27800"), ("iwlwifi_1", "51000"), ("x86_pkg_temp", "63000")], 63.0),  # a laptop
    ([("gpu-thermal", "80000"), ("cpu0-thermal", "55000"), ("cpu1-thermal", "57000")], 57.0),  # the hottest core
    ([("soc-thermal", "45000"), ("gpu-thermal", "70000")], 45.0),
    ([("battery", "31000"), ("acpitz", "40000")], 40.0),
    ([("cpu-thermal", "-5000")], -5.0),
    ([("cpu-thermal", "")], None),  # a zone that is off cannot be read
    ([("iwlwifi_1", "51000")], None),
    ([], None),
])
def test_the_temperature_is_the_processors(board: Board, zones: list, degrees: float | None) -> None:
    board.zones(*zones)
    assert board.temperature() == degrees


def test_hardware_monitors_tell_where_no_zone_is_the_processors(board: Board) -> None:
    board.zones(("acpitz", "27800"))
    board.write("class/hwmon/hwmon0/name", "nvme\n")
    board.write("class/hwmon/hwmon0/temp1_input", "35850\n")
    board.write("class/hwmon/hwmon10/name", "k10temp\n")
    board.write("class/hwmon/hwmon10/temp1_input", "61125\n")
    assert board.temperature() == 61.125


@pytest.mark.parametrize(("bits", "power"), [
    ("0", Power()), ("1", Power(undervoltage=True)), ("2", Power(throttled=True)), ("4", Power(throttled=True)),
    ("8", Power(throttled=True)), ("50005", Power(True, True, True, True)), ("10000", Power(undervoltage_before=True)),
    ("50000", Power(undervoltage_before=True, throttled_before=True)), ("e0000", Power(throttled_before=True)),
    ("20000000", Power()), ("garbage", Power()), ("", Power()),
])
def test_the_bits_of_the_firmware(board: Board, bits: str, power: Power) -> None:
    board.write(vitals.THROTTLED, f"{bits}\n")
    assert board.power() == power


def test_the_alarm_of_newer_kernels(board: Board) -> None:
    board.write("class/hwmon/hwmon0/name", "cpu_thermal\n")
    board.write("class/hwmon/hwmon0/in0_lcrit_alarm", "1\n")
    board.write("class/hwmon/hwmon1/name", "rpi_volt\n")
    board.write("class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert board.power() == Power()
    board.write("class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert board.power() == Power(undervoltage=True)


def test_what_was_is_remembered(tmp_path: Path, board: Board) -> None:
    board.write(vitals.THROTTLED, "0\n")
    sampler = VitalsSampler(str(tmp_path), sys_=str(board.top))

    def told(bits: str) -> tuple[bool, bool, bool, bool]:
        board.write(vitals.THROTTLED, f"{bits}\n")
        found = sampler.sample()
        return found.undervoltage, found.throttled, found.undervoltage_before, found.throttled_before

    assert told("0") == (False, False, False, False)
    assert told("1") == (True, False, True, False)
    assert told("0") == (False, False, True, False), "kernels of today forget it at once"
    assert told("40000") == (False, False, True, True)


@pytest.mark.parametrize(("machine", "multiarch", "pointer", "said"), [
    ("x86_64", "x86_64-linux-gnu", 8, "x86_64"), ("aarch64", "aarch64-linux-gnu", 8, "aarch64"),
    ("armv6l", "arm-linux-gnueabihf", 4, "armv6l"), ("armv7l", "arm-linux-gnueabihf", 4, "armv7l"),
    ("aarch64", "arm-linux-gnueabihf", 4, "armhf on aarch64"), ("x86_64", "i386-linux-gnu", 4, "i386 on x86_64"),
    ("aarch64", "other", 4, "32-bit on aarch64"), ("i686", "i386-linux-gnu", 4, "i686"),
])
def test_the_architecture_is_the_userlands_too(machine: str, multiarch: str, pointer: int, said: str) -> None:
    assert architecture(machine, multiarch, pointer) == said


def test_this_machines_architecture() -> None:
    assert architecture().endswith(os.uname().machine)


def test_a_sample_takes_less_than_a_thousandth_of_a_core_ten_times_as_slow() -> None:
    """The benchmark's own bound; it counts processor time, so a busy machine changes little."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, f"{root}/benchmarks/vitals.py"], capture_output=True, text=True, timeout=120)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
