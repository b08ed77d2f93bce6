"""The sandbox of the user's code, on Debian 12 and 13 with their systemd: hostile jobs try what they should not get.

hostile/ holds the attempts. The same ones are made unsandboxed, by root in the same container, and must succeed: so
each is known to be able to fail. What a job gets by taking too much stands in the second half.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.drivers.scratch import LEAST_FILE
from tests.booted import cgroups
from tests.booted.containers import Containers
from tests.booted.node import MEMBER, Node, counted

pytestmark = pytest.mark.booted
HOSTILE = Path(__file__).parent / "hostile"
MEGABYTE = 1 << 20
GREEDY_JOB = ("/usr/local/share/hostile/Greedy.py", "--memory", "24M")
MEMORY = 768 * MEGABYTE  # of the whole system, so that the units' shares of it bite
PORT = 7777
PROMPT = 10  # seconds: a cancel takes one or two, on a machine that does much else several times as long
LETTERS = "/home/owner /root /tmp /var/tmp /dev/shm /srv /opt /media /boot /run /var/log"
LEFT = "left-by-a-job"

# What a job may do, and why that is harmless. Anything else that is allowed fails the test.
HARMLESS = {
    "runs a script that it wrote by its interpreter": "the job is such a script itself",
    "changes its own code by /proc/self/mem": "in its own memory; it may ship native programs anyway",
    "reads programs and libraries": "they are Debian's, the same everywhere",
    "reads the names of users": "programs look them up; no passwords are there",
    "makes a file in its own directory": "4 MB of memory that go with the runner",
    "gets a pidfd of the daemon": "tells that there is such a process: no signal, no descriptor passes by it",
    "gets a pidfd of a service": "the same",
    "gets a pidfd of another job's runner": "the same",
}
# What root cannot do in a container either: these are made on this machine, in namespaces of their own.
ON_THIS_MACHINE = {
    "writes a setting of the kernel": "systemd-nspawn mounts /proc/sys read-only",
    "runs in real time": "the container's cgroup of version 1 has no time of that kind to give",
}
# What this machine's kernel may lack, and the errors that say so.
NOT_IN_THIS_KERNEL = {
    "loads another kernel (kexec)": "ENOSYS", "loads a module": "ENOSYS", "ends accounting": "ENOSYS",
    "loads a program into the kernel (bpf)": "ENOSYS", "gets a ring (io_uring)": "ENOSYS",
    "handles page faults (userfaultfd)": "ENOSYS", "hides memory from the kernel (memfd_secret)": "ENOSYS",
    "makes a socket of VSOCK": "EAFNOSUPPORT", "opens the memory of the machine, /dev/mem": "ENXIO",
}  # fmt: skip
SERVICE = f"""
import ctypes, signal, socket
named = socket.socket(socket.AF_UNIX); named.bind("\\0of-a-peer"); named.listen()
reachable = socket.create_server(("0.0.0.0", {PORT}))
ctypes.CDLL(None).shmget(4242, 4096, 0o1666)
open("/mnt/open-to-all", "w").write("for my peer")
signal.pause()
"""
PLANT = f"""
useradd --create-home --shell /bin/bash owner; chmod 755 /home/owner
for place in {LETTERS}; do echo secret > $place/letter; chmod 644 $place/letter; done
mknod -m 666 /dev/disk-of-the-node b 7 0
mknod -m 666 /dev/kmsg c 1 11
mknod -m 666 /dev/mem c 1 1
install -m 4755 /usr/bin/id /usr/local/bin/set-user-id
mkdir -p /var/lib/ipdc/venv
systemd-run --quiet --unit=service -E SECRET=yes -p WorkingDirectory=/mnt python3 /root/service.py
"""


@pytest.fixture(scope="module")
def board(containers: Containers, suite: str, deb: Path) -> Iterator[Node]:
    """A node with secrets, a service of its owner's and the result of a job, which hostile ones would like to reach."""
    made = Node(containers.boot(f"sandbox-{suite}", suite, MEMORY))
    made.install(deb)
    made.set(slots=3)
    made.run("systemctl restart ipdc-edge")
    made.running()
    made.container.write("/root/service.py", SERVICE)
    made.run(PLANT)
    for file in HOSTILE.glob("*.py"):
        made.container.write(f"/usr/local/share/hostile/{file.name}", file.read_bytes())
    assert made.count_words("some words") == counted("some words")
    yield made
    containers.discard(made.container)


