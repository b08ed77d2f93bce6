"""A domain of many nodes on one machine, each with its own home, broker and daemon.

Owns a lab's directory: DIR/lab.json says what was made, DIR/node1 ... are the nodes' homes. Starts and ends
their processes, and removes nothing that lab.json does not name. A lab shares a machine, never a daemon,
broker, store or key: node1 makes the domain, and the others join it as nodes do anywhere, each with a token.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import ipdc_edge
from ipdc_edge import settings
from ipdc_edge.codec import join_token
from ipdc_edge.codec.join_token import Token
from ipdc_edge.commands import change, processes
from ipdc_edge.commands.client import Conversation, call
from ipdc_edge.core.placement import MOST_RUNNER
from ipdc_edge.core.values import MemberList
from ipdc_edge.drivers.broker import check_port, find_mosquitto
from ipdc_edge.errors import IpdcError, NoDaemon, WrongUsage
from ipdc_edge.home import Home

NODES_LIMIT = 64
LOWEST_PORT = 10_000  # of a lab; below are ports that people know
EPHEMERAL = 32_768  # Linux' own first port for outgoing connections
DOMAIN = "lab"
PORTS = ("mqtt_port", "gateway_port", "join_port", "local_port")
READY_SECONDS = 60.0
POLL_SECONDS = 0.05
STOP_SECONDS = 15.0
LOG_LINES = 15  # of a daemon's log in an error
# glibc's malloc, told to be small: one arena for all threads, and blocks of content go back to the system at
# once
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class NoLab(IpdcError):
    """There is no lab in {directory}. Make one: ipdc-edge lab up --nodes 3 --dir {directory}"""

    exit_code = 2


class OtherLab(IpdcError):
    """The lab in {directory} has {has} nodes, not {wanted}. Take that one, or remove it first:
    ipdc-edge lab down --dir {directory} --purge"""

    exit_code = 2


class OtherSandbox(IpdcError):
    """The lab in {directory} has `sandbox = {has}`, not {wanted}. Change ipdc.conf of its nodes, or remove it first:
    ipdc-edge lab down --dir {directory} --purge"""

    exit_code = 2


class NotEmpty(IpdcError):
    """{path} exists already and is no part of a lab. Choose another --dir."""

    exit_code = 2


class NodeDied(IpdcError):
    """The {part} of {node} ended. The last lines of {log}:{lines}"""


class NotReady(IpdcError):
    """After {seconds:g} s {node} sees {sees} of {nodes} nodes. Its log is {log}."""


class LabNode:
    """One node of a lab."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self.home = Home({"IPDC_HOME": os.path.join(directory, name)})

    def log(self, part: str) -> str:
        """Where "daemon" or "broker" write."""
        return os.path.join(self.home.state, "log", f"{part}.log")

    def pid_file(self, part: str) -> str:
        """Which process is the "daemon" or "broker"."""
        return os.path.join(self.home.run, f"{part}.pid")

    def make(self, conf: str) -> None:
        """Makes the home and its ipdc.conf."""
        self.home.prepare()
        os.makedirs(os.path.dirname(self.log("daemon")), exist_ok=True)
        with open(self.home.conf, "w", encoding="utf-8") as file:
            file.write(conf)

    def start(self) -> list[subprocess.Popen[bytes]]:
        """Starts what does not run yet: first the broker, then the daemon."""
        started = []
        read = settings.load(self.home.conf)
        for part, command, ports in (("broker", "broker", ("mqtt_port", "local_port")),
                                     ("daemon", "run", ("gateway_port",))):
            if processes.running(self.pid_file(part)) is None:
                for setting in ports:
                    check_port(settings.LOOPBACK, getattr(read, setting), setting, self.home.conf)
                words = [sys.executable, "-P", "-m", "ipdc_edge", command]
                started.append(processes.start(
                    words, _environ(self.home), self.log(part), self.pid_file(part)))
        return started

    def found(self) -> MemberList:
        """The members of the domain that this node is in; where it is alone, the lab's, which is made now."""
        now = change.present(self.home)
        if now is not None and not now.alone:
            return now.members
        from ipdc_edge.drivers import authority

        return authority.create_domain(self.home, DOMAIN, node_name=self.name, memory=settings.memory_total())

    def join(self, token: Token) -> None:
        """Makes the node a member of the domain that the token invites to."""
        from ipdc_edge.drivers import join_client

        join_client.join(self.home, token, name=self.name, memory=settings.memory_total())

    def belongs(self, members: MemberList) -> bool:
        """Whether the node is one of these members, and knows it."""
        now = change.present(self.home)
        return now is not None and now.authority == members.authority and members.member(now.id) is not None

    def check(self) -> None:
        """Raises NodeDied, with the end of the log, where a part does not run."""
        for part in ("broker", "daemon"):
            if processes.running(self.pid_file(part)) is None:
                log = self.log(part)
                raise NodeDied(part=part, node=self.name, log=log, lines=_tail(log))

    def stop(self) -> bool:
        """Ends the daemon, then the broker. Whether any ran."""
        ran = [processes.end(self.pid_file(part), STOP_SECONDS, f"{part} of {self.name}")
               for part in ("daemon", "broker")]
        return any(ran)


