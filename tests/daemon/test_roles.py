"""What a role looks at before it begins."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.apps.tensorflow.cluster import planned
from ipdc_edge.apps.tensorflow.plan import Roles
from ipdc_edge.apps.tensorflow.role import NotAlone, RoleTask
from ipdc_edge.core.effects import StartTask, StopTask
from ipdc_edge.core.values import Attempt, JobKey, Result
from ipdc_edge.daemon.tasks import BLAME, HeldCode, TaskRunner
from tests.apps.tensorflow.test_cluster import PLAN
from tests.core.scenario import job_spec
from tests.core.test_clusters import spec
from tests.package.building import CHECKOUT


def test_a_role_in_the_network_of_its_daemon_begins_nothing(tmp_path: Path) -> None:
    """systemd goes on where a network of its own cannot be had; TensorFlow would listen for everybody."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said: list[str] = []
    io: Any = SimpleNamespace(tunnels=theirs.detach(), directory=str(tmp_path), job="job", status=said.append)
    spec = {"memory": PLAN.memory, "arguments": {"cluster": json.loads(planned(PLAN)), "program": "x.py"}}
    params = {"role": "local:0", "python": "/nowhere/python3", "network": os.readlink("/proc/self/ns/net")}
    role = RoleTask(spec, {"x.py": b""}, params, io)
    try:
        with pytest.raises(NotAlone, match="local:0 has no network of its own"):
            role.run()
        assert not said and not os.listdir(tmp_path)
    finally:
        role.tunnels.close()
        ours.close()


def test_that_it_is_not_alone_is_the_node_s_fault() -> None:
    assert BLAME[NotAlone.__name__] == "node"


def test_files_that_stay_open_are_those_of_the_job_s_own_tasks() -> None:
    """Whatever its master orders."""
    held = HeldCode(spec(restart=True))
    assert [held.spills(task, Roles()) for task in ("x", "local-2", "client", "local-00")] == [None] * 4
    first = held.spills("local-1", Roles())
    assert first == [] and held.spills("local-1", Roles()) is first and held.spills("local-0", Roles()) is not first
    assert sorted(held.kept) == ["local-0", "local-1"]
    assert HeldCode(spec()).spills("local-1", Roles()) is None, "its runner has files of its own, which go with it"


class Begins(TaskRunner):
    """Attempts that begin, and end when they are told to."""

    def __init__(self) -> None:
        nothing: Any = None
        apps: Any = {"tensorflow": Roles(), "mapreduce": MapReduce()}
        super().__init__("me", "me", nothing, nothing, apps, nothing, 1, nothing, nothing, nothing, nothing)
        self.emit = lambda event: None
        self.now: list[tuple[str, int]] = []  # at work
        self.over: dict[int, asyncio.Event] = {}

    async def _run(self, effect: StartTask) -> Result:
        place, self.over[effect.attempt.number] = (effect.task, effect.attempt.number), asyncio.Event()
        self.now.append(place)
        try:
            await self.over[effect.attempt.number].wait()
        except asyncio.CancelledError:
            await self.over[effect.attempt.number].wait()  # its runner takes its time to end
            raise
        finally:
            self.now.remove(place)
        return Result("me", "", 0, {})


@pytest.mark.parametrize("how", ["done", "given up"])
def test_a_role_s_attempts_come_one_after_the_other(how: str) -> None:
    """Two at once would write the same kept files, and listen at the same place."""
    async def soon() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def test() -> None:
        runs, key, other = Begins(), JobKey("boss", "job"), JobKey("boss", "maps")
        runs.jobs[key], runs.jobs[other] = HeldCode(spec(restart=True)), HeldCode(job_spec(1, 1))
        for number, task in enumerate(("local-0", "local-0", "local-1")):
            runs.start_task(StartTask(key, task, Attempt(1, number), {}))
        for number in (3, 4):
            runs.start_task(StartTask(other, "map-0", Attempt(1, number), {}))
        await soon()
        began = list(runs.now)
        if how == "given up":
            runs.stop_task(StopTask(key, Attempt(1, 0)))
            await soon()
        still = list(runs.now)
        runs.over[0].set()
        await soon()
        then = list(runs.now)
        for over in runs.over.values():
            over.set()
        await runs.close()
        assert began == still == [("local-0", 0), ("local-1", 2), ("map-0", 3), ("map-0", 4)]
        assert then == [*began[1:], ("local-0", 1)]

    asyncio.run(test())


def test_the_files_of_roles_are_closed_when_the_daemon_ends_before_their_attempts_have() -> None:
    async def test() -> None:
        runs, held, (one, other) = Begins(), HeldCode(spec(restart=True)), os.pipe()
        held.kept["local-0"] = [one, other]
        key, never = JobKey("boss", "job"), asyncio.get_running_loop().create_future()
        releasing = runs.background.start(runs._release(key, [asyncio.ensure_future(_waits(never))], held))
        await asyncio.sleep(0)
        await runs.close()
        assert releasing.done() and not held.kept
        for descriptor in (one, other):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)

    async def _waits(future: asyncio.Future[None]) -> None:
        await future

    asyncio.run(test())


LOOKS = """
import os
def seen(name):
    try:
        os.listdir(f"/proc/{os.getppid()}/{name}")
    except OSError:
        return "hidden"
    return "seen"
print(seen("fd"), seen("map_files"), os.access("/proc/self/fd", os.R_OK))
"""
RUNS = """
import ctypes, os, subprocess, sys
from ipdc_edge.apps.tensorflow import role
if os.getuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(role.PR_SET_DUMPABLE, 1, 0, 0, 0)  # a change of the user takes it
if sys.argv[2] == "close":
    role._close_to_the_program()
subprocess.run(["/usr/bin/python3", "-I", "-c", sys.argv[1]], cwd="/", check=True)
"""


@pytest.mark.parametrize("how, told", [("open", "seen"), ("close", "hidden")])
def test_a_program_sees_nothing_of_the_process_of_its_own_user_that_began_it(how: str, told: str) -> None:
    done = subprocess.run(["/usr/bin/python3", "-c", RUNS, LOOKS, how], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.split() == [told, told, "True"], done.stdout + done.stderr


TAKES = """
import os, subprocess
from ipdc_edge.apps.tensorflow.role import memory_taken
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
held = bytearray(os.urandom(1)) * (64 << 20)  # its own do not count
holds = "held = bytearray(b'x') * (64 << 20); print('holds', flush=True); input()"
with subprocess.Popen(["/usr/bin/python3", "-I", "-c", holds], stdin=-1, stdout=-1, cwd="/") as child:
    child.stdout.readline()
    print(memory_taken() >> 20)
    child.communicate(b"\\n")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_only_what_its_own_user_has_in_memory_is_a_program_s() -> None:
    """Where a kernel shows the processes of others too."""
    done = subprocess.run(["/usr/bin/python3", "-c", TAKES], cwd=CHECKOUT, capture_output=True, text=True)
    assert 64 <= int(done.stdout) < 96, done.stdout + done.stderr
