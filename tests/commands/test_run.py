"""run: settings and directories before the daemon, the broker's life around it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.commands.run import serve
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.broker import PortTaken
from ipdc_edge.home import Home
from ipdc_edge.settings import BadSetting, Settings


def _connects(settings: Settings) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", settings.mqtt_port)) == 0


@pytest.mark.outside("makes the identity in a child")
def test_the_daemon_gets_its_home_and_settings_and_its_code_is_returned(tmp_path: Path) -> None:
    (tmp_path / "ipdc.conf").write_text("name = here\n")
    seen = []

    def daemon(home: Home, settings: Settings) -> int:
        seen.append((home.state, settings.name, os.path.isdir(home.jobs), identity.load(home).alone))
        return 5

    assert serve(Home({"IPDC_HOME": str(tmp_path)}), daemon, with_broker=False) == 5
    assert seen == [(str(tmp_path), "here", True, True)]


def test_an_unreadable_conf_comes_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "ipdc.conf").write_text("slots = 0\n")
    with pytest.raises(BadSetting):
        serve(Home({"IPDC_HOME": str(tmp_path)}), lambda home, settings: 0, with_broker=True)
    assert os.listdir(tmp_path) == ["ipdc.conf"]


@pytest.mark.parametrize(("text", "code", "said"), [
    ("", 0, "ipdc.conf has no mistake"), ("slots = 2\n", 0, "ipdc.conf has no mistake"),
    ("\nslots = many\n", 1, "ipdc.conf, line 2: slots = 'many' is not allowed. Allowed: 1 to 256"),
    ("slot = 2\n", 1, "ipdc.conf, line 1: "),
])
@pytest.mark.parametrize("words", [["--check"], ["--check", "--with-broker"]], ids=["usual", "parsed"])
def test_a_check_reads_the_settings_and_makes_nothing(
    words: list[str], text: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPDC_HOME", str(tmp_path))
    (tmp_path / "ipdc.conf").write_text(text)
    assert main(["run", *words]) == code
    told = capsys.readouterr()
    assert said in (told.err if code else told.out) and not (told.out if code else told.err)
    assert os.listdir(tmp_path) == ["ipdc.conf"]


@pytest.mark.outside("starts mosquitto")
def test_with_broker_it_runs_as_long_as_the_daemon_also_when_that_fails(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path)})
    mqtt, local = free_ports(2)
    Path(home.conf).write_text(f"mqtt_port = {mqtt}\nlocal_port = {local}\n")
    seen = []

    def daemon(home: Home, settings: Settings) -> int:
        seen.append((settings, _connects(settings)))
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        serve(home, daemon, with_broker=True)
    ((settings, answered),) = seen
    assert answered and not _connects(settings)


@pytest.mark.outside("listens on a port")
def test_a_taken_port_ends_it_before_the_daemon(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path)})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        Path(home.conf).write_text(f"mqtt_port = {listener.getsockname()[1]}\n")
        with pytest.raises(PortTaken):
            serve(home, lambda home, settings: 0, with_broker=True)
