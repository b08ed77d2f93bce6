"""Real Kubo daemons, of the version that is pinned here, built once by Go and kept in the tests' cache.

Owns their repositories and processes; each is alone (no bootstrap, no mDNS, loopback only) unless a test connects it.
usage: python3 -m tests.ipfs.kubo        builds it and prints where it is
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ipdc_edge import settings
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers.kubo_rpc import KuboRpc, NoKubo
from tests.bare.debian import cache
from tests.waiting import eventually

VERSION = "v0.43.0"
PROFILE = "unixfs-v1-2025"
GO_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin")


class CannotBuild(Exception):
    """There is no Kubo, and none can be made; the message says why."""


def program() -> str:
    """The path of `ipfs`; the first call builds it, which takes minutes. CannotBuild."""
    directory = cache() / f"kubo-{VERSION}"
    path = directory / "ipfs"
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(directory)
    return str(path)


def go() -> str:
    """Go's own program. CannotBuild."""
    path = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), *GO_PLACES]))
    if path is None:
        raise CannotBuild("there is no Go toolchain here, and the real peers come as Go modules only")
    return path


def _build(directory: Path) -> None:
    tool = go()
    work = directory / "build"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    # a module of our own around it: `go install` refuses the modules whose go.mod excludes something
    for words in (["mod", "init", "kubo-peer"], ["get", f"github.com/ipfs/kubo/cmd/ipfs@{VERSION}"],
                  ["build", "-o", "../ipfs.new", "github.com/ipfs/kubo/cmd/ipfs"]):
        done = subprocess.run([tool, *words], cwd=work, capture_output=True, text=True)
        if done.returncode:
            raise CannotBuild(f"go {words[0]} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    (directory / "ipfs.new").rename(directory / "ipfs")
    shutil.rmtree(work)


class OwnKubo:
    """A node's own Kubo: what `ipdc-edge kubo` became. Started again by `start`, as its unit would."""

    def __init__(self, home: str) -> None:
        self.home, self.repository = home, os.path.join(home, "kubo")
        self.process: subprocess.Popen[bytes] | None = None
        conf = Path(home, "ipdc.conf")
        if not conf.exists() or "kubo_swarm_port" not in conf.read_text():
            write_ports(home)
        read = settings.load(os.path.join(home, "ipdc.conf"))
        self.rpc = KuboRpc(read.kubo_api, 15.0)

    def start(self) -> None:
        """Returns when it answers."""
        path = os.pathsep.join([os.path.dirname(program()), os.environ.get("PATH", "")])
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = {**os.environ, "PATH": path, "IPDC_HOME": self.home, "PYTHONPATH": root}
        self.run(["/usr/bin/python3", "-m", "ipdc_edge", "kubo"], environment)

    def start_raw(self, **variables: str) -> None:
        """Kubo itself on the same repository, with no word of ours."""
        environment = {**os.environ, "IPFS_TELEMETRY": "off", **variables}
        self.run([program(), "--repo-dir", self.repository, "daemon"], environment)

    def run(self, words: list[str], environment: dict[str, str]) -> None:
        """Starts it; AssertionError with its own words where it ends instead."""
        log = open(os.path.join(self.home, "kubo.log"), "ab")
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        eventually(self._answers, "the node's Kubo answers", 60)

    def log(self) -> str:
        """What it said."""
        return Path(self.home, "kubo.log").read_text()

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()[-2000:]
        try:
            return bool(self.rpc.version())
        except NoKubo:
            return False

    @property
    def address(self) -> str:
        """By which others dial it."""
        port = settings.load(os.path.join(self.home, "ipdc.conf")).kubo_swarm_port
        return f"/ip4/127.0.0.1/tcp/{port}/p2p/{self.rpc.identity()['ID']}"

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


def write_ports(home: str) -> None:
    """Adds free ports for a Kubo to a node's ipdc.conf."""
    api, swarm = free_ports(2)
    with open(os.path.join(home, "ipdc.conf"), "a", encoding="utf-8") as conf:
        conf.write(f"kubo_api = 127.0.0.1:{api}\nkubo_swarm_port = {swarm}\n")


class Kubo:
    """A repository, and its daemon between `start` and `stop`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        api, gateway, swarm = free_ports(3)
        self.rpc = "127.0.0.1", api
        self.gateway = f"127.0.0.1:{gateway}"
        self.run("init", "--profile", f"test,{PROFILE}")
        for name, value in {
            "Addresses.API": f"/ip4/127.0.0.1/tcp/{api}",
            "Addresses.Gateway": f"/ip4/127.0.0.1/tcp/{gateway}",
            "Addresses.Swarm": [f"/ip4/127.0.0.1/tcp/{swarm}"],
            "Bootstrap": [],
            "Discovery.MDNS.Enabled": False,
            "Routing.Type": "none",
            "AutoConf.Enabled": False,
            "Gateway.NoFetch": True,
        }.items():
            self.run("config", "--json", name, json.dumps(value))

    def run(self, *words: str, stdin: bytes | None = None) -> bytes:
        """`ipfs` with these words, against this repository; AssertionError with its own words when it fails."""
        done = subprocess.run(
            [program(), *words], input=stdin, capture_output=True, env=self._environment(), timeout=300)
        assert done.returncode == 0, f"ipfs {' '.join(words)}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def add(self, path: str | os.PathLike[str], *options: str) -> str:
        """The CID that `ipfs add` prints for the whole of it."""
        return self.run("add", "--recursive", "--quieter", *options, os.fspath(path)).decode().strip()

    def start(self) -> None:
        """Runs the daemon, and returns when it answers."""
        log = open(self.directory / "daemon.log", "ab")
        self.process = subprocess.Popen(
            [program(), "daemon"], env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        eventually(self._answers, "Kubo answers", 60)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.directory / "daemon.log").read_text()
        try:
            return bool(self.call("version"))
        except OSError:
            return False

    def call(self, command: str, **arguments: str) -> Any:
        """An answer of its RPC in JSON."""
        query = urllib.parse.urlencode(arguments)
        request = urllib.request.Request(f"http://127.0.0.1:{self.rpc[1]}/api/v0/{command}?{query}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def stop(self, kill: bool = False) -> None:
        """Ends the daemon, if one runs."""
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(60)
            self.process = None

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self.directory / "repository"), "IPFS_TELEMETRY": "off"}


if __name__ == "__main__":
    print(program())
