"""One thing that doctor looked at, and looking at many at once without waiting for any for ever.

Owns the form of a check and the bound in time. Knows nothing of what is looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ipdc_edge.errors import IpdcError

LIMIT = 15.0  # seconds for all that is looked at together


class Check(NamedTuple):
    """One thing that was looked at. `ok` None: not broken, but worth knowing. `advice`: what to type, or do."""

    check: str
    ok: bool | None
    detail: str
    advice: str = ""


class Look(NamedTuple):
    """What is to be looked at, and how; `name` and `advice` are for the case that it does not end."""

    name: str
    at: Callable[[], Iterable[Check]]
    advice: str = ""


def together(looks: Sequence[Look], seconds: float = LIMIT) -> list[Check]:
    """What all of them see, in their order; no advice for what is well. Each is in a thread of its own: a disk that
    hangs, or a server that says nothing, costs one line and not the others. An OSError or IpdcError is itself what was
    seen; a bug is raised."""
    seen: list[list[Check]] = [[] for _ in looks]
    bugs: list[Exception] = []

    def run(number: int, look: Look) -> None:
        try:
            seen[number] = list(look.at())
        except (OSError, IpdcError) as error:
            seen[number] = [Check(look.name, False, f"cannot be looked at: {error}")]
        except Exception as error:
            bugs.append(error)

    threads = [threading.Thread(target=run, args=each, name=each[1].name, daemon=True) for each in enumerate(looks)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    checks: list[Check] = []
    for number, (look, thread) in enumerate(zip(looks, threads, strict=True)):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            checks.append(Check(look.name, False, f"gave no answer within {seconds:g} s", look.advice))
        else:
            checks += [check._replace(advice="") if check.ok else check for check in seen[number]]
    if bugs:
        raise bugs[0]
    return checks