def submit(board: Node, words: str, *options: str) -> str:
    """A greedy job; its id."""
    board.run("cat > greed", MEMBER, stdin=f"{words}\n".encode())
    return board.ipdc("submit", *GREEDY_JOB, "--input", "greed", "-k", "1", "--id-only", *options).stdout.strip()


def outcome(board: Node, words: str, *options: str) -> str:
    """What the owner of a greedy job is told at its end."""
    board.run("cat > greed", MEMBER, stdin=f"{words}\n".encode())
    done = board.ipdc("submit", *GREEDY_JOB, "--input", "greed", "-k", "1", *options, check=False)
    return f"exit {done.code} {done.stderr[done.stderr.find('ipdc-edge: Job'):]}"


@contextlib.contextmanager
def under_way(board: Node, words: str, *options: str) -> Iterator[str]:
    """A job that ends only when it is cancelled; the unit that it runs in."""
    before = set(board.runners())
    job = submit(board, words, *options)
    new = board.eventually(lambda: set(board.runners()) - before, "it runs")
    yield new.pop()
    board.ipdc("cancel", job)
    board.eventually(lambda: not set(board.runners()) - before, "nothing runs any more")


@contextlib.contextmanager
def others_unharmed(board: Node) -> Iterator[str]:
    """The daemon and the broker are the same processes afterwards, a runner beside them too, and the node works."""
    with under_way(board, "hold") as bystander:
        before = board.main_pid(), board.main_pid("ipdc-broker.service"), board.main_pid(bystander)
        yield bystander
        assert (board.main_pid(), board.main_pid("ipdc-broker.service"), board.main_pid(bystander)) == before
        board.eventually(lambda: board.runners() == [bystander], "no other runner is left")
    assert works(board)


def works(board: Node) -> bool:
    """Whether a job of another kind comes out right."""
    board.run("echo still here > words; echo 'def map(key, line): yield line.split()[0], 1' > W.py", MEMBER)
    job = board.ipdc("submit", "W.py", "--input", "words", "--id-only", "--wait").stdout.strip()
    return board.result(job) == ["still\t1"]


# What it tries, and how far it comes


def targets(board: Node, peer: str, **more: object) -> str:
    service = int(board.main_pid("service.service"))
    return json.dumps({"daemon": int(board.main_pid()), "service": service, "peer": int(peer), "port": PORT,
                       "address": board.container.address, "abstract": "of-a-peer", "peers_abstract": "of-a-peer",
                       "shared": "/mnt/open-to-all", "key": 4242, **more}) + "\n"  # fmt: skip


def sandboxed(board: Node) -> dict[str, str]:
    """The results of a hostile job while another one runs beside it."""
    with under_way(board, "hold") as peer:
        pid = board.main_pid(peer)
        board.eventually(lambda: board.run(f"test -e /proc/{pid}/cwd/open-to-all", check=False).code == 0, "it holds")
        board.run("cat > targets", MEMBER, stdin=targets(board, pid).encode())
        job = board.ipdc("submit", "/usr/local/share/hostile/Map.py", "--input", "targets", "--id-only").stdout.strip()
        board.wait(job, seconds=60)
        assert board.main_pid(peer) == pid
    return rows(board.ipdc("result", job).stdout)