class Lab:
    """The lab in one directory."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        self._file = os.path.join(self.directory, "lab.json")
        self._children: list[subprocess.Popen[bytes]] = []  # kept, so that they are not reported as forgotten
        self.nodes = [LabNode(self.directory, name) for name in self._names()]

    def _names(self) -> list[str]:
        try:
            with open(self._file, encoding="utf-8") as file:
                count = int(json.load(file)["nodes"])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"Cannot read {self._file}: {error}. Remove it if it is no lab's."
            raise IpdcError(reason=reason) from error
        return [f"node{number}" for number in range(1, min(count, NODES_LIMIT) + 1)]

    def make(self, count: int, sandbox: str = "") -> None:
        """Makes homes and settings for `count` nodes where there is no lab yet; sandbox: one of settings.SANDBOXES, ""
        for the default, or for what a lab that is there has. Raises OtherLab, OtherSandbox, NotEmpty, or WrongUsage for
        a number that is out of bounds."""
        if not 1 <= count <= NODES_LIMIT:
            raise WrongUsage(reason=f"--nodes {count}: a lab has 1 to {NODES_LIMIT} nodes.")
        if self.nodes:
            if len(self.nodes) != count:
                raise OtherLab(directory=self.directory, has=len(self.nodes), wanted=count)
            for has in (settings.load(node.home.conf).sandbox for node in self.nodes if sandbox):
                if has != sandbox:
                    raise OtherSandbox(directory=self.directory, has=has, wanted=sandbox)
            return
        nodes = [LabNode(self.directory, f"node{number}") for number in range(1, count + 1)]
        for node in nodes:
            _ = node.home.control_socket  # too long a path is told before anything is made
            if os.path.lexists(node.home.state):
                raise NotEmpty(path=node.home.state)
        ports = [str(port) for port in free_ports(len(PORTS) * count)]
        slots = max(1, len(os.sched_getaffinity(0)) // count)
        # each node would spare an eighth of the memory that all of them share
        crowded = count * slots * MOST_RUNNER > settings.memory_total() // 4
        try:
            os.makedirs(self.directory, exist_ok=True)
            for number, node in enumerate(nodes):
                own = dict(zip(PORTS, ports[len(PORTS) * number :], strict=False))
                node.make(settings.render({
                    "name": node.name, "listen": settings.LOOPBACK, "address": settings.LOOPBACK, **own,
                    "slots": str(slots), "stop_grace": "0", "sandbox": sandbox or "auto",
                    **({"runner_memory": "24M"} if crowded else {}),
                }, [f"{node.name} of the lab in {self.directory}"]))
            with open(self._file, "w", encoding="utf-8") as file:
                json.dump({"nodes": count}, file)
        except OSError as error:
            raise IpdcError(reason=f"Cannot make the lab: {error.filename}: {error.strerror}.") from error
        self.nodes = nodes

    def up(self, say: Callable[[str], None], patience: float = READY_SECONDS) -> None:
        """Starts every node that does not run, and returns when each sees all of them. What this call
        started is ended again if that fails. Raises MosquittoMissing, PortTaken, NodeDied or NotReady."""
        find_mosquitto()
        begun: list[LabNode] = []
        deadline = time.monotonic() + patience
        try:
            first = self.nodes[0]
            members = first.found()
            strangers = [node for node in self.nodes[1:] if not node.belongs(members)]
            for node in [first, *(node for node in self.nodes[1:] if node not in strangers)]:
                begun.append(node)
                self._children += node.start()
            tokens = [self._token(deadline, patience) for _ in strangers]  # at once: the port stays open for all
            for node, token in zip(strangers, tokens, strict=True):
                node.stop()  # it may run alone, or as one that was expelled
                node.join(token)
                begun.append(node)
                self._children += node.start()
            for node in self.nodes:
                self._await(node, deadline, patience)
                say(f"{node.name} is ready")
        except BaseException:
            for node in begun:
                node.stop()
            raise

    def _token(self, deadline: float, patience: float) -> Token:
        """A token of the first node, as soon as its daemon answers."""
        first = self.nodes[0]
        while True:
            first.check()
            try:
                return join_token.parse(str(call(first.home, "invite")["token"]))
            except IpdcError as error:
                if not error.retry:
                    raise
            if time.monotonic() > deadline:
                raise NotReady(seconds=patience, node=first.name, sees=0, nodes=len(self.nodes),
                               log=first.log("daemon"))
            time.sleep(POLL_SECONDS)

    def _await(self, node: LabNode, deadline: float, patience: float) -> None:
        sees = 0

        def check() -> None:
            for each in self.nodes:
                each.check()
            if time.monotonic() > deadline:
                raise NotReady(seconds=patience, node=node.name, sees=sees, nodes=len(self.nodes),
                               log=node.log("daemon"))

        while (sees := present_nodes(node.home, check)) < len(self.nodes):
            check()
            time.sleep(POLL_SECONDS)

    def down(self) -> int:
        """Ends every node's processes; how many nodes ran. What the nodes hold stays."""
        if not self.nodes:
            raise NoLab(directory=self.directory)
        ran = sum([node.stop() for node in self.nodes])
        for child in self._children:
            child.wait()  # ours, where one process made the lab and ends it: no zombies
        self._children.clear()
        return ran

    def purge(self) -> None:
        """Removes the nodes' homes and lab.json, and the directory itself where nothing else is in it."""
        for node in self.nodes:
            shutil.rmtree(node.home.state)
        os.unlink(self._file)
        self.nodes = []
        if not os.listdir(self.directory):
            os.rmdir(self.directory)


