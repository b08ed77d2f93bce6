"""Hosts on a network of their own, and IPDC nodes on them: what a lab on one loopback cannot show.

Owns network namespaces, a bridge between them in one more namespace (this machine's network is not touched), and
every process started inside. All names carry the process that made them, so parallel runs do not meet, and what a
run that died has left is removed by the next one. Needs root and iproute2. Never decides what is tested.

    with Network() as network:
        domain = Domain(network, directory, 3)          # real processes, real commands
        domain.nodes[0].json("nodes")
        domain.nodes[1].host.cut()                      # its cable
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ipdc_edge import settings
from tests.waiting import eventually

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = "/usr/bin/python3"
SUBNET = ipaddress.IPv4Network("10.77.0.0/24")
ROUTER = SUBNET[254]
RESTART_SECONDS = 0.1  # systemd's RestartSec
OWNER = re.compile(r"ipdc-t(\d+)-(\d+)-.*")
_numbers = itertools.count(1)


class CommandFailed(AssertionError):
    """A command inside a host ended with a failure."""


def sh(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(words)}: {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" where it is gone: together with the pid it is unique."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _namespaces() -> list[str]:
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:
        return []


def _remove(namespace: str) -> None:
    """Ends all processes inside, and the namespace."""
    def inside() -> list[str]:
        return sh("ip", "netns", "pids", namespace, check=False).split()

    def emptied() -> bool:
        for pid in inside():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself
        return not inside()

    eventually(emptied, f"no process is left in {namespace}")
    sh("ip", "netns", "del", namespace, check=False)


def remove_leftovers() -> None:
    """Removes the namespaces of runs whose process is gone."""
    for name in _namespaces():
        owner = OWNER.fullmatch(name)
        if owner and _start_time(int(owner[1])) != owner[2]:
            _remove(name)


class Host:
    """A machine on the network, made by `Network.host`. Its one cable is eth0."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.network, self.name, self.address = network, name, str(SUBNET[number])
        self.namespace, self._port = f"{network.prefix}-{name}", f"p{number}"
        self._started: list[subprocess.Popen[bytes]] = []
        sh("ip", "netns", "add", self.namespace)
        sh("ip", "-n", network.bridge, "link", "add", self._port, "type", "veth",
            "peer", "name", "eth0", "netns", self.namespace)
        sh("ip", "-n", network.bridge, "link", "set", self._port, "master", "br0", "up")
        for interface in ("lo", "eth0"):
            sh("ip", "-n", self.namespace, "link", "set", interface, "up")
        self.readdress(self.address)

    def readdress(self, address: str) -> None:
        """Takes the old address away and gives the host a new one, as another lease of DHCP does."""
        sh("ip", "-n", self.namespace, "addr", "flush", "dev", "eth0", "scope", "global")
        sh("ip", "-n", self.namespace, "addr", "add", f"{address}/{SUBNET.prefixlen}", "dev", "eth0")
        sh("ip", "-n", self.namespace, "route", "replace", "default", "via", str(ROUTER))
        self.address = address

    def cut(self) -> None:
        """Pulls the cable: eth0 has no carrier."""
        sh("ip", "-n", self.network.bridge, "link", "set", self._port, "down")

    def heal(self) -> None:
        """Plugs the cable in again. Routes of eth0 that the kernel took away come back with it."""
        sh("ip", "-n", self.network.bridge, "link", "set", self._port, "up")
        sh("ip", "-n", self.namespace, "route", "replace", "default", "via", str(ROUTER))

    def mute(self) -> None:
        """Silence: the cable seems fine, but nothing arrives on either side."""
        sh("ip", "-n", self.network.bridge, "link", "set", self._port, "nomaster")

    def unmute(self) -> None:
        """Ends the silence."""
        sh("ip", "-n", self.network.bridge, "link", "set", self._port, "master", "br0")

    def run(self, *words: str, check: bool = True, env: Mapping[str, str] | None = None,
            **options: Any) -> subprocess.CompletedProcess[str]:
        """One command inside; raises CommandFailed unless told `check=False`. `env` is added to this process's."""
        options = {"capture_output": True, "text": True, "errors": "surrogateescape", "timeout": 600, **options}
        done = subprocess.run(self._words(words), env={**os.environ, **(env or {})}, **options)
        if check and done.returncode:
            raise CommandFailed(f"{words} on {self.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *words: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """A process inside, in a session of its own; ended with the network at the latest. `ip netns exec` becomes
        the command, so the pid is the command's."""
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        process = subprocess.Popen(self._words(words), env={**os.environ, **(env or {})}, **options)
        self._started.append(process)
        return process

    def _words(self, words: tuple[str, ...]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *words]

    def remove(self) -> None:
        """Ends what runs inside, and the host."""
        _remove(self.namespace)
        for process in self._started:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                pipe.close()


class Network:
    """A context manager: hosts on one bridge, everything removed at its end."""

    def __init__(self) -> None:
        self.prefix = f"ipdc-t{os.getpid()}-{_start_time(os.getpid())}-{next(_numbers)}"
        self.bridge = f"{self.prefix}-bridge"
        self.hosts: list[Host] = []
        self.services: list[Service] = []

    def __enter__(self) -> Network:
        remove_leftovers()
        sh("ip", "netns", "add", self.bridge)
        try:
            sh("ip", "-n", self.bridge, "link", "set", "lo", "up")
            sh("ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge")
            sh("ip", "-n", self.bridge, "addr", "add", f"{ROUTER}/{SUBNET.prefixlen}", "dev", "br0")
            sh("ip", "-n", self.bridge, "link", "set", "br0", "up")
        except BaseException:
            _remove(self.bridge)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for service in self.services:
            service.unsupervise()
        for host in self.hosts:
            host.remove()
        for service in self.services:
            service.stop()  # its process is gone: the thread is waited for
        _remove(self.bridge)

    def host(self, name: str = "") -> Host:
        """One more host, with the next free address: 10.77.0.1, .2, ..."""
        number = len(self.hosts) + 1
        made = Host(self, name or f"host{number}", number)
        self.hosts.append(made)
        return made


class Service:
    """A process of a host with its log, kept running where systemd would (`restarts`)."""

    def __init__(self, host: Host, words: tuple[str, ...], env: Mapping[str, str], log: str, restarts: bool) -> None:
        self.host, self.words, self.env, self.log_file, self.restarts = host, words, env, log, restarts
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # between a start and an end that was asked for
        self._unwanted = threading.Event()
        self._unwanted.set()
        self._thread: threading.Thread | None = None
        host.network.services.append(self)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the process, and again whenever it ends unasked, if it is to be restarted."""
        assert not self.running, f"{self.words} runs already on {self.host.name}"
        self.stop()  # an earlier one that ended by itself
        self._unwanted.clear()
        self._launch()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def _launch(self) -> None:
        with open(self.log_file, "ab") as log:
            self.process = self.host.start(*self.words, env=self.env, stdout=log, stderr=log)
        self.starts += 1

    def _supervise(self) -> None:
        while True:
            assert self.process is not None
            self.process.wait()
            self._unwanted.wait(RESTART_SECONDS)
            with self._lock:
                if self._unwanted.is_set() or not self.restarts:
                    return
                self._launch()

    def unsupervise(self) -> None:
        """From now on its end is final."""
        with self._lock:
            self._unwanted.set()

    def stop(self, how: int = signal.SIGTERM, patience: float = 20) -> int | None:
        """Ends the process (SIGKILL when it does not obey); its exit code."""
        self.unsupervise()
        if self._thread is None or self.process is None:
            return None
        process = self.process
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{self.words} on {self.host.name} does not end; log: {self.log_file}") from None
        self._thread.join(patience)
        self._thread = None
        return process.returncode

    def log(self) -> str:
        """What it has written so far."""
        try:
            with open(self.log_file, encoding="utf-8", errors="backslashreplace") as file:
                return file.read()
        except FileNotFoundError:
            return ""


class DomainNode:
    """An IPDC node on a host, below a directory of its own: broker and daemon as the package's units run them.

    `wrap` are words before every process and command, such as faketime's. `conf` are settings by name.
    """

    def __init__(self, host: Host, directory: str, *, wrap: tuple[str, ...] = (), **conf: str) -> None:
        self.host, self.home, self._wrap = host, os.path.join(directory, host.name), wrap
        os.makedirs(os.path.join(self.home, "log"))
        self.configure(**conf)
        self.broker = self._service("broker", restarts=True)
        self.daemon = self._service("run", restarts=False)

    def __repr__(self) -> str:
        return f"{self.host.name} ({self.host.address})"

    def wrapped(self, *words: str) -> None:
        """From its next start on, everything of this node runs behind these words."""
        self._wrap = words
        self.broker, self.daemon = self._service("broker", restarts=True), self._service("run", restarts=False)

    @property
    def _env(self) -> dict[str, str]:
        own = {"IPDC_HOME": self.home, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "1"}
        return {**own, "INVOCATION_ID": "as under systemd"}

    def _service(self, command: str, restarts: bool) -> Service:
        words = (*self._wrap, PYTHON, "-P", "-m", "ipdc_edge", command)
        return Service(self.host, words, self._env, os.path.join(self.home, "log", f"{command}.log"), restarts)

    def configure(self, **conf: str) -> None:
        """Writes ipdc.conf: what is given, the host's name, and every other setting's default."""
        text = settings.render({"name": self.host.name, "slots": "1", **conf}, ["a node of tests/network"])
        with open(os.path.join(self.home, "ipdc.conf"), "w", encoding="utf-8") as file:
            file.write(text)

    def ipdc(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """One command as a person types it on that host."""
        command = (*self._wrap, PYTHON, "-P", "-m", "ipdc_edge", *words)
        return self.host.run(*command, env=self._env, check=check, **options)

    def json(self, *words: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self.ipdc(*words, "--json").stdout)

    def start(self) -> None:
        """Starts what does not run yet, and returns when the daemon answers."""
        for service in (self.broker, self.daemon):
            if not service.running:
                service.start()
        eventually(self.answers, f"the daemon of {self} answers; its log:\n{self.daemon.log()}", 60)

    def answers(self) -> bool:
        """Whether the daemon answers. AssertionError with its log when it has ended."""
        if not self.daemon.running:
            raise AssertionError(f"the daemon of {self} ended:\n{self.daemon.log()}")
        return self.ipdc("status", check=False).returncode == 0

    def stop(self) -> None:
        """Ends the daemon, then the broker, as a shutdown does."""
        for service in (self.daemon, self.broker):
            service.stop()

    def kill(self) -> None:
        """A power cut for both: SIGKILL."""
        for service in (self.daemon, self.broker):
            service.unsupervise()
        for service in (self.daemon, self.broker):
            service.stop(signal.SIGKILL)

    @property
    def id(self) -> str:
        return str(self.json("domain", "show")["id"])

    def ready(self) -> set[str]:
        """The names of the nodes that this one sees ready. Empty while its daemon does not answer."""
        done = self.ipdc("nodes", "--json", check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else []
        return {node["name"] for node in found if node["state"] == "ready"}

    def invite(self) -> str:
        """A token for one more node."""
        return self.ipdc("invite").stdout.strip()

    def submit(self, *words: str) -> str:
        """Submits, waits for success, and gives the job's id."""
        last = json.loads(self.ipdc("submit", *words, "--json").stdout.splitlines()[-1])
        assert last["state"] == "succeeded", last
        return str(last["id"])

    def result(self, job: str) -> list[str]:
        """The lines of a job's result, sorted as bytes."""
        text = self.ipdc("result", job).stdout.encode("utf-8", "surrogateescape")
        return [line.decode("utf-8", "surrogateescape") for line in sorted(text.splitlines())]


class Domain:
    """Nodes 1 to n on hosts of their own, made with the commands that people use: every node runs alone first; node 1
    creates the domain; it invites and the others join."""

    def __init__(self, network: Network, directory: str, count: int, name: str = "house", **conf: str) -> None:
        self.network, self.directory, self.name = network, directory, name
        self.nodes: list[DomainNode] = []
        for number in range(1, count + 1):
            node = self.add(f"node{number}", **conf)
            if number == 1:
                node.ipdc("domain", "create", name)
            else:
                self.join(node)
        self.wait_ready()

    def add(self, name: str, **conf: str) -> DomainNode:
        """One more host with a node that runs and is alone."""
        node = DomainNode(self.network.host(name), self.directory, **conf)
        self.nodes.append(node)
        node.start()
        return node

    def join(self, node: DomainNode, inviter: DomainNode | None = None) -> None:
        """Has `node` join with a fresh token."""
        node.ipdc("join", (inviter or self.nodes[0]).invite())

    def wait_ready(self, *nodes: DomainNode, seconds: float = 20) -> None:
        """Until each of the nodes (all, if none is named) sees all of them ready."""
        wanted = nodes or tuple(self.nodes)
        names = {node.host.name for node in wanted}
        for node in wanted:
            eventually(lambda node=node: names <= node.ready(), f"{node} sees {sorted(names)} ready", seconds)
