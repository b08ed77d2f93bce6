"""What this machine has left: memory, processor, disk, temperature, power, from the kernel's own files.

Owns the sampling and the one short calibration of speed, kept in a file. Decides nothing: the core judges
what is material. Every path can be another, so that tests bring files in the kernel's format. Nothing here needs
psutil, whose import costs an idle daemon more memory than all of this.

Sources: proc(5); the kernel's Documentation/hwmon/raspberrypi-hwmon.rst and driver-api/thermal/sysfs-api.rst; Raspberry
Pi's documentation of `vcgencmd get_throttled`, whose bits the file of the same name shows (hexadecimal, without 0x):
0 undervoltage, 1 frequency capped, 2 throttled, 3 soft temperature limit, all now; 16 to 19 the same, some time before.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import sys
import time
from typing import NamedTuple

from ..core.values import Vitals
from ..machine_memory import PROC, MachineMemory, read

REFERENCE = 450_000.0  # rounds a second of `_rounds` on one core of a server of 2024: speed 1.0
SYS = "/sys"
THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
UNDERVOLTAGE, SLOWED, BEFORE = 0x1, 0xE, 16  # BEFORE: how far the bits of what was are shifted
# What measures the processor, the surest first: types of thermal zones, then names of hardware monitors.
ZONES = (re.compile("cpu|x86_pkg_temp"), re.compile("soc|package|bcm2835|core|cluster"))
MONITORS = ("coretemp", "k10temp", "cpu_thermal", "zenpower")
NOT_THE_PROCESSOR = re.compile("gpu|wifi|iwl|bat|nvme|charger|pch|ddr|modem|ac$")
MOST_SENSORS = 8
USERLANDS = {"arm-linux-gnueabihf": "armhf", "arm-linux-gnueabi": "armel", "i386-linux-gnu": "i386"}


class Power(NamedTuple):
    """What the firmware tells of the board's power; all false where it tells nothing. `_before`: since the boot, or
    since somebody reset it, as kernels of today do every two seconds."""

    undervoltage: bool = False
    throttled: bool = False
    undervoltage_before: bool = False
    throttled_before: bool = False


class Sensors:
    """Finds the files of temperature and power once, and reads them as often as wanted."""

    def __init__(self, sys_: str = SYS) -> None:
        self._throttled = os.path.join(sys_, THROTTLED)
        self._temperatures = _temperatures(sys_)
        alarms = [os.path.join(path, "in0_lcrit_alarm") for path, name in _monitors(sys_) if name == "rpi_volt"]
        self._alarms = [path for path in alarms if os.path.exists(path)]

    def temperature(self) -> float | None:
        """Degrees Celsius of the processor, of its hottest part where there are several; None where nothing tells."""
        found = [int(text) / 1000 for text in map(read, self._temperatures) if text.strip().lstrip(b"-").isdigit()]
        return max(found) if found else None

    def power(self) -> Power:
        """How it is fed and whether it is slowed down."""
        try:
            bits = int(read(self._throttled) or b"0", 16)
        except ValueError:
            bits = 0
        low = any(read(alarm).strip() == b"1" for alarm in self._alarms)
        before = bits >> BEFORE
        return Power(bool(bits & UNDERVOLTAGE) or low, bool(bits & SLOWED), bool(before & UNDERVOLTAGE),
                     bool(before & SLOWED))


class VitalsSampler:
    """Samples on demand; processor use is that since the sample before."""

    def __init__(self, state_directory: str, proc: str = PROC, sys_: str = SYS,
                 memory: MachineMemory | None = None) -> None:
        self.directory = state_directory
        self.cpu_count = os.cpu_count() or 1
        self.speed = _speed(os.path.join(state_directory, "speed"))
        self._memory = memory or MachineMemory()
        self._sensors = Sensors(sys_)
        self._stat = os.path.join(proc, "stat")
        self._last = self._ticks()
        self._seen = Power()

    def sample(self) -> Vitals:
        """One look at the machine; benchmarks/vitals.py holds what it may cost."""
        before, self._last = self._last, self._ticks()
        idle, total = (after - then for after, then in zip(self._last, before))
        disk = os.statvfs(self.directory)
        memory_total, memory_available = self._memory.look()
        power = self._sensors.power()
        self._seen = Power(*(now or once for now, once in zip(power, self._seen)))
        seen = self._seen
        return Vitals(
            memory_total=memory_total,
            memory_available=memory_available,
            cpu_count=self.cpu_count,
            cpu_idle=round(min(1.0, max(0.0, idle / total)), 3) if total > 0 else 1.0,
            load=round(os.getloadavg()[0], 2),
            speed=self.speed,
            disk_free=disk.f_bavail * disk.f_frsize,
            temperature=self._sensors.temperature(),
            throttled=power.throttled,
            undervoltage=power.undervoltage,
            throttled_before=seen.throttled or seen.throttled_before,
            undervoltage_before=seen.undervoltage or seen.undervoltage_before,
        )

    def _ticks(self) -> tuple[int, int]:
        """(idle, all) ticks of all processors since the boot; what waits for a disk is idle."""
        line = read(self._stat).partition(b"\n")[0].split()[1:9]  # guest time is in user time already
        ticks = [int(word) for word in line]
        return sum(ticks[3:5]), sum(ticks)


def architecture(machine: str = "", multiarch: str = "", pointer: int = struct.calcsize("P")) -> str:
    """What programs and wheels must be made for: the kernel's word (`armv6l`, `aarch64`), or, where the userland is a
    32-bit one on a 64-bit kernel, Debian's word for it too: `armhf on aarch64`. `pointer`: bytes of one here."""
    machine = machine or os.uname().machine
    multiarch = multiarch or str(getattr(sys.implementation, "_multiarch", ""))
    if pointer == 8 or not machine.endswith("64"):
        return machine
    return f"{USERLANDS.get(multiarch, '32-bit')} on {machine}"


