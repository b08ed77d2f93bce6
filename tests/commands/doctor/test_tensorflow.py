"""A TensorFlow that is there is proven in a child; one that is not there is no trouble, half of one is."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.commands.doctor import tensorflow
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside("runs a program that stands for Python")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home({"IPDC_HOME": str(tmp_path)})


def environment(home: Home, body: str = "", whole: bool = True) -> None:
    packages = Path(home.tensorflow) / f"lib/python3.{sys.version_info[1]}/site-packages"
    (packages / "tensorflow").mkdir(parents=True)
    (packages / "tensorflow_cpu-2.21.0.dist-info").mkdir()
    (packages / "tensorflow/__init__.py").write_text("")
    if whole:
        (packages / "tensorflow_cpu-2.21.0.dist-info/RECORD").write_text("")
    os.mkdir(f"{home.tensorflow}/bin")
    python = Path(home.tensorflow) / "bin/python3"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)


def conf(**more: str) -> settings.Settings:
    return dataclasses.replace(settings.parse(b"", "ipdc.conf"), **more)  # type: ignore[arg-type]


def test_none_is_no_trouble(home: Home) -> None:
    assert not [*tensorflow.there(home, conf(tensorflow="no")), *tensorflow.proof(home, conf(tensorflow="no"))]


def test_half_of_one_is_broken_and_not_tried(home: Home) -> None:
    environment(home, whole=False)
    (check,) = tensorflow.there(home, conf())
    assert check.ok is False and "not installed to its end" in check.detail and "--again" in check.advice
    assert not list(tensorflow.proof(home, conf()))


def test_one_that_was_chosen_and_is_not_there_is_broken(home: Home) -> None:
    (check,) = tensorflow.there(home, conf(tensorflow="/nowhere"))
    assert check.ok is False and "/nowhere" in check.detail


def test_it_builds_a_graph(home: Home) -> None:
    environment(home, "echo '{\"version\": \"2.21.0\", \"sum\": 238}'")
    (check,) = tensorflow.proof(home, conf())
    assert check.ok and check.detail == f"2.21.0 in {home.tensorflow} builds a graph and runs it"
    assert not list(tensorflow.there(home, conf()))


def test_it_does_not(home: Home) -> None:
    environment(home, "kill -ILL $$")
    (check,) = tensorflow.proof(home, conf())
    assert check.ok is False and "AVX" in check.detail and "--again" in check.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="does not apply: only root can become somebody else")
def test_root_runs_nothing_that_is_another_user_s(home: Home, tmp_path: Path) -> None:
    seen = tmp_path.parent / f"{tmp_path.name}.uid"
    seen.write_text("")
    seen.chmod(0o666)
    environment(home, f"id -u >{seen}; id -g >>{seen}; id -G >>{seen}; exit 1")
    tmp_path.chmod(0o755)
    os.chown(home.state, 65534, 65534)
    place = tmp_path.parent
    while str(place) != "/tmp" and place != place.parent:  # so that it can get there at all
        place.chmod(place.stat().st_mode | 0o055)
        place = place.parent
    list(tensorflow.proof(home, conf()))
    assert seen.read_text().split() == ["65534", "65534", "65534"]
