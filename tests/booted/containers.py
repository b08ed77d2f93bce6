"""Debian 12 and 13 as they boot, with their own systemd, in containers: what the installed package is tested in.

Owns containers: an overlay on a root of roots.py, a cgroup of its own (cgroups.py), a host of tests/network/hosts.py as
its network, and systemd-nspawn as its supervisor. Works with the controllers of cgroup version 1 and on a machine
whose own first process is no systemd. Mounts and processes of a container live in namespaces that end with the process
that made them, however that ends; a cgroup or files that a killed run left are removed by the next one.

    with Containers() as containers:
        board = containers.boot("board", "trixie", memory=128 << 20)
        board.run("systemctl is-system-running")
        board.reboot()

By hand: python3 -m tests.booted.containers bookworm|trixie [COMMAND]      without one: a shell
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bare.debian import SUITES, CannotMakeDebian, Outcome, cache
from tests.booted import cgroups
from tests.booted.roots import booted_root_of
from tests.network.hosts import OWNER, Host, Network, _start_time
from tests.waiting import eventually

TOOLS = {"systemd-nspawn": "systemd-container", "setpriv": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
BOOT_SECONDS = 120
SHOWN = "/usr/local/lib/shown"
CLEAN = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb"]

# Becomes the supervisor. In namespaces of its own, so that the overlay and nspawn's files in /run vanish with it.
START = r"""
set -euo pipefail
for file in $procs; do echo 0 > "$file"; done
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"
cd "$directory"
echo "$name" > root/etc/hostname
echo "127.0.0.1 localhost $name" > root/etc/hosts
mount -t tmpfs -o mode=755 tmpfs /run
exec systemd-nspawn -D "$directory/root" --register=no --keep-unit --machine="$name" --hostname="$name" \
  --resolv-conf=off --timezone=off --link-journal=no --capability=CAP_NET_ADMIN,CAP_NET_RAW $shown --console=pipe --boot
