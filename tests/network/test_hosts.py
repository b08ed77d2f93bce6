"""The network for tests is what it says: hosts reach each other, faults cut them off, nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.network import hosts
from tests.network.hosts import PYTHON, ROOT, CommandFailed, Host, Network, Service
from tests.waiting import eventually

pytestmark = pytest.mark.network
ASK = """
import http.client, sys
asked = http.client.HTTPConnection(sys.argv[1], 8000, timeout=0.5)
try:
    asked.request("GET", "/")
    print(asked.getresponse().status)
except OSError as error:
    print(type(error).__name__)
"""


def serve(host: Host) -> None:
    host.start(PYTHON, "-m", "http.server", "8000", cwd="/etc/avahi", stdout=subprocess.DEVNULL,
               stderr=subprocess.DEVNULL)


def ask(host: Host, address: str) -> str:
    return host.run(PYTHON, "-c", ASK, address).stdout.strip()


def reaches(host: Host, address: str) -> bool:
    return ask(host, address) == "200"


def own_network() -> str:
    """This machine's own interfaces and routes."""
    return hosts.sh("ip", "-o", "addr") + hosts.sh("ip", "route")


def test_hosts_reach_each_other_and_this_machine_has_no_part_in_it(network: Network) -> None:
    before = own_network()
    one, two = network.host("one"), network.host()
    assert (one.address, two.address, two.name) == ("10.77.0.1", "10.77.0.2", "host2")
    serve(two)
    eventually(lambda: reaches(one, two.address), "an answer")
    assert own_network() == before and str(hosts.SUBNET[0])[:-1] not in before


@pytest.mark.parametrize("fault", [("cut", "heal"), ("mute", "unmute")])
def test_a_fault_cuts_off_until_it_is_undone(network: Network, fault: tuple[str, str]) -> None:
    one, two = network.host(), network.host()
    serve(two)
    eventually(lambda: reaches(one, two.address), "an answer")
    getattr(two, fault[0])()
    assert ask(one, two.address) in ("TimeoutError", "OSError")
    carrier = two.run("cat", "/sys/class/net/eth0/carrier").stdout.strip()
    assert carrier == ("0" if fault[0] == "cut" else "1")
    getattr(two, fault[1])()
    eventually(lambda: reaches(one, two.address), f"an answer after {fault[1]}")


def test_a_new_address_takes_the_place_of_the_old_one(network: Network) -> None:
    one, two = network.host(), network.host()
    serve(two)
    eventually(lambda: reaches(one, "10.77.0.2"), "an answer")
    two.readdress("10.77.0.99")
    eventually(lambda: reaches(one, "10.77.0.99"), "an answer at the new address")
    assert not reaches(one, "10.77.0.2")
    assert two.address == "10.77.0.99"


def test_a_failed_command_shows_what_it_said(network: Network) -> None:
    with pytest.raises(CommandFailed, match="no such thing"):
        network.host().run("sh", "-c", "echo no such thing >&2; exit 3")


def test_a_service_is_started_again_until_it_is_stopped(network: Network, directory: str) -> None:
    log = os.path.join(directory, "log")
    words = (PYTHON, "-c", "import os, sys; print('round', os.environ['WORD'], flush=True); sys.stdin.read()")
    service = Service(network.host(), words, {"WORD": "one"}, log, restarts=True)
    service.start()
    eventually(lambda: service.log().count("round one") >= 3, "three rounds")  # its stdin is at its end: it ends
    service.stop()
    assert not service.running
    once = Service(network.hosts[0], ("sleep", "600"), {}, log, restarts=False)
    once.start()
    assert once.running and once.stop() == -15 and once.starts == 1


def test_two_networks_do_not_meet_and_leave_nothing(network: Network) -> None:
    one = network.host()
    with Network() as other:
        two = other.host()
        assert one.address == two.address
        serve(two)
        eventually(lambda: reaches(two, two.address), "an answer at home")
        assert not reaches(one, two.address)
        names = [two.namespace, other.bridge]
    assert not set(names) & set(os.listdir("/run/netns"))
    assert one.namespace in os.listdir("/run/netns")


def test_what_a_killed_run_left_is_removed_by_the_next(network: Network) -> None:
    kept = network.host().namespace
    script = (
        "import os, signal\n"
        "from tests.network.hosts import Network\n"
        "made = Network().__enter__()\n"
        "made.host('left').start('sleep', '600', stdout=-3, stderr=-3)\n"  # DEVNULL: a pipe would be waited for
        "print(made.prefix, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    prefix = done.stdout.strip()
    assert prefix and {f"{prefix}-bridge", f"{prefix}-left"} <= set(os.listdir("/run/netns")), done.stderr
    hosts.remove_leftovers()
    assert not [name for name in os.listdir("/run/netns") if name.startswith(prefix)]
    assert kept in os.listdir("/run/netns")
