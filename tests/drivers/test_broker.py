"""The node's own broker: mosquitto takes its configuration, and what a newcomer meets has words."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipdc_edge
from ipdc_edge.drivers import broker
from ipdc_edge.drivers.broker import (
    AddressUnusable,
    BrokerFailed,
    BrokerProcess,
    ConfigurationNotWritten,
    MosquittoMissing,
    PortTaken,
    check_port,
    configuration,
    find_mosquitto,
    mosquitto_version,
    write_configuration,
)
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings, parse
from tests.waiting import eventually


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home({"IPDC_HOME": str(tmp_path)})
    home.prepare()
    return home


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def _settings(port: int) -> Settings:
    return parse(f"mqtt_port = {port}".encode(), "ipdc.conf")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_configuration_listens_where_the_settings_say_and_bounds_everything() -> None:
    text = configuration(parse(b"listen = 127.0.0.9\nmqtt_port = 4711", "f"))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert "listener 4711 127.0.0.9" in lines
    assert "persistence false" in lines
    bounds = "max_packet_size max_queued_messages max_queued_bytes memory_limit max_connections"
    for option in bounds.split():
        assert sum(re.fullmatch(rf"{option} [1-9]\d+", line) is not None for line in lines) == 1, option
    assert len({line.split()[0] for line in lines if not line.startswith("log_type")}) == len(
        [line for line in lines if not line.startswith("log_type")]
    )


def test_mosquitto_takes_the_configuration_and_serves(home: Home) -> None:
    settings = _settings(_free_port())
    process = BrokerProcess(home, settings)
    process.start()
    try:
        with socket.create_connection((settings.listen, settings.mqtt_port), 5) as client:
            # MQTT 5 CONNECT, clean start, client id "t"; CONNACK begins with 0x20 and has its reason fourth
            client.sendall(bytes.fromhex("100e00044d5154540502000a0000017400")[:16])
            answer = client.recv(100)
        assert (answer[0], answer[3]) == (0x20, 0)
    finally:
        process.stop()
    with socket.socket() as probe:
        assert probe.connect_ex((settings.listen, settings.mqtt_port)) != 0


def test_a_broker_that_dies_is_started_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker, "RESTART_PAUSE", 0.0)
    settings = _settings(_free_port())
    process = BrokerProcess(home, settings)
    process.start()
    try:
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: process.pid != first, "another broker")
        assert process._process is not None
        process._await_ready(process._process)
    finally:
        process.stop()
    assert "ended with signal SIGKILL; starting it again" in capfd.readouterr().err


def test_a_broker_that_does_not_start_is_an_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "configuration", lambda settings: "no_such_option true\n")
    with pytest.raises(BrokerFailed, match="ended with exit code"):
        BrokerProcess(home, _settings(_free_port())).start()


def test_mosquitto_is_found_outside_the_path_and_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    program = find_mosquitto("")
    assert os.access(program, os.X_OK)
    assert re.match(r"\d+\.\d+", mosquitto_version(program))
    assert mosquitto_version("/bin/true") == "unknown"


def test_without_mosquitto_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(broker, "SYSTEM_DIRECTORIES", ())
    (tmp_path / "mosquitto").mkdir()  # a directory of that name is no program
    with pytest.raises(MosquittoMissing, match="sudo apt install mosquitto"):
        find_mosquitto(f"{tmp_path}:/nonexistent")


def test_a_taken_port_names_port_setting_file_holder_and_a_free_one(taken: int) -> None:
    with pytest.raises(PortTaken) as caught:
        check_port("127.0.0.1", taken, "gateway_port", "/etc/ipdc/ipdc.conf")
    text = str(caught.value)
    assert f"Port {taken} of 127.0.0.1 is taken by" in text
    assert f"(process {os.getpid()})" in text
    free = re.search(r"in /etc/ipdc/ipdc\.conf: gateway_port = (\d+)", text)
    assert free and int(free[1]) != taken
    check_port("127.0.0.1", int(free[1]), "gateway_port", "")


def test_a_taken_port_stops_the_broker_before_it_starts(home: Home, taken: int) -> None:
    with pytest.raises(PortTaken, match=f"{home.conf}: mqtt_port = "):
        BrokerProcess(home, _settings(taken)).start()
    assert not os.path.exists(home.broker_conf)


def test_an_address_that_is_not_ours_has_words(home: Home) -> None:
    with pytest.raises(AddressUnusable, match=r"192\.0\.2\.1 port 1883.*Look at `listen`"):
        check_port("192.0.2.1", 1883, "mqtt_port", home.conf)


def test_the_configuration_is_written_whole(home: Home) -> None:
    path = write_configuration(home, _settings(1))
    assert Path(path).read_text() == configuration(_settings(1))
    assert os.listdir(home.run) == [os.path.basename(path)]
    os.rmdir(home.scratch)
    lost = Home({"IPDC_HOME": home.scratch})
    with pytest.raises(ConfigurationNotWritten, match="No such file or directory"):
        write_configuration(lost, _settings(1))


def test_the_broker_dies_with_a_killed_daemon() -> None:
    """As an ordinary user, always: mosquitto started by root changes its user, and the kernel then forgets the wish."""
    directory = tempfile.mkdtemp(prefix="ipdc-broker-")
    try:
        package = os.path.dirname(os.path.abspath(ipdc_edge.__file__))
        shutil.copytree(package, os.path.join(directory, "ipdc_edge"), ignore=shutil.ignore_patterns("__pycache__"))
        code = (
            "import signal\nfrom ipdc_edge.drivers.broker import *\nfrom ipdc_edge.settings import parse\n"
            f"home = Home({{'IPDC_HOME': {directory!r} + '/home'}})\nhome.prepare()\n"
            f"broker = BrokerProcess(home, parse(b'mqtt_port = {_free_port()}', 'f'))\n"
            "broker.start()\nprint(broker.pid, flush=True)\nsignal.pause()\n"
        )
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "cwd": directory, "env": {"PATH": "/usr/bin:/usr/sbin"}}
        if os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
            options |= {"user": 65534, "group": 65534, "extra_groups": []}
        with subprocess.Popen([sys.executable, "-c", code], **options) as daemon:
            assert daemon.stdout is not None
            pidfd = os.pidfd_open(int(daemon.stdout.readline()))
            daemon.kill()
            assert select.select([pidfd], [], [], 10)[0]
            os.close(pidfd)
    finally:
        shutil.rmtree(directory)
