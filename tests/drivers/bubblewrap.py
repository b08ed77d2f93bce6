"""Whether tests of bubblewrap can run on this machine.

Some containers and hosts forbid namespaces; there the tests are left out. Where bubblewrap itself works and our use of
it does not, that is our defect and never a reason to leave a test out.
"""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

from ipdc_edge.drivers import runner_bubblewrap


@functools.cache
def _found() -> tuple[str, bool]:
    """(why ours does not work, whether it should)."""
    return runner_bubblewrap.why_not(), _bare_one_works()


def _bare_one_works() -> bool:
    bare = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "--proc", "/proc",
            "true"]
    if os.geteuid() == 0:
        before = ["unshare", "--mount", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    else:
        before = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        return subprocess.run([*before, *bare], capture_output=True, timeout=60).returncode == 0
    except FileNotFoundError:
        return False


def needs_bubblewrap() -> None:
    """Leaves the test out, or fails, where runners in bubblewrap do not work."""
    reason, should = _found()
    if reason and should:
        pytest.fail(f"bubblewrap works on this machine, and runners in it do not: {reason}")
    if reason:
        pytest.skip(f"does not apply: bubblewrap does not work on this machine: {reason}")
