"""The simulation is a harness, so it has to be seen to catch something: builds broken on purpose, one rule at a time.

Each sabotage takes one rule out of the core, or out of how the daemon carries its effects out. Some seed of the same
runs that pass with the real build (`test_seeds.py`) must then show a wrong result, a broken promise or invariant, or
something that never ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ipdc_edge.core import (
    admission,
    events,
    failures,
    leases,
    life,
    master,
    membership,
    node,
    participant,
    tasks,
    timing,
    worker,
)
from ipdc_edge.core import effects as fx
from ipdc_edge.core import messages as m
from tests.simulation import disk
from tests.simulation.scenario import play
from tests.simulation.soak import outcome
from tests.simulation.test_scenarios import text_of
from tests.simulation.test_simulation import test_a_member_list_reaches_everybody_and_never_goes_back as spread_a_list
from tests.simulation.world import NotRight, Weather

SEEDS = 200  # in which every sabotage must be seen
SEEN = "NotRight", "BrokenInvariant", "ImpossibleTransition"  # errors that tell of a rule that was broken
Patch = pytest.MonkeyPatch


def caught() -> int | None:
    """The first seed that shows that something is broken."""
    return next((seed for seed in range(SEEDS) if outcome(seed)[1]), None)


def no_repeat_of_commands(patch: Patch) -> None:
    patch.setattr(leases.Leases, "unseen", lambda self, participant, seen, now, wait: [])


def no_repeat_of_reports(patch: Patch) -> None:
    tick = worker.Worker.tick

    def silent(self: worker.Worker, now: float) -> None:
        report, self._report = self._report, lambda task: None  # type: ignore[method-assign]
        tick(self, now)
        self._report = report  # type: ignore[method-assign]

    patch.setattr(worker.Worker, "tick", silent)


def reports_are_forgotten_when_sent(patch: Patch) -> None:
    """As if a message once sent had arrived."""
    report = worker.Worker._report

    def once(self: worker.Worker, task: worker.HeldTask) -> None:
        report(self, task)
        if task.state == "reporting":
            task.step("receive")
            self._close(task.attempt)

    patch.setattr(worker.Worker, "_report", once)
    patch.setattr(leases.Leases, "unseen", lambda self, participant, seen, now, wait: [])


def reduce_before_all_maps(patch: Patch) -> None:
    """The bug that this simulation found when it was new: a lost order repeated although a map was lost meanwhile."""
    patch.setattr(tasks.Tasks, "is_ready", lambda self, ident: True)


def leases_without_end(patch: Patch) -> None:
    def never(self: participant.Participants, now: float) -> list[participant.Participant]:
        for one in self:
            one.deadline = max(one.deadline, now + 1e9)
        return []

    patch.setattr(participant.Participants, "run_out", never)


def lost_outputs_are_kept(patch: Patch) -> None:
    patch.setattr(leases.Leases, "lose_output", lambda self, cid, ordered: {})


def attempts_without_a_number(patch: Patch) -> None:
    """Every attempt at a task has the same name, so an old report passes for a new one."""
    give = leases.Leases.give

    def same(self: leases.Leases, now: float):  # type: ignore[no-untyped-def]
        for one in give(self, now):
            self.issued = 0
            yield one

    patch.setattr(leases.Leases, "give", same)


def attempts_used_again_after_a_restart(patch: Patch) -> None:
    """The counter alone names an attempt, and begins anew with every start."""
    begin = leases.Leases.__init__

    def always_one(self: leases.Leases, *arguments: Any) -> None:
        begin(self, *arguments[:-1], 1)

    patch.setattr(leases.Leases, "__init__", always_one)


def every_result_counts(patch: Patch) -> None:
    """Not only the first: a second report of a task is committed like the first one."""
    patch.setitem(tasks.TASK, ("committed", "commit"), "committed")  # type: ignore[arg-type]
    report = master.Master.report

    def again(self: master.Master, node: str, message: m.Report, now: float) -> None:
        task = self.tasks.states.get(message.task)
        if task is not None and task.state == "committed" and self.leases.may_speak(node, task, message.attempt):
            self.leases.commit(node, task, message.attempt, message.result, now)
        report(self, node, message, now)

    patch.setattr(master.Master, "report", again)


def sends_before_saves(patch: Patch) -> None:
    """What an event brought about leaves at once, and is made durable after that."""
    batch = disk.Disk.batch

    def hasty(self: disk.Disk, effects: list[fx.Effect]) -> None:
        self.carry_out(effects)
        batch(self, [effect for effect in effects if isinstance(effect, fx.Save)])

    patch.setattr(disk.Disk, "batch", hasty)


def no_fsync(patch: Patch) -> None:
    """A disk says that it has what it keeps in its memory for another second."""
    crash = disk.Disk.crash
    written: dict[disk.Disk, list[tuple[str, str]]] = {}
    keep = disk.Disk._keep

    def kept(self: disk.Disk) -> None:
        late = written.setdefault(self, [])
        late += [(save.kind, save.key) for save in self.writing]
        self.after(1.0, late.clear)
        keep(self)

    def lost(self: disk.Disk) -> None:
        crash(self)
        for row in written.get(self, []):
            self.rows.pop(row, None)

    patch.setattr(disk.Disk, "_keep", kept)
    patch.setattr(disk.Disk, "crash", lost)


def the_end_is_not_saved(patch: Patch) -> None:
    """A job that has ended begins anew after a restart."""
    _without(patch, master.Master, "result_published", lambda effect: (
        isinstance(effect, fx.Save) and effect.kind == "ended"))


def no_clean_up_for_who_renews(patch: Patch) -> None:
    """`clean-up` is said once."""
    def silent(sender: str, message: object) -> bool:
        return isinstance(message, m.CleanUp)

    renew, answer = master.Master.renew, node.Node._send

    def renewed(self: master.Master, sender: str, message: m.Renew, now: float) -> None:
        if self.state not in life.FINAL:
            renew(self, sender, message, now)

    def answered(self: node.Node, sender: str, message: m.FromMaster | m.FromWorker) -> None:
        if not silent(sender, message):
            answer(self, sender, message)

    patch.setattr(master.Master, "renew", renewed)
    patch.setattr(node.Node, "_send", answered)


def the_expelled_are_kept(patch: Patch) -> None:
    """Nobody frees the jobs of a master that is no member any more."""
    def adopted(self: node.Node, event: events.MembersAdopted, now: float) -> None:
        self.admission.adopt(event.held, now)

    patch.setattr(node.Node, "_members_adopted", adopted)


def masters_are_waited_for_without_end(patch: Patch) -> None:
    tick = worker.Worker.tick

    def patient(self: worker.Worker, now: float) -> None:
        self.heard = now
        tick(self, now)

    patch.setattr(worker.Worker, "tick", patient)


def inputs_are_kept_for_ever(patch: Patch) -> None:
    _without(patch, master.Master, "result_published", lambda effect: isinstance(effect, fx.ReleaseJob))


def freed_jobs_leave_their_content(patch: Patch) -> None:
    _without(patch, worker.Worker, "free", lambda effect: isinstance(effect, fx.FreeJob))


def _without(patch: Patch, kind: type, method: str, unwanted: Callable[[fx.Effect], bool]) -> None:
    """The method without some of its effects."""
    real = getattr(kind, method)

    def less(self, *arguments):  # type: ignore[no-untyped-def]
        real(self, *arguments)
        self.effects = [effect for effect in self.effects if not unwanted(effect)]

    patch.setattr(kind, method, less)


@pytest.mark.parametrize(
    "sabotage",
    [
        no_repeat_of_commands, no_repeat_of_reports, reports_are_forgotten_when_sent, reduce_before_all_maps,
        leases_without_end, lost_outputs_are_kept, attempts_without_a_number, attempts_used_again_after_a_restart,
        every_result_counts, sends_before_saves, no_fsync, the_end_is_not_saved, no_clean_up_for_who_renews,
        the_expelled_are_kept, masters_are_waited_for_without_end, inputs_are_kept_for_ever,
        freed_jobs_leave_their_content,
    ],
)
def test_a_build_broken_on_purpose_is_caught(sabotage: Callable[[Patch], None], monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    seed = caught()
    print(f"\n{sabotage.__name__}: seed {seed}: {outcome(seed)[1][:200] if seed is not None else ''}")
    assert seed is not None, "the simulation would not have noticed"
    assert outcome(seed)[1].startswith(SEEN), "the sabotage does not fit the build any more, and only that was seen"


def restarts_are_not_noticed(patch: Patch) -> None:
    """A worker that began anew passes for the one that it was, and what it made before for what it has."""
    patch.setattr(membership.Membership, "peer_spoke", lambda self, node, birth: False)
    patch.setattr(leases.Leases, "lose_outputs_of", lambda self, node, before=float("inf"): [])


def misses_are_counted_together(patch: Patch) -> None:
    """A bug that this simulation found: a dozen workers that were gone at once failed the job."""
    def missed(self: failures.Failures, ident: str, cid: str, ordered: float) -> int:
        counts = self.tasks.states[ident].fetch_failures
        counts[""] = counts.get("", 0) + 1
        return counts[""]

    patch.setattr(failures.Failures, "_missed", missed)
    patch.setattr(participant.Participants, "began", lambda self, node, start: False)


def parts_are_lost_by_the_clock(patch: Patch) -> None:
    """Another one: a part that was committed after its own failure, by a clock that went back, was waited for."""
    lose = master.Master._lose_output

    def by_the_clock(self: master.Master, cid: str, ordered: float) -> None:
        lose(self, cid, 0.0 if ordered == timing.NEVER else ordered)

    patch.setattr(master.Master, "_lose_output", by_the_clock)


@pytest.mark.parametrize(
    ("sabotage", "scenario"),
    [
        (restarts_are_not_noticed, "only-worker-restarts.txt"),
        (misses_are_counted_together, "mains-fail-with-many-workers.txt"),
        (parts_are_lost_by_the_clock, "clock-back-while-collecting.txt"),
    ],
)
def test_a_scenario_catches_what_it_tells_of(
    sabotage: Callable[[Patch], None], scenario: str, monkeypatch: Patch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(NotRight):
        play(text_of(scenario))


def lists_are_told_once(patch: Patch) -> None:
    patch.setattr(admission.Admission, "tick", lambda self, now: None)
    patch.setattr(admission.Admission, "record_heard", lambda self, record: None)


def nobody_fetches(patch: Patch) -> None:
    patch.setattr(admission.Admission, "told", lambda self, node, message: None)


@pytest.mark.parametrize("sabotage", [lists_are_told_once, nobody_fetches])
def test_a_list_that_does_not_get_round_is_caught(
    sabotage: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(3):
            spread_a_list(seed, Weather(drop=0.4, double=0.3, delay=(0.0, 4.0)))
