"""Virtual environments with pinned versions of what ipdc-edge is compared with, made by pip once and kept in a cache.

Owns the versions, and saying why something is left out. Never installs anything into the system: where there is no Java
for PySpark, or no index to install from, the comparison goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from tests.bare.debian import cache

PYTHON = "/usr/bin/python3"
PINNED = {
    "dask": ("dask==2026.8.0", "distributed==2026.8.0"),
    "pyspark": ("pyspark==4.3.0",),
    "mrjob": ("mrjob==0.7.4", "setuptools==80.9.0"),
}
NEEDS = {"pyspark": ("java", "a Java runtime (apt-get install --no-install-recommends default-jre-headless)")}


class LeftOut(Exception):
    """A rival that cannot be had here; the text says why."""


def python_of(name: str) -> str:
    """The interpreter that has the packages of PINNED[name]. LeftOut."""
    program, how = NEEDS.get(name, ("", ""))
    if program and shutil.which(program) is None:
        raise LeftOut(f"there is no {how}")
    directory = cache() / f"benchmark-{'-'.join(PINNED[name]).replace('==', '-')}"
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        try:
            _run(PYTHON, "-m", "venv", str(directory))
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED[name])
        except LeftOut:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        (directory / "complete").touch()
    return str(python)


def environment() -> dict[str, str]:
    """What rivals run with: nothing of ours on their path."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "IPDC_HOME")}


def _run(*words: str) -> None:
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise LeftOut(f"{' '.join(words[1:6])}: {done.stderr.strip()[-300:]}")
