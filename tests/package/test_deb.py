"""The package on fresh Debian 12 and 13: what it brings, that it installs by apt, and that purge leaves nothing.

These systems have not booted; what systemd makes of the units is not seen here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare.debian import SUITES, USER, Guest

pytestmark = pytest.mark.package


@pytest.fixture(params=list(SUITES))
def guest(request: pytest.FixtureRequest, deb: Path) -> Iterator[Guest]:
    with Guest(request.param) as fresh:
        fresh.run("cat > /root/ipdc-edge.deb", stdin=deb.read_bytes()).check()
        yield fresh


def test_lintian_finds_nothing(deb: Path) -> None:
    found = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", str(deb)], capture_output=True,
                           text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_newcomer_builds_the_same_on_a_bare_machine(deb: Path) -> None:
    """On Debian 13, as a user with sudo; this machine built its own as whoever runs the tests."""
    with Guest("trixie") as fresh:
        fresh.add_user()
        place = fresh.add_checkout(USER)
        built = fresh.run(f"cd {place} && ./build-deb && ls dist", USER).check()
        assert built.left == [] and "ipdc-edge.deb" in built.stdout, built
        there = fresh.run(f"dpkg-deb --contents {place}/dist/ipdc-edge.deb").check().stdout
    here = subprocess.run(["dpkg-deb", "--contents", str(deb)], capture_output=True, text=True, check=True).stdout

    def files(contents: str) -> list[str]:
        # where units lie is the distribution's affair
        return sorted(line.split()[5].removeprefix("./usr").removeprefix(".") for line in contents.splitlines())

    assert set(files(there)) - set(files(here)) <= {"/lib/systemd/"} and len(files(there)) > 150
    assert set(files(here)) - set(files(there)) <= {"/lib/"}


def test_what_the_package_says_of_itself(deb: Path) -> None:
    said = subprocess.run(["dpkg-deb", "--field", str(deb), "Architecture", "Depends", "Recommends"],
                          capture_output=True, text=True, check=True).stdout
    assert "Architecture: all" in said
    depends = said.partition("Depends:")[2].partition("Recommends:")[0]
    for optional in ("bubblewrap", "kubo", "ipfs", "tflite", "tensorflow", "avahi"):
        assert optional not in depends


def test_installs_and_is_purged_without_a_trace(guest: Guest) -> None:
    guest.run("""set -e
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update
        find / -xdev -path /proc -prune -o -path /sys -prune -o -path /root -prune -o -print | sort > /root/before
        apt-get -y -qq install --no-install-recommends /root/ipdc-edge.deb""").check()
    about = guest.run("""set -e
        id ipdc
        ipdc-edge --help | head -n 1
        ls /usr/lib/python3/dist-packages/ipdc_edge/__pycache__/__main__.*.pyc
        ls /lib/systemd/system/ipdc-edge.service /usr/lib/sysusers.d/ipdc-edge.conf /usr/share/man/man1/ipdc-edge.1.gz
        ls -l /etc/systemd/system/*.wants
        dpkg-query --show --showformat '${Conffiles}' ipdc-edge
        ipdc-edge doctor || true""").check().stdout
    assert "usage: ipdc-edge" in about and "/etc/ipdc/ipdc.conf" in about
    for unit in ("ipdc-edge.service", "ipdc-broker.service", "ipdc-runner.socket", "ipdc-runner-role.socket",
                 "ipdc-reaper.socket"):
        assert f"{unit} ->" in about, f"{unit} is not enabled:\n{about}"
    assert "ipdc-runner-net.socket ->" not in about

    warned = guest.run("""set -e
        install -d -o ipdc -g ipdc /var/lib/ipdc
        ipdc-edge domain create home >/dev/null
        mkdir -p /var/lib/ipdc/jobs/1 && touch /var/lib/ipdc/jobs/1/part-00000
        DEBIAN_FRONTEND=noninteractive apt-get -y -qq remove ipdc-edge 2>&1
        ls /var/lib/ipdc/jobs/1/part-00000 /etc/ipdc/ipdc.conf
        DEBIAN_FRONTEND=noninteractive apt-get -y -qq purge ipdc-edge""").check().stdout
    assert "The key of domain home's authority (1 node) is on this node" in warned and "There is no backup" in warned
    left = guest.run("""find / -xdev -path /proc -prune -o -path /sys -prune -o -path /root -prune -o -print | sort |
        comm -13 /root/before - | grep -i ipdc; getent passwd ipdc; getent group ipdc; true""").check().stdout
    assert left == "", left
