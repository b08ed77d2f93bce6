"""Nodes of a domain with a Kubo of their own each: they find each other, give each other blocks, and have one key."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.drivers import kubo_node
from ipdc_edge.drivers.kubo_rpc import KuboRefused
from ipdc_edge.home import Home
from tests.ipfs.kubo import OwnKubo, write_ports
from tests.lab.conftest import Lab, eventually, ipdc

pytestmark = pytest.mark.kubo
COUNTS = ("def map(key, line):\n    for word in line.split():\n        yield word, 1\n"
          "def reduce(key, values):\n    yield key, sum(values)\n")


@pytest.fixture()
def lab(ipfs: str, tmp_path: Path) -> Iterator[Lab]:
    """Three nodes, which know the ports of their Kubo nodes from their start on."""
    made = Lab(str(tmp_path / "lab"), 3)
    made.down()
    for node in (1, 2, 3):
        write_ports(made.home(node))
    ipdc("lab", "up", "--nodes", "3", "--dir", made.directory)
    yield made
    made.down()


@pytest.fixture()
def kubos(lab: Lab) -> Iterator[tuple[OwnKubo, OwnKubo]]:
    """Those of the first two nodes."""
    made = OwnKubo(lab.home(1)), OwnKubo(lab.home(2))
    for kubo in made:
        kubo.start()
    yield made
    for kubo in made:
        kubo.stop()


def met(one: OwnKubo, two: OwnKubo) -> bool:
    return two.rpc.identity()["ID"] in one.rpc.peers()


def key(kubo: OwnKubo) -> bytes:
    return Path(kubo.repository, "swarm.key").read_bytes()


def ended(kubo: OwnKubo) -> bool:
    return kubo.process is not None and kubo.process.poll() is not None


def test_the_daemons_have_their_kubo_nodes_meet_and_content_of_one_is_everybodys_input(
    lab: Lab, kubos: tuple[OwnKubo, OwnKubo], tmp_path: Path
) -> None:
    one, two = kubos
    eventually(lambda: met(one, two), "the daemons have the two meet", 60)
    own = two.rpc.identity()["ID"]
    assert any(own in word for node in lab.json(3, "nodes") for word in node["capabilities"])
    (tmp_path / "text").write_text("a b a\n" * 300_000)
    done = ipdc("add", "--to-kubo", str(tmp_path / "text"), home=lab.home(2))
    cid = done.stdout.strip()
    lab.run(2, "unpin", cid)
    lab.run(2, "gc")  # so that it is in the Kubo of the second node, and nowhere else
    (tmp_path / "Job.py").write_text(COUNTS)
    assert one.rpc.get_block(cid) is None
    job = lab.submit(1, str(tmp_path / "Job.py"), "--input", cid)
    assert lab.result(1, job) == ["a\t600000", "b\t300000"]
    assert one.rpc.get_block(cid) is not None  # it came by bitswap
    eventually(lab.idle, "nothing of the job is left")


def test_with_an_expulsion_those_who_stay_get_a_new_key_and_who_is_out_is_out(
    lab: Lab, kubos: tuple[OwnKubo, OwnKubo], tmp_path: Path
) -> None:
    one, two = kubos
    eventually(lambda: met(one, two), "the daemons have the two meet", 60)
    three = OwnKubo(lab.home(3))
    three.start()
    before = key(one)
    assert before == key(two) == key(three)
    three.rpc.connect(one.address)
    lab.run(1, "expel", "node3")
    for kubo in (one, two):
        eventually(lambda kubo=kubo: ended(kubo), "Kubo was ended, to begin anew", 60)
        kubo.start()
    assert key(one) == key(two) != before
    eventually(lambda: met(one, two), "they meet again, with the new key", 90)
    eventually(lambda: ended(three), "Kubo of the expelled node was ended: that node is alone", 60)
    with pytest.raises(AssertionError, match="alone, in no domain"):
        three.start()
    assert key(three) == before
    three.start_raw(LIBP2P_FORCE_PNET="1")  # who keeps the old key meets nobody by it
    with pytest.raises(KuboRefused, match="failed to negotiate security protocol"):
        three.rpc.connect(one.address)
    three.stop()


def test_who_joined_before_there_was_a_key_gets_it_from_the_authoritys_node(lab: Lab) -> None:
    """The nodes are as an earlier version left them. The first one has no Kubo itself: it makes the key when asked."""
    for node in (1, 2, 3):
        current = os.path.join(lab.home(node), "identity", "current")
        os.unlink(os.path.join(current, "swarm.json"))
    three, two = OwnKubo(lab.home(3)), OwnKubo(lab.home(2))
    try:
        three.start()
        two.start()
        assert key(three) == key(two)
        eventually(lambda: met(three, two), "they meet", 60)
    finally:
        three.stop()
        two.stop()
    assert kubo_node.running(Home({"IPDC_HOME": lab.home(2)})) is None


def test_the_key_is_not_printed_nor_in_any_log_or_retained_message(lab: Lab, kubos: tuple[OwnKubo, OwnKubo]) -> None:
    secret = key(kubos[0]).split()[-1].decode()
    said = "".join(lab.run(1, *words).stdout for words in (
        ("domain", "show"), ("domain", "show", "--json"), ("nodes", "--json"), ("doctor", "--json")))
    for node in (1, 2, 3):
        for directory, _, names in os.walk(lab.home(node)):
            if os.path.basename(directory) in ("log", "run"):
                for name in names:
                    path = os.path.join(directory, name)
                    if os.path.isfile(path):
                        said += Path(path).read_text(errors="replace")
    assert len(said) > 1000 and secret not in said and len(secret) == 64




def test_nodes_that_keep_their_content_in_kubo_give_each_other_blocks_by_bitswap(ipfs: str, tmp_path: Path) -> None:
    """And by HTTPS what is not in a Kubo: what its owner keeps by reference."""
    lab = Lab(str(tmp_path / "lab"), 2)
    lab.down()
    for node in (1, 2):
        write_ports(lab.home(node))
        with open(os.path.join(lab.home(node), "ipdc.conf"), "a", encoding="utf-8") as conf:
            conf.write("store = kubo\n")
    one, two = OwnKubo(lab.home(1)), OwnKubo(lab.home(2))
    ipdc("lab", "up", "--nodes", "2", "--dir", lab.directory)
    try:
        one.start()
        two.start()
        eventually(lambda: met(one, two) and met(two, one), "the daemons have the two meet", 90)
        eventually(lambda: all(any("kubo:" in word for word in node["capabilities"]) for node in lab.json(1, "nodes")),
                   "the first node knows of both", 60)
        text = random.Random(1).randbytes(5 << 20)
        (tmp_path / "file").write_bytes(text)
        cid = lab.run(2, "add", "--copy", str(tmp_path / "file")).stdout.strip()
        before, given = received(one), lab.ask(2, "counters")["gateway"]["bytes"]
        lab.run(1, "get", cid, "-o", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == text
        assert received(one) >= before + 5  # leaves of 1 MiB
        root_twice = 2 << 10  # by HTTPS only to see who has it
        assert lab.ask(2, "counters")["gateway"]["bytes"] - given < root_twice

        (tmp_path / "other").write_bytes(text[::-1])
        cid = lab.run(2, "add", str(tmp_path / "other")).stdout.strip()  # by reference
        lab.run(1, "get", cid, "-o", str(tmp_path / "got2"))
        assert (tmp_path / "got2").read_bytes() == text[::-1]
        assert lab.ask(2, "counters")["gateway"]["bytes"] - given > 4 << 20

        (tmp_path / "Job.py").write_text(COUNTS)
        (tmp_path / "text").write_text("a b a\n" * 300_000)
        job = lab.submit(1, str(tmp_path / "Job.py"), "--input", str(tmp_path / "text"), "-k", "2")
        assert lab.result(1, job) == ["a\t600000", "b\t300000"]
    finally:
        one.stop()
        two.stop()
        lab.down()


def received(kubo: OwnKubo) -> int:
    """Blocks that came to it by bitswap."""
    return int(json.loads(kubo.rpc.call("bitswap/stat"))["BlocksReceived"])
