"""Debian 12 of 32-bit ARM, as far as inference needs it: its Python and numpy, and tflite-runtime's wheel for it.

Owns that root, which is unpacked and never installed (so nothing of it runs while it is made), kept in the tests'
cache, and how a program of it is run on this machine: by qemu's emulation of a process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from ipdc_edge.drivers.runner_child import RunnerProcess
from tests.bare.debian import apt_elsewhere, cache
from tests.tensorflow import installed

# libstdc++6 is on every Debian: apt needs it
PACKAGES = ("python3", "python3-numpy", "libstdc++6")
WHEEL = ["--platform", "manylinux_2_34_armv7l", "--python-version", "3.11", "--only-binary=:all:", "--no-deps"]


def root() -> Path:
    """The root, made where it is not there."""
    directory, wanted = cache() / "armhf-bookworm", repr((PACKAGES, installed.TFLITE_RUNTIME))
    directory.parent.mkdir(parents=True, exist_ok=True)
    stamp = directory / "unpacked"
    with open(cache() / "armhf-bookworm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            with tempfile.TemporaryDirectory() as work:
                _unpack(directory, Path(work))
            stamp.write_text(wanted)
    return directory


def _unpack(directory: Path, work: Path) -> None:
    for package in archives(work):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(directory)], check=True)
    libraries = directory / "usr/lib/arm-linux-gnueabihf"
    for name in ("blas", "lapack"):  # what update-alternatives would do
        (libraries / f"lib{name}.so.3").symlink_to(f"{name}/lib{name}.so.3")
    pip = str(installed.tflite_runtime_venv() / "bin" / "pip")
    subprocess.run([pip, "download", "--quiet", "--disable-pip-version-check", *WHEEL, "--dest", str(work),
                    installed.TFLITE_RUNTIME], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(directory / "usr/lib/python3/dist-packages")


def archives(work: Path) -> list[Path]:
    """PACKAGES and all that they depend on, as apt finds them for a machine that has nothing."""
    options = apt_elsewhere("armhf", "bookworm", work / "apt")
    subprocess.run(["apt-get", "-qq", "-y", *options, "--no-install-recommends", "--download-only", "install",
                    *PACKAGES], check=True, stdout=subprocess.DEVNULL)
    return sorted((work / "apt/cache/archives").glob("*.deb"))


def command(*words: str) -> list[str]:
    """Its Python with these words, to be run here."""
    return ["qemu-arm-static", "-L", str(root()), str(root() / "usr/bin/python3.11"), *words]


class ArmRunner(RunnerProcess):
    """A runner whose process is one of 32-bit ARM. qemu passes no limits of the address space on."""

    def _command(self, descriptor: int) -> list[str]:
        return command("-P", "-s", "-m", "ipdc_edge.runner", str(descriptor))

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PATH": os.environ["PATH"]}
