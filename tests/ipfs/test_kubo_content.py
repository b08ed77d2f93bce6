"""Jobs over content that no node of the domain has, but a real Kubo on the master's machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.unixfs import parse_node
from tests.ipfs.kubo import Kubo
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually, ipdc

pytestmark = pytest.mark.kubo
MAP = "def map(name, line):\n    for word in line.split():\n        yield word, 1\n"
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"
WAYS = {
    "as here": (), "version 0": ("--cid-version=0", "--raw-leaves=false"), "leaves of dag-pb": ("--raw-leaves=false",),
    "small chunks": ("--chunker=size-4096",), "trickle": ("--trickle", "--chunker=size-4096"),
}


@pytest.fixture(scope="module")
def peer(ipfs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """A Kubo that shards directories of more than a few entries."""
    made = Kubo(tmp_path_factory.mktemp("kubo"))
    made.run("config", "Import.UnixFSHAMTDirectorySizeThreshold", "400B")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def domain(peer: Kubo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes; on the machine of the first one is Kubo, and only the second one works."""
    lab = Lab(str(tmp_path_factory.mktemp("lab") / "lab"), 2)
    with open(os.path.join(lab.home(1), "ipdc.conf"), "a", encoding="utf-8") as conf:
        conf.write(f"kubo_api = 127.0.0.1:{peer.rpc[1]}\nstore_quota = 40M\n")
    lab.down()
    ipdc("lab", "up", "--nodes", "2", "--dir", lab.directory)
    lab.run(1, "drain")
    yield lab
    lab.down()


@pytest.fixture()
def programs(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "Map.py").write_text(MAP)
    (tmp_path / "Reduce.py").write_text(REDUCE)
    return str(tmp_path / "Map.py"), str(tmp_path / "Reduce.py")


def words(count: int, seed: str) -> str:
    chance = random.Random(seed)
    return "".join(" ".join(chance.choices("abcdefghij", k=8)) + "\n" for _ in range(count))


def counted(text: str) -> list[str]:
    return sorted(f"{word}\t{count}" for word, count in Counter(text.split()).items())


@pytest.mark.parametrize("way", WAYS)
def test_a_job_reads_a_file_that_only_kubo_has(
    domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path, way: str
) -> None:
    text = words(20_000, way)
    (tmp_path / "text").write_text(text)
    cid = peer.add(tmp_path / "text", *WAYS[way])
    job = domain.submit(1, *programs, "--input", cid)
    assert domain.result(1, job) == counted(text)
    eventually(domain.idle, "nothing is held for the job any more")
    assert domain.run(1, "cat", cid).stdout == text


@pytest.mark.parametrize("sharded", [False, True])
def test_a_job_reads_all_below_a_directory_of_kubos(
    domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path, sharded: bool
) -> None:
    texts = {f"{'long-' * 8 * sharded}{index}": words(50, f"{sharded} {index}") for index in range(5 if sharded else 2)}
    (tmp_path / "top" / "below").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "top" / "below" / name).write_text(text)
    cid = peer.add(tmp_path / "top")
    below = peer.call("ls", arg=cid)["Objects"][0]["Links"][0]["Hash"]
    assert bool(parse_node(below, peer.run("block", "get", below)).fanout) is sharded
    assert sorted(line.split()[-1] for line in domain.run(1, "ls", below).stdout.splitlines()) == sorted(texts)
    job = domain.submit(1, *programs, "--input", cid)
    assert domain.result(1, job) == counted("".join(texts.values()))
    domain.run(1, "get", cid, "-o", str(tmp_path / "got"))
    subprocess.run(["diff", "-r", str(tmp_path / "top"), str(tmp_path / "got")], check=True)


def test_a_node_that_keeps_its_content_in_that_kubo_takes_it_in_too(
    peer: Kubo, programs: tuple[str, str], tmp_path: Path
) -> None:
    """Of what Kubo has anyway it becomes the owner."""
    text = words(30_000, "store")
    (tmp_path / "text").write_text(text)
    cid = peer.add(tmp_path / "text", *WAYS["small chunks"])
    lab = Lab(str(tmp_path / "lab"), 1)
    try:
        lab.down()
        with open(os.path.join(lab.home(1), "ipdc.conf"), "a", encoding="utf-8") as conf:
            conf.write(f"kubo_api = 127.0.0.1:{peer.rpc[1]}\nstore = kubo\n")
        ipdc("lab", "up", "--nodes", "1", "--dir", lab.directory)
        job = lab.submit(1, *programs, "--input", cid)
        assert lab.result(1, job) == counted(text)
        eventually(lab.idle, "nothing is held for the job any more")
    finally:
        lab.down()


def test_what_is_pinned_stays_without_kubo_and_comes_to_other_nodes(domain: Lab, peer: Kubo, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(random.Random(5).randbytes(3 << 20))
    cid = peer.add(tmp_path / "file")
    domain.run(1, "pin", cid)
    peer.run("pin", "rm", cid)
    peer.run("repo", "gc", "--quiet")
    domain.run(2, "get", cid, "-o", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == (tmp_path / "file").read_bytes()
    domain.run(1, "unpin", cid)
    domain.run(1, "gc")


def test_more_than_the_store_may_hold_is_refused_and_nothing_of_it_stays(
    domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(random.Random(6).randbytes(50 << 20))
    cid = peer.add(tmp_path / "file")
    done = domain.run(1, "submit", *programs, "--input", cid, check=False)
    assert done.returncode == 1 and "store_quota" in done.stderr
    assert domain.idle()


def test_what_kubo_cannot_find_either_is_said_with_where_was_looked(
    domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("nobody's")
    cid = peer.add(tmp_path / "file", "--only-hash")
    done = domain.run(1, "submit", *programs, "--input", cid, check=False)
    assert done.returncode == 1
    address = f"127.0.0.1:{peer.rpc[1]}"
    for part in ("not on this node", "nor on one of the 1 others", address, "Kubo: not found within"):
        assert part in done.stderr
    done = domain.run(2, "submit", *programs, "--input", cid, check=False)  # where no Kubo is
    assert done.returncode == 1 and "no Kubo answers at 127.0.0.1:5001" in done.stderr
    assert domain.idle()


def test_a_kubo_that_hangs_is_an_error(domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("it hangs")
    cid = peer.add(tmp_path / "file")
    assert peer.process is not None
    peer.process.send_signal(signal.SIGSTOP)
    try:
        done = domain.run(1, "submit", *programs, "--input", cid, check=False)
    finally:
        peer.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1 and "Kubo: no answer within" in done.stderr and domain.idle()
    domain.submit(1, *programs, "--input", cid)  # it goes on


def test_a_kubo_that_dies_in_the_middle_is_an_error_and_nothing_stays(
    domain: Lab, peer: Kubo, programs: tuple[str, str], tmp_path: Path
) -> None:
    """The last of these tests: it starts Kubo again, on the same port."""
    (tmp_path / "file").write_bytes(random.Random(7).randbytes(30 << 20))
    cid = peer.add(tmp_path / "file", "--chunker=size-4096")
    before = domain.ask(1, "counters")["fetched"]["blocks"]
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": domain.home(1)}
    submit = subprocess.Popen([PYTHON, "-m", "ipdc_edge", "submit", *programs, "--input", cid], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: domain.ask(1, "counters")["fetched"]["blocks"] > before + 50, "some of it is here")
    peer.stop(kill=True)
    _, said = submit.communicate(timeout=120)
    assert submit.returncode == 1 and "Kubo" in said and "Traceback" not in said, said
    eventually(domain.idle, "what came of it is gone")
    peer.start()
