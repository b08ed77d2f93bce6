"""Runners in bubblewrap: what a hostile job is denied (hostile.py), that nothing of it stays, where none can be had.

What all kinds of runners do alike is in test_runner.py, which runs for this kind too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.drivers import runner_bubblewrap, system_calls
from ipdc_edge.drivers.runner import RunnerDied
from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
from ipdc_edge.drivers.sandbox import NoBubblewrap, Sandbox, choose
from ipdc_edge.home import Home
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.drivers.test_runner import MAP_FILE, MODULE, do, in_pieces, spec
from tests.waiting import eventually, eventually_async

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = ("ipdc_edge", "tests/waiting.py", "tests/drivers/bubblewrap.py", "tests/drivers/hostile.py",
          "tests/drivers/test_runner.py")
SOMEBODY = 61234  # a user id that nobody has
# Attempts that are allowed. A spill file lies on the daemon's disk, and where the daemon is no root, it belongs to the
# very user that the runner is; what comes of it is held by the same sandbox.
HARMLESS = {"load what it spilled"}
HARMLESS_OF_USER = {"execute what it spilled"}
LEFT = "left-by-a-job"
USERS = ["root", "user"]


@pytest.fixture(scope="module", autouse=True)
def works() -> None:
    needs_bubblewrap()


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    """A directory that every user can reach, with a checkout."""
    place = Path(tempfile.mkdtemp(prefix="ipdc-test-", dir="/var/tmp"))
    place.chmod(0o755)
    for name in NEEDED:
        (place / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, place / "checkout" / name)
    yield place
    shutil.rmtree(place)


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> list[str]:
    """How to start something as the user whose daemon it is."""
    if request.param == "root":
        if os.geteuid():
            pytest.skip("does not apply: the tests do not run as root")
        return []
    return as_somebody() if os.geteuid() == 0 else []


def as_somebody() -> list[str]:
    return ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"]


@pytest.fixture
def place(open_place: Path, user: list[str]) -> Iterator[Path]:
    """A directory of that user's, with a key in it."""
    path = Path(tempfile.mkdtemp(dir=open_place))
    (path / "key.pem").write_text("a key")
    (path / "scratch").mkdir()
    if user:
        for entry in (path, *path.iterdir()):
            os.chown(entry, SOMEBODY, SOMEBODY)
    (path / "key.pem").chmod(0o600)
    yield path
    assert os.listdir(path / "scratch") == []
    shutil.rmtree(path)


# What is denied


@pytest.fixture
def targets(place: Path, user: list[str]) -> Iterator[dict[str, Any]]:
    """What a hostile job reaches for, all of it there."""
    with ExitStack() as there:
        path, abstract = str(place / "listens"), f"ipdc-test-{os.getpid()}"
        for address in (path, "\0" + abstract):
            listener = there.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        port = there.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        victim = subprocess.Popen([*user, sys.executable, "-c", "import signal; signal.pause()"])
        there.callback(victim.wait)
        there.callback(victim.kill)
        yield {"key": str(place / "key.pem"), "victim": victim.pid, "path": path, "abstract": abstract, "port": port,
               "secret": "SECRET-OF-THE-DAEMON"}


def outcomes(kind: str, user: list[str], open_place: Path, place: Path, targets: dict[str, Any]) -> dict[str, str]:
    command = [*user, sys.executable, "-m", "tests.drivers.hostile", kind, place / "scratch", json.dumps(targets)]
    done = subprocess.run(command, cwd=open_place / "checkout", capture_output=True, text=True, timeout=300,
                          env={**os.environ, "SECRET": targets["secret"]})
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_hostile_job_is_denied_all_that_it_tries(
    user: list[str], open_place: Path, place: Path, targets: dict[str, Any]
) -> None:
    held = outcomes("bubblewrap", user, open_place, place, targets)
    free = outcomes("rlimits", user, open_place, place, targets)
    for what, outcome in held.items():
        print(f"{what}: {outcome}; unsandboxed: {free[what]}")
    assert {what for what, outcome in held.items() if outcome == "allowed"} <= (
        HARMLESS | (HARMLESS_OF_USER if user or os.geteuid() else set()))
    assert len(held) >= 60 and held.keys() == free.keys()
    if not user and os.geteuid() == 0:  # so each of them is known to be able to fail, where the kernel has it
        assert {what: outcome for what, outcome in free.items() if outcome not in ("allowed", "ENOSYS")} == {}
    assert [name for name in ("/", "/usr", "/tmp", "/var/tmp", "/run", "/dev", "/etc", str(place))
            if os.path.exists(f"{name}/{LEFT}")] == []


