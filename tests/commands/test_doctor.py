"""doctor: broken things are exit code 1 and have advice; what is merely not running is not broken."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge import settings
from ipdc_edge.__main__ import main
from ipdc_edge.commands import doctor
from ipdc_edge.commands.doctor import programs
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers import authority, broker
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside(
    "looks at ports, starts mosquitto for its version, speaks over a unix socket"
)


def _checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in json.loads(capsys.readouterr().out)}


@pytest.fixture
def ports(home: Home) -> None:
    text = "".join(f"{name} = {port}\n" for name, port in zip(settings.PORTS, free_ports(4), strict=True))
    Path(home.conf).write_text(text)


def test_a_machine_that_has_everything(home: Home, ports: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = _checks(capsys)
    always = {
        "python", "paho", "psutil", "sdnotify", "h11", "cryptography", "mosquitto", "avahi", "settings", "disk",
        "clock", "memory", "swap", "memory cgroup", "power", "temperature", "permissions", "domain", "broker",
        "mqtt_port", "gateway_port", "join_port", "local_port", "daemon",
    }
    assert always == set(checks) - {"inodes", "disk errors"}  # not every file system counts these
    assert checks["daemon"]["ok"] is None and "ipdc-edge run --with-broker" in checks["daemon"]["advice"]
    depend = ("daemon", "broker", "disk", "avahi", "domain", "clock", "memory cgroup", "swap", "temperature", "memory")
    assert all(check["ok"] for name, check in checks.items() if name not in depend), checks
    assert checks["broker"]["ok"] is None and "does not run" in checks["broker"]["detail"]
    assert checks["domain"]["ok"] is None and "alone" in checks["domain"]["detail"]
    assert checks["local_port"]["detail"].endswith("of 127.0.0.1 is free")
    assert main(["doctor"]) == 0
    assert "Nothing is broken. But no daemon runs: " in capsys.readouterr().out


def test_what_is_broken_has_advice_and_exit_code_1(
    home: Home, ports: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker, "SYSTEM_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(programs.MODULES, "no_such_module.x", programs.Module("python3-no-such", "no-such", (1,)))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "-> sudo apt install mosquitto" in out and "-> sudo apt install python3-no-such" in out
    assert out.endswith("2 things are broken.\n")


def test_the_domain_and_its_backup(home: Home, ports: None, capsys: pytest.CaptureFixture[str]) -> None:
    def check(name: str = "domain") -> dict[str, Any]:
        main(["doctor", "--json"])
        return _checks(capsys)[name]

    authority.ensure(home, "n", 1)
    assert check()["ok"] is None and "is alone" in check()["detail"]
    assert check("mqtt_port")["detail"].endswith("of 127.0.0.1 is free")
    authority.create_domain(home, "one", node_name="n", memory=1 << 30)
    found = check()
    assert found["ok"] is None and "there is no backup" in found["detail"] and "domain backup" in found["advice"]
    assert check("mqtt_port")["detail"].endswith("of 0.0.0.0 is free")
    assert check("local_port")["detail"].endswith("of 127.0.0.1 is free")
    Path(home.current, "last-backup").write_text("1\n")
    assert check() == {"check": "domain", "ok": True, "detail": "one, version 1 of its member list", "advice": ""}
    Path(home.current, "members.json").write_text("")
    assert (check()["ok"], "members.json" in check()["detail"]) == (False, True)
    assert "or be a new node" in check()["advice"]


def test_a_taken_port_is_broken(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        Path(home.conf).write_text(f"mqtt_port = {listener.getsockname()[1]}\n")
        assert main(["doctor", "--json"]) == 1
    check = _checks(capsys)["mqtt_port"]
    assert not check["ok"] and "is taken by" in check["detail"] and "mqtt_port = " in check["detail"]


def test_an_unreadable_conf_is_broken_and_the_rest_is_still_looked_at(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(home.conf).write_text("slots\n")
    assert main(["doctor", "--json"]) == 1
    checks = _checks(capsys)
    assert "line 1: cannot read 'slots'" in checks["settings"]["detail"]
    assert "mqtt_port" not in checks and "daemon" in checks


def test_too_long_a_home_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / ("x" * 100)))
    assert main(["doctor", "--json"]) == 1
    assert "the system allows 107" in _checks(capsys)["daemon"]["detail"]


def test_a_running_daemon_adds_its_own_checks_and_its_ports_are_not_taken(
    daemon: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["doctor"] = {
        "checks": [
            {"check": "broker", "ok": True, "detail": "connected", "advice": ""},
            {"check": "memory cgroup", "ok": None, "detail": "is off", "advice": "rlimits hold instead"},
        ]
    }
    assert main(["doctor", "--json"]) == 0
    checks = _checks(capsys)
    assert checks["broker"]["ok"] is True and checks["daemon"]["ok"] is True
    assert "mqtt_port" not in checks
    assert main(["doctor"]) == 0
    assert "note    memory cgroup  is off" in capsys.readouterr().out
    daemon.answers["doctor"] = {
        "checks": [{"check": "broker", "ok": False, "detail": "silent", "advice": "start it"}]
    }
    assert main(["doctor"]) == 1
    assert "1 thing is broken." in capsys.readouterr().out


def test_the_broker_of_a_daemon_that_misses_it_is_looked_at_here(
    daemon: Any, ports: None, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["doctor"] = {"checks": [{"check": "broker", "ok": False, "detail": "does not answer"}]}
    assert main(["doctor", "--json"]) == 1
    checks = _checks(capsys)
    assert checks["broker"]["detail"] == "this node's mosquitto does not run" and not checks["broker"]["ok"]
    assert "ipdc-edge broker" in checks["broker"]["advice"]
    assert checks["local_port"]["ok"] and checks["mqtt_port"]["ok"] and "gateway_port" not in checks


def test_another_version_of_the_daemon_is_told(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["doctor"] = {"version": "9.9", "checks": [{"check": "broker", "ok": True, "detail": ""}]}
    assert main(["doctor", "--json"]) == 0
    check = _checks(capsys)["daemon"]
    assert check["ok"] is None and "it is of version 9.9" in check["detail"] and check["advice"]


def test_a_daemon_that_says_nothing_holds_up_nothing(daemon: Any) -> None:
    """What else there is to see is shown all the same."""
    daemon.answers["doctor"] = ["silence"]
    checks = {check.check: check for check in doctor.examine(Home(os.environ), seconds=1.0)}
    assert checks["daemon"].ok is False and checks["daemon"].detail == "gave no answer within 1 s"
    assert "ipdc-edge run --with-broker" in checks["daemon"].advice
    assert checks["python"].ok and checks["disk"].check == "disk"
