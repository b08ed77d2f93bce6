"""The board: every line is seen to turn, from files as the kernel and the firmware write them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ipdc_edge.commands.doctor import board
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers.vitals import THROTTLED, Sensors
from ipdc_edge.home import Home
from ipdc_edge.machine_memory import MachineMemory

MB = 1 << 20


def _statvfs(free: int = 1 << 40, inodes: int = 10**6, files: int = 10**7, flags: int = 0) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, 1 << 40, free // 4096, free // 4096, files, inodes, inodes, flags, 255))


def _disk(home: Home, **changes: int) -> dict[str, Check]:
    return {check.check: check for check in board.disk(home, lambda path: _statvfs(**changes))}


def test_the_real_disk_and_a_home_that_is_not_there_yet(home: Home, tmp_path: Path) -> None:
    (check, *_) = board.disk(home)
    assert check.check == "disk" and check.detail.endswith(f"free for {home.state}")
    assert list(board.disk(Home({"IPDC_HOME": str(tmp_path / "a" / "b")})))[0].check == "disk"


def test_a_disk_that_is_full_or_low(home: Home) -> None:
    assert [_disk(home, free=free)["disk"].ok for free in (1 << 40, 500 * MB, 10 * MB)] == [True, None, False]
    assert f"sudo du -xh -d1 {home.state}" in _disk(home, free=0)["disk"].advice


def test_a_disk_without_room_for_more_files(home: Home) -> None:
    assert [_disk(home, inodes=left)["inodes"].ok for left in (10**6, 1000, 3)] == [True, None, False]
    full = _disk(home, inodes=3)["inodes"]
    assert full.detail == "room for 3 more files" and "du --inodes" in full.advice
    assert "inodes" not in _disk(home, files=0, inodes=0), "btrfs counts none"


def test_a_disk_that_the_kernel_made_read_only(home: Home) -> None:
    found = _disk(home, flags=os.ST_RDONLY)
    assert list(found) == ["disk"] and found["disk"].ok is False
    assert "is read-only" in found["disk"].detail and "dmesg" in found["disk"].advice


def test_errors_that_the_kernel_counted(home: Home, tmp_path: Path) -> None:
    device = os.makedev(179, 2)
    (tmp_path / "devices" / "mmcblk0p2").mkdir(parents=True)
    (tmp_path / "dev" / "block").mkdir(parents=True)
    (tmp_path / "dev" / "block" / "179:2").symlink_to("../../devices/mmcblk0p2")
    assert not list(board.disk_errors(home, str(tmp_path), device)), "it is not ext4"
    count = tmp_path / "fs" / "ext4" / "mmcblk0p2" / "errors_count"
    count.parent.mkdir(parents=True)
    count.write_text("0\n")
    assert [check.ok for check in board.disk_errors(home, str(tmp_path), device)] == [True]
    count.write_text("3\n")
    (check,) = board.disk_errors(home, str(tmp_path), device)
    assert check.ok is False and check.detail.startswith("3 on mmcblk0p2") and "fsck.mode=force" in check.advice


def test_a_clock_that_began_anew(home: Home) -> None:
    now = time.time() + 1e5  # after every file here
    assert [check.ok for check in board.clock(home, now, True)] == [True]
    assert [check.ok for check in board.clock(home, now, None)] == [True]
    (check,) = board.clock(home, now, False)
    assert check.ok is None and "nothing keeps it right" in check.detail and "timedatectl" in check.advice
    for wrong in (100.0, 1.3e9):  # 1970 and 2011
        (check,) = board.clock(home, wrong, True)
        assert check.ok is None and time.strftime("%Y", time.localtime(wrong)) in check.detail
        assert "Nodes trust each other whatever the clock says" in check.advice


def test_a_clock_behind_a_file_of_this_node(home: Home) -> None:
    Path(home.ledger).touch()
    os.utime(home.ledger, (4e9, 4e9))
    (check,) = board.clock(home, time.time(), True)
    assert check.ok is None and f"but {home.ledger} is of 2096" in check.detail


def test_the_kernels_word_on_the_clock() -> None:
    assert board.synchronised() in (True, False, None)


def _memory(tmp_path: Path, available: int) -> Check:
    (tmp_path / "meminfo").write_text(f"MemTotal: {945416} kB\nMemFree: 1 kB\nMemAvailable: {available >> 10} kB\n")
    (check,) = board.memory(MachineMemory(str(tmp_path), str(tmp_path)), 24 * MB)
    return check


def test_memory_that_runs_out(tmp_path: Path) -> None:
    assert [_memory(tmp_path, left * MB).ok for left in (100, 20, 14)] == [True, None, False]
    assert _memory(tmp_path, 14 * MB).detail == "14.0 MB available of 923 MB; a runner takes 24.0 MB"
    assert "runner_memory" in _memory(tmp_path, 14 * MB).advice


def test_swap_on_a_card(tmp_path: Path) -> None:
    def check(*lines: str) -> Check:
        swaps = tmp_path / "swaps"
        swaps.write_text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + "".join(f"{line}\n" for line in lines))
        (found,) = board.swap(str(swaps), str(tmp_path))
        return found

    assert check().ok and check("/dev/zram0  partition  102396  0  100").ok and check("/dev/sda5 partition 1 0 -2").ok
    found = check("/dev/zram0  partition  102396  0  100", "/dev/mmcblk0p3  partition  102396  0  -2")
    assert found.ok is None and found.detail.startswith("/dev/mmcblk0p3 on an SD card")
    assert found.advice.startswith("sudo swapoff /dev/mmcblk0p3;")
    file = tmp_path / "swap file"
    file.touch()
    assert check(f"{tmp_path}/swap\\040file file 102396 0 -2").ok
    device = os.stat(file).st_dev
    (tmp_path / "dev" / "block").mkdir(parents=True)
    card = tmp_path / "devices" / "mmc_host" / "mmcblk0" / "mmcblk0p2"
    card.mkdir(parents=True)
    (tmp_path / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}").symlink_to(card)
    assert check(f"{tmp_path}/swap\\040file file 102396 0 -2").ok is None
    assert [found.ok for found in board.swap(str(tmp_path / "none"))] == [True]


LINE = "console=serial0,115200 console=tty1 root=PARTUUID=f6ac5d4d-02 rootfstype=ext4 fsck.repair=yes rootwait"


def _cgroup(controllers: Path, boot: Path) -> Check:
    (check,) = board.memory_cgroup(str(controllers), str(boot))
    return check


def test_the_memory_cgroup_and_the_boot_command_line(tmp_path: Path) -> None:
    controllers, boot = tmp_path / "cgroup", tmp_path / "boot"
    controllers.mkdir()
    boot.mkdir()
    (controllers / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert _cgroup(controllers, boot).ok
    (controllers / "cgroup.controllers").write_text("cpuset cpu io pids\n")  # as Raspberry Pi OS boots
    check = _cgroup(controllers, boot)
    assert check.ok is None and "cgroup_enable=memory cgroup_memory=1" in check.advice and "cmdline" not in check.advice
    (boot / "cmdline.txt").write_text(f"{LINE}\n")
    assert _cgroup(controllers, boot).advice == (
        f"sudo sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' {boot}/cmdline.txt "
        "(it is one line), then: sudo reboot")
    (boot / "firmware").mkdir()
    (boot / "firmware" / "cmdline.txt").write_text(f"{LINE} cgroup_enable=memory\n")
    assert _cgroup(controllers, boot).advice.startswith(
        f"sudo sed -i '1 s/$/ cgroup_memory=1/' {boot}/firmware/cmdline.txt ")
    (boot / "firmware" / "cmdline.txt").write_text(f"{LINE} cgroup_enable=memory cgroup_memory=1\n")
    assert _cgroup(controllers, boot).advice.endswith("already: sudo reboot")


@pytest.mark.outside("runs sed")
def test_what_is_to_be_typed_for_the_memory_cgroup_does_it(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "cmdline.txt").write_text(f"{LINE}\n")
    line = _cgroup(tmp_path, tmp_path).advice.removeprefix("sudo ").partition(" (")[0]
    subprocess.run(line, shell=True, check=True, timeout=60)
    assert (tmp_path / "cmdline.txt").read_text() == f"{LINE} cgroup_enable=memory cgroup_memory=1\n"
    assert _cgroup(tmp_path, tmp_path).advice.endswith("already: sudo reboot")


@pytest.mark.parametrize(("bits", "degrees", "power", "heat", "words"), [
    ("0", 48, True, True, "48 °C"), ("1", 48, False, True, "undervoltage now"),
    ("10000", 48, None, True, "undervoltage some time since the boot"),
    ("4", 48, True, None, "the processor is slowed down"),
    ("80000", 48, True, None, "was some time since the boot slowed"),
    ("0", 83, True, None, "83 °C"), ("50005", 83, False, None, "power supply that is made for this board"),
    ("e0008", 83, True, None, "cool it: a heat sink"),
])
def test_power_and_heat(tmp_path: Path, bits: str, degrees: int, power: bool | None, heat: bool | None,
                        words: str) -> None:
    for path, text in ((THROTTLED, bits), ("class/thermal/thermal_zone0/type", "cpu-thermal"),
                       ("class/thermal/thermal_zone0/temp", f"{degrees}000")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
    checks = list(board.power(Sensors(str(tmp_path))))
    assert [(check.check, check.ok) for check in checks] == [("power", power), ("temperature", heat)]
    assert words in " ".join(f"{check.detail} {check.advice}" for check in checks)
    assert [check.ok for check in board.power(Sensors(str(tmp_path / "nothing")))] == [True, True]
