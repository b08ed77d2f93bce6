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
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ipdc_edge
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers import broker, broker_files
from ipdc_edge.drivers.broker import (
    AddressUnusable,
    BrokerFailed,
    BrokerProcess,
    MosquittoMissing,
    PortTaken,
    check_port,
    find_mosquitto,
    mosquitto_version,
)
from ipdc_edge.drivers.broker_files import BrokerFilesNotWritten, configuration, credentials, write_all
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings, parse
from tests.drivers.certificates import Domain
from tests.drivers.mqtt5 import Client, tls
from tests.waiting import eventually


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home({"IPDC_HOME": str(tmp_path)})
    home.prepare()
    return home


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Domain(str(tmp_path / "domain")).admit("own")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def _settings(mqtt: int = 0, local: int = 0) -> Settings:
    ports = free_ports(2)
    text = f"listen = 127.0.0.1\nmqtt_port = {mqtt or ports[0]}\nlocal_port = {local or ports[1]}"
    return parse(text.encode(), "ipdc.conf")


def test_the_configuration_lets_nobody_in_unknown_and_bounds_everything(home: Home, identity: Identity) -> None:
    text = configuration(home, parse(b"listen = 127.0.0.9\nmqtt_port = 4711\nlocal_port = 4712", "f"), identity)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    common, domain, local = " | ".join(lines).split("listener ")
    assert local.startswith("4712 127.0.0.1 ") and domain.startswith("4711 127.0.0.9 ")
    assert "persistence false" in lines and "allow_anonymous false" in lines
    assert "allow_anonymous true" not in text and "pattern" not in text
    for option in "require_certificate use_identity_as_username use_username_as_clientid".split():
        assert f"{option} true" in domain and option not in local
    assert "tls_version tlsv1.2" in domain
    for option in "max_packet_size max_queued_messages max_queued_bytes memory_limit max_keepalive".split():
        assert re.search(rf"{option} [1-9]\d+ ", common), option
    assert "max_connections" in local and "max_connections" in domain
    names = [line.split()[0] for line in lines if not line.startswith(("log_type", "listener", "max_connections"))]
    assert len(set(names)) == len(names)


def test_alone_it_listens_on_loopback_only(home: Home, identity: Identity) -> None:
    settings = parse(b"", "f")
    assert f"listener {settings.mqtt_port} 0.0.0.0" in configuration(home, settings, identity)
    text = configuration(home, settings, replace(identity, alone=True))
    assert f"listener {settings.mqtt_port} 127.0.0.1" in text and "0.0.0.0" not in text


