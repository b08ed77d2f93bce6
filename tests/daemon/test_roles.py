"""What a role looks at before it begins."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.apps.tensorflow.cluster import planned
from ipdc_edge.apps.tensorflow.plan import Roles
from ipdc_edge.apps.tensorflow.role import NotAlone, RoleTask
from ipdc_edge.daemon.tasks import BLAME, HeldCode
from tests.apps.tensorflow.test_cluster import PLAN
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
