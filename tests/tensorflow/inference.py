"""Runs models over inputs in a real runner of this machine, with an interpreter of `installed.py`, and nothing else of
a node: what the daemon would send and take goes through functions here.

Owns the models that TensorFlow makes for these tests, once in a session.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from ipdc_edge.apps.tflite.plan import TFLite
from ipdc_edge.commands.inference import needed
from ipdc_edge.drivers.runner import Runner
from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap, why_not
from ipdc_edge.drivers.runner_child import RunnerProcess
from tests.tensorflow import installed

ROOT = Path(__file__).resolve().parents[2]
PIECE = 1 << 20


@functools.cache
def models() -> Path:
    """The directory of models.py, made by the real TensorFlow."""
    directory = Path(tempfile.mkdtemp(prefix="ipdc-models-"))
    atexit.register(shutil.rmtree, directory)
    subprocess.run([installed.python(), "-m", "tests.tensorflow.models", str(directory)], cwd=ROOT, check=True,
                   capture_output=True, timeout=600)
    return directory


def expected() -> dict[str, Any]:
    """What TensorFlow says of the data set."""
    found: dict[str, Any] = json.loads((models() / "expected.json").read_text())
    return found


def pixels() -> dict[str, str]:
    """The rows of rows.csv by the image that they are of."""
    names = sorted(f"images/{path.name}" for path in (models() / "images").iterdir())
    return dict(zip(names, (models() / "rows.csv").read_text().splitlines(keepends=True)))


def environments() -> dict[str, Path]:
    """The virtual environments of jobs that inference works with, by the interpreter."""
    found = {"ai_edge_litert": installed.litert_venv()}
    if installed.has_tflite_runtime():
        found["tflite_runtime"] = installed.tflite_runtime_venv()
    return found


class Inference:
    """One job's runner, and its tasks."""

    def __init__(
        self, venv: Path, model: bytes, memory: int = TFLite.memory, code: dict[str, str] | None = None,
        mapped: int = TFLite.mapped, **options: Any,
    ) -> None:
        """code: Pre.py, Post.py and so on, which is used where it is there; options: the description's."""
        self.venv, self.memory, self.mapped = venv, memory, mapped
        self.code = {"m.tflite": model, **{name: text.encode() for name, text in (code or {}).items()}}
        roles = {"Pre.py": "pre", "Post.py": "post"}
        step = {"map": "m.tflite", **{role: name for name, role in roles.items() if name in self.code}}
        self.spec = {"app": "tflite", "memory": memory, "arguments": {}, "workers": 1,
                     "options": {"steps": [step], "output_format": "json", **options}}
        self.aside: list[dict[str, Any]] = []
        self.printed = b""

    def run(self, *tasks: dict[str, bytes]) -> list[list[Any]]:
        """The pairs of each task, a map of these inputs; TaskFailed, RunnerDied."""
        return asyncio.run(self._run(tasks))

    async def _run(self, tasks: Iterable[dict[str, bytes]]) -> list[list[Any]]:
        with tempfile.TemporaryDirectory() as scratch:
            runner = self._runner(scratch)
            try:
                code = [(name, len(data), _pieces(data)) for name, data in self.code.items()]
                await runner.start(self.spec, code, TFLite.module, "job", mapped=self.mapped)
                found = [await self._task(runner, inputs) for inputs in tasks]
                self.look(runner)
                return found
            finally:
                self.printed = runner.output()
                await runner.close()

    def _runner(self, scratch: str) -> Runner:
        if why_not():
            return RunnerProcess(scratch, venv=str(self.venv))
        return RunnerBubblewrap(scratch, venv=str(self.venv))

    def look(self, runner: Runner) -> None:
        """At the end of all tasks, while the runner is there."""

    async def _task(self, runner: Runner, inputs: dict[str, bytes]) -> list[Any]:
        left = dict(enumerate(inputs.values()))
        ranges = [{"range": {"cid": "bafk", "name": name, "size": len(data), "start": 0, "end": len(data)}}
                  for name, data in inputs.items()]
        written = bytearray()

        async def read(stream: int) -> bytes:
            piece, left[stream] = left[stream][:PIECE], left[stream][PIECE:]
            return piece

        async def write(stream: int, data: bytes) -> None:
            written.extend(data)

        params = {"stage": "map", "step": 0, "index": 0, "inputs": ranges, "outputs": {"kind": "files", "count": 1}}
        await runner.run("map-00000", params, read, write, lambda told: None, self.aside.append)
        return [json.loads(line) for line in bytes(written).splitlines()]


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), PIECE):
        yield data[at : at + PIECE]


def operators(name: str) -> list[list[Any]]:
    """Those of one of the models."""
    return needed(str(models() / name))