def run_map(code: bytes, text: bytes = b"a\n", network: bool = False, **job: Any) -> str:
    """What a map gives in a sandbox of this process's own."""

    async def main(scratch: str) -> bytes:
        process = RunnerBubblewrap(scratch, network)
        try:
            files = {"Map.py": code, "tr": Path("/usr/bin/tr").read_bytes()}
            await process.start(spec(**job), in_pieces(files), MODULE, "job")
            _, streams = await do(process, MAP_FILE, [[text]])
        finally:
            await process.close()
        return b"".join(streams.written[0])

    with tempfile.TemporaryDirectory() as scratch:
        return asyncio.run(main(scratch)).decode()


def test_the_sandbox_as_the_kernel_sees_it() -> None:
    code = b"""
import os
def map(key, line):
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip("\\n").split(":\\t", 1) for line in status)
    for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
        yield name, fields[name].replace("\\t", " ")
    with open("/proc/self/oom_score_adj") as score:
        yield "oom", score.read().strip()
    yield "names", " ".join(sorted(os.listdir("/")))
    yield "etc", " ".join(sorted(os.listdir("/etc")))
    yield "network", " ".join(row.split(":")[0].strip() for row in open("/proc/net/dev") if ":" in row)
    with open("/proc/self/mountinfo") as mounts:
        rows = [line.split() for line in mounts]
    yield "writable", " ".join(row[4] for row in rows if "rw" in row[5].split(","))
    yield "place", " ".join(sorted(next(row[5] for row in rows if row[4] == "/mnt").split(",")))
"""
    found = dict(line.split("\t") for line in run_map(code).splitlines())
    assert found["Uid"] == found["Gid"] == "65534 65534 65534 65534"
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"], found["oom"], found["network"]) == ("1", "2", "800", "lo")
    assert set(found["names"].split()) <= {*"bin dev etc ipdc lib lib32 lib64 libx32 mnt proc sbin usr".split()}
    assert set(found["etc"].split()) <= {"alternatives", "ld.so.cache", "localtime"}
    assert set(found["writable"].split()) - {f"/dev/{name}" for name in runner_bubblewrap.DEVICES} == {"/mnt", "/proc"}
    assert {"noexec", "nosuid", "nodev"} <= set(found["place"].split())


