"""What came of many trials, as a table.

Owns the sums. A wrong result is a job that succeeded with other bytes than the quiet run's; records are lost or doubled
where the tasks' own counters say so; a failed job is one that ended otherwise than well, or not at all.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from tests.faults.trial import Blow, Trial, WrongCount, WrongResult, struck


@dataclass
class Table:
    """Sums over trials."""

    trials: int = 0
    jobs: int = 0
    wrong: int = 0
    miscounted: int = 0
    failed: int = 0
    blows: dict[str, list[Blow]] = field(default_factory=dict)

    def add(self, trial: Trial, error: BaseException | None = None) -> None:
        """One more trial, and how it went wrong."""
        self.trials, self.jobs = self.trials + 1, self.jobs + len(trial.jobs)
        if isinstance(error, WrongResult):
            self.wrong += 1
        elif isinstance(error, WrongCount):
            self.miscounted += 1
        elif error is not None:
            self.failed += 1
        for name, blows in struck(trial.blows, trial.masters).items():
            self.blows.setdefault(name, []).extend(blows)

    def markdown(self) -> str:
        """The table, a line for each fault and the victim's part in the jobs, and a line of sums."""
        lines = ["| fault | injected | next task done, s after its beginning: median | worst | after its end: median "
                 "| worst |", "|---|---:|---:|---:|---:|---:|"]
        everything: list[Blow] = []
        for name, blows in sorted(self.blows.items()):
            everything += blows
            lines.append(f"| {name} | {len(blows)} | {_times(blows)} |")
        lines.append(f"| all | {len(everything)} | {_times(everything)} |")
        return "\n".join([*lines, "", f"{self.trials} trials, {len(everything)} faults injected, {self.jobs} jobs: "
                          f"{self.wrong} wrong results, {self.miscounted} with lost or doubled records, "
                          f"{self.failed} that failed or left something."])


def _times(blows: list[Blow]) -> str:
    both = [[seconds for blow in blows for seconds in took(blow)] for took in (
        lambda blow: blow.after_begin, lambda blow: blow.after_end)]
    return " | ".join(f"{statistics.median(took):.1f} | {max(took):.1f}" if took else "- | -" for took in both)
