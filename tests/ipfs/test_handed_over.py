"""What a real node made or was given, fetched by a real Kubo."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ipdc_edge.commands.add import to_kubo
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from tests.ipfs.kubo import Kubo
from tests.lab.conftest import Lab, ipdc

pytestmark = pytest.mark.kubo
MAP = "def map(name, line):\n    for word in line.split():\n        yield word, 1\n"
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"


@pytest.fixture()
def lab(tmp_path: Path, kubo: Kubo) -> object:
    lab = Lab(str(tmp_path / "lab"), 1)
    with open(os.path.join(lab.home(1), "ipdc.conf"), "a", encoding="utf-8") as conf:
        conf.write(f"kubo_api = 127.0.0.1:{kubo.rpc[1]}\n")
    yield lab
    ipdc("lab", "down", "--dir", lab.directory)


def test_the_root_of_a_result_is_fetched_by_ipfs_get(lab: Lab, kubo: Kubo, tmp_path: Path) -> None:
    (tmp_path / "Map.py").write_text(MAP)
    (tmp_path / "Reduce.py").write_text(REDUCE)
    (tmp_path / "text").write_text("a b a\nc a\n" * 1000)
    job = lab.submit(1, str(tmp_path / "Map.py"), str(tmp_path / "Reduce.py"), "--input", str(tmp_path / "text"),
                     "-k", "2")
    with open(os.path.join(lab.home(1), "jobs", job, "job.json"), encoding="utf-8") as file:
        root = json.load(file)["root"]
    assert lab.run(1, "result", job, "--to-kubo").stdout.strip() == root
    assert lab.json(1, "result", job, "--to-kubo") == {"id": job, "cid": root}
    kubo.run("get", "--output", str(tmp_path / "got"), root)
    parts = lab.parts(1, job)
    assert {name: (tmp_path / "got" / name).read_bytes() for name in os.listdir(tmp_path / "got")} == {
        f"part-{index:05d}": part for index, part in enumerate(parts)}
    assert len(parts) == 2


def test_what_was_added_is_in_kubo_too(lab: Lab, kubo: Kubo, tmp_path: Path) -> None:
    """By reference and as a copy, a directory with a file that stands in it twice; the same CID as Kubo's own."""
    top = tmp_path / "top"
    (top / "empty").mkdir(parents=True)
    for name in ("a", "b"):
        (top / name).write_bytes(bytes(range(256)) * 10_000)
    os.symlink("a", top / "link")
    for options in ((), ("--copy",)):
        cid = lab.run(1, "add", "--to-kubo", *options, str(top)).stdout.strip()
        assert cid == kubo.add(top, "--only-hash")
        assert cid.encode() in kubo.run("pin", "ls", "--type=recursive")
        kubo.run("get", "--output", str(tmp_path / "got"), cid)
        subprocess.run(["diff", "-r", "--no-dereference", str(top), str(tmp_path / "got")], check=True)
        kubo.run("pin", "rm", cid)
        kubo.run("repo", "gc", "--quiet")
        shutil.rmtree(tmp_path / "got")


def test_a_file_that_changed_is_not_handed_over(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    cid = lab.run(1, "add", str(path)).stdout.strip()
    path.write_bytes(b"x" * (3 << 20))
    with pytest.raises(IpdcError, match="is not what it was"):
        to_kubo(Home({"IPDC_HOME": lab.home(1)}), cid)


def test_without_a_kubo_it_says_so(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Map.py").write_text(MAP)
    (tmp_path / "text").write_text("a\n")
    job = lab.submit(1, str(tmp_path / "Map.py"), "--input", str(tmp_path / "text"))
    conf = Path(lab.home(1), "ipdc.conf")
    conf.write_text("".join(line for line in conf.read_text().splitlines(True) if "kubo_api" not in line)
                    + "kubo_api = 127.0.0.1:1\n")
    done = lab.run(1, "result", job, "--to-kubo", check=False)
    assert done.returncode == 1 and "No Kubo answers at 127.0.0.1:1" in done.stderr and "kubo_api" in done.stderr


TREES = 25
NAMES = (b"a", b"B", b"-n", b".hidden", b"caf\xc3\xa9", b"\xff\xfe", b" ", b"new\nline", b"x" * 255, b"\x01", b"%41",
         b"\xe2\x80\xae", b"~", b"\\", b"'", b'"')


def grow(directory: bytes, chance: random.Random, depth: int = 0) -> None:
    """A random tree: names of any bytes, files of all sizes about those of a chunk, links that lead anywhere."""
    for name in chance.sample(NAMES, chance.randint(0, 6)):
        path = os.path.join(directory, name)
        kind = chance.random()
        if kind < 0.25 and depth < 4:
            os.mkdir(path)
            grow(path, chance, depth + 1)
        elif kind < 0.4:
            os.symlink(chance.choice([b"a", b"../..", b"/etc/passwd", b"\xff", b"x" * 1000]), path)
        else:
            size = chance.choice([0, 1, 17, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
            with open(path, "wb") as file:
                file.write(chance.randbytes(min(size, 4096)))
                file.truncate(size)


def test_random_trees_have_the_cids_that_kubo_gives_them(lab: Lab, kubo: Kubo, tmp_path: Path) -> None:
    for seed in range(TREES):
        top = tmp_path / f"tree{seed}"
        top.mkdir()
        grow(os.fsencode(top), random.Random(seed))
        ours = lab.run(1, "add", str(top)).stdout.strip()
        assert ours == kubo.add(top, "--only-hash"), f"seed {seed}"
        if seed < 5:
            lab.run(1, "get", ours, "-o", str(tmp_path / f"got{seed}"))
            words = "diff", "-r", "--no-dereference", "--exclude=.hidden", str(top), str(tmp_path / f"got{seed}")
            subprocess.run(words, check=True)
