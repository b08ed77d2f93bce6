"""Bad weather on a host's cable: delay, loss and flipped bits, and silence towards one neighbour.

Owns a forwarder between a host and the bridge of `tests.network.hosts`, since small kernels have no sch_netem: the
host's port leaves the bridge, and a process copies frames between it and another port. Run inside the bridge's
namespace:

    python3 -m tests.faults.weather PORT OTHER DELAY_MS JITTER_MS LOSS FLIPPED         LOSS, FLIPPED: shares of frames

Frames cross with the delay in both directions; jitter lets them overtake each other, as sch_netem's does. Checksums on
a veth are promised, not computed, so a flipped bit reaches the other side's TLS as a bad cable's rarely does.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import select
import socket
import subprocess
import sys
import time

from tests.network.hosts import PYTHON, ROOT, Host, sh

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
FRAME = 70_000  # bytes of the longest, segmentation left to the card
HEADERS = 10 + 14 + 20 + 32  # bytes before what a TCP segment carries, with the virtual header in front
NOBODY = "02:00:00:00:00:ff"  # a hardware address that no host has


class Weather:
    """What a host's cable does, until `clear`."""

    def __init__(self, host: Host, *, delay_ms: float = 0, jitter_ms: float = 0, loss: float = 0,
                 flipped: float = 0) -> None:
        self._host, bridge, port = host, host.network.bridge, host._port
        self._other = f"q{port}"
        sh("ip", "-n", bridge, "link", "set", port, "nomaster")
        sh("ip", "-n", bridge, "link", "add", self._other, "type", "veth", "peer", "name", f"r{port}")
        sh("ip", "-n", bridge, "link", "set", f"r{port}", "master", "br0", "up")
        for end in (self._other, port):  # frames for others' hardware addresses must be seen
            sh("ip", "-n", bridge, "link", "set", end, "promisc", "on", "up")
        figures = [str(figure) for figure in (delay_ms, jitter_ms, loss, flipped)]
        words = ["ip", "netns", "exec", bridge, PYTHON, "-m", "tests.faults.weather", port, self._other, *figures]
        self._process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"forwarding\n", "the forwarder did not begin"

    def clear(self) -> None:
        """The cable is as it was."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        bridge = self._host.network.bridge
        sh("ip", "-n", bridge, "link", "del", self._other)
        sh("ip", "-n", bridge, "link", "set", self._host._port, "promisc", "off", "master", "br0")


def deafen(host: Host, neighbour: Host) -> None:
    """What `host` sends to that neighbour does not arrive any more, and nothing tells it so."""
    _address(host, neighbour, NOBODY, "permanent")


def undeafen(host: Host, neighbour: Host) -> None:
    """Ends that."""
    own = sh("ip", "-n", neighbour.namespace, "-o", "link", "show", "eth0").partition("link/ether ")[2].split()[0]
    _address(host, neighbour, own, "reachable")


def _address(host: Host, neighbour: Host, hardware: str, state: str) -> None:
    sh("ip", "-n", host.namespace, "neigh", "replace", neighbour.address, "lladdr", hardware, "dev", "eth0",
       "nud", state)


def _open(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)  # keeps what is promised of checksums, else TCP over veth stalls
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)  # else our own frames come back, for ever
    opened.bind((interface, ETH_P_ALL))
    opened.setblocking(False)
    return opened


def _flip(frame: bytes) -> bytes:
    """One bit of what the frame carries is another."""
    damaged = bytearray(frame)
    damaged[random.randrange(HEADERS, len(frame))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def main(one: str, two: str, *figures: str) -> None:
    delay, jitter, loss, flipped = map(float, figures)
    ends = [_open(one), _open(two)]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    queue: list[tuple[float, int, socket.socket, bytes]] = []
    order, parent = itertools.count(), os.getppid()
    print("forwarding", flush=True)
    while os.getppid() == parent:  # a run that was killed leaves nobody behind
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
        for end in select.select(ends, [], [], wait)[0]:
            try:
                while True:
                    frame = end.recv(FRAME)
                    if random.random() < loss:
                        continue
                    if len(frame) > HEADERS and random.random() < flipped:
                        frame = _flip(frame)
                    due = time.monotonic() + max(0.0, delay + random.uniform(-jitter, jitter)) / 1000
                    heapq.heappush(queue, (due, next(order), other[end], frame))
            except OSError:
                pass  # nothing more for now, or the cable was pulled
        while queue and queue[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(queue)
            try:
                end.send(frame)
            except OSError:
                pass  # the same


if __name__ == "__main__":
    main(*sys.argv[1:])
