"""Whether this node can do inference with TFLite: which interpreter it has, with which operators; or why it has none.

Owns where interpreters are looked for, and what a node's record says of them. Never imports one: it looks whether there
may be any, and has a runner, like those of jobs, prove it (apps/tflite/proof.py): what works there works for jobs, and
an idle daemon pays nothing. """

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..apps.tflite.plan import HEAVY, HEAVY_MEMORY, INTERPRETER, OPERATORS, PILLOW, TFLite
from ..errors import IpdcError

if TYPE_CHECKING:
    from .sandbox import Sandbox

PACKAGES = ("ai_edge_litert", "tflite_runtime", "tensorflow")  # in the order of choice; apps/tflite/interpreter.py
PROOF = "ipdc_edge.apps.tflite.proof"
PROVED_WITHIN = 120.0  # seconds; a small board takes a few, more with TensorFlow's own
MOST_REASON = 230  # characters; a record's word has 256
NAME, VERSION = re.compile(r"[a-z_]{1,30}"), re.compile(r"[\w.+-]{1,40}", re.ASCII)
DIGITS = re.compile(r"[0-9a-z]{1,230}")
BITS = 64 if sys.maxsize > 1 << 32 else 32  # of this Python; a 64-bit kernel may be below it
PROVING = "tflite: its interpreter is being tried"


class Found(NamedTuple):
    """What the proof found; `reason` says why there is none, "" where there is."""

    reason: str
    interpreter: str = ""
    version: str = ""
    operators: str = ""  # the highest version of each that it knows, as in a record
    pillow: str = ""

    def described(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a node's record says of it: (capabilities, what it is unable to do and why)."""
        if self.reason:
            return (), (PROVING if self is UNKNOWN else f"{TFLite.name}: {self.reason}"[:MOST_REASON],)
        words = (f"{INTERPRETER}{self.interpreter} {self.version}", OPERATORS + self.operators)
        return (*words, *([PILLOW + self.pillow] if self.pillow else [])), ()


UNKNOWN = Found("being tried")


def installed(venv: str, path: Iterable[str] | None = None) -> list[str]:
    """Which of PACKAGES runners may find, in the jobs' environment or where Python's own packages are. Costs a look
    into each directory."""
    places = [packages_of(venv), *(sys.path if path is None else path)]
    return [name for name in PACKAGES if any(os.path.isdir(os.path.join(place, name)) for place in places)]


def packages_of(venv: str) -> str:
    """Where a virtual environment has its packages, for this Python."""
    return f"{venv}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def look(venv: str) -> Found:
    """UNKNOWN where there may be one; else why there is none."""
    return UNKNOWN if installed(venv) else Found(absent(venv))


def absent(
    venv: str, machine: str = "", version: tuple[int, int] = sys.version_info[:2], bits: int = BITS
) -> str:
    """Why there is no interpreter, and the way to one where there is any. Wheels as the package index has them."""
    machine = machine or os.uname().machine
    python = "{}.{}".format(*version)
    make = "" if os.path.isdir(venv) else f"python3 -m venv --system-site-packages {venv} && "
    if machine in ("x86_64", "aarch64") and bits == 64:
        return f"no interpreter is installed: `{make}{venv}/bin/pip install ai-edge-litert` does it"
    if machine in ("armv7l", "aarch64") and version < (3, 12):
        return f"no interpreter is installed: `{make}{venv}/bin/pip install tflite-runtime` does it"
    return (f"there is no interpreter for Python {python} on {machine} with {bits} bits: tflite-runtime has wheels up "
            "to Python 3.11, for x86_64, aarch64 and armv7l")


async def prove(sandbox: Sandbox, venv: str) -> Found:
    """What a runner finds; never raises for what is wrong with the interpreter or the sandbox. OSError, where this
    machine lacks what a runner needs."""
    import asyncio

    heavy = installed(venv)[:1] == [HEAVY]
    spec = {"app": TFLite.name, "memory": HEAVY_MEMORY if heavy else TFLite.memory, "options": {}}
    runner = sandbox.runner(False)
    told = bytearray()

    async def write(_stream: int, data: bytes) -> None:
        told.extend(data)

    async def read(_stream: int) -> None:
        return None

    params = {"inputs": [], "outputs": {"kind": "files", "count": 1}}
    try:
        async with asyncio.timeout(PROVED_WITHIN):
            await runner.start(spec, [], PROOF, "proof", mapped=TFLite.mapped)
            await runner.run("proof", params, read, write, lambda said: None, lambda record: None)
        return _checked(json.loads(bytes(told)))
    except (IpdcError, ValueError) as error:
        return Found(_line(str(error)))
    except TimeoutError:
        return Found(f"the interpreter did not answer within {PROVED_WITHIN:.0f} s")
    finally:
        await runner.close()


def _checked(answer: Any) -> Found:
    """The libraries' own code was in that runner: nothing that it says gets into a record unseen."""
    if not isinstance(answer, dict) or isinstance(answer.get("reason"), str):
        return Found(_line(str(answer["reason"]) if isinstance(answer, dict) else "the proof said nothing"))
    for name, form in (("interpreter", NAME), ("version", VERSION), ("operators", DIGITS)):
        if not isinstance(answer.get(name), str) or not form.fullmatch(answer[name]):
            return Found(f"the proof told no {name}")
    pillow = answer.get("pillow")
    known = isinstance(pillow, str) and VERSION.fullmatch(pillow) is not None
    return Found("", answer["interpreter"], answer["version"], answer["operators"], str(pillow) if known else "")


def _line(text: str) -> str:
    words = " ".join(text.removeprefix("no TFLite interpreter works here: ").split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:MOST_REASON] or "no reason is known"
