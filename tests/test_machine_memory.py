"""Memory inside memory cgroups of both versions, from files in the kernel's own format."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.machine_memory import MachineMemory

MB = 1 << 20
MEMINFO = "MemTotal:         945416 kB\nMemFree:          103236 kB\nMemAvailable:     612340 kB\nBuffers:  2 kB\n"
V1_NONE = "9223372036854771712\n"  # how version 1 says that there is no limit
STAT_V2 = f"anon {30 * MB}\nfile {20 * MB}\ninactive_anon 4096\nactive_anon 0\ninactive_file {12 * MB}\n" \
          f"active_file {8 * MB}\nslab_reclaimable 77\n"
STAT_V1 = f"cache 0\nrss 1\ninactive_file {99 * MB}\nactive_file {99 * MB}\ntotal_inactive_file {12 * MB}\n" \
          f"total_active_file {8 * MB}\n"


class Kernel:
    """A /proc and a /sys/fs/cgroup of our own."""

    def __init__(self, top: Path) -> None:
        self.proc, self.cgroups = top / "proc", top / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroups.mkdir()
        (self.proc / "meminfo").write_text(MEMINFO)

    def own(self, lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text(lines)

    def group(self, path: str, **files: str) -> None:
        directory = self.cgroups / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name.replace("memory_", "memory.", 1)).write_text(text)

    def look(self) -> tuple[int, int]:
        return MachineMemory(str(self.proc), str(self.cgroups)).look()


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


MACHINE = (945416 << 10, 612340 << 10)


def test_the_real_machine() -> None:
    total, available = MachineMemory().look()
    assert 0 < available <= total
    assert settings.memory_total() == total


def test_without_cgroups_it_is_the_machine(kernel: Kernel) -> None:
    assert kernel.look() == MACHINE
    kernel.own("0::/user.slice\n")  # the controller is off: no memory.max anywhere
    kernel.group("user.slice")
    assert kernel.look() == MACHINE


def test_the_smallest_limit_above_counts_and_file_cache_is_given_back(kernel: Kernel) -> None:
    kernel.own("0::/ipdc.slice/ipdc-edge.service\n")
    kernel.group("ipdc.slice", memory_max=f"{128 * MB}\n", memory_current=f"{50 * MB}\n", memory_stat=STAT_V2)
    kernel.group("ipdc.slice/ipdc-edge.service", memory_max="max\n", memory_current=f"{40 * MB}\n", memory_stat=STAT_V2)
    assert kernel.look() == (128 * MB, 98 * MB)
    kernel.group("ipdc.slice/ipdc-edge.service", memory_max=f"{45 * MB}\n")
    assert kernel.look() == (45 * MB, 25 * MB)
    kernel.group("ipdc.slice", memory_max=f"{1 << 40}\n")
    kernel.group("ipdc.slice/ipdc-edge.service", memory_max=f"{2 << 30}\n")
    assert kernel.look() == MACHINE, "a limit above what the machine has is none"


def test_a_container_that_sees_its_own_group_as_the_top(kernel: Kernel) -> None:
    kernel.own("0::/\n")
    kernel.group("", memory_max=f"{64 * MB}\n", memory_current=f"{63 * MB}\n", memory_stat="anon 1\n")
    assert kernel.look() == (64 * MB, MB)
    kernel.own("0::/../../system.slice\n")  # what a namespace shows of a group outside of it
    assert kernel.look() == (64 * MB, MB)
    kernel.group("", memory_current=f"{65 * MB}\n")
    assert kernel.look() == (64 * MB, 0), "never less than nothing"


def test_version_1(kernel: Kernel) -> None:
    kernel.own("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
    kernel.group("memory", memory_limit_in_bytes=V1_NONE, memory_usage_in_bytes="1\n", memory_stat=STAT_V1)
    kernel.group("memory/docker/abc", memory_limit_in_bytes=V1_NONE)
    assert kernel.look() == MACHINE
    kernel.group("memory/docker/abc", memory_limit_in_bytes=f"{100 * MB}\n", memory_usage_in_bytes=f"{60 * MB}\n",
                 memory_stat=STAT_V1)
    assert kernel.look() == (100 * MB, 60 * MB)


def test_a_container_of_version_1_whose_path_is_the_hosts(kernel: Kernel) -> None:
    kernel.own("4:memory:/docker/abc\n")
    kernel.group("memory", memory_limit_in_bytes=f"{100 * MB}\n", memory_usage_in_bytes=f"{60 * MB}\n")
    assert kernel.look() == (100 * MB, 40 * MB)


def test_slots_are_those_of_the_cgroup(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    memory = MachineMemory(str(kernel.proc), str(kernel.cgroups))
    monkeypatch.setattr(settings, "MachineMemory", lambda: memory)
    assert settings.parse(b"", "x").slots == 9
    kernel.own("0::/\n")
    kernel.group("", memory_max=f"{192 * MB}\n", memory_current="1\n")
    memory = MachineMemory(str(kernel.proc), str(kernel.cgroups))
    assert settings.parse(b"", "x").slots == 2