def unsandboxed(board: Node) -> dict[str, str]:
    """The same by root in the container; and on this machine what no container lets."""
    by_hand = "cp -r /usr/local/share/hostile /root/ && cd /root/hostile && python3 Map.py"
    found = rows(board.run(by_hand, stdin=targets(board, board.main_pid("service.service")).encode()).stdout)
    here = ["unshare", "--mount", "--ipc", "--uts", "--propagation", "private", "/usr/bin/python3", "Map.py"]
    told = json.dumps({"only": [name for name in ON_THIS_MACHINE if found[name].startswith("DENIED")]}) + "\n"
    done = subprocess.run(here, input=told, cwd=HOSTILE, capture_output=True, text=True, check=True)
    return {**found, **{name: f"{result} (not in the container)" for name, result in rows(done.stdout).items()}}


def rows(text: str) -> dict[str, str]:
    return dict(line.split("\t") for line in text.splitlines())  # type: ignore[misc]


def test_a_hostile_job_gets_nothing(board: Node) -> None:
    inside = sandboxed(board)
    left = board.run(f"find / \\( -path /proc -o -path /sys -o -path /usr/local/share/hostile \\) -prune -o "
                     f"-name '*{LEFT}*' -print").stdout
    outside = unsandboxed(board)

    print(f"\n{'attempt':60}  {'unsandboxed':40}  in the sandbox")
    for name in outside:
        print(f"{name:60}  {outside[name][:40]:40}  {inside[name]}"
              + (f" (harmless: {HARMLESS[name]})" if inside[name].startswith("ALLOWED") and name in HARMLESS else ""))
    assert inside.keys() == outside.keys() and len(inside) > 150
    allowed = {name: result for name, result in inside.items() if not result.startswith("DENIED ")}
    assert allowed.keys() == HARMLESS.keys(), {name: allowed.get(name) for name in allowed.keys() ^ HARMLESS.keys()}
    assert not left, "a job left something behind"
    unable = {name: result for name, result in outside.items() if not result.startswith("ALLOWED")}
    assert all(result == f"DENIED {NOT_IN_THIS_KERNEL.get(name)}" for name, result in unable.items()), unable


def test_a_sandbox_that_is_opened_is_noticed(board: Node) -> None:
    """Each protection that is taken away lets something through: the attempts see the unit and nothing else."""
    unit = "ipdc-runner@.service"
    board.configure(unit, "[Service]\nPrivateNetwork=no\nRestrictAddressFamilies=\nSystemCallFilter=\nIPAddressDeny=\n"
                          "ProtectProc=default\nProtectHome=no\nRestrictNamespaces=no\nMemoryDenyWriteExecute=no\n")
    try:
        found = sandboxed(board)
    finally:
        board.run(f"rm -r /etc/systemd/system/{unit}.d; systemctl daemon-reload")
    allowed = {name for name, result in found.items() if result.startswith("ALLOWED")} - HARMLESS.keys()
    expected = {
        "makes a socket of INET", "makes a socket of NETLINK", "speaks to this machine's address", "sees the daemon",
        "speaks to an abstract socket of another process", "reads a user's open file",
        "makes a user namespace (clone3)", "runs a program from memory (memfd)", "gets a ring (io_uring)",
        "makes code of memory that it wrote (mprotect)", "makes a pair of sockets",
    }  # fmt: skip
    assert not expected - allowed, {name: found[name] for name in expected - allowed}


# What it takes

GREEDY = {  # what it does: what its owner is told
    "objects": "the job's memory budget of 24 MB for a runner is used up",
    "maps": "the job's memory budget of 24 MB for a runner is used up",
    "files": "No space left on device",
    # cgroups of version 1 tell systemd no more than the signal
    "children 200": "killed for its memory|signal SIGKILL, as the system does when memory runs out",
    "everybody": "signal SIGKILL",
    "garbage": "no frame kind|a frame of",
    "huge": "a frame of 4294967295 bytes announced",
    "shuts": "it closed its socket",
    "writes": "wrote more than",
}


