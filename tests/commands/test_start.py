"""What a command must not load before it begins: a job over a kilobyte is waited for by people, and on a board the
interpreter's start is a good part of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# the core's records and messages, which a client has no use for, and what is heavy of Python's own
SLOW = ("ipdc_edge.core.values", "ipdc_edge.core.messages", "ipdc_edge.codec.messages", "ipdc_edge.apps.mapreduce.spec",
        "ipdc_edge.codec.tflite_model", "asyncio", "ssl", "subprocess", "sqlite3", "paho", "numpy")


@pytest.mark.outside("an interpreter of its own shows what is loaded")
@pytest.mark.parametrize("command", ["submit", "status", "result", "jobs"])
def test_commands_that_people_wait_for_load_nothing_slow(command: str) -> None:
    script = ("import importlib, sys; importlib.import_module('ipdc_edge.__main__');"
              f"importlib.import_module('ipdc_edge.commands.{command}'); print(*sys.modules, sep='\\n')")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert f"ipdc_edge.commands.{command}" in loaded
    assert not loaded & set(SLOW)
