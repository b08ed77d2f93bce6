"""The weather is what it says: frames come later, not at all, or damaged, and afterwards as before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.weather import Weather, deafen, undeafen
from tests.network.hosts import PYTHON, Host, Network
from tests.waiting import eventually

pytestmark = pytest.mark.faults

SERVE = """
import http.server
class Zeros(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 20))
        self.end_headers()
        self.wfile.write(bytes(1 << 20))
http.server.ThreadingHTTPServer(("", 8000), Zeros).serve_forever()
"""
# Prints how long the answer took to begin, and how many of its bytes are not what they were, or what went wrong.
ASK = """
import http.client, sys, time
asked = http.client.HTTPConnection(sys.argv[1], 8000, timeout=float(sys.argv[2]))
began = time.monotonic()
try:
    asked.request("GET", "/")
    answer = asked.getresponse()
    took, body = time.monotonic() - began, answer.read()
    print(took, len(body) - body.count(0))
except (OSError, http.client.HTTPException) as error:
    print(type(error).__name__)
"""


@pytest.fixture
def pair(namespaces: None) -> Iterator[tuple[Host, Host]]:
    with Network() as network:
        one, two = network.host("one"), network.host("two")
        two.start(PYTHON, "-c", SERVE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: len(ask(one, two)) == 2, "an answer")
        yield one, two


def ask(one: Host, two: Host, patience: float = 30) -> list[float]:
    """[seconds, damaged bytes]; empty where nothing came."""
    words = one.run(PYTHON, "-c", ASK, two.address, str(patience)).stdout.split()
    return [float(word) for word in words] if len(words) == 2 else []


def test_frames_come_later(pair: tuple[Host, Host]) -> None:
    cloud = Weather(pair[1], delay_ms=150)
    took, damaged = ask(*pair)
    assert took >= 0.6 and not damaged  # a round trip for the connection, one for the answer
    cloud.clear()
    eventually(lambda: (found := ask(*pair)) and found[0] < 0.6, "an answer without the delay")


def test_frames_are_lost(pair: tuple[Host, Host]) -> None:
    cloud = Weather(pair[0], loss=1.0)
    assert not ask(*pair, 0.5)
    cloud.clear()
    eventually(lambda: ask(*pair), "an answer")
    cloud = Weather(pair[0], loss=0.05)
    assert ask(*pair)[1] == 0, "TCP makes up for it"
    cloud.clear()


def test_bits_are_flipped_and_no_checksum_says_so(pair: tuple[Host, Host]) -> None:
    cloud = Weather(pair[1], flipped=0.3)
    eventually(lambda: (found := ask(*pair, 5)) and found[1] > 0, "a damaged answer")
    cloud.clear()
    eventually(lambda: (found := ask(*pair)) and found[1] == 0, "a whole one")


def test_one_way_is_one_way(pair: tuple[Host, Host]) -> None:
    one, two = pair
    deafen(two, one)
    before = int(_arrived(two))
    assert not ask(one, two, 1)
    assert int(_arrived(two)) > before, "the question arrives"
    undeafen(two, one)
    eventually(lambda: ask(one, two), "an answer")


def _arrived(host: Host) -> str:
    """How many segments came in."""
    lines = [line.split() for line in host.run("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Tcp:")]
    return dict(zip(*lines))["InSegs"]
