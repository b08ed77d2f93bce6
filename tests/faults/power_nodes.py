"""Whole nodes of a lab on a disk of their own, which loses its power or fills up in the middle of a job.

Runs in a mount namespace of its own: `scenario(name)` starts python3 -m tests.faults.power_nodes NAME there. Each
scenario raises AssertionError unless the job's parts are, byte for byte, those of a quiet run before it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from tests.lab.conftest import PYTHON, ROOT, Lab
from tests.waiting import eventually

from .power_disk import ALONE, PowerDisk

PATIENCE = 180  # seconds for what a busy machine does in a few
MAPS = 6
# A task goes on when the file that its first word names is there; so the scenario says how far the job comes.
MAP = """
import os, time
def map_lines(lines):
    for line in lines:
        gate, *words = line.split()
        while not os.path.exists(os.path.join(GATES, gate)):
            time.sleep(0.02)
        for word in words:
            yield word, 1
def reduce(key, values):
    yield key, sum(values)
"""


class Town:
    """A lab of two nodes, and one of them on a disk."""

    def __init__(self, directory: str, node: int, disk: PowerDisk) -> None:
        self.directory, self.node, self.disk = Path(directory), node, disk
        self.lab = Lab(str(self.directory / "lab"), 2, "--sandbox", "rlimits")
        self.log = self.directory / "log"
        self.gates = self.directory / "gates"
        self.gates.mkdir()
        self.program = self.directory / "Map.py"
        self.program.write_text(f"GATES = {str(self.gates)!r}\n{MAP}")
        self.inputs = []
        for number in range(MAPS):
            self.inputs.append(str(self.directory / f"in{number}"))
            words = " ".join(f"word{number * at % 4999}" for at in range(20_000))
            Path(self.inputs[-1]).write_text(f"gate{number} {words}\n" * 4)

    def open(self, *numbers: int) -> None:
        for number in numbers:
            (self.gates / f"gate{number}").touch()

    def quiet_run(self) -> list[bytes]:
        """The parts of the job while nothing is wrong; then the node moves to the disk."""
        self.open(*range(MAPS))
        parts = self.lab.parts(1, self.lab.submit(1, str(self.program), "--input", *self.inputs, "-k", "2"))
        for gate in self.gates.iterdir():
            gate.unlink()
        self.lab.down()
        home = self.lab.home(self.node)
        shutil.move(os.path.join(home, "log"), self.log)  # as a journal is on no full disk
        shutil.copytree(home, self.disk.mount, symlinks=True, dirs_exist_ok=True)
        os.symlink(self.log, os.path.join(self.disk.mount, "log"))
        subprocess.run(["sync", "-f", self.disk.mount], check=True)  # as the node had it when it wrote it
        shutil.rmtree(home)
        os.mkdir(home)
        self.show_disk()
        self.up()
        return parts

    def show_disk(self) -> None:
        """The disk is what lies at the node's home."""
        subprocess.run(["mount", "--bind", self.disk.mount, self.lab.home(self.node)], check=True)

    def up(self) -> None:
        """Start what does not run."""
        Lab(self.lab.directory, 2)

    def begin(self) -> str:
        """The job's id, which is durable."""
        return self.lab.run(1, "submit", str(self.program), "--input", *self.inputs, "-k", "2",
                            "--id-only").stdout.strip()

    def maps_done(self, job: str) -> int:
        return int(self.lab.json(1, "status", job)["maps"]["done"])

    def maps_saved(self, job: str) -> int:
        """How many are in the master's ledger; `status` knows of them before that. What a reader of a write-ahead log
        sees was synced before."""
        ledger = sqlite3.connect(f"file:{self.lab.home(1)}/ledger.db?mode=ro", uri=True)
        with closing(ledger):
            return int(ledger.execute("SELECT count(*) FROM save WHERE kind = 'task' AND key GLOB ?",
                                      (f"{job}/map-*",)).fetchone()[0])

    def state(self, job: str) -> str:
        return str(self.lab.json(1, "status", job)["state"])

    def cut(self) -> None:
        """The node loses its power, and gets it back."""
        self.disk.cut()
        home = self.lab.home(self.node)
        places = (home, self.disk.mount, str(self.log))
        eventually(lambda: not _kill_all(*places), "nothing runs on the node", PATIENCE)
        subprocess.run(["umount", home], check=True)
        self.disk.off()
        self.disk.on()
        self.show_disk()
        self.up()

    def fill(self) -> None:
        """Leave no room on the node's disk, for nobody."""
        size = 1 << 26
        with open(os.path.join(self.disk.mount, "ballast"), "wb") as file:
            while size:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    size //= 2

    def make_room(self) -> None:
        os.unlink(os.path.join(self.disk.mount, "ballast"))

    def said(self) -> str:
        """What the node's daemon has in its log."""
        return (self.log / "daemon.log").read_text(errors="replace")

    def close(self) -> None:
        self.lab.down()
        if os.path.ismount(self.lab.home(self.node)):
            subprocess.run(["umount", "-l", self.lab.home(self.node)], check=True)


