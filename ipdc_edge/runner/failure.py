"""What went wrong in a task, in words for the person whose code it is.

Owns the details of a FAILED frame. Never raises, and holds no reference to what failed. The traceback is cut
to the user's frames; when there are none, it is our bug and shown whole.
"""

from __future__ import annotations

import errno

import ipdc_edge
from ipdc_edge.errors import IpdcError

_OURS = ipdc_edge.__path__[0] + "/"
MOST_TEXT = 16 * 1024  # characters of a traceback
MOST_MESSAGE = 2 * 1024
NO_NETWORK = (errno.EAFNOSUPPORT, errno.ENETUNREACH, -3)  # as units refuse it, bubblewrap, and getaddrinfo in both


def place(error: BaseException, position: dict[str, object]) -> BaseException:
    """Says where an error happened, for whoever describes it later: some of {"where", "input", "offset", "record",
    "note"}; a note is added to the message. The first word counts."""
    if place_of(error) is None:
        error.ipdc_position = position  # type: ignore[attr-defined]
    return error


def place_of(error: BaseException) -> dict[str, object] | None:
    """What `place` said of an error, or None."""
    return getattr(error, "ipdc_position", None)


def describe(error: BaseException, memory: int, position: dict[str, object]) -> dict[str, object]:
    """{"where", "type", "message", "traceback", "input", "offset", "record"}; the last three may be None."""
    import traceback

    details: dict[str, object] = {"where": "runner", "input": None, "offset": None, "record": None, **position}
    note = details.pop("note", None)
    frames = traceback.extract_tb(error.__traceback__)
    user = [number for number, frame in enumerate(frames) if not frame.filename.startswith(_OURS)]
    lines = []
    if user or isinstance(error, SyntaxError):
        first = next((number for number in user if "importlib" not in frames[number].filename), len(frames))
        shown = [frame for frame in frames[first:] if not frame.filename.startswith((_OURS, "<frozen importlib"))]
        if shown:
            lines = ["Traceback (most recent call last):\n", *traceback.format_list(shown)]
        lines += traceback.format_exception_only(type(error), error)
    elif not isinstance(error, (IpdcError, MemoryError)):
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    text = "".join(lines)
    if len(text) > MOST_TEXT:
        text = text[: MOST_TEXT // 2] + "\n...\n" + text[-MOST_TEXT // 2 :]
    details["type"] = type(error).__name__
    message = _message(error, memory, bool(user))[:MOST_MESSAGE]
    details["message"] = f"{message} ({note})" if note else message
    details["traceback"] = text
    return details


def _message(error: BaseException, memory: int, in_user_code: bool) -> str:
    try:
        words = str(error)
    except Exception as second:  # a user's exception class whose own __str__ fails
        words = f"(its text cannot be shown: {type(second).__name__})"
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:  # as mmap and fork tell it
        budget = f"the job's memory budget of {memory / 1024 / 1024:.0f} MB for a runner"
        return f"{budget} is used up; give the job more memory (--memory) or hold less"
    why = getattr(error, "reason", error) if isinstance(error, OSError) else None  # urllib's errors have a reason
    if getattr(why, "errno", None) in NO_NETWORK:
        return f"{words}. In the sandbox the code of jobs has no network: what it needs comes as --input or --file"
    if isinstance(error, SystemExit):
        return f"the program ended the runner: exit({words})"
    if isinstance(error, FileNotFoundError) and in_user_code:
        return f"{words}. Files that the program opens travel with the job by --file, and lie where it runs"
    if isinstance(error, ModuleNotFoundError) and in_user_code:
        return (f"{words}. Modules of your own lie beside the program or come by --file; others must be on every node: "
                "apt has many, and a node's venv takes the rest (/var/lib/ipdc/venv)")
    if isinstance(error, (TypeError, ValueError)) and not in_user_code:
        if "positional argument" in words:
            how = "map(key, value), reduce(key, values), combine(key, values), partition(key, count)"
            return f"a function is called with other arguments than it takes, as one of {how}: {words}"
        if "unpack" in words:
            return f"a function gave something that is no (key, value) pair: {words}"
        if "is not iterable" in words:
            return f"a function must yield or return (key, value) pairs, or return None: {words}"
    return words