def present_nodes(home: Home, idle: Callable[[], None]) -> int:
    """How many nodes this one sees that are ready, or drained by their owner; 0 while its daemon does not answer.
    `idle` is called every second that the daemon takes to answer."""
    try:
        with Conversation(home) as conversation:
            conversation.idle = idle
            conversation.request("nodes", {})
            found = conversation.answer().get("nodes")
    except NoDaemon:
        return 0
    except IpdcError as error:
        if error.retry:
            return 0
        raise
    return sum(node.get("state") in ("ready", "draining") for node in found) if isinstance(found, list) else 0


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that are free, all different. None that the kernel gives to outgoing connections, of
    which a lab has many before its last node listens; none that a node has which is told nothing."""
    ports = [port for port in range(LOWEST_PORT, _first_ephemeral()) if port not in settings.DEFAULT_PORTS]
    random.SystemRandom().shuffle(ports)
    found: list[int] = []
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise IpdcError(reason=f"Of the ports {LOWEST_PORT} to {_first_ephemeral() - 1} no {count} are free.")


def _first_ephemeral() -> int:
    """Where the ports begin that the kernel gives to outgoing connections."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first = int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        first = EPHEMERAL
    return first if first > LOWEST_PORT + 4 * NODES_LIMIT else EPHEMERAL


def _environ(home: Home) -> dict[str, str]:
    """What a lab's processes are started with, as the daemon's unit will be: see MALLOC."""
    environ = {**os.environ, "IPDC_HOME": home.state, **MALLOC}
    package = os.path.dirname(os.path.dirname(os.path.abspath(ipdc_edge.__file__)))
    import site

    if package not in [*site.getsitepackages(), site.getusersitepackages()]:  # a checkout
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    return environ


def _tail(log: str) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().decode("utf-8", "backslashreplace").splitlines()[-LOG_LINES:]
    except OSError as error:
        lines = [str(error)]
    return "".join(f"\n  {line}" for line in lines or ["(it is empty)"])
