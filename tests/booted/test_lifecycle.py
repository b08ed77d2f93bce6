"""The package over its life: an upgrade under a running job, removal that keeps, purge that leaves nothing, and a
distribution's mosquitto that notices nothing of it. Reboots too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.booted.node import MEMBER, UNITS, Node, counted
from tests.package.building import NEWER

pytestmark = pytest.mark.booted
Boot = Callable[..., Node]
ENDLESS = "import time\ndef map(key, line):\n    time.sleep(100000)\n"
# All that a package may leave on a system, beside files: what is compared before and after.
TRACES = """
getent passwd | cut -d: -f1; getent group | cut -d: -f1
systemctl list-units --all --plain --no-legend | awk '{print $1}' | grep -i ipdc
systemctl list-unit-files --plain --no-legend | awk '{print $1}' | grep -i ipdc
grep -i ipdc /proc/mounts
ps -eo user:20,args | grep -i '[i]pdc'
ss -Hlntx | grep -i ipdc
find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /home \\) -prune -o -print |
  grep -vE '^/(tmp|var/(tmp|cache|log|backups|lib/(apt|dpkg|systemd)))/'
find /run -iname '*ipdc*'
"""


def traces(node: Node) -> list[str]:
    return sorted(set(node.run(TRACES, check=False).stdout.splitlines()))


def attempts(node: Node, job: str) -> dict[str, str]:
    """By line of a job of WAITS: (the daemon's start)-(number) of the one attempt that ended."""
    found = re.findall(r"attempt (\S+)\nwaits for (\S+)", node.ipdc("logs", job).stdout)
    assert len({line for _, line in found}) == len(found), found
    return {line: attempt for attempt, line in found}


def test_an_upgrade_lets_a_running_job_go_on(another: Boot, newer_deb: Path) -> None:
    node = another("upgraded")
    node.run("systemctl enable --now ipdc-runner-net.socket")  # the owner has allowed it
    node.reload(stop_grace=0)  # nothing ends in time: what runs is handed back
    job = node.submit_waiting("first", "second", "third")
    node.let_pass("first")
    node.eventually(lambda: node.maps_done(job) == 1, "one map is committed")
    node.eventually(lambda: len(node.runners()) == 2, "two more run")
    before, broker = node.main_pid(), node.main_pid("ipdc-broker.service")

    node.install(newer_deb)
    assert node.run("dpkg-query -W -f '${Version}' ipdc-edge").stdout == NEWER
    node.running()
    assert node.main_pid() != before and node.main_pid("ipdc-broker.service") != broker, "the old version still runs"
    node.let_pass("second", "third")
    node.wait(job)
    assert node.result(job) == counted("first second third")
    ended = attempts(node, job)
    assert ended["first"] == "1-1", "what was committed ran again"
    assert ended["second"].startswith("2-") and ended["third"].startswith("2-"), ended
    assert node.failed_units() == ""
    assert "could not be ended" not in node.journal("ipdc-edge"), "systemd kept the reaper waiting for the daemon"
    assert node.show("ipdc-runner-net.socket", "ActiveState") == "active"


def test_remove_keeps_what_the_node_is_and_a_reinstall_finds_it(another: Boot, deb: Path) -> None:
    node = another("removed")
    node.set(name="chosen")
    node.run("systemctl restart ipdc-edge")
    node.running()
    job = node.submit(*("def map(key, line):\n    yield line.strip(), 1\n", "kept\n"))
    node.wait(job)
    (was,) = node.json("nodes")

    node.remove()
    assert node.run("ls /run/ipdc 2>/dev/null; ps -u ipdc -o args=", check=False).stdout == ""
    assert set(node.active()) <= {"inactive", "unknown"}, node.active()
    node.run("test -d /var/lib/ipdc/identity && grep 'name = chosen' /etc/ipdc/ipdc.conf")

    node.install(deb)
    node.running()
    (now,) = node.json("nodes")
    assert (now["id"], now["name"]) == (was["id"], "chosen")
    assert node.result(job) == ["kept\t1"]
    assert node.failed_units() == ""


def test_beside_a_mosquitto_it_disturbs_nothing_and_purge_leaves_nothing(boot: Boot, deb: Path) -> None:
    node = boot("beside")
    node.run("systemctl enable --now mosquitto && ss -Hltn | grep -w 1883")
    broker = node.show("mosquitto", "MainPID")
    before = traces(node)
    heard = node.container.directory / "heard"
    with open(heard, "wb") as output:
        # one session from before the installation until after the purge; -d says when it connects
        client = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-q", "1", "-t", "others/#"]
        listener = subprocess.Popen(node.container.words(client), stdout=output, stderr=output)

    def still_heard(word: str) -> None:
        node.run(f"mosquitto_pub -q 1 -t others/talk -m {word}")
        node.eventually(lambda: f"\n{word}\n" in heard.read_text(), f"the session of before has {word!r}")

    try:
        node.eventually(lambda: "received SUBACK" in heard.read_text(), "the session is there")
        still_heard("before")
        node.install(deb)
        node.running()
        still_heard("installed")
        assert node.count_words("a b b\n") == counted("a b b\n")
        still_heard("worked")
        node.reload(stop_grace=0)
        node.submit(ENDLESS, "one\n")  # something runs when it is purged
        node.eventually(lambda: node.runners(), "a task runs")
        node.run("systemctl enable --now ipdc-runner-net.socket")
        node.remove("purge")
        still_heard("purged")
        assert heard.read_text().count("sending CONNECT") == 1, heard.read_text()
    finally:
        listener.kill()
        listener.wait()
    assert node.show("mosquitto", "MainPID") == broker
    node.run("systemctl daemon-reload")
    left = [line for line in traces(node) if line not in before]
    assert left == [], left
    assert MEMBER in node.run("getent passwd").stdout


def test_a_reboot_brings_the_node_back_and_its_job_to_its_end(another: Boot) -> None:
    node = another("rebooted")
    node.reload(stop_grace=0)
    (was,) = node.json("nodes")
    job = node.submit_waiting("early", "late")
    node.let_pass("early")
    node.eventually(lambda: node.maps_done(job) == 1, "one map is committed")
    node.container.reboot()
    node.eventually(lambda: node.active() == ["active"] * len(UNITS), "the units are active by themselves")
    node.let_pass("late")
    node.wait(job)
    assert node.result(job) == counted("early late")
    assert node.json("nodes")[0]["id"] == was["id"]
    assert attempts(node, job)["early"] == "1-1", "what was committed ran again"
    assert node.failed_units() == ""
