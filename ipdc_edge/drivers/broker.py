"""This node's own broker: finding mosquitto, writing its configuration, starting it.

Owns mosquitto's configuration text and the process where `ipdc-edge run --with-broker` starts one. Never
speaks MQTT (drivers/mqtt.py does) and never touches the distribution's own mosquitto instance. Options:
mosquitto.conf(5) of mosquitto 2.0.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

if TYPE_CHECKING:
    from subprocess import Popen

SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin")  # not in an ordinary user's PATH
CONNECTIONS = 200  # clients at once: members of the domain and this node's own
PACKET_BYTES = 32768  # a message is at most 16 kB of JSON; the rest is for topic and properties
MEMORY_BYTES = 32 << 20  # of mosquitto's heap in all; clients beyond it are refused, so that the board is not
QUEUED_BYTES = 1 << 20  # waiting for one client
QUEUED_MESSAGES = 1000
START_SECONDS = 10.0
STOP_SECONDS = 5.0
RESTART_PAUSE = 1.0  # seconds between two starts of a broker that dies


class MosquittoMissing(IpdcError):
    """There is no mosquitto on this machine, and every node needs its own broker.
    Install it: `sudo apt install mosquitto`."""


class PortTaken(IpdcError):
    """Port {port} of {host} is taken{owner}. Set another one in {conf}: {setting} = {free}, or end what holds it."""


class AddressUnusable(IpdcError):
    """Cannot listen on {host} port {port}: {reason}. Look at `listen` and `{setting}` in {conf}."""


class BrokerFailed(IpdcError):
    """mosquitto did not start: it ended with {status}. Its own words stand above."""


class ConfigurationNotWritten(IpdcError):
    """Cannot write mosquitto's configuration {path}: {reason}."""


def configuration(settings: Settings) -> str:
    """The text of mosquitto's configuration. Anonymous clients are let in because the listener is on loopback, until
    certificates close the domain. Nothing is kept on disk: the broker is a mailbox, not a store."""
    return f"""\
# Written by ipdc-edge at every start; changes here are lost. Settings are in ipdc.conf.
per_listener_settings false
persistence false
allow_anonymous true
set_tcp_nodelay true
max_packet_size {PACKET_BYTES}
max_queued_messages {QUEUED_MESSAGES}
max_queued_bytes {QUEUED_BYTES}
memory_limit {MEMORY_BYTES}
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
listener {settings.mqtt_port} {settings.listen}
max_connections {CONNECTIONS}
"""


def find_mosquitto(path: str | None = None) -> str:
    """The program's full path. Looks in `path` (a PATH, default the environment's) and in /usr/sbin, which
    is not in an ordinary user's PATH. Raises MosquittoMissing."""
    searched = os.environ.get("PATH", os.defpath) if path is None else path
    for directory in [*searched.split(os.pathsep), *SYSTEM_DIRECTORIES]:
        program = os.path.join(directory, "mosquitto")
        if directory and os.access(program, os.X_OK) and os.path.isfile(program):
            return program
    raise MosquittoMissing()


