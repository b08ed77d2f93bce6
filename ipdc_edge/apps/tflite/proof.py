"""The proof that TFLite works on this node: a task that is run in a runner like those of jobs, at the node's start.

Owns what is asked: an interpreter has built a model and run it, with which operators it knows, and whether images can
be read. What it finds is JSON in the task's output; drivers/tflite_capability.py reads it. """

from __future__ import annotations

import json

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.apps.tflite.interpreter import Found, NoInterpreter, find, quiet

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

MOST_CODE = 230  # BuiltinOperators asked for; each interpreter knows those of its time
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # a version, 0 where it has none


def load(spec: dict[str, Any], code: dict[str, bytes]) -> None:
    """Nothing travels with it."""


def make_task(program: None, task_id: str, params: dict[str, Any], io: TaskIo) -> Proof:
    """The one task."""
    return Proof(io)


class Proof:
    """Looks, and writes what it found."""

    def __init__(self, io: TaskIo) -> None:
        self._io = io

    def run(self) -> dict[str, Any]:
        """One stream: {"interpreter", "version", "operators", "pillow"} or {"reason"}."""
        answer: dict[str, Any]
        try:
            found = find()
            answer = {"interpreter": found.name, "version": found.version, "operators": operators(found),
                      "pillow": pillow()}
        except NoInterpreter as error:
            answer = {"reason": str(error)}
        text = json.dumps(answer).encode()
        self._io.write(0, text)
        return {"counters": {}, "streams": [{"records": 1, "bytes": len(text)}]}

    def position(self) -> dict[str, object]:
        """There is none."""
        return {}


def operators(found: Found) -> str:
    """The highest version of each BuiltinOperator that it knows, a digit each: an interpreter resolves all operators of
    a model before it looks at anything else, and says no to those that it does not know."""
    with quiet():
        digits = [DIGITS[_highest(found, code)] for code in range(MOST_CODE)]
    return "".join(digits).rstrip("0")


def _highest(found: Found, code: int) -> int:
    version = 0
    while version + 1 < len(DIGITS):
        try:
            found.make(model_content=tiny.model(code, version + 1), num_threads=1)
        except (ValueError, RuntimeError):
            break
        version += 1
    return version


def pillow() -> str:
    """Its version, "" where it is not there or does not work."""
    try:
        from PIL import Image, __version__

        Image.new("RGB", (1, 1)).resize((2, 2))
    except Exception:  # whatever a library that does not fit this machine raises
        return ""
    return str(__version__)
