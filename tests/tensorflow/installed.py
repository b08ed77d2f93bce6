"""Virtual environments with the real TensorFlow, LiteRT and tflite-runtime, of the versions that are pinned here: made
once by pip, and kept in the tests' cache.

Owns the pins, and that two test runs make each only once. Nothing in them changes afterwards, so tests share them.
usage: python3 -m tests.tensorflow.installed        makes all of them and prints where they are
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bare.debian import cache

PYTHON = "/usr/bin/python3"  # Debian's: what nodes run under
TENSORFLOW = ("tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow") + "==2.21.0"
TF_KERAS = "tf_keras==2.21.0"  # without its dependencies: it asks for `tensorflow`, the larger of two packages
LITERT = "ai-edge-litert==2.3.0"
TFLITE_RUNTIME = "tflite-runtime==2.14.0"  # the last; wheels up to Python 3.11
NUMPY, OLD_NUMPY, PILLOW = "numpy==2.4.6", "numpy==1.26.4", "pillow==12.0.0"


class CannotInstall(Exception):
    """An environment is not there and cannot be made; the message says why."""


def venv() -> Path:
    """The virtual environment with TensorFlow, tf_keras, LiteRT, numpy and Pillow. CannotInstall."""
    return _made("tensorflow", [[TENSORFLOW, LITERT, NUMPY, PILLOW], ["--no-deps", TF_KERAS]])


def python() -> str:
    """Its interpreter."""
    return str(venv() / "bin" / "python")


def tensorflow_alone() -> Path:
    """TensorFlow's environment without LiteRT, as an environment of jobs: its interpreter is TensorFlow's own. Its
    files are those of venv(), by hard links."""
    whole, directory = venv(), cache() / "tensorflow-alone-python{}.{}".format(*sys.version_info)
    packages = next((whole / "lib").glob("python3*/site-packages"))
    stamp = (whole / "installed").read_text()
    with open(cache() / "tensorflow-alone.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = directory / "made-of"
        if not done.exists() or done.read_text() != stamp:
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(packages, directory / packages.relative_to(whole), copy_function=os.link,
                            ignore=shutil.ignore_patterns("ai_edge_litert*", "__pycache__"))
            done.write_text(stamp)
    return directory


def litert_venv() -> Path:
    """LiteRT alone, as a board of 64 bits has it."""
    return _made("litert", [[LITERT, NUMPY, PILLOW]])


def litert_packages(version: str) -> Path:
    """The site-packages of LiteRT and numpy for another Python of this machine's kind, such as "3.13" of Debian 13."""
    directory = cache() / f"litert-packages-{version}"
    with open(cache() / f"litert-packages-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "installed").exists():
            shutil.rmtree(directory, ignore_errors=True)
            _run([str(litert_venv() / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--target",
                  str(directory), "--python-version", version, "--only-binary=:all:", LITERT, NUMPY, PILLOW])
            (directory / "installed").touch()
    return directory


def tflite_runtime_venv() -> Path:
    """tflite-runtime with a numpy that it works with, as a board of 32 bits has it. CannotInstall where this Python has
    no wheel of it (Debian 13)."""
    return _made("tflite-runtime", [[TFLITE_RUNTIME, OLD_NUMPY]])


def broken_venv() -> Path:
    """tflite-runtime with numpy 2: it is imported and makes no interpreter."""
    return _made("tflite-runtime-numpy-2", [[TFLITE_RUNTIME, NUMPY]])


def has_tflite_runtime() -> bool:
    """Whether wheels of tflite-runtime exist for this Python."""
    return sys.version_info < (3, 12)


def _made(name: str, installs: list[list[str]]) -> Path:
    version = "{}.{}".format(*sys.version_info)
    directory = cache() / f"{name}-python{version}"
    stamp = directory / "installed"
    wanted = repr(installs)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            _run([PYTHON, "-m", "venv", str(directory)])
            for words in installs:
                _run([str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *words])
            stamp.write_text(wanted)
    return directory


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PIP_CACHE_DIR": str(cache() / "pip")}  # as test_install.py has it: one download
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise CannotInstall(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")


if __name__ == "__main__":
    for make in (litert_venv, *((tflite_runtime_venv, broken_venv) if has_tflite_runtime() else ()), venv):
        print(make())