def _kill_all(*places: str) -> list[int]:
    """kill -9 for every process that has something open there; which ones there were."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
        with suppress(OSError):  # where it has ended meanwhile
            links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
        for link in links:
            with suppress(OSError):
                if os.readlink(link).startswith(places):
                    found.append(pid)
                    os.kill(pid, signal.SIGKILL)
                    break
    return found


# -- scenarios


def cut_among_maps(town: Town) -> None:
    """The master's power goes while half of the maps are done, and again when all are."""
    quiet = town.quiet_run()
    job = town.begin()
    town.open(0, 1, 2)
    eventually(lambda: town.maps_saved(job) >= 3, "three maps are done", PATIENCE)
    town.cut()
    assert town.maps_done(job) >= 3, "what was done is to be done again"
    town.open(3, 4, 5)
    eventually(lambda: town.maps_done(job) == MAPS, "all maps are done", PATIENCE)
    town.cut()
    eventually(lambda: town.state(job) == "succeeded", "the job's end", PATIENCE)
    assert town.lab.parts(1, job) == quiet
    eventually(town.lab.idle, "clean-up on every node", PATIENCE)
    town.cut()
    assert town.state(job) == "succeeded" and town.lab.parts(1, job) == quiet, "the result did not outlive a cut"


def _filled_up(town: Town) -> tuple[list[bytes], str]:
    """The parts of a quiet run, and a job in the middle of which the disk is full."""
    quiet = town.quiet_run()
    job = town.begin()
    town.open(0, 1)
    eventually(lambda: town.maps_done(job) >= 2, "two maps are done", PATIENCE)
    town.fill()
    town.open(2, 3, 4, 5)
    return quiet, job


def full_worker(town: Town) -> None:
    """A worker's disk fills up: others do its tasks, and with room it frees what it held."""
    quiet, job = _filled_up(town)
    eventually(lambda: town.state(job) == "succeeded", "the job's end", PATIENCE)
    assert town.lab.parts(1, job) == quiet
    told = town.lab.run(1, "story", job).stdout
    assert "disk is full" in told.lower() or "No space left" in told, told
    town.make_room()
    eventually(town.lab.idle, "clean-up on every node", PATIENCE)


def full_master(town: Town) -> None:
    """The master's disk fills up: everything waits, and goes on when there is room."""
    quiet, job = _filled_up(town)
    eventually(lambda: "The disk is full: the ledger" in town.said(), "the master says what it waits for", PATIENCE)
    town.make_room()
    eventually(lambda: town.state(job) == "succeeded", "the job's end", PATIENCE)
    assert town.lab.parts(1, job) == quiet
    eventually(town.lab.idle, "clean-up on every node", PATIENCE)


SCENARIOS = {"cut": (cut_among_maps, 1), "full worker": (full_worker, 2), "full master": (full_master, 1)}


def scenario(name: str) -> None:
    """AssertionError with what it printed, unless it ends well."""
    done = subprocess.run([*ALONE, PYTHON, "-m", "tests.faults.power_nodes", name], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200)
    assert done.returncode == 0, done.stdout


def main(name: str) -> None:
    work, node = SCENARIOS[name]
    directory = tempfile.mkdtemp(prefix="ipdc-town-", dir="/tmp")
    try:
        with PowerDisk(256) as disk:
            town = Town(directory, node, disk)
            try:
                work(town)
            except BaseException:
                for log in [*town.directory.glob("lab/node*/log/daemon.log"), town.log / "daemon.log"]:
                    with suppress(OSError):
                        print(f"== {log}\n{log.read_text(errors='replace')[-3000:]}")
                raise
            finally:
                town.close()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(sys.argv[1])
