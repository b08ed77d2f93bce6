"""A daemon that is broken on purpose: python3 -m tests.faults.broken SABOTAGE, in place of `ipdc-edge run`.

Owns the sabotages; each takes one rule out of the build. The harness must notice every one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ipdc_edge.core import effects as fx
from ipdc_edge.core import leases, master, tasks
from ipdc_edge.core import messages as m
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.drivers import block_disk, blocks, provider


def no_attempt_number() -> None:
    """A report names a task and no attempt, so nobody knows whether it was counted already."""
    tasks.TASK[("committed", "commit")] = "committed"  # type: ignore[index]
    report = master.Master.report

    def again(self: master.Master, node: str, message: m.Report, now: float) -> None:
        task = self.tasks.states.get(message.task)
        if task is not None and task.state == "committed":
            self.leases.commit(node, task, message.attempt, message.result, now)
        report(self, node, message, now)

    master.Master.report = again  # type: ignore[method-assign]
    leases.Leases.may_speak = lambda self, node, task, attempt: True  # type: ignore[method-assign]


def commit_before_save() -> None:
    """What an event brought about is said to everybody at once, and is to be made durable some time later."""
    def hasty(self: Daemon, effects: list[fx.Effect]) -> None:
        self._carry_out(effects)
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves:
            self.loop.call_later(600.0, lambda: self.background.start(self.ledger.save(saves)))

    Daemon._batch = hasty  # type: ignore[method-assign]


def blocks_unchecked() -> None:
    """Whatever lies where a block lay, or comes from where it was asked for, is taken for it."""
    blocks.verify = provider.verify = lambda cid, data: None  # type: ignore[attr-defined]
    block_disk.verify_digest = lambda cid, sha256, data: None  # type: ignore[attr-defined]


SABOTAGES: dict[str, Callable[[], None]] = {"no-attempt-number": no_attempt_number,
                                            "commit-before-save": commit_before_save,
                                            "blocks-unchecked": blocks_unchecked}

if __name__ == "__main__":
    from ipdc_edge.__main__ import main

    SABOTAGES[sys.argv[1]]()
    sys.exit(main(["run"]))
