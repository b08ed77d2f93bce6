"""The board itself: disk, clock, memory, swap, power, heat, and what its kernel was started with.

Every path can be another, so that tests bring files in the kernel's own format. Sources: proc(5), adjtimex(2), the
kernel's Documentation/ABI/testing/sysfs-fs-ext4, Raspberry Pi's documentation of cmdline.txt.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator

from ipdc_edge.commands.display import size
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers.sandbox import CONTROLLERS, memory_limits_hold
from ipdc_edge.drivers.vitals import SYS, Sensors
from ipdc_edge.home import Home
from ipdc_edge.machine_memory import MachineMemory, read

DISK_LOW = 1 << 30  # bytes; less is worth knowing
DISK_FULL = 64 << 20  # less is broken: not even small results fit
INODES_LOW, INODES_OUT = 2000, 100
MEMORY_OUT = 15 << 20  # bytes; below that the system itself begins to stall
HOT = 80.0  # degrees Celsius; boards slow themselves down from here on
CGROUP_WORDS = ("cgroup_enable=memory", "cgroup_memory=1")
CMDLINES = ("firmware/cmdline.txt", "cmdline.txt")  # below /boot; where both are, the second only points to the first
SLACK = 300.0  # seconds by which a file may be ahead of the clock
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


def disk(home: Home, statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> Iterator[Check]:
    """Whether the node's directory can be written to, and what fits there."""
    found = statvfs(_existing(home.state))
    if found.f_flag & os.ST_RDONLY:
        yield Check("disk", False, f"{home.state} lies on a file system that is read-only, so that nothing can be kept",
                    "why: sudo dmesg | grep -i -e ext4 -e mmc. After errors: save what you need, reboot, and replace "
                    "the card if it happens again")
        return
    free = found.f_bavail * found.f_frsize
    yield Check("disk", False if free < DISK_FULL else None if free < DISK_LOW else True,
                f"{size(free)} free for {home.state}",
                f"make room: inputs that are copied, runs and results lie there: sudo du -xh -d1 {home.state}")
    if found.f_files:  # some file systems count none
        left = found.f_favail
        yield Check("inodes", False if left < INODES_OUT else None if left < INODES_LOW else True,
                    f"room for {left} more files",
                    f"remove files; where most are: sudo du --inodes -x -d1 {home.state}")


def disk_errors(home: Home, sys_: str = SYS, device: int | None = None) -> Iterator[Check]:
    """What the kernel counted on the file system, where it is ext4. A card that fails shows it here first."""
    number = os.stat(_existing(home.state)).st_dev if device is None else device
    link = os.path.join(sys_, "dev", "block", f"{os.major(number)}:{os.minor(number)}")
    name = os.path.basename(os.path.realpath(link))
    count = read(os.path.join(sys_, "fs", "ext4", name, "errors_count")).strip()
    if count.isdigit():
        yield Check("disk errors", int(count) == 0, f"{int(count)} on {name} since it was checked last",
                    "save what you need; have it checked: add fsck.mode=force to the boot command line once, and "
                    "reboot; replace the card if there are errors again")


def clock(home: Home, now: float, synchronised: bool | None, witnesses: Iterable[str] = ()) -> Iterator[Check]:
    """Whether the clock can be right. Boards without a battery begin at some old date until the network tells them."""
    paths = (*witnesses, __file__, home.ledger, os.path.join(home.current, "members.json"))
    newest, path = max((_changed(path), path) for path in paths)
    advice = ("timedatectl; sudo timedatectl set-ntp true. Nodes trust each other whatever the clock says, but the "
              "dates of logs and the ids of jobs are wrong meanwhile")
    if now < newest - SLACK:
        yield Check("clock", None, f"it says {_day(now)}, but {path} is of {_day(newest)}", advice)
    elif synchronised is False:
        yield Check("clock", None, f"it says {_day(now)}, and nothing keeps it right", advice)
    else:
        yield Check("clock", True, _day(now))