def test_a_job_that_takes_too_much_or_talks_nonsense_ends_alone_and_says_so(board: Node) -> None:
    """Memory by objects, by maps, by files, and by children, who are each within their limits: then the unit's hold."""
    told = {}
    with others_unharmed(board):
        for words in GREEDY:
            told[words] = outcome(board, words, "--output-limit", "8M")
            print(f"\n{words}: {told[words]}")
    wrong = {words: told[words] for words, expected in GREEDY.items()
             if not told[words].startswith("exit 1 ") or not re.search(expected, told[words])}
    assert not wrong, wrong
    share = cgroups.peak(board.container.unit_directory("ipdc-runner.slice"))
    assert share <= MEMORY * 60 // 100, f"{share >> 20} MB"
    # "everybody" by a user who has other processes
    board.run("sleep 1000 & python3 -c 'import os; os.kill(-1, 9)'", "owner", check=False)
    board.eventually(lambda: not board.run("pgrep -u owner sleep", check=False).stdout, "kill(-1) can kill")


def test_runners_together_have_no_more_than_their_slice(board: Node) -> None:
    """Two of them, each below its own share, are too much together: one ends, and what is no runner goes on."""
    before = board.main_pid(), board.main_pid("ipdc-broker.service")
    jobs = [submit(board, "shared 260") for _ in range(2)]
    ended = board.eventually(lambda: [job for job in jobs if board.status(job)["state"] == "failed"], "one has ended")
    assert re.search(GREEDY["children 200"], json.dumps(board.status(ended[0])))
    for job in jobs:
        board.ipdc("cancel", job, check=False)
    board.eventually(lambda: not board.runners(), "nothing runs any more")
    assert (board.main_pid(), board.main_pid("ipdc-broker.service")) == before
    assert cgroups.peak(board.container.unit_directory("ipdc-runner.slice")) <= MEMORY * 60 // 100
    assert works(board)


def test_a_job_that_never_ends_is_cancelled_at_once(board: Node) -> None:
    """It holds the socket, ignores signals, prints or talks for ever; the daemon has time for others meanwhile."""
    for words in ("hold", "spin", "prints", "progress", "closes"):
        job = submit(board, words)
        board.eventually(board.runners, "it runs")
        assert works(board)
        board.ipdc("cancel", job)
        board.eventually(lambda: not board.runners(), f"the unit of {words} has ended", PROMPT)
        assert board.status(job)["state"] == "cancelled"
        assert len(board.ipdc("logs", job, check=False).stdout) < 200_000


# What it spills, and what it was given


def scratch(board: Node) -> int:
    """Bytes taken on the disk that holds nothing but files without a name."""
    return int(board.run("df --output=used -B1 /var/lib/ipdc/scratch | tail -n 1").stdout)


@pytest.fixture
def small_disk(board: Node) -> Iterator[Node]:
    """A disk of 128 MB for spills."""
    change = "systemctl stop ipdc-edge; {}; systemctl start ipdc-edge"
    board.run(change.format("mount -t tmpfs -o size=128M,mode=755,uid=ipdc,gid=ipdc tmpfs /var/lib/ipdc/scratch"))
    board.running()
    yield board
    board.run(change.format("umount /var/lib/ipdc/scratch"))
    board.running()


def test_spills_are_bounded_and_vanish_with_their_runner(small_disk: Node) -> None:
    """However it ends: by itself, by SIGKILL, or because it is cancelled. A share of the disk is the most."""
    board, gate = small_disk, "/usr/local/share/gate"
    nothing = scratch(board)

    job = submit(board, f"sorts {gate}", "--sort-budget", "1M")
    board.eventually(lambda: scratch(board) > nothing, "it has spilled")
    board.run(f"touch {gate}")
    board.wait(job)
    board.eventually(lambda: scratch(board) == nothing, "the job has succeeded: its room is free again")

    job = submit(board, "spills")
    most = 2 * LEAST_FILE  # an eighth of the disk would be less
    board.eventually(lambda: scratch(board) >= nothing + most, "its two files are full")
    assert works(board)
    assert scratch(board) - nothing <= most + MEGABYTE
    unit = board.runners()[0]
    board.run(f"systemctl kill --signal=SIGKILL {unit}")
    board.eventually(lambda: board.runners() and board.runners() != [unit], "it was killed, and runs once more")
    board.ipdc("cancel", job)
    board.eventually(lambda: not board.runners() and scratch(board) == nothing, "its room is free again")


