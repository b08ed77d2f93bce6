"""Attempts on the sandbox: each in a process of its own, so that none is in the way of the next.

Owns the list of attempts and how their results are told: "ALLOWED what came of it" or "DENIED why". An attempt is a
function of the targets; what it returns was allowed, what it raises (OSError, Refused) or dies of was denied. Anything
else is "BROKEN", a mistake in the attempt, and one that does not end is "HUNG".
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator

Targets = dict[str, object]
ATTEMPTS: dict[str, Callable[[Targets], object]] = {}
SECONDS = 20.0  # for one attempt


class Refused(Exception):
    """Denied otherwise than by an error of the system."""


def attempt(name: str) -> Callable[[Callable[[Targets], object]], Callable[[Targets], object]]:
    """Enters a function in the list."""
    def entered(function: Callable[[Targets], object]) -> Callable[[Targets], object]:
        assert name not in ATTEMPTS, name
        ATTEMPTS[name] = function
        return function
    return entered


def results(targets: Targets) -> Iterator[tuple[str, str]]:
    """(name, result) of every attempt, or of those that the targets name as "only"."""
    for name, function in ATTEMPTS.items():
        if name not in targets.get("only", ATTEMPTS):  # type: ignore[operator]
            continue
        yield name, result(function, targets)


def result(function: Callable[[Targets], object], targets: Targets) -> str:
    """Makes one attempt in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        os.write(writer, _tried(function, targets).encode("utf-8", "backslashreplace")[:300])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], SECONDS)
    told = os.read(reader, 4096).decode() if ready else "HUNG"
    os.close(reader)
    for victim in (child, -child):
        try:
            os.kill(victim, signal.SIGKILL if not ready else 0 if victim > 0 else signal.SIGKILL)
        except OSError:
            pass  # the attempt took its group with it
    _, status = os.waitpid(child, 0)
    return told or f"DENIED killed by {signal.Signals(os.WTERMSIG(status)).name}"


def _tried(function: Callable[[Targets], object], targets: Targets) -> str:
    try:
        return f"ALLOWED {function(targets)}"
    except OSError as error:
        return f"DENIED {errno.errorcode.get(error.errno or 0, error)}"
    except Refused as error:
        return f"DENIED {error}"
    except MemoryError:
        return "DENIED MemoryError"
    except BaseException as error:
        return f"BROKEN {type(error).__name__}: {error}"