def test_the_virtual_environment_for_jobs_is_there_to_read(open_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = open_place / "venv"
    there.mkdir()
    (there / "module").write_text("word")
    monkeypatch.setattr(runner_bubblewrap, "VENV", str(there))
    code = b"import os\ndef map(key, line):\n    yield open(line + '/module').read(), os.access(line, os.W_OK)\n"
    assert run_map(code, str(there).encode()).split() == ["word", "false"]


def test_with_a_network_it_has_the_internets_sockets_and_no_others() -> None:
    code = b"""
import socket
def map(key, line):
    for name, family in (("INET", 2), ("INET6", 10), ("UNIX", 1), ("NETLINK", 16)):
        try:
            socket.socket(family, 3 if family == 16 else 1).close()
            yield name, "allowed"
        except OSError as error:
            yield name, error.strerror
    socket.create_connection(("127.0.0.1", int(line))).close()
    yield "localhost", socket.gethostbyname("localhost")
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = run_map(code, str(server.getsockname()[1]).encode(), network=True)
    assert found.splitlines() == ["INET\tallowed", "INET6\tallowed", "UNIX\tOperation not permitted",
                                  "NETLINK\tOperation not permitted", "localhost\t127.0.0.1"]


def test_programs_of_the_system_and_of_the_job_run() -> None:
    for mapper, made in ((["awk", '{ print $1 "\t" NF }'], "a\t2\n"), (["tr", "a-z", "A-Z"], "A B\n"),
                         (["sh", "-c", "sort -S 1M | tr '[ab]' '[xy]'"], "x y\n")):
        assert run_map(b"", b"a b\n", options={"steps": [{"mapper": mapper}]}) == made


# How it ends


def processes_in_sandbox(of: int) -> list[int]:
    """The processes of namespaces of their own below a process."""
    parents, nested = {}, set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/status") as status:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in status)
        except OSError:
            continue
        parents[int(name)] = int(fields["PPid"])
        if len(fields["NSpid"].split()) > len(own_numbers()):
            nested.add(int(name))

    def below(pid: int) -> bool:
        return pid == of or pid in parents and below(parents[pid])

    return [pid for pid in nested if below(pid)]


def all_five(of: int) -> list[int]:
    """The sandbox's first process, Python, and the three that FORKER has leave the session; [] before they have."""
    pids = processes_in_sandbox(of)
    return pids if len(pids) == 5 else []


def runs(pid: int) -> bool:
    """Whether it does, rather than wait for whoever inherited it to take note of its end."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def own_numbers() -> list[str]:
    with open("/proc/self/status") as status:
        return next(line.split()[1:] for line in status if line.startswith("NSpid"))


FORKER = b"""
import os, time
for _ in range(3):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        continue
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 3)
    time.sleep(1000)
def map(key, line):
    yield 1, 1