BIG = 16 * MEGABYTE
READS = """
import hashlib, subprocess

def setup(args):
    with open("data/model.bin", "rb") as file:
        assert len(file.read(4096)) == 4096

def map(key, line):
    digest, size = hashlib.md5(), 0
    with open("data/model.bin", "rb") as file:
        while data := file.read(65536):
            digest.update(data)
    yield "python", digest.hexdigest()
    yield "child", subprocess.run(["md5sum", "data/model.bin"], capture_output=True, text=True).stdout.split()[0]
    yield "native", subprocess.run(["./tally", "-c"], input="a\\na\\n", capture_output=True, text=True).stdout.strip()
    yield "module", __import__("put_there_by_hand").WHAT
    for path in ("data/model.bin", "/var/lib/ipdc/venv/left"):
        try:
            open(path, "ab")
        except OSError as error:
            yield path, error.errno
"""


def test_a_big_file_and_a_virtual_environment_are_there_to_read(board: Node) -> None:
    """16 MB, four times the sandbox's own place, in a runner of 24 MB; for Python and for programs."""
    board.run("python3 -m venv --without-pip --system-site-packages /var/lib/ipdc/venv && "
              "cd /var/lib/ipdc/venv/lib/python3.*/site-packages && echo WHAT = 5 > put_there_by_hand.py")
    board.run(f"mkdir data; head -c {BIG} /dev/urandom > data/model.bin; cp /usr/bin/uniq tally; echo x > one", MEMBER)
    digest = board.run("md5sum data/model.bin", MEMBER).stdout.split()[0]
    board.run("cat > R.py", MEMBER, stdin=READS.encode())
    command = "ipdc-edge submit R.py --file data tally --input one --memory 24M --id-only --wait"
    job = board.run(command, MEMBER).stdout.strip()
    assert board.result(job) == sorted([
        f"python\t{digest}", f"child\t{digest}", "native\t2 a", "module\t5", "data/model.bin\t13",
        "/var/lib/ipdc/venv/left\t30",
    ])  # fmt: skip
    mapper = "sh -c 'md5sum < data/model.bin; cat data/model.bin | wc -c'"
    words = ["--mapper", mapper, "--file", "data", "--input", "one", "--memory", "24M", "--id-only", "--wait"]
    job = board.ipdc("submit", *words).stdout.strip()
    assert board.result(job) == sorted([f"{digest}  -", str(BIG)])


# Where the kernel has no memory cgroup


def test_without_a_memory_cgroup_the_limits_of_a_process_hold_and_the_record_says_so(
    containers: Containers, suite: str, deb: Path
) -> None:
    """As on Raspberry Pi OS as it is delivered."""
    if cgroups.unified():
        pytest.skip("does not apply: a controller of version 2 is given to a container or not by the one above it")
    board = Node(containers.boot(f"nomem-{suite}", suite))
    try:
        board.run("umount /sys/fs/cgroup/memory; mount -o remount,rw /sys/fs/cgroup; rmdir /sys/fs/cgroup/memory; "
                  "systemctl daemon-reexec")
        board.container.settled()
        board.install(deb)
        board.running()
        board.container.write("/usr/local/share/hostile/Greedy.py", (HOSTILE / "Greedy.py").read_bytes())
        assert [node["sandbox"] for node in board.json("nodes")] == ["systemd without memory cgroup"]
        with others_unharmed(board) as bystander:
            groups = board.run(f"cat /proc/{board.main_pid(bystander)}/cgroup").stdout
            assert not re.search(r"memory:/.*runner", groups), groups
            for words in ("objects", "maps"):
                assert GREEDY[words] in outcome(board, words)
    finally:
        containers.discard(board.container)