"""
JOIN = 'for file in $1; do echo 0 > "$file"; done; shift; exec "$@"'
# nspawn gives the controllers of version 1 read-only, and systemd then ignores MemoryMax= and TasksMax= in silence
WRITABLE = """for controller in cpu cpuacct cpuset memory pids; do
    mount -o remount,bind,rw,nosuid,nodev,noexec "/sys/fs/cgroup/$controller"; done"""


def require() -> None:
    """Raises CannotMakeDebian, with what to install, unless containers can be booted here."""
    if os.geteuid() != 0:
        raise CannotMakeDebian("booted containers need root: run the tests as root")
    for tool, package in TOOLS.items():
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            raise CannotMakeDebian(f"{tool} is not installed: apt-get install {package}")
    cgroups.require()


def remove_leftovers() -> None:
    """Removes files and cgroups of runs whose process is gone; their processes ended with it."""
    directories = cgroups.Cgroup("").directories
    names = {path.name for top in (*directories, cache() / "containers") if top.is_dir() for path in top.iterdir()}
    for name in names:
        owner = OWNER.fullmatch(name)
        if owner and _start_time(int(owner[1])) != owner[2]:
            for pid in _inside(name):
                os.kill(pid, signal.SIGKILL)
            cgroups.Cgroup(name).remove()
            shutil.rmtree(cache() / "containers" / name, ignore_errors=True)


def _inside(name: str) -> list[int]:
    found = []
    for top in cgroups.Cgroup(name).directories:
        for file in top.rglob("cgroup.procs"):
            found += [int(pid) for pid in file.read_text().split()]
    return sorted(set(found) - {0})


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Container:
    """One system; its files last until `remove`, also over `stop`, `boot` and `reboot`."""

    def __init__(
        self, host: Host, suite: str, memory: int | None, like: Container | None = None, shown: str = "",
    ) -> None:
        """shown: a directory of this machine that is to be seen in it at SHOWN, read-only."""
        self.shown = f"--bind-ro={shown}:{SHOWN}" if shown else ""
        self.host, self.name, self.suite, self.memory = host, host.name, suite, memory
        self.address, self.cgroup = host.address, cgroups.Cgroup(host.namespace)
        self.directory = cache() / "containers" / host.namespace
        self.lower = booted_root_of(suite)
        for part in "work", "root":
            (self.directory / part).mkdir(parents=True)
        if like:
            subprocess.run(["cp", "-a", str(like.directory / "kept"), str(self.directory / "upper")], check=True)
        else:
            (self.directory / "upper").mkdir()
        self.init = 0  # the process id of its systemd, seen from here
        self.supervisor: subprocess.Popen[bytes] | None = None

    def boot(self) -> Container:
        """Returns when systemd has started everything; raises AssertionError with the console when it does not."""
        self.cgroup.make(self.memory)
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "procs": " ".join(self.cgroup.procs()),
                       "lower": str(self.lower), "directory": str(self.directory), "name": self.name,
                       "shown": self.shown}
        # every link of the chain ends with the one before it, the first one with this process
        command = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.host.namespace}",
                   "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                   "bash", "-c", START]
        with open(self.directory / "console", "wb") as console:
            self.supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                               env=environment, start_new_session=True)
        self.init = eventually(self._systemd, f"systemd runs in {self.name}", 30)
        if not cgroups.unified():
            eventually(lambda: self.run(WRITABLE, check=False).code == 0, "its controllers are writable", 30)
        self.settled()
        if not cgroups.unified():  # it looks only when it starts at which controllers it may use
            self.run("systemctl daemon-reexec")
            self.settled()
        return self

    def settled(self) -> str:
        """Waits for the end of a boot; "running", or "degraded" when a unit failed."""
        def state() -> str:
            said = self.run("systemctl is-system-running", check=False).stdout.strip()
            return said if said in ("running", "degraded") else ""
        try:
            return eventually(state, f"{self.name} has booted", BOOT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.console()[-3000:]}") from None

    def _systemd(self) -> int:
        if self.supervisor is None or self.supervisor.poll() is not None:
            raise CannotMakeDebian(f"{self.name} did not boot:\n{self.console()[-3000:]}")
        below = _children(self.supervisor.pid)
        while below:
            for pid in below:
                try:
                    if os.readlink(f"/proc/{pid}/exe").endswith("/systemd/systemd"):
                        return pid
                except OSError:
                    pass  # it ended, or is about to become another
            below = [child for pid in below for child in _children(pid)]
        return 0

    def console(self) -> str:
        return (self.directory / "console").read_text(errors="replace")

    # -- inside

    def words(self, inside: list[str], user: str = "root") -> list[str]:
        """The command that runs another one inside, below the container's limits; for Popen."""
        home = "/root" if user == "root" else f"/home/{user}"
        as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", f"--wdns={home}"]
        return ["sh", "-c", JOIN, "join", " ".join(self.cgroup.procs(self.init)),
                *enter, *CLEAN, f"HOME={home}", *as_user, *inside]

    def run(self, script: str, user: str = "root", stdin: bytes = b"", seconds: float = 300,
            check: bool = True) -> Outcome:
        """Runs a shell script; raises AssertionError with its output unless it ends well or `check` is False."""
        words = self.words(["bash", "-c", script], user)
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=seconds)
        stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        outcome = Outcome(done.returncode, stdout, stderr, [])
        if check and done.returncode != 0:
            raise AssertionError(f"{script!r} in {self.name}: {outcome}")
        return outcome

    def write(self, path: str, content: bytes | str, mode: str = "644") -> None:
        """A file inside; folders on the way are made."""
        data = content.encode() if isinstance(content, str) else content
        self.run(f'mkdir -p "$(dirname {path})" && cat > {path} && chmod {mode} {path}', stdin=data)

    def read(self, path: str) -> str:
        return self.run(f"cat {path}").stdout

    def journal(self, unit: str = "") -> str:
        """What the journal holds, since this boot, of a unit or of all."""
        return self.run(f"journalctl --no-pager -b -o short-monotonic {f'-u {unit}' if unit else ''}").stdout

    def show(self, unit: str, field: str) -> str:
        return self.run(f"systemctl show -P {field} {unit}").stdout.strip()

    def eventually(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """tests.waiting's, with the end of the journal for a failure."""
        try:
            return eventually(condition, what, seconds)
        except AssertionError as error:
            tail = self.run("journalctl --no-pager -b -n 60; systemctl --failed --no-pager", check=False).stdout
            raise AssertionError(f"{error}\n--- the journal of {self.name}\n{tail}") from None

    def unit_directory(self, name: str) -> Path:
        """The cgroup of a unit or slice, with the memory controller, seen from here."""
        inside = self.show(name, "ControlGroup")
        below = "payload" if cgroups.unified() else ""
        return self.cgroup.memory / below / inside.lstrip("/")

    def keep(self, *but: str) -> None:
        """Others may be booted `like` this one is now: with its files but these, and without what makes it itself."""
        kept = self.directory / "kept"
        subprocess.run(["cp", "-a", str(self.directory / "upper"), str(kept)], check=True)
        (kept / "etc/machine-id").write_text("")
        for path in "/var/log/journal", *but:
            shutil.rmtree(kept / path.lstrip("/"), ignore_errors=True)

    # -- its end

    def reboot(self) -> None:
        """systemctl reboot; returns when it has booted again with its files."""
        self._end("systemctl reboot")
        self.boot()

    def stop(self) -> None:
        """systemctl poweroff; its files stay."""
        self._end("systemctl poweroff")

    def _end(self, command: str) -> None:
        assert self.supervisor is not None
        self.run(command, check=False)
        try:
            self.supervisor.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: no end by {command}\n{self.console()[-2000:]}") from None
        self._forget()

    def kill(self) -> None:
        """As a power cut, but what was written stays."""
        if self.supervisor is not None:
            self.supervisor.kill()
            self.supervisor.wait()
        self._forget()

    def _forget(self) -> None:
        self.supervisor, self.init = None, 0
        self.cgroup.remove()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)


class Containers:
    """A context manager: containers on one bridge, all gone at its end."""

    def __init__(self) -> None:
        self.network, self.all = Network(), []

    def __enter__(self) -> Containers:
        require()
        self.network.__enter__()  # and removes the networks, with the processes, of runs that were killed
        remove_leftovers()
        return self

    def boot(self, name: str, suite: str, memory: int | None = None, like: Container | None = None,
             shown: str = "") -> Container:
        """A fresh system with at most `memory` bytes for all of it, or one like another was kept; it has booted."""
        made = Container(self.network.host(name), suite, memory, like, shown)
        self.all.append(made)
        return made.boot()

    def discard(self, container: Container) -> None:
        """Ends one before the others."""
        self.all.remove(container)
        container.remove()

    def __exit__(self, *error: Any) -> None:
        try:
            for container in self.all:
                container.remove()
        finally:
            self.network.__exit__(*error)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SUITES:
        sys.exit((__doc__ or "").splitlines()[-1])
    with Containers() as containers:
        began = time.monotonic()
        container = containers.boot("byhand", arguments[0])
        print(f"booted in {time.monotonic() - began:.1f} s, address {container.address}", file=sys.stderr)
        return subprocess.call(container.words(["bash", "-c", " ".join(arguments[1:])] if arguments[1:] else ["bash"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