"""


def test_what_left_the_session_ends_with_the_runner(tmp_path: Path) -> None:
    """And it is gone when close() returns, so that a job that has ended uses nothing any more."""

    async def main() -> None:
        process = RunnerBubblewrap(str(tmp_path))
        try:
            await process.start(spec(), in_pieces({"Map.py": FORKER}), MODULE, "job")
            pids = await eventually_async(lambda: all_five(os.getpid()), "all have left the session")
        finally:
            await process.close()
        assert [pid for pid in pids if runs(pid)] == []

    asyncio.run(main())


DAEMON = """
import asyncio, sys
from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
from tests.drivers.test_runner import MODULE, in_pieces, spec
async def main():
    process = RunnerBubblewrap(sys.argv[1])
    await process.start(spec(), in_pieces({"Map.py": sys.argv[2].encode()}), MODULE, "job")
    print("started", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def test_a_daemon_that_is_killed_leaves_nobody_behind(user: list[str], open_place: Path, place: Path) -> None:
    command = [*user, sys.executable, "-c", DAEMON, str(place / "scratch"), FORKER.decode()]
    with subprocess.Popen(command, cwd=open_place / "checkout", stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None and daemon.stdout.readline() == "started\n"
        try:
            pids = eventually(lambda: all_five(daemon.pid), "all have left the session")
        finally:
            os.kill(daemon.pid, signal.SIGKILL)
    eventually(lambda: not any(map(runs, pids)), "all of the sandbox has ended")


def test_a_runner_that_only_closes_its_socket_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_bubblewrap, "TOLD_WITHIN", 0.2)
    code = b"import os, time\ndef map(key, line):\n    os.closerange(3, 1024)\n    time.sleep(1000)\n"

    async def main() -> None:
        process = RunnerBubblewrap(str(tmp_path))
        try:
            await process.start(spec(), in_pieces({"Map.py": code}), MODULE, "job")
            with pytest.raises(RunnerDied, match="it closed its socket"):
                await do(process, MAP_FILE, [[b"a\n"]])
        finally:
            await process.close()

    asyncio.run(main())


def test_one_that_finds_too_few_descriptors_leaves_none(tmp_path: Path) -> None:
    """However many there are: a daemon tries again and again. Nor is a process left."""

    def held() -> tuple[list[str], str]:
        return sorted(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    async def starts() -> bool:
        process = RunnerBubblewrap(str(tmp_path))
        try:
            await process.start(spec(), in_pieces({"Map.py": b"def map(key, line):\n    yield 1, 1\n"}), MODULE, "job")
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            return False
        finally:
            await process.close()
        return True

    async def main() -> int:
        limits, before = resource.getrlimit(resource.RLIMIT_NOFILE), held()
        for left in range(40):
            filled = [os.open("/", os.O_PATH)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (filled[0] + 50, limits[1]))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        filled.append(os.dup(filled[0]))
                for _ in range(left):
                    os.close(filled.pop())
                started = await starts()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for descriptor in filled:
                    os.close(descriptor)
            assert held() == before, f"with {left} left"
            if started:
                return left
        raise AssertionError("it never starts")

    assert asyncio.run(main()) > 5


# Where it cannot be had


def chosen(path: Path, wanted: str) -> tuple[Sandbox, list[str]]:
    notes: list[str] = []
    return choose(Home({"IPDC_HOME": str(path)}), wanted, notes.append), notes


def test_where_it_works_it_is_chosen(tmp_path: Path) -> None:
    for wanted in ("auto", "bubblewrap"):
        sandbox, notes = chosen(tmp_path, wanted)
        assert (sandbox.kind, sandbox.why, notes) == ("bubblewrap", "", [])
        assert isinstance(sandbox.runner(False), RunnerBubblewrap)
    assert chosen(tmp_path, "rlimits")[0].kind == "rlimits"


@pytest.mark.parametrize("lacks", ["bwrap", "a filter"])
def test_where_it_does_not_work_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    if lacks == "bwrap":
        monkeypatch.setattr(runner_bubblewrap, "BWRAP", str(tmp_path / "bwrap"))
        words = "bwrap is not there; `sudo apt install bubblewrap`"
    else:
        monkeypatch.setattr(system_calls, "machine_of", lambda: "")
        words = "no system call filter is known for this kind of processor"
    sandbox, notes = chosen(tmp_path, "auto")
    assert sandbox.kind == "rlimits" and words in sandbox.why
    assert len(notes) == 1 and words in notes[0] and "resource limits only" in notes[0]
    with pytest.raises(NoBubblewrap, match="sandbox = bubblewrap`, .*" + re.escape(words)):
        chosen(tmp_path, "bubblewrap")


def test_a_machine_that_forbids_namespaces_is_noticed() -> None:
    """As some containers and hosts do; here by the kernel's own setting, in a namespace where it is ours to make."""
    forbidding = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\""
    ask = "from ipdc_edge.drivers.runner_bubblewrap import why_not; print(why_not())"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbidding, "sh", sys.executable, "-c", ask]
    said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "unshare failed: No space left on device (exit status 1)" in said


def test_root_of_a_namespace_where_nobody_is_mapped_is_a_user_as_others() -> None:
    ask = "from ipdc_edge.drivers.runner_bubblewrap import why_not; print(why_not())"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", ask]
    said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120).stdout
    assert said == "\n"


def test_a_package_below_a_closed_directory_is_reached(tmp_path: Path) -> None:
    """As that of a checkout below /root: whoever is nobody in the sandbox could not go there."""
    shutil.copytree(CHECKOUT / "ipdc_edge", tmp_path / "closed/ipdc_edge")
    (tmp_path / "closed").chmod(0o700)
    ask = "from ipdc_edge.drivers.runner_bubblewrap import why_not; print(why_not())"
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path / "closed", capture_output=True, text=True,
                          timeout=120, env={**os.environ, "PYTHONPATH": str(tmp_path / "closed")})
    assert (done.stdout, done.stderr) == ("\n", "")
