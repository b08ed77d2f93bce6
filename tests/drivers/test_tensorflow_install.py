"""What is demanded before TensorFlow is installed, what of pip's words is told, and that nobody finds half of it. The
real installation is in tests/tensorflow."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ipdc_edge.drivers import tensorflow_install
from ipdc_edge.drivers.tensorflow_install import (
    InstallUnderWay,
    NoRoom,
    NoVenv,
    PipFailed,
    Unfit,
    check,
    install,
    short,
)


@pytest.mark.parametrize("line, told", [
    ("Collecting absl-py>=1.0.0", ""),
    ("  Downloading tensorflow_cpu-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl (273.8 MB)",
     "tensorflow-cpu 2.21.0 (273.8 MB)"),
    ("  Using cached numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl (16.9 MB)", "numpy 2.4.6 (16.9 MB)"),
    ("Processing /srv/wheels/six-1.17.0-py2.py3-none-any.whl", "six 1.17.0"),
    ("Installing collected packages: namex, libclang, numpy", "unpacking 3 packages"),
    ("Installing collected packages: tf_keras", "unpacking tf_keras"),
    ("Successfully installed tf_keras-2.21.0", "unpacked"),
    ("Looking in links: /srv/wheels", ""),
])
def test_pip_s_words_in_short(line: str, told: str) -> None:
    assert short(line) == told


@pytest.mark.parametrize("version, machine", [((3, 9), "x86_64"), ((3, 14), "x86_64"), ((3, 11), "riscv64")])
def test_where_there_is_no_wheel_nothing_is_begun(tmp_path: Path, version: tuple[int, int], machine: str) -> None:
    with pytest.raises(Unfit):
        check(str(tmp_path / "tensorflow"), version, machine)
    check(str(tmp_path / "tensorflow"), (3, 13), "aarch64")


def test_a_disk_without_room_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_install, "ROOM", 1 << 60)
    with pytest.raises(NoRoom, match="MB are free"):
        install(str(tmp_path / "tensorflow"), print)
    assert not list(tmp_path.iterdir())


def python_that(tmp_path: Path, pip: str, venv: str = 'mkdir -p "$4/bin" "$4/lib"; cp "$0" "$4/bin/python3"') -> str:
    """Stands for Python: `-m venv DIR` does `venv`, `-m pip` does `pip`."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nset -- "$0" "$@"\ncase $3 in venv) {venv};; pip) {pip};; esac\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("pip, error", [
    ("echo 'no matching distribution'; exit 1", "exit status 1.*no matching distribution"),
    ("kill -KILL $$", "signal 9"), ("exit 0", "there is no tensorflow"),
])
def test_a_failure_leaves_what_was_there(tmp_path: Path, pip: str, error: str) -> None:
    place = tmp_path / "state/tensorflow"
    place.mkdir(parents=True)
    (place / "old").write_text("")
    (tmp_path / "state/tensorflow.part").mkdir()  # of an installation that was killed
    with pytest.raises(PipFailed, match=f"(?s){error}"):
        install(str(place), print, python_that(tmp_path, pip))
    assert os.listdir(tmp_path / "state") == ["tensorflow"] and os.listdir(place) == ["old"]


def test_a_python_without_venv_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(NoVenv, match="ensurepip is not available.*apt install python3-venv"):
        install(str(tmp_path / "state/tensorflow"), print, python_that(
            tmp_path, "", 'mkdir "$4"; echo "ensurepip is not available"; exit 1'))
    assert not os.listdir(tmp_path / "state")


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(InstallUnderWay):
            install(str(tmp_path / "tensorflow"), print)
    finally:
        os.close(holder)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/tensorflow.part").symlink_to(kept)
    with pytest.raises(PipFailed):
        install(str(tmp_path / "state/tensorflow"), print, python_that(tmp_path, "exit 1"))
    assert os.listdir(kept) == ["file"]
