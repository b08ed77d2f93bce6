"""How a benchmark with a lab ends: it tells what was measured, or why nothing was, and takes down what it put up.

Owns the exit codes and the file of figures. Never measures.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from processes import NotMeasured  # beside this file
from text import NoDictionary

MOST_LOGS = 3000  # characters of a lab's logs


class Measured(NamedTuple):
    """What came of it: text for people, figures for programs, and whether a goal is missed."""

    text: str
    figures: Any
    missed: bool


class Lab(Protocol):
    """What is put up; memory.Lab."""

    def down(self) -> None: ...

    def logs(self) -> str: ...


def ended(measure: Callable[[], Measured], lab: Lab, directory: str | None, file: str | None) -> int:
    """The exit code of a benchmark: 0; 1 where a goal is missed; 2 when it was not measured. directory: is removed in
    the end; file: where the figures go as JSON."""
    try:
        measured = measure()
    except (NotMeasured, NoDictionary) as error:
        print(f"not measured: {error}\n{lab.logs()[-MOST_LOGS:]}", file=sys.stderr)
        return 2
    finally:
        try:
            lab.down()
        except NotMeasured as error:
            print(error, file=sys.stderr)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
    print(measured.text)
    if file is not None:
        Path(file).write_text(json.dumps(measured.figures, indent=1))
    return 1 if measured.missed else 0
