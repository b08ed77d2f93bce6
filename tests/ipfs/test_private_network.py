"""The domain's private network of Kubo nodes, with real ones: who gets in, who does not, and that it is the key."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.kubo_rpc import KuboRefused, KuboRpc
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, make_creator, make_node
from tests.ipfs.kubo import Kubo, OwnKubo, program

pytestmark = pytest.mark.kubo


def become_member(creator: Home, node: Home) -> None:
    """What `join` keeps of what the authority answers; the conversation itself has tests of its own."""
    admitted = admit(creator, node, "two")
    directory = os.path.join(identity.domains(node), admitted.members.authority)
    os.makedirs(directory)
    for name, data in ((identity.AUTHORITY, admitted.authority), (identity.CERTIFICATE, admitted.certificate),
                       (identity.SWARM, admitted.swarm), (identity.MEMBERS, admitted.signed)):
        identity.write_file(os.path.join(directory, name), data)
    with identity.locked(node):
        identity.switch(node, admitted.members.authority)


@pytest.fixture()
def start(ipfs: str, tmp_path: Path) -> Iterator[Callable[[Home], OwnKubo]]:
    """Starts Kubo nodes, which end with the test."""
    made: list[OwnKubo] = []

    def one(home: Home) -> OwnKubo:
        made.append(OwnKubo(home.state))
        made[-1].start()
        return made[-1]

    yield one
    for kubo in made:
        kubo.stop()


def exchange(giver: KuboRpc, taker: KuboRpc, data: bytes) -> None:
    cid = giver.put_block(data)
    assert taker.get_block(cid) is None  # it has not got it already
    assert taker.get_block(cid, offline=False) == data


def refused(kubo: KuboRpc, address: str) -> str:
    with pytest.raises(KuboRefused) as caught:
        kubo.connect(address)
    return str(caught.value.details["reason"])


def test_only_kubo_nodes_of_the_domain_meet_and_it_is_the_key_that_keeps_others_out(
    start: Callable[[Home], OwnKubo], tmp_path: Path
) -> None:
    """Two nodes of one domain, a third one of another domain, and a Kubo without any key."""
    first, second, other = make_creator(tmp_path, "one"), make_node(tmp_path, "two"), make_creator(tmp_path, "three")
    become_member(first, second)
    one, two, three = map(start, (first, second, other))
    stranger = Kubo(tmp_path)
    stranger.start()
    try:
        keys = [Path(kubo.repository, "swarm.key") for kubo in (one, two, three)]
        assert keys[0].read_bytes() == keys[1].read_bytes() != keys[2].read_bytes()
        assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
        two.rpc.connect(one.address)
        exchange(one.rpc, two.rpc, b"a block of the domain" * 1000)
        exchange(two.rpc, one.rpc, b"and one in the other direction")

        outside = KuboRpc(stranger.rpc, 15.0)
        keyless = next(str(address) for address in outside.identity()["Addresses"] if "/127.0.0.1/tcp/" in address)
        for dials, address in ((three.rpc, one.address), (one.rpc, three.address), (two.rpc, three.address),
                               (outside, one.address), (one.rpc, keyless), (outside, three.address)):
            assert "failed to negotiate security protocol" in refused(dials, address)
        domain = {kubo.rpc.identity()["ID"] for kubo in (one, two)}
        for kubo in (one, two):
            assert set(kubo.rpc.peers()) < domain
        assert three.rpc.peers() == [] and outside.peers() == []

        for kubo, key in zip((one, two, three), keys, strict=True):  # without keys, and not forced, they do meet
            kubo.stop()
            key.unlink()
            kubo.start_raw()
        for dials, address in ((three.rpc, one.address), (outside, one.address), (one.rpc, keyless)):
            dials.connect(address)
        exchange(one.rpc, outside, b"everybody's")
    finally:
        stranger.stop()


def test_kubo_refuses_to_run_without_the_key(ipfs: str, tmp_path: Path) -> None:
    home = make_creator(tmp_path, "one")
    kubo = OwnKubo(home.state)
    kubo.start()
    kubo.stop()
    Path(kubo.repository, "swarm.key").unlink()
    done = subprocess.run([program(), "--repo-dir", kubo.repository, "daemon"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60,
                          env={**os.environ, "LIBP2P_FORCE_PNET": "1", "IPFS_TELEMETRY": "off"})
    assert done.returncode == 1 and "private network was not configured but is enforced" in done.stderr
    kubo.start()  # ours writes it again
    assert Path(kubo.repository, "swarm.key").exists()
    assert b"LIBP2P_FORCE_PNET=1" in Path(f"/proc/{kubo.process.pid}/environ").read_bytes()  # type: ignore[attr-defined]
    kubo.stop()


def test_kubo_listens_on_tcp_alone_and_speaks_with_nobody_else(
    start: Callable[[Home], OwnKubo], tmp_path: Path
) -> None:
    kubo = start(make_creator(tmp_path, "one"))
    addresses = kubo.rpc.identity()["Addresses"]
    assert addresses and all("/tcp/" in address and "/udp/" not in address for address in addresses)
    assert kubo.process is not None
    ports = {int(line.split()[1].rpartition(":")[2], 16) for protocol in ("tcp", "tcp6", "udp", "udp6")
             for line in _sockets(kubo.process.pid, protocol)}
    conf = settings.load(os.path.join(kubo.home, "ipdc.conf"))
    assert ports == {conf.kubo_api[1], conf.kubo_swarm_port}
    assert kubo.rpc.peers() == []
    assert b'"Enabled": true' not in Path(kubo.repository, "config").read_bytes()


def _sockets(pid: int, protocol: str) -> list[str]:
    """The lines of /proc/net for what this process listens on, or has bound."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    lines = Path("/proc/net", protocol).read_text().splitlines()[1:]
    listening = [line for line in lines if protocol.startswith("udp") or line.split()[3] == "0A"]
    return [line for line in listening if line.split()[9] in inodes]


def test_a_port_that_is_taken_is_named_before_kubo_starts(ipfs: str, tmp_path: Path) -> None:
    home = make_creator(tmp_path, "one")
    kubo = OwnKubo(home.state)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        Path(home.conf).write_text(f"kubo_api = 127.0.0.1:{port}\n")
        with pytest.raises(AssertionError, match=f"Port {port} of 127.0.0.1 is taken.*kubo_api"):
            kubo.start()