def _monitors(sys_: str) -> list[tuple[str, str]]:
    """(directory, name) of every hardware monitor."""
    top = os.path.join(sys_, "class", "hwmon")
    return [(path, _word(os.path.join(path, "name"))) for path in _inside(top)]


def _temperatures(sys_: str) -> list[str]:
    """The files that tell how hot the processor is: by the names of thermal zones, else of hardware monitors, else the
    first zone that is not known to be of something else."""
    zones = [(path, _word(os.path.join(path, "type"))) for path in _inside(os.path.join(sys_, "class", "thermal"))
             if os.path.basename(path).startswith("thermal_zone")]
    others = [(path, kind) for path, kind in zones if not NOT_THE_PROCESSOR.search(kind)]
    for wanted in ZONES:
        found = [os.path.join(path, "temp") for path, kind in others if wanted.search(kind)]
        if found:
            return found[:MOST_SENSORS]
    found = [os.path.join(path, "temp1_input") for path, name in _monitors(sys_) if name in MONITORS]
    return found[:MOST_SENSORS] or [os.path.join(path, "temp") for path, _ in others[:1]]


def _inside(directory: str) -> list[str]:
    """What lies in a directory, in the order of the numbers at the names' ends."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names, key=lambda name: (len(name), name))]


def _word(path: str) -> str:
    return read(path).decode("ascii", "replace").strip().lower()


def _speed(path: str) -> float:
    """Speed of one core relative to the reference, measured once for a tenth of a second and kept."""
    try:
        with open(path, encoding="ascii") as file:
            return max(0.001, min(1000.0, float(file.read(32))))
    except (OSError, ValueError):
        speed = round(_rounds(0.1) / REFERENCE, 3)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{speed}\n")
    except OSError:
        pass  # a full disk, most likely: no reason not to start, and the next start measures again
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
