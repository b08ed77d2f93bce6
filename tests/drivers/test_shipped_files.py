"""Files that travel with a job to a runner, without a copy in its memory; and how big its spills may become."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
from ipdc_edge.drivers.runner_child import RunnerProcess
from ipdc_edge.drivers.scratch import LEAST_FILE, SHARE, file_size
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.drivers.test_runner import MAP_FILE, MEGABYTE, MODULE, do, in_pieces, spec

READS = b"""
import hashlib, os, pkgutil, subprocess, package

def map(key, line):
    yield "link", os.path.islink("data/big")
    yield "read", hashlib.md5(open("data/big", "rb").read()).hexdigest()
    yield "child", subprocess.run(["md5sum", "data/big"], capture_output=True, text=True).stdout.split()[0]
    yield "package", hashlib.md5(pkgutil.get_data("package", "table")).hexdigest()
    yield "small", open("small").read()
    yield "memory", int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) < 64 << 10
"""


@pytest.mark.parametrize("kind", [RunnerProcess, RunnerBubblewrap])
def test_a_big_file_is_read_where_it_is(tmp_path: Path, kind: type[RunnerProcess]) -> None:
    if kind is RunnerBubblewrap:
        needs_bubblewrap()
    big, table = os.urandom(16 * MEGABYTE), os.urandom(2 * MEGABYTE)
    code = {"Map.py": READS, "data/big": big, "package/__init__.py": b"", "package/table": table, "small": b"few"}

    async def main() -> bytes:
        process = kind(str(tmp_path))
        try:
            await process.start(spec(memory=48 * MEGABYTE), in_pieces(code), MODULE, "job")
            _, streams = await do(process, MAP_FILE, [[b"x\n"]])
            return b"".join(streams.written[0])
        finally:
            await process.close()
            assert os.listdir(tmp_path) == []

    digests = {name: hashlib.md5(data).hexdigest() for name, data in (("big", big), ("table", table))}
    assert asyncio.run(main()).decode().splitlines() == [
        "link\ttrue", f"read\t{digests['big']}", f"child\t{digests['big']}", f"package\t{digests['table']}",
        "small\tfew", "memory\ttrue",
    ]  # fmt: skip


def test_a_spill_file_may_have_a_share_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in ((0, LEAST_FILE), (SHARE * 50 * MEGABYTE, 50 * MEGABYTE), (1 << 50, 1 << 30)):
        disk = os.statvfs_result((4096, 4096, 0, 0, free // 4096, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path, disk=disk: disk)
        assert file_size(str(tmp_path), 1 << 30) == expected
