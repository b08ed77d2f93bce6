"""A node that the package made, in a booted container, and the person in front of it.

Owns installing, two accounts (one of them in group ipdc), and what that person types. Jobs whose tasks wait for a word
of the test: what is to happen while one runs does not depend on how fast anything is.
"""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

from tests.bare.debian import Outcome
from tests.booted.containers import Container

MEMBER, STRANGER = "member", "stranger"  # of group ipdc, and not
UNITS = ("ipdc-edge.service", "ipdc-broker.service", "ipdc-runner.socket", "ipdc-runner-role.socket",
         "ipdc-reaper.socket")
APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 -o APT::Color=0"
GATES = "/usr/local/share/ipdc-gates"  # a file for each line that may pass; the sandbox shows /usr

COUNTS = """\
def map(key, line):
    for word in line.split():
        yield word, 1

def reduce(key, values):
    yield key, sum(values)
"""
# Each task waits until its line may pass; then it counts it.
WAITS = f"""\
import os, time

def map_lines(lines):
    for line in lines:
        print("waits for", line)
        while not os.path.exists("{GATES}/" + line.strip()):
            time.sleep(0.02)
        yield line.strip(), 1

def reduce(key, values):
    yield key, sum(values)
"""
_numbers = itertools.count(1)


class Node:
    """What can be done with a container as its owner does it, by the package's own commands."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.run, self.show, self.journal = container.run, container.show, container.journal
        self.eventually = container.eventually
        for user in MEMBER, STRANGER:
            self.run(f"id -u {user} 2>/dev/null || useradd --create-home --shell /bin/bash {user}")

    # -- the package

    def install(self, deb: Path) -> str:
        """apt's words; the member is in the group from now on."""
        self.container.write("/root/ipdc-edge.deb", deb.read_bytes())
        said = self.run(f"{APT} install --no-install-recommends /root/ipdc-edge.deb 2>&1").stdout
        self.run(f"usermod -aG ipdc {MEMBER}")
        return said

    def remove(self, how: str = "remove") -> str:
        return self.run(f"{APT} {how} ipdc-edge 2>&1").stdout

    def running(self) -> None:
        """Waits until daemon, broker and sockets are active, and the daemon answers."""
        self.eventually(lambda: self.active() == ["active"] * len(UNITS), "the units are active")
        self.eventually(lambda: self.ipdc("nodes", check=False).code == 0, "the daemon answers")

    def active(self) -> list[str]:
        """What systemctl says of each of UNITS."""
        return self.run(f"systemctl is-active {' '.join(UNITS)}", check=False).stdout.split()

    def failed_units(self) -> str:
        return self.run("systemctl list-units --failed --plain --no-legend").stdout

    def main_pid(self, unit: str = "ipdc-edge.service") -> str:
        return self.show(unit, "MainPID")

    def configure(self, unit: str, text: str) -> None:
        """A drop-in of the owner's."""
        self.container.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.run("systemctl daemon-reload")

    def set(self, **settings: object) -> None:
        """Settings of ipdc.conf, None for the default; what reads them is for the caller to start or reload."""
        others = "".join(f" -e '/^{name} *=/d'" for name in settings)
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items() if value is not None)
        self.run(f"sed -i {others} /etc/ipdc/ipdc.conf && cat >> /etc/ipdc/ipdc.conf", stdin=lines.encode())

    def reload(self, **settings: object) -> None:
        """The same, taken up by the daemon that runs."""
        said = self.journal("ipdc-edge").count("was read again")
        self.set(**settings)
        self.run("systemctl reload ipdc-edge")
        self.eventually(lambda: self.journal("ipdc-edge").count("was read again") > said, "the settings are read")

    # -- jobs

    def ipdc(self, *words: str, user: str = MEMBER, check: bool = True, **options: Any) -> Outcome:
        """One command as that user types it."""
        return self.run(f"ipdc-edge {shlex.join(words)}", user, check=check, **options)

    def json(self, *words: str) -> Any:
        return json.loads(self.ipdc(*words, "--json").stdout)

    def submit(self, program: str, *inputs: str, options: tuple[str, ...] = (), user: str = MEMBER) -> str:
        """A job over the given texts, one file each; its id."""
        directory = f"/home/{user}/job{next(_numbers)}"
        files = {"Map.py": program, **{f"in{number}": text for number, text in enumerate(inputs)}}
        self.run(f"mkdir {directory}", user)
        for name, text in files.items():
            self.run(f"cat > {directory}/{name}", user, stdin=text.encode())
        names = [f"{directory}/{name}" for name in files]
        return self.ipdc("submit", names[0], "--input", *names[1:], *options, "--id-only", user=user).stdout.strip()

    def status(self, job: str) -> dict[str, Any]:
        return dict(self.json("status", job))

    def wait(self, job: str, state: str = "succeeded", seconds: float = 120) -> dict[str, Any]:
        """The job's status once it has ended in that state; AssertionError at once where it ends in another."""
        def ended() -> dict[str, Any] | None:
            now = self.status(job)
            assert now["state"] == state or now["state"] not in ("succeeded", "failed", "cancelled"), now
            return now if now["state"] == state else None
        return dict(self.eventually(ended, f"job {job} has {state}", seconds))

    def result(self, job: str) -> list[str]:
        """The lines of the result, sorted."""
        return sorted(self.ipdc("result", job).stdout.splitlines())

    def count_words(self, *texts: str) -> list[str]:
        """A whole job: the lines of its result, which is right when they are `counted(...)`."""
        job = self.submit(COUNTS, *texts)
        self.wait(job)
        return self.result(job)

    def submit_waiting(self, *lines: str, options: tuple[str, ...] = ()) -> str:
        """A job with a task for each line, which goes on when `let_pass` is told that line; its result is
        `counted(*lines)`. Other jobs may not have the same lines."""
        self.run(f"mkdir -p {GATES}")
        return self.submit(WAITS, *(f"{line}\n" for line in lines), options=options)

    def let_pass(self, *lines: str) -> None:
        self.run(f"mkdir -p {GATES}; cd {GATES}; touch {shlex.join(lines)}")

    def maps_done(self, job: str) -> int:
        return int(self.status(job)["maps"]["done"])

    def holds(self, job: str, node: str) -> int:
        """How many of the job's tasks the node of that name has been given and not finished."""
        return sum(found["holds"] for found in self.status(job)["nodes"] if found["name"] == node)

    def runners(self) -> list[str]:
        """The units in which tasks run now."""
        found = self.run("systemctl list-units --plain --no-legend --state=active 'ipdc-runner*@*.service'").stdout
        return [line.split()[0] for line in found.splitlines()]


def counted(*texts: str) -> list[str]:
    """What a job that counts words gives for these texts."""
    words = " ".join(texts).split()
    return sorted(f"{word}\t{words.count(word)}" for word in set(words))
