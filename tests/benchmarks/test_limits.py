"""A node that is held to a share of a core is held to it, with all that it starts afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from limits import Share
from processes import NotMeasured

from tests.booted import cgroups

SPIN = "import time\nwhile time.process_time() < 0.2: pass\n"
PARENT = f"import subprocess, sys\nsys.stdin.read()\nsubprocess.run([sys.executable, '-c', {SPIN!r}], check=True)\n"


@pytest.mark.booted
def test_a_child_of_a_held_process_has_to_wait() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE)
    share = Share("test", 10, [parent.pid])
    try:
        before = share.throttled()
        parent.communicate()
        assert parent.returncode == 0 and share.throttled() - before > 0.5  # of 2 s; at 100 % it never has to wait
    finally:
        parent.kill()
        parent.wait()
        share.remove()
    assert not share.cgroup.memory.exists()


@pytest.mark.booted
def test_a_process_that_has_ended_cannot_be_held() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(NotMeasured, match="no cgroup"):
        Share("ended", 10, [ended.pid])
    assert not list(cgroups.TOP.glob("**/ipdc-booted/*-ended"))
