"""A kill at any moment of an import or a collection leaves a store that `store verify` finds sound."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ipdc_edge.drivers.block_rows import PIN, outlives
from ipdc_edge.drivers.block_verify import check
from tests.daemon.content_node import ContentNode
from tests.daemon.test_get import pictured

from .disk_errors import PYTHON, ROOT, build
from .disk_kills import disk_kills

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_any_write_leaves_a_sound_store_with_all_that_is_pinned(torn: bool) -> None:
    report = disk_kills(torn=torn)
    assert not report.violations, f"{len(report.violations)}, the first: {report.violations[0]}"
    assert report.during["add"] > 300 and report.during["collect"] > 30 and report.during["unpin"] > 20, report.during
    assert report.during["compact"] > 10 and report.during["keep"] > 10, report.during


@pytest.mark.parametrize(("broken", "found"), [
    ("removes first", "not those that were stored, or gone"), ("forgets to sweep", "no row of the index"),
    ("pins first", "is pinned, and"),
])
def test_a_build_that_is_broken_on_purpose_is_found_out(broken: str, found: str) -> None:
    report = disk_kills(broken)
    assert any(found in violation for violation in report.violations), report


DAEMON = """
import sys, threading
from tests.daemon.content_node import ContentNode
from tests.faults.disk_errors import Shim
node = ContentNode(sys.argv[1])
node.__enter__()
Shim().calls.disk_arm(int(sys.argv[2]), 0, 0, node.home.blocks.encode())
print("ready", flush=True)
threading.Event().wait()
"""
STEP = 7  # writes between two kills


def test_a_daemon_killed_while_trees_are_added_and_collected(tmp_path: Path) -> None:
    """The commands as people type them; what they said was done is there after the next start, and all is sound."""
    trees = []
    for name in "abc":
        trees.append(tmp_path / name)
        (trees[-1] / "sub").mkdir(parents=True)
        for number in range(5):
            (trees[-1] / "sub" / f"{number}").write_bytes(f"{name}{number}".encode() * 60_000)
        (trees[-1] / "big").write_bytes(name.encode() * 2_500_000)
        (trees[-1] / "link").symlink_to("big")
    kills, number = 0, 1
    while _killed_at(number, tmp_path / f"node{number}", trees, build(str(tmp_path))):
        kills, number = kills + 1, number + STEP
    assert kills > 5


def _killed_at(number: int, directory: Path, trees: list[Path], library: str) -> bool:
    """Whether the daemon lived for less than all of the commands."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": str(directory)}
    daemon = subprocess.Popen([PYTHON, "-c", DAEMON, str(directory), str(number)], stdout=subprocess.PIPE,
                              env={**environment, "LD_PRELOAD": library})
    assert daemon.stdout is not None and daemon.stdout.readline() == b"ready\n"
    pinned: dict[str, Path] = {}

    def ipdc(*words: str) -> str:
        done = subprocess.run([PYTHON, "-m", "ipdc_edge", *words], env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 3), f"at write {number}: {done.stderr}"
        return done.stdout.strip() if not done.returncode else ""

    for place, tree in enumerate(trees):
        if daemon.poll() is not None:
            break  # there is nobody to ask
        if cid := ipdc("add", *(["--copy"] if place < 2 else []), str(tree)):
            pinned[cid] = tree
        if cid and place != 1:
            del pinned[cid]
            ipdc("unpin", cid)
        ipdc("gc")
    lived = daemon.poll() is None
    daemon.kill()
    assert daemon.wait() == -signal.SIGKILL
    with ContentNode(str(directory)) as node:
        assert [damage for step in check(node.daemon.store) for damage in step.damage] == []
        assert not [owner for owner in node.daemon.store.owners() if owner != "members" and not outlives(owner)]
        pins = [owner.removeprefix(PIN) for owner in node.daemon.store.owners() if owner.startswith(PIN)]
        assert pinned.keys() <= set(pins)
        for cid in pins:  # who is a pin is whole, whatever was told
            ipdc("get", cid, "-o", str(directory / cid))
            whole = pictured(os.fsencode(directory / cid))
            assert whole in [pictured(os.fsencode(tree)) for tree in trees]
            assert cid not in pinned or whole == pictured(os.fsencode(pinned[cid]))
    return not lived
