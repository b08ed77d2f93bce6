"""This node's own broker: finding mosquitto, starting it, telling it what changed.

Owns the process: where `ipdc-edge run --with-broker` starts one, and the signals to whichever runs. `broker_files` owns
what mosquitto reads, `broker_client` what is said to it. Never touches the distribution's own mosquitto instance.
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

from ipdc_edge.drivers.broker_files import pid_path, redirect_log, write_access, write_all
from ipdc_edge.drivers.identity import Identity, load
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from ipdc_edge.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from subprocess import Popen

SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin")  # not in an ordinary user's PATH
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


def check_ports(home: Home, settings: Settings, identity: Identity) -> None:
    """Whether both of the broker's ports can be listened on. Raises PortTaken, AddressUnusable."""
    check_port(LOOPBACK, settings.local_port, "local_port", home.conf)
    check_port(settings.bind(identity.alone), settings.mqtt_port, "mqtt_port", home.conf)


def exec_broker(home: Home, settings: Settings, identity: Identity) -> None:
    """Becomes mosquitto; returns only by raising MosquittoMissing, PortTaken, AddressUnusable or
    BrokerFilesNotWritten."""
    program = find_mosquitto()
    check_ports(home, settings, identity)
    conf = write_all(home, settings, identity)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [program, "-c", conf])


def running(home: Home) -> int | None:
    """The process id of this node's broker, proven by its command line; None where none runs."""
    try:
        with open(pid_path(home), encoding="ascii") as file:
            pid = int(file.read(20))
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(65536).split(b"\0")
    except (OSError, ValueError):
        return None
    ours = os.fsencode(home.broker_conf) in words and any(b"mosquitto" in os.path.basename(word) for word in words[:-2])
    return pid if ours else None


def update(home: Home, identity: Identity) -> bool:
    """Gives the running broker a new member list of its domain; False where none runs. Who was expelled is silent as
    soon as the broker has read it, within a fraction of a second; broker_client.kick waits for that. Raises
    BrokerFilesNotWritten."""
    write_access(home, identity)
    return read_again(home)


def read_again(home: Home) -> bool:
    """Has the running broker read its files anew; False where none runs. One that is just reading them may miss it."""
    return _signal(home, signal.SIGHUP)


def log_to_topics(home: Home) -> bool:
    """Has the running broker publish its log (broker_log.FILTER) instead of writing it; False where none runs. For a
    daemon that is connected and listens. Raises BrokerFilesNotWritten."""
    if running(home) is None:
        return False
    redirect_log(home)
    return read_again(home)


def restart(home: Home) -> bool:
    """Ends the running broker, which whoever started it starts again, with fresh files; False where none runs."""
    return _signal(home, signal.SIGTERM)


def _signal(home: Home, number: int) -> bool:
    pid = running(home)
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class BrokerProcess:
    """mosquitto as a child of the daemon, for development and containers; installed nodes have a unit for
    it. A broker that ends is started again, with fresh files, by a thread that does nothing else. Where util-linux's
    setpriv is installed, the kernel ends the broker when the daemon is killed."""

    def __init__(self, home: Home, settings: Settings, identity: Identity) -> None:
        self._home = home
        self._settings = settings
        self._identity = identity
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
        check_ports(self._home, self._settings, self._identity)
        self._program = [*_die_with_parent(), program, "-c", self._home.broker_conf]
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

        write_all(self._home, self._settings, self._identity)
        # mosquitto would tell systemd that it is ready, which is the daemon's to say
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        return subprocess.Popen(self._program, cwd="/", stdin=subprocess.DEVNULL, env=environment)

    def _await_ready(self, process: Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = process.poll()
            if status is not None:
                raise BrokerFailed(status=_status(status))
            if self._listens():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerFailed(status=f"no open port after {START_SECONDS:g} s")
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:  # the listener that mosquitto opens last
            return probe.connect_ex((LOOPBACK, self._settings.local_port)) == 0

    def _keep(self) -> None:
        """Starts the broker again whenever it ends without stop(): when it died, or when the domain is another one."""
        while self._process is not None:
            status = self._process.wait()
            if self._stopping:
                return
            print(f"ipdc-edge: the broker ended with {_status(status)}; starting it again", file=sys.stderr)
            time.sleep(RESTART_PAUSE)
            try:
                self._identity = load(self._home)
            except IpdcError as error:  # the one before serves until somebody repairs the files
                print(f"ipdc-edge: {error}", file=sys.stderr)
            if self._stopping:
                return
            try:
                self._process = self._spawn()
            except (IpdcError, OSError) as error:
                print(f"ipdc-edge: the broker does not start: {error}", file=sys.stderr)


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
