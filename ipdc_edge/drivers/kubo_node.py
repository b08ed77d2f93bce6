"""This node's own Kubo: its repository in the domain's private network, its start, and who finds the one that runs.

Owns the repository below the node's home, and of its configuration those values that keep it in the domain: no
bootstrap, no public routing, no mDNS, no relays, no telemetry, RPC on loopback, no gateway, TCP only, and the domain's
key in `swarm.key` (0600). What else an owner sets there stays. `LIBP2P_FORCE_PNET=1` has Kubo refuse to run without
that key. Never speaks to Kubo; never touches a repository of somebody else's (`~/.ipfs`).
Source of the names: https://github.com/ipfs/kubo/blob/master/docs/config.md
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from ipdc_edge.codec import swarm_key
from ipdc_edge.codec.swarm_key import SwarmKey
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.broker import check_port
from ipdc_edge.drivers.identity import Identity, write_file
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

PROFILE = "unixfs-v1-2025"  # of what is added there, as of what is added here
MOST_CONFIG = 1 << 20
PEER = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")  # a libp2p peer id in base58
ENVIRONMENT = {"LIBP2P_FORCE_PNET": "1", "IPFS_TELEMETRY": "off"}
FORCED: dict[str, object] = {
    "Bootstrap": [], "Peering.Peers": [], "AutoConf.Enabled": False, "Routing.Type": "none",
    "Routing.DelegatedRouters": [], "Ipns.DelegatedPublishers": [], "DNS.Resolvers": {}, "HTTPRetrieval.Enabled": False,
    "Discovery.MDNS.Enabled": False, "Provide.Enabled": False, "Pubsub.Enabled": False, "AutoTLS.Enabled": False,
    "AutoNAT.ServiceMode": "disabled", "Addresses.Gateway": [], "Gateway.NoFetch": True, "Addresses.Announce": [],
    "Swarm.DisableNatPortMap": True, "Swarm.RelayClient.Enabled": False, "Swarm.RelayService.Enabled": False,
    "Swarm.EnableHolePunching": False, "Swarm.AddrFilters": [], "Version.SwarmCheckEnabled": False,
    "Plugins.Plugins.telemetry": {"Disabled": True}, "Bitswap.Libp2pEnabled": True, "Bitswap.ServerEnabled": True,
    # nobody else tells who has a block, so everybody of the domain is asked
    "Internal.Bitswap.BroadcastControl.Enable": False,
    "Swarm.Transports.Network": {"TCP": True, "Websocket": False, "QUIC": False, "Relay": False,
                                 "WebTransport": False, "WebRTCDirect": False},
}


class KuboMissing(IpdcError):
    """There is no `ipfs` (Kubo) on PATH. Kubo is optional, for nodes with memory to spare; Debian has no package of it.
    How to install it: https://docs.ipfs.tech/install/command-line/"""


class KuboAlone(IpdcError):
    """This node is alone, in no domain, and its Kubo would have no private network to be in. First: `ipdc-edge domain
    create NAME`, or `ipdc-edge join TOKEN`."""


class NoSwarmKey(IpdcError):
    """This node does not have the key of the private network of domain {domain}: it joined before there was one. Its
    daemon asks the authority's node for it whenever both run; where that is no way: `ipdc-edge leave`, then `join`."""


class KuboNotMade(IpdcError):
    """Kubo's repository {path} cannot be made or read: {reason}"""


class Running(NamedTuple):
    """The Kubo that `ipdc-edge kubo` became: its process, its libp2p peer id and the TCP port of its swarm."""

    pid: int
    peer: str
    port: int


def find_ipfs() -> str:
    """The program's full path. Raises KuboMissing."""
    found = shutil.which("ipfs")
    if found is None:
        raise KuboMissing
    return os.path.abspath(found)


def key_of(home: Home, own: Identity) -> SwarmKey:
    """The key of the domain's private network; on the authority's node it is made where there is none yet. Raises
    KuboAlone, NoSwarmKey."""
    if own.alone:
        raise KuboAlone
    data = identity.swarm_key(home, own.authority)
    if not data and own.has_authority:
        from ipdc_edge.drivers import authority

        authority.make_swarm_key(home)
        data = identity.swarm_key(home, own.authority)
    if not data:
        raise NoSwarmKey(domain=own.domain)
    return swarm_key.parse(data)[0]


