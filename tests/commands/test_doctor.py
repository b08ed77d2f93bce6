"""doctor: broken things are exit code 1 and have advice; what is merely not running is not broken."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import doctor
from ipdc_edge.drivers import broker
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside(
    "looks at ports, starts mosquitto for its version, speaks over a unix socket"
)


def _checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in json.loads(capsys.readouterr().out)}


@pytest.fixture
def ports(home: Home) -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        text = f"mqtt_port = {one.getsockname()[1]}\ngateway_port = {two.getsockname()[1]}\n"
    Path(home.conf).write_text(text)


def test_a_machine_that_has_everything(home: Home, ports: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = _checks(capsys)
    assert {
        "python",
        "paho",
        "psutil",
        "sdnotify",
        "h11",
        "mosquitto",
        "settings",
        "disk",
        "mqtt_port",
        "gateway_port",
        "daemon",
    } == set(checks)
    assert checks["daemon"]["ok"] is None and "ipdc-edge run --with-broker" in checks["daemon"]["advice"]
    assert all(check["ok"] for name, check in checks.items() if name not in ("daemon", "disk"))
    assert main(["doctor"]) == 0
    assert "Nothing is broken." in capsys.readouterr().out


def test_what_is_broken_has_advice_and_exit_code_1(
    home: Home, ports: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker, "SYSTEM_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(doctor.MODULES, "no_such_module.x", "python3-no-such")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "-> sudo apt install mosquitto" in out and "-> sudo apt install python3-no-such" in out
    assert out.endswith("2 things are broken.\n")


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