def test_mosquitto_takes_the_configuration_and_serves(home: Home, identity: Identity) -> None:
    settings = _settings()
    process = BrokerProcess(home, settings, identity)
    process.start()
    try:
        user, password = credentials(home)
        Client(socket.create_connection(("127.0.0.1", settings.local_port), 5), "x", user, password).close()
        Client(tls(settings.mqtt_port, identity)).close()
    finally:
        process.stop()
    for port in (settings.mqtt_port, settings.local_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_broker_that_dies_is_started_again_with_fresh_files(
    home: Home, identity: Identity, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker, "RESTART_PAUSE", 0.0)
    monkeypatch.setattr(broker, "load", lambda home: replace(identity, domain="another"))
    process = BrokerProcess(home, _settings(), identity)
    process.start()
    try:
        first = process.pid
        assert first is not None
        os.remove(broker_files.access_path(home))
        os.kill(first, signal.SIGKILL)
        eventually(lambda: process.pid != first, "another broker")
        assert process._process is not None and process._identity.domain == "another"
        process._await_ready(process._process)
        assert os.path.exists(broker_files.access_path(home))
    finally:
        process.stop()
    assert "ended with signal SIGKILL; starting it again" in capfd.readouterr().err


def test_a_broken_identity_does_not_keep_a_dead_broker_down(
    home: Home, identity: Identity, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real directory has none: the identity it started with serves, and the log says so."""
    monkeypatch.setattr(broker, "RESTART_PAUSE", 0.0)
    process = BrokerProcess(home, _settings(), identity)
    process.start()
    try:
        first = process.pid
        assert broker.restart(home)
        eventually(lambda: process.pid != first, "another broker")
        assert process._process is not None
        process._await_ready(process._process)
    finally:
        process.stop()
    assert "key.pub is missing" in capfd.readouterr().err


def test_a_broker_that_does_not_start_is_an_error(
    home: Home, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_files, "configuration", lambda home, settings, identity: "no_such_option true\n")
    with pytest.raises(BrokerFailed, match="ended with exit code"):
        BrokerProcess(home, _settings(), identity).start()


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


def test_a_taken_port_stops_the_broker_before_it_starts(home: Home, identity: Identity, taken: int) -> None:
    with pytest.raises(PortTaken, match=f"{home.conf}: mqtt_port = "):
        BrokerProcess(home, _settings(mqtt=taken), identity).start()
    with pytest.raises(PortTaken, match=f"{home.conf}: local_port = "):
        BrokerProcess(home, _settings(local=taken), identity).start()
    assert not os.path.exists(home.broker_conf)


def test_an_address_that_is_not_ours_has_words(home: Home) -> None:
    with pytest.raises(AddressUnusable, match=r"192\.0\.2\.1 port 1883.*Look at `listen`"):
        check_port("192.0.2.1", 1883, "mqtt_port", home.conf)


def test_the_files_are_written_whole(home: Home, identity: Identity) -> None:
    settings = _settings()
    assert Path(write_all(home, settings, identity)).read_text() == configuration(home, settings, identity)
    expected = [f"mosquitto.{name}" for name in ("acl", "conf", "crl", "passwd", "secret")]
    assert sorted(os.listdir(home.run)) == [*expected, "mqtt-client.secret"]
    assert os.stat(os.path.join(home.run, "mqtt-client.secret")).st_mode & 0o777 == 0o640
    os.rmdir(home.scratch)
    lost = Home({"IPDC_HOME": home.scratch})
    with pytest.raises(BrokerFilesNotWritten, match="No such file or directory"):
        write_all(lost, settings, identity)
    with pytest.raises(BrokerFilesNotWritten, match="No such file or directory"):
        credentials(lost)


def test_one_password_is_made_whoever_asks_first(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = credentials(home)
    # as if both had looked before either made it
    monkeypatch.setattr(broker_files.os.path, "exists", lambda path: False)
    assert credentials(home) == first == credentials(home)
    assert os.listdir(home.run) == ["mosquitto.secret"]


def test_two_threads_write_to_two_files() -> None:
    """The daemon renews the access list while the thread that keeps its broker writes it too."""
    barrier = threading.Barrier(2)
    names: list[str] = []

    def name() -> None:
        names.append(broker_files._fresh("/x"))
        barrier.wait(10)  # else the second may get the first one's identifier

    threads = [threading.Thread(target=name) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 2


def test_the_broker_dies_with_a_killed_daemon() -> None:
    """As an ordinary user, always: mosquitto started by root changes its user, and the kernel then forgets the wish."""
    directory = tempfile.mkdtemp(prefix="ipdc-broker-")
    try:
        package = os.path.dirname(os.path.abspath(ipdc_edge.__file__))
        shutil.copytree(package, os.path.join(directory, "ipdc_edge"), ignore=shutil.ignore_patterns("__pycache__"))
        mqtt, local = free_ports(2)
        code = (
            "import signal\nfrom ipdc_edge.drivers.broker import *\nfrom ipdc_edge.drivers.identity import ensure\n"
            "from ipdc_edge.settings import parse\n"
            f"home = Home({{'IPDC_HOME': {directory!r} + '/home'}})\nhome.prepare()\n"
            f"settings = parse(b'mqtt_port = {mqtt}\\nlocal_port = {local}', 'f')\n"
            "broker = BrokerProcess(home, settings, ensure(home, 'node'))\n"
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
