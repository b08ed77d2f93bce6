"""What the user's code leaves in a runner's directory goes with it, whatever it is; and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipdc_edge.drivers.scratch import clear_leftovers, runner_directory


@pytest.fixture
def left(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return Path(runner_directory(str(tmp_path / "scratch")))


def deep(top: Path, levels: int) -> None:
    """Directories in each other; their path is longer than any system call takes."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at), "w") as file:
            file.write("x")
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_directories_deeper_than_a_stack_go(left: Path) -> None:
    """shutil.rmtree raises RecursionError on these, and a daemon that clears up at its start would never start."""
    deep(left, 3000)
    clear_leftovers(str(left.parent))
    assert os.listdir(left.parent) == []


def test_modes_do_not_keep_anything(left: Path) -> None:
    for name in ("shut", "shut/in", "shut/in/side"):
        (left / name).mkdir()
    (left / "shut" / "in" / "file").write_text("x")
    for name in ("shut/in/side", "shut/in", "shut"):
        (left / name).chmod(0)
    clear_leftovers(str(left.parent))
    assert os.listdir(left.parent) == []


def test_links_are_not_followed(left: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other" / "file").write_text("x")
    (left / "a").symlink_to(tmp_path / "other")
    (left / "d").mkdir()
    (left / "d" / "b").symlink_to(tmp_path / "other")
    (left.parent / "runner-link").symlink_to(tmp_path / "other")
    clear_leftovers(str(left.parent))
    assert os.listdir(left.parent) == ["runner-link"]
    assert (tmp_path / "other" / "file").read_text() == "x"
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o755