def prepare(home: Home, settings: Settings, own: Identity) -> str:
    """Makes the repository, or brings it to what settings and domain are now: Kubo's peer id. Raises KuboMissing,
    KuboAlone, NoSwarmKey, KuboNotMade."""
    key = key_of(home, own)
    program = find_ipfs()
    path = os.path.join(home.kubo, "config")
    try:
        os.makedirs(home.kubo, mode=0o700, exist_ok=True)
        fresh = not os.path.exists(path)
        if fresh:
            _init(program, home)
        os.chmod(home.kubo, 0o700)
        with open(path, "rb") as file:
            found = json.loads(file.read(MOST_CONFIG))
        if fresh:  # later the owner's own
            found["Datastore"]["StorageMax"] = f"{settings.quota(home.state)}B"
        wanted = configured(found, settings)
        peer = str(wanted["Identity"]["PeerID"])
        if not PEER.fullmatch(peer):
            raise ValueError("it has no peer id")
        with open(path, "rb") as file:
            if json.loads(file.read(MOST_CONFIG)) != wanted:
                write_file(path, json.dumps(wanted, indent=2).encode() + b"\n")
        _write_key(os.path.join(home.kubo, "swarm.key"), swarm_key.kubos_file(key))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KuboNotMade(path=home.kubo, reason=getattr(error, "strerror", None) or str(error)[:300]) from None
    return peer


def configured(found: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A configuration with what keeps Kubo in the domain; changes what it is given."""
    host, port = settings.kubo_api
    swarm = [f"/ip4/{settings.bind(False)}/tcp/{settings.kubo_swarm_port}"]
    for name, value in {**FORCED, "Addresses.API": f"/ip4/{host}/tcp/{port}", "Addresses.Swarm": swarm}.items():
        *parents, last = name.split(".")
        place = found
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return found


def exec_kubo(home: Home, settings: Settings, own: Identity) -> None:
    """Becomes Kubo; returns only by raising what `prepare` raises, PortTaken or AddressUnusable."""
    peer = prepare(home, settings, own)
    check_port(settings.kubo_api[0], settings.kubo_api[1], "kubo_api", home.conf)
    check_port(settings.bind(False), settings.kubo_swarm_port, "kubo_swarm_port", home.conf)
    mark = {"pid": os.getpid(), "peer": peer, "port": settings.kubo_swarm_port}
    with open(home.kubo_mark + ".new", "w", encoding="ascii") as file:
        json.dump(mark, file)
    os.replace(home.kubo_mark + ".new", home.kubo_mark)
    sys.stdout.flush()
    sys.stderr.flush()
    program = find_ipfs()
    # what nobody pinned goes when the repository is full
    words = [program, "--repo-dir", home.kubo, "daemon", "--migrate=true", "--enable-gc"]
    os.execve(program, words, _environment(home))


def running(home: Home) -> Running | None:
    """The Kubo of this node, proven by its command line; None where none runs."""
    try:
        with open(home.kubo_mark, encoding="ascii") as file:
            found = json.loads(file.read(1000))
        pid, peer, port = int(found["pid"]), str(found["peer"]), int(found["port"])
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            words = line.read(65536).split(b"\0")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if os.fsencode(home.kubo) not in words or b"daemon" not in words or not PEER.fullmatch(peer):
        return None
    return Running(pid, peer, port)


def restart(home: Home) -> bool:
    """Ends the running Kubo, which whoever started it starts again, in the domain and with the key that are now; False
    where none runs."""
    found = running(home)
    try:
        if found is not None:
            os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return found is not None


def has_newest_key(home: Home, own: Identity) -> bool:
    """Whether the repository's key is the domain's present one; so where there is no repository."""
    data = identity.swarm_key(home, own.authority)
    try:
        with open(os.path.join(home.kubo, "swarm.key"), "rb") as file:
            return bool(data) and file.read(1000) == swarm_key.kubos_file(swarm_key.parse(data)[0])
    except FileNotFoundError:
        return True


def _init(program: str, home: Home) -> None:
    done = subprocess.run([program, "--repo-dir", home.kubo, "init", "--empty-repo", "--profile", PROFILE],
                          env=_environment(home), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip()[-300:] or f"it ended with {done.returncode}")


def _environment(home: Home) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "IPFS_PATH": home.kubo, "HOME": os.environ.get("HOME") or home.kubo}


def _write_key(path: str, data: bytes) -> None:
    """Only where it is another one: nothing is written to flash at most starts."""
    try:
        with open(path, "rb") as file:
            if file.read(1000) == data and os.fstat(file.fileno()).st_mode & 0o077 == 0:
                return
    except FileNotFoundError:
        pass
    write_file(path, data)
