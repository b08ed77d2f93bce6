"""What this machine has left: memory, processor, disk, temperature, from psutil and the kernel's files.

Owns the sampling and the one short calibration of speed, kept in a file. Decides nothing: the core judges
what is material.
"""

from __future__ import annotations

import hashlib
import os
import time

import psutil

from ..core.values import Vitals

REFERENCE = 450_000.0  # rounds a second of `_rounds` on one core of a server of 2024: speed 1.0
THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi's firmware: bits 0 to 3 are now


class VitalsSampler:
    """Samples on demand; processor use is that since the sample before."""

    def __init__(self, state_directory: str) -> None:
        self.directory = state_directory
        self.cpu_count = psutil.cpu_count() or 1
        self.speed = _speed(os.path.join(state_directory, "speed"))
        psutil.cpu_percent()

    def sample(self) -> Vitals:
        """One look at the machine; costs well under a millisecond."""
        memory = psutil.virtual_memory()
        disk = os.statvfs(self.directory)
        return Vitals(
            memory_total=memory.total,
            memory_available=memory.available,
            cpu_count=self.cpu_count,
            cpu_idle=round(1 - psutil.cpu_percent() / 100, 3),
            load=round(os.getloadavg()[0], 2),
            speed=self.speed,
            disk_free=disk.f_bavail * disk.f_frsize,
            temperature=_temperature(),
            throttled=_throttled(),
        )


def _temperature() -> float | None:
    """Degrees Celsius of the first thermal zone; None where the kernel has none."""
    try:
        with open("/sys/class/thermal/thermal_zone0/temp", encoding="ascii") as file:
            return int(file.read()) / 1000
    except (OSError, ValueError):
        return None


def _throttled() -> bool:
    try:
        with open(THROTTLED, encoding="ascii") as file:
            return bool(int(file.read(), 16) & 0xF)
    except (OSError, ValueError):
        return False


def _speed(path: str) -> float:
    """Speed of one core relative to the reference, measured once for a tenth of a second and kept."""
    try:
        with open(path, encoding="ascii") as file:
            return max(0.001, min(1000.0, float(file.read(32))))
    except (OSError, ValueError):
        speed = round(_rounds(0.1) / REFERENCE, 3)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{speed}\n")
    return speed


def _rounds(seconds: float) -> float:
    """Rounds a second of work like a map's: split a line, count words, hash a little. Best of three."""
    line = "the quick brown fox jumps over the lazy dog and runs away"
    best = 0.0
    for _ in range(3):
        rounds, counts = 0, {}  # type: ignore[var-annotated]
        start = time.process_time()
        while (spent := time.process_time() - start) < seconds / 3:
            for word in line.split():
                counts[word] = counts.get(word, 0) + 1
            hashlib.sha256(line.encode()).digest()
            rounds += 1
        best = max(best, rounds / spent)
    return best