def synchronised() -> bool | None:
    """Whether the kernel says that somebody keeps its clock right; None where it does not say."""
    import ctypes

    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(1024))  # modes 0: only asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != UNSYNCHRONISED


def memory(machine: MachineMemory, need: int) -> Iterator[Check]:
    """Whether the system has room to breathe, and a runner, which takes `need` bytes, finds its own."""
    total, left = machine.look()
    yield Check("memory", False if left < MEMORY_OUT else None if left < need else True,
                f"{size(left)} available of {size(total)}; a runner takes {size(need)}",
                "this node refuses work until there is more: end other programs (ps aux --sort=-rss | head), or lower "
                "runner_memory in ipdc.conf")


def swap(swaps: str = "/proc/swaps", sys_: str = SYS) -> Iterator[Check]:
    """Swap on an SD card wears it out and makes the board slower than no swap; compressed memory (zram) is fine."""
    on_card = [path for path in _swaps(read(swaps).decode("utf-8", "replace")) if _on_card(path, sys_)]
    if on_card:
        yield Check("swap", None, f"{', '.join(on_card)} on an SD card, which it slows down and wears out",
                    f"sudo swapoff {' '.join(on_card)}; for good: sudo systemctl disable --now dphys-swapfile, or take "
                    "it out of /etc/fstab")
    else:
        yield Check("swap", True, "none on an SD card")


def memory_cgroup(controllers: str = CONTROLLERS, boot: str = "/boot") -> Iterator[Check]:
    """Whether the kernel can bound the memory of runners."""
    if memory_limits_hold(controllers):
        yield Check("memory cgroup", True, "is on: limits of memory hold")
        return
    words, advice = " ".join(CGROUP_WORDS), ""
    for path in (os.path.join(boot, name) for name in CMDLINES):
        if os.path.exists(path):
            missing = [word for word in CGROUP_WORDS if word.encode() not in read(path).split()]
            advice = f"sudo sed -i '1 s/$/ {' '.join(missing)}/' {path} (it is one line), then: sudo reboot"
            if not missing:
                advice = f"{path} says {words} already: sudo reboot"
            break
    yield Check("memory cgroup", None, "is off: a runner's memory is bounded by limits of its process only",
                advice or f"have the kernel started with {words}, if this machine's owner wants it")


def power(sensors: Sensors) -> Iterator[Check]:
    """How the board is fed and how hot it is, where its firmware tells."""
    found, degrees = sensors.power(), sensors.temperature()
    supply = "use the power supply that is made for this board, and a short, thick cable"
    if found.undervoltage:
        yield Check("power", False, "undervoltage now: the card may be damaged by it, and the processor is slowed down",
                    supply)
    elif found.undervoltage_before:
        yield Check("power", None, "there was undervoltage some time since the boot", supply)
    else:
        yield Check("power", True, "no undervoltage is told")
    cooler = "cool it: a heat sink, a fan, a place with more air"
    heat = f"{degrees:.0f} °C" if degrees is not None else "is not told"
    if found.throttled or found.throttled_before:
        when = "is" if found.throttled else "was some time since the boot"
        yield Check("temperature", None, f"{heat}; the processor {when} slowed down",
                    supply if found.undervoltage or found.undervoltage_before else cooler)
    else:
        yield Check("temperature", None if degrees is not None and degrees >= HOT else True, heat, cooler)


def _existing(directory: str) -> str:
    """It, or the nearest directory above that is there."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:  # it is not there, or not for everybody to see
        return 0.0


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _swaps(text: str) -> list[str]:
    """The files and partitions in /proc/swaps, where spaces are octal escapes."""
    names = [line.split()[0] for line in text.splitlines()[1:] if line.strip()]
    return [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name) for name in names]


def _on_card(path: str, sys_: str) -> bool:
    """Whether a partition or file lies on an SD card or eMMC."""
    if os.path.basename(path).startswith("mmcblk"):
        return True
    try:
        device = os.stat(path).st_dev
    except OSError:
        return False
    return "/mmcblk" in os.path.realpath(os.path.join(sys_, "dev", "block", f"{os.major(device)}:{os.minor(device)}"))
