"""What must be installed: each missing, too old, and as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipdc_edge.commands.doctor import programs
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.commands.doctor.programs import MODULES, Module
from ipdc_edge.drivers import broker


def test_python() -> None:
    assert [check.ok for check in programs.python()] == [True]
    (old,) = programs.python((3, 9, 2))
    assert old.ok is False and old.detail.startswith("3.9.2 at ") and "3.11" in old.advice


def test_modules_are_here_missing_or_old() -> None:
    assert all(check.ok and programs.numbers(check.detail) for check in programs.modules())
    wanted = {"no_such.client": MODULES["paho.mqtt.client"], "h11": Module("python3-h11", "h11", (99, 1)),
              "psutil": Module("python3-psutil", "not-known-by-this-name", (5,))}
    missing, old, unknown = programs.modules(wanted)
    assert missing == Check("no_such", False, "is not installed for this Python", "sudo apt install python3-paho-mqtt")
    assert old.ok is False and old.advice == "ipdc-edge needs 99.1 or newer: sudo apt install python3-h11"
    assert (unknown.ok, unknown.detail) == (True, "can be imported")


def test_numbers() -> None:
    assert programs.numbers("2.0.11-1+deb12u1") == (2, 0, 11) and programs.numbers("unknown") == ()
    assert programs.numbers("2.0.11") >= (2,) > programs.numbers("1.6.9") > programs.numbers("1.10")[:1]


@pytest.mark.outside("starts a program for its version")
def test_an_old_mosquitto_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    for version, well in (("1.6.9", False), ("2.0.11", True), ("2.1.0", True), ("x", False)):
        program.write_text(f"#!/bin/sh\necho 'mosquitto version {version}'\necho\nexit 3\n")
        program.chmod(0o755)
        (check,) = programs.mosquitto(str(tmp_path))
        assert check.ok is well, check
    assert "unknown at" in check.detail and "2.0 or newer" in check.advice
    monkeypatch.setattr(broker, "SYSTEM_DIRECTORIES", ())
    program.unlink()
    assert [check.advice for check in programs.mosquitto(str(tmp_path))] == ["sudo apt install mosquitto"]


def test_avahi_is_worth_having_and_not_needed(tmp_path: Path) -> None:
    for program, rest in (("", "avahi-daemon avahi-utils"), ("avahi-daemon", "avahi-utils")):
        if program:
            (tmp_path / program).touch(0o755)
        (found,) = programs.avahi(str(tmp_path))
        assert (found.ok, found.advice) == (None, f"sudo apt install {rest}")
    (tmp_path / "avahi-browse").touch(0o755)
    assert [check.ok for check in programs.avahi(str(tmp_path))] == [True]
