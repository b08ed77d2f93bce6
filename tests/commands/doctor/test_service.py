"""Units, daemon, group, broker and ports: what is wrong with each, and its line."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge import settings
from ipdc_edge.commands import doctor
from ipdc_edge.commands.doctor import service
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers import broker, identity
from ipdc_edge.drivers.broker import BrokerProcess
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings
from tests.drivers.nodes import make_creator

# as `systemctl show` of systemd 252 prints it, which leaves out what a kind of unit has not
WELL = """\
Result=success
NRestarts=0
Id=ipdc-edge.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Result=success
NRestarts=0
Id=ipdc-broker.service
LoadState=loaded
ActiveState=active
UnitFileState=disabled

Result=success
Id=ipdc-runner.socket
LoadState=loaded
ActiveState=active
UnitFileState=enabled
"""


def _units(home: Home, *change: str) -> dict[str, Check]:
    return {check.check: check for check in service.units(home, WELL.replace(*change) if change else WELL)}


def test_units_that_run(home: Home) -> None:
    assert [check.ok for check in _units(home).values()] == [True] * 3
    assert not list(service.units(home)), "a node of IPDC_HOME has no units"
    assert not list(service.units(home, ""))


def test_it_asks_for_the_units_that_the_package_enables() -> None:
    rules = (Path(__file__).parents[3] / "debian/rules").read_text()
    enabled = [word for words in re.findall(r"^\tdh_installsystemd ([^-\n].*)$", rules, re.M) for word in words.split()]
    assert sorted(service.UNITS) == sorted(enabled)


def test_a_unit_that_is_not_enabled_and_was_restarted_has_two_lines(home: Home) -> None:
    text = WELL.replace("NRestarts=0", "NRestarts=3").replace("UnitFileState=enabled", "UnitFileState=disabled")
    found = [check for check in service.units(home, text) if check.check == "ipdc-edge.service"]
    assert ["3 times" in check.detail for check in found] == [False, True] and found[0].ok is found[1].ok is None


def test_a_broker_that_began_anew_with_the_domain_alarms_nobody(home: Home) -> None:
    edge, broker = (_units(home, text, text.replace("NRestarts=0", "NRestarts=1"))[name].detail for name, text in (
        ("ipdc-edge.service", "NRestarts=0\nId=ipdc-edge.service"),
        ("ipdc-broker.service", "NRestarts=0\nId=ipdc-broker.service")))
    assert edge == "runs; systemd had to start it again, once so far"
    assert broker == "runs; systemd had to start it again, as when the node's domain changes, once so far"


@pytest.mark.parametrize(("change", "ok", "detail", "advice"), [
    (("ActiveState=active", "ActiveState=failed"), False, "has failed", "journalctl -u ipdc-edge.service"),
    (("Result=success\nNRestarts=0\nId=ipdc-edge.service\nLoadState=loaded\nActiveState=active",
      "Result=watchdog\nNRestarts=9\nId=ipdc-edge.service\nLoadState=loaded\nActiveState=failed"), False,
     "has failed (watchdog: it hung)", "sudo systemctl reset-failed ipdc-edge.service"),
    (("ActiveState=active", "ActiveState=inactive"), None, "is inactive", "sudo systemctl start ipdc-edge.service"),
    (("UnitFileState=enabled", "UnitFileState=disabled"), None, "does not start with the machine",
     "sudo systemctl enable ipdc-edge.service"),
    (("NRestarts=0", "NRestarts=4"), None, "4 times so far", "grep -i -e watchdog"),
    (("LoadState=loaded", "LoadState=masked"), None, "is masked", "sudo systemctl unmask ipdc-edge.service"),
    (("LoadState=loaded", "LoadState=not-found"), None, "is not-found", "sudo apt install --reinstall"),
])
def test_units_that_do_not(home: Home, change: tuple[str, str], ok: bool | None, detail: str, advice: str) -> None:
    check = _units(home, *change)["ipdc-edge.service"]
    assert check.ok is ok and detail in check.detail and advice in check.advice, check


def test_who_is_not_in_the_group() -> None:
    check = service.group("ipdc", "ada", members=["bob"], held=[])
    assert check.ok is False and check.advice == "sudo usermod -aG ipdc ada, then log out and in again"
    check = service.group("ipdc", "ada", members=["ada"], held=[])
    assert "began before" in check.detail and check.advice == "log out and in again, or: newgrp ipdc"
    assert service.group("no-such-group", "ada").ok is False


@pytest.mark.outside("speaks over a unix socket as another user")
def test_a_user_whom_the_socket_is_closed_to(daemon: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("does not apply: only root can become somebody else")
    home: Home = daemon.home
    os.chmod(home.control_socket, 0o660)
    Path(home.run, "mosquitto.pid").touch(0o600)
    for path in Path(home.control_socket).parents:
        if path.stat().st_mode & 0o005 != 0o005 and path != path.parent:
            path.chmod(path.stat().st_mode | 0o055)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        checks = list(service.daemon(home, {}))
        all_ = {check.check: check for check in doctor.examine(home)}
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    assert [(check.check, check.ok) for check in checks] == [("daemon", None), ("group", False)], checks
    assert all_["broker"] == Check("broker", None, "can be looked at by its owner only", "sudo ipdc-edge doctor")
    assert not set(settings.PORTS) & set(all_), "what it cannot look at is not said to be taken"
    assert "you may not ask it" in checks[0].detail and "sudo usermod -aG" in checks[1].advice


@pytest.mark.outside("looks at ports and at whose they are")
def test_ports_of_others(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        read = settings.parse(f"join_port = {port}\n".encode(), home.conf)
        found = {check.check: check for check in service.ports(home, read)}
        assert found["join_port"].ok is False
        assert f"(process {os.getpid()})" in found["join_port"].detail
        assert "join_port" not in {check.check for check in service.ports(home, read, ["join_port"])}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Home, Settings, BrokerProcess]]:
    """A node with its broker and without a daemon."""
    home = make_creator(tmp_path)
    text = "".join(f"{name} = {port}\n" for name, port in zip(settings.PORTS, free_ports(4), strict=True))
    Path(home.conf).write_text(text)
    read = settings.load(home.conf)
    process = BrokerProcess(home, read, identity.load(home))
    process.start()
    try:
        yield home, read, process
    finally:
        if broker.running(home):
            os.kill(process.pid, signal.SIGCONT)
        process.stop()


def _broker(home: Home, read: Settings) -> Check:
    (check,) = service.broker(home, read)
    return check


@pytest.mark.outside("starts mosquitto")
def test_a_broker_that_runs_and_its_ports_are_not_taken_by_others(node: tuple) -> None:
    home, read, process = node
    assert _broker(home, read) == Check("broker", True, f"process {process.pid} takes this node's password")
    assert not [check for check in doctor.examine(home) if check.ok is False and check.check != "domain"]


@pytest.mark.outside("starts mosquitto")
def test_a_broker_that_does_not_take_the_password(node: tuple) -> None:
    home, read, process = node
    Path(home.run, "mosquitto.secret").write_text("another")
    check = _broker(home, read)
    assert check.ok is False and "does not take this node's password" in check.detail
    assert f"(process {process.pid})" in check.detail and "ipdc-edge broker" in check.advice


@pytest.mark.outside("starts mosquitto")
def test_a_broker_that_hangs(node: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipdc_edge.drivers import broker_client

    home, read, process = node
    monkeypatch.setattr(broker_client, "PATIENCE", 0.5)
    os.kill(process.pid, signal.SIGSTOP)
    check = _broker(home, read)
    assert check.ok is False and "runs and does not answer" in check.detail
    assert f"sudo kill -9 {process.pid}" in check.advice


@pytest.mark.outside("starts mosquitto")
def test_a_broker_that_does_not_run(node: tuple) -> None:
    home, read, process = node
    process.stop()
    assert broker.running(home) is None
    assert _broker(home, read).ok is None, "the daemon that misses it says that it is broken"
    assert "does not run" in _broker(home, read).detail and "ipdc-edge broker" in _broker(home, read).advice
    with socket.create_server(("127.0.0.1", read.mqtt_port)):
        found = {check.check: check for check in service.ports(home, read)}
    assert found["mqtt_port"].ok is False and "is taken by" in found["mqtt_port"].detail


def test_what_the_daemon_told_and_what_was_seen() -> None:
    well, silent = Check("broker", True, "told well"), Check("broker", False, "told silent")
    runs, away, hangs = Check("broker", True, "runs"), Check("broker", None, "away"), Check("broker", False, "hangs")
    assert service.verdict(None, runs) == runs and service.verdict(None, away) == away
    assert service.verdict(well, runs) == well
    assert service.verdict(well, away) == well, "who may not look believes the daemon"
    assert service.verdict(well, hangs) == hangs, "the daemon notices it only after the keepalive"
    assert service.verdict(silent, away) == away._replace(ok=False)
    both = service.verdict(silent, runs)
    assert both.ok is False and both.detail == "runs, and the daemon is not connected to it" and both.advice


@pytest.mark.outside("starts systemctl, where it is")
def test_systemctl_is_asked_and_cannot_hold_anything_up(home: Home, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "SYSTEMCTL_SECONDS", 0.2)
    with pytest.raises(service.IpdcError, match="systemctl gave no answer"):
        service._systemctl()
    said = tmp_path / "said"
    said.write_text(WELL)
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\ncat {said}\n")
    monkeypatch.setattr(service, "SYSTEMCTL_SECONDS", 20.0)
    assert len(list(service.units(home, service._systemctl()))) == 3
    assert "ipdc-broker.service" in (tmp_path / "asked").read_text()