def mosquitto_version(program: str) -> str:
    """The version that the program says, such as "2.0.11"; "unknown" where it says none."""
    import subprocess

    try:
        said = subprocess.run([program, "-h"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(rb"mosquitto version ([0-9][0-9A-Za-z.+~-]*)", said)
    return found[1].decode() if found else "unknown"


def write_configuration(home: Home, settings: Settings) -> str:
    """Writes mosquitto's configuration whole or not at all, and returns its path. Raises ConfigurationNotWritten."""
    path = home.broker_conf
    fresh = f"{path}.{os.getpid()}.new"
    try:
        with open(fresh, "w", encoding="ascii") as file:
            file.write(configuration(settings))
        os.chmod(fresh, 0o644)  # mosquitto started by root reads it again as its own user
        os.replace(fresh, path)
    except OSError as error:
        raise ConfigurationNotWritten(path=path, reason=error.strerror or str(error)) from error
    return path


def check_port(host: str, port: int, setting: str, conf: str) -> None:
    """Whether `host:port` can be listened on now. Raises PortTaken, which names the setting, the holder
    where that can be known, and a port that is free; or AddressUnusable."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as mosquitto does
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                owner = port_owner(port)
                raise PortTaken(host=host, port=port, setting=setting, conf=conf, free=_free_port(host, port),
                                owner=f" by {owner}" if owner else "") from error
            reason = error.strerror or str(error)
            raise AddressUnusable(host=host, port=port, setting=setting, conf=conf, reason=reason) from error


def port_owner(port: int) -> str | None:
    """"program (process N)" that listens on a TCP port, or None where this user may not know."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listening and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        return None
    return None


def _free_port(host: str, above: int) -> int:
    """A port that is free now, near the one that is not where possible."""
    for port in [*range(above + 10, min(above + 100, 65536), 10), 0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return above


def exec_broker(home: Home, settings: Settings) -> None:
    """Becomes mosquitto; returns only by raising MosquittoMissing, PortTaken or ConfigurationNotWritten."""
    program = find_mosquitto()
    check_port(settings.listen, settings.mqtt_port, "mqtt_port", home.conf)
    conf = write_configuration(home, settings)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [program, "-c", conf])


class BrokerProcess:
    """mosquitto as a child of the daemon, for development and containers; installed nodes have a unit for
    it. A broker that dies is started again by a thread that does nothing else. Where util-linux's setpriv
    is installed, the kernel ends the broker when the daemon is killed (not where root started them:
    mosquitto then changes its user, which makes the kernel forget)."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._stopping = False
        self._process: Popen[bytes] | None = None
        self._program: list[str] = []

    @property
    def pid(self) -> int | None:
        """The process id of the present mosquitto."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts mosquitto and returns when it accepts connections. Raises what exec_broker raises, and
        BrokerFailed."""
        import threading

        program = find_mosquitto()
        settings = self._settings
        check_port(settings.listen, settings.mqtt_port, "mqtt_port", self._home.conf)
        conf = write_configuration(self._home, settings)
        self._program = [*_die_with_parent(), program, "-c", conf]
        self._process = self._spawn()
        self._await_ready(self._process)
        threading.Thread(target=self._keep, name="broker", daemon=True).start()

    def stop(self) -> None:
        """Ends mosquitto: SIGTERM, and SIGKILL after STOP_SECONDS."""
        import subprocess

        self._stopping = True
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> Popen[bytes]:
        import subprocess

        return subprocess.Popen(self._program, cwd="/", stdin=subprocess.DEVNULL)

    def _await_ready(self, process: Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = process.poll()
            if status is not None:
                raise BrokerFailed(status=_status(status))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                if probe.connect_ex((self._settings.listen, self._settings.mqtt_port)) == 0:
                    return
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerFailed(status=f"no open port after {START_SECONDS:g} s")
            time.sleep(0.01)

    def _keep(self) -> None:
        """Starts the broker again whenever it ends without having been asked to."""
        while self._process is not None:
            status = self._process.wait()
            if self._stopping:
                return
            print(f"ipdc-edge: the broker ended with {_status(status)}; starting it again", file=sys.stderr)
            time.sleep(RESTART_PAUSE)
            if self._stopping:
                return
            self._process = self._spawn()


def _die_with_parent() -> list[str]:
    """The command in front of mosquitto that lets the kernel end it with the thread that started it, the daemon's
    main one. Loading ctypes into the daemon for prctl would cost more memory than the broker's own start."""
    for program in ("/usr/bin/setpriv", "/bin/setpriv"):
        if os.access(program, os.X_OK):
            return [program, "--pdeathsig", "TERM", "--"]
    return []


def _status(status: int) -> str:
    """A wait status in words."""
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit code {status}"
