"""What a child started goes with it, in whatever process group it is; what is of another session stays."""

from __future__ import annotations

import os
import signal
import subprocess

from ipdc_edge.drivers.sessions import kill_session
from tests.waiting import eventually

# Prints the numbers of a child in its group, one in a group of its own, and a grandchild of that one.
TREE = """
import os, subprocess, sys, time
here = subprocess.Popen(["sleep", "1000"])
other = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], process_group=0, stdout=subprocess.PIPE)
print(here.pid, other.pid, int(other.stdout.readline()), flush=True)
time.sleep(1000)
"""


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_everything_of_a_session_ends_and_nothing_else() -> None:
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    leader = subprocess.Popen(["/usr/bin/python3", "-c", TREE], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    pids = [int(word) for word in leader.stdout.readline().split()]
    assert len(pids) == 3 and all(map(running, pids))
    os.kill(leader.pid, signal.SIGKILL)
    kill_session(leader.pid)
    eventually(lambda: not any(map(running, pids)), "what the leader started has ended")
    assert leader.wait() == -signal.SIGKILL
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    leader.stdout.close()
