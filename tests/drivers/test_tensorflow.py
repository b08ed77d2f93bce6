"""Which TensorFlow a node has, by what pip left; real directories, and programs that stand for Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ipdc_edge.drivers import tensorflow
from ipdc_edge.drivers.tensorflow import Absent, DoesNotWork, Found, described, environment, look, prove

HERE = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def package(directory: Path, version: str = "2.21.0", name: str = "tensorflow", whole: bool = True) -> Path:
    """A directory of packages as pip leaves it, or as it leaves it when it is killed."""
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (directory / "tensorflow").mkdir(exist_ok=True)
    (directory / "tensorflow/__init__.py").write_text("")
    if whole:
        (info / "RECORD").write_text("tensorflow/__init__.py,,\n")
    return directory


def venv(place: Path, library: str = HERE, **made: object) -> Path:
    package(place / f"lib/{library}/site-packages", **made)  # type: ignore[arg-type]
    (place / "bin").mkdir()
    (place / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    return place


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow, "SYSTEM", str(tmp_path / "system"))


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_cpu", "tensorflow_cpu_aws"])
def test_an_environment_is_told_by_its_metadata(tmp_path: Path, name: str) -> None:
    place = venv(tmp_path / "own", name=name, version="2.21.0rc1")
    assert look("auto", str(place), []) == Found("2.21.0rc1", f"{place}/bin/python3", str(place))
    assert "tensorflow" not in sys.modules


def test_packages_of_a_like_name_are_none(tmp_path: Path) -> None:
    package(tmp_path / "dist-packages", name="tensorflow_estimator", version="2.15.0")
    found = look("auto", str(tmp_path / "own"), [str(tmp_path / "dist-packages")])
    assert isinstance(found, Absent) and "tf install" in found.reason


def test_the_own_one_comes_first_then_the_system_s_then_python_s(tmp_path: Path) -> None:
    path = [str(tmp_path / "nowhere"), str(package(tmp_path / "dist-packages", "2.19.0"))]
    own, system = str(tmp_path / "own"), str(tmp_path / "system")
    assert look("auto", own, path) == Found("2.19.0", sys.executable, path[1])
    venv(Path(system), version="2.20.0")
    assert look("auto", own, path) == Found("2.20.0", f"{system}/bin/python3", system)
    venv(Path(own))
    assert look("auto", own, path) == Found("2.21.0", f"{own}/bin/python3", own)


def test_the_owner_chooses(tmp_path: Path) -> None:
    own, other = str(venv(tmp_path / "own")), str(venv(tmp_path / "other", version="2.20.0"))
    found = look(other, own, [])
    assert isinstance(found, Found) and found.version == "2.20.0"
    assert look("no", own, []) == Absent("its owner wants none (`tensorflow = no` in ipdc.conf)")
    assert look(str(tmp_path / "empty"), own, []) == Absent(
        f"there is none in {tmp_path}/empty (`tensorflow` in ipdc.conf)")


def test_half_of_one_is_none_and_said(tmp_path: Path) -> None:
    found = look("auto", str(venv(tmp_path / "own", whole=False)), [])
    assert isinstance(found, Absent) and "was not installed to its end" in found.reason
    (tmp_path / f"own/lib/{HERE}/site-packages/tensorflow-2.21.0.dist-info/RECORD").write_text("")
    assert isinstance(look("auto", str(tmp_path / "own"), []), Found)
    (tmp_path / f"own/lib/{HERE}/site-packages/tensorflow/__init__.py").unlink()
    assert isinstance(look("auto", str(tmp_path / "own"), []), Absent)


def test_one_for_a_python_that_is_gone_is_none(tmp_path: Path) -> None:
    """Debian 13 in place of 12: the environment is there, and no interpreter looks into it."""
    other = "python3.10" if HERE != "python3.10" else "python3.11"
    found = environment(str(venv(tmp_path / "own", library=other)))
    assert isinstance(found, Absent) and other in found.reason and "--again" in found.reason
    (tmp_path / "own/bin/python3").unlink()
    assert isinstance(environment(str(tmp_path / "own")), Absent)


@pytest.mark.parametrize("machine, pointer, reason", [
    ("armv7l", 4, "there is none for systems of 32 bits (armv7l)"),
    ("aarch64", 4, "there is none for systems of 32 bits (aarch64)"),
    ("riscv64", 8, "there is none for this kind of processor (riscv64)"),
])
def test_a_machine_for_which_there_is_none(tmp_path: Path, machine: str, pointer: int, reason: str) -> None:
    assert look("auto", str(venv(tmp_path / "own")), [], machine, pointer) == Absent(reason)
    assert isinstance(look("auto", str(tmp_path / "own"), [], "aarch64", 8), Found)


def test_what_the_record_says() -> None:
    assert described(Found("2.21.0", "", "")) == (("tensorflow=2.21.0",), ())
    can, unable = described(Absent("\n" + "x" * 300))
    assert can == () and len(unable[0]) == 200 and unable[0].startswith("tensorflow: ?xx")


def lying(tmp_path: Path, body: str) -> Found:
    """A Python that does as it is told here instead of building a graph."""
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return Found("2.21.0", str(python), str(tmp_path))


@pytest.mark.parametrize("body, said", [
    ("kill -ILL $$", "lacks instructions"), ("echo 'ImportError: no numpy' >&2; exit 1", "ImportError: no numpy"),
    ("echo '{\"version\": \"2.21.0\", \"sum\": 237}'", "made 237"), ("echo well", "Expecting value"),
    ("exit 0", "index"),
])
def test_one_that_does_not_work_says_why(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(DoesNotWork, match="2.21.0") as caught:
        prove(lying(tmp_path, body))
    assert said in str(caught.value)


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DoesNotWork, match="no answer within 0.2 s"):
        prove(lying(tmp_path, "exec sleep 60"), seconds=0.2)


def test_one_that_works_says_its_version(tmp_path: Path) -> None:
    assert prove(lying(tmp_path, "echo chatter; echo '{\"version\": \"2.21.0\", \"sum\": 238}'")) == "2.21.0"


def test_the_home_of_a_proof_is_there_and_goes(tmp_path: Path) -> None:
    answer = "echo '{\"version\": \"2.21.0\", \"sum\": 238}'"
    prove(lying(tmp_path, f"mkdir $HOME/.keras && echo $HOME >{tmp_path}/home; {answer}"))
    home = (tmp_path / "home").read_text().strip()
    assert home and not Path(home).exists()
