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

from ipdc_edge.commands.laboratory import free_ports
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
