"""What a role that is started again finds: the last whole state of its output directory, whenever its runner died."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.apps.tensorflow.kept import HEAD, SAVE_EVERY, Kept


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    """The two spill files, which outlive every runner."""
    descriptors = [os.open(tmp_path / f"spill-{number}", os.O_RDWR | os.O_CREAT) for number in (0, 1)]
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The output directory of the first runner."""
    (tmp_path / "first").mkdir()
    return tmp_path / "first"


def found_by_the_next(files: list[int], tmp_path: Path) -> dict[str, str]:
    """What the role finds when it is started once more, by name."""
    place = tmp_path / f"next-{len(os.listdir(tmp_path))}"
    place.mkdir()
    Kept(files, str(place)).restore()
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def test_the_next_finds_what_was_saved_and_its_own_changes_after_it(
    files: list[int], top: Path, tmp_path: Path
) -> None:
    kept = Kept(files, str(top))
    assert kept.restore() == 0 and not os.listdir(top)
    (top / "checkpoint").mkdir()
    (top / "checkpoint" / "ckpt-20").write_text("weights")
    (top / "log").write_text("x" * 3_000_000)
    kept.save()
    assert found_by_the_next(files, tmp_path) == {"checkpoint/ckpt-20": "weights", "log": "x" * 3_000_000}
    second = tmp_path / "second"
    second.mkdir()
    later = Kept(files, str(second))
    assert later.restore() > 3_000_000
    (second / "checkpoint" / "ckpt-20").rename(second / "checkpoint" / "ckpt-40")
    (second / "log").unlink()
    later.save()
    assert found_by_the_next(files, tmp_path) == {"checkpoint/ckpt-40": "weights"}


@pytest.mark.parametrize("cut", [0, HEAD, HEAD + 700])
def test_a_runner_that_dies_while_it_saves_leaves_the_state_before(
    files: list[int], top: Path, tmp_path: Path, cut: int
) -> None:
    """Whatever the file has by then; the head is written last."""
    class Dies(Kept):
        def _pack(self, descriptor: int) -> int:
            super()._pack(descriptor)
            os.ftruncate(descriptor, cut)
            raise KeyboardInterrupt

    for number in (1, 2, 3):
        (top / "step").write_text(str(number))
        Kept(files, str(top)).save()
    (top / "step").write_text("4")
    with pytest.raises(KeyboardInterrupt):
        Dies(files, str(top)).save()
    assert found_by_the_next(files, tmp_path) == {"step": "3"}
    Kept(files, str(top)).save()
    assert found_by_the_next(files, tmp_path) == {"step": "4"}


def test_what_changes_while_it_is_saved_is_no_state(files: list[int], top: Path, tmp_path: Path) -> None:
    class Races(Kept):
        def _pack(self, descriptor: int) -> int:
            size = super()._pack(descriptor)
            (top / "second").write_text("half of it is older")
            return size

    (top / "first").write_text("1")
    Kept(files, str(top)).save()
    (top / "first").write_text("22")
    Races(files, str(top)).save()
    assert found_by_the_next(files, tmp_path) == {"first": "1"}


def test_a_look_saves_what_has_come_to_rest_and_does_not_do_so_all_the_time(
    files: list[int], top: Path, tmp_path: Path
) -> None:
    kept = Kept(files, str(top))
    kept.look(0.0)
    kept.look(1.0)
    assert kept.written == 0, "nothing is there"
    (top / "step").write_text("1")
    kept.look(2.0)
    assert kept.written == 0, "it may be half of what is to come"
    kept.look(3.0)
    assert found_by_the_next(files, tmp_path) == {"step": "1"}
    (top / "step").write_text("22")
    kept.look(3.0 + SAVE_EVERY / 2)
    kept.look(3.0 + SAVE_EVERY - 0.1)
    assert found_by_the_next(files, tmp_path) == {"step": "1"}
    kept.look(3.0 + SAVE_EVERY)
    assert found_by_the_next(files, tmp_path) == {"step": "22"}
    written = kept.written
    kept.look(100.0)
    kept.look(200.0)
    assert kept.written == written, "nothing has changed"


def test_a_file_that_the_program_cuts_short_while_it_is_saved_ends_nothing(
    files: list[int], top: Path, tmp_path: Path
) -> None:
    """As every program does that writes a log anew."""
    def cuts() -> None:
        if (top / "log").stat().st_size > 10:
            os.truncate(top / "log", 10)

    (top / "step").write_text("1")
    Kept(files, str(top)).save()
    (top / "log").write_text("x" * 8_000_000)
    kept = Kept(files, str(top), cuts)
    kept.save()
    assert found_by_the_next(files, tmp_path) == {"step": "1"}
    kept.save()
    assert found_by_the_next(files, tmp_path) == {"step": "1", "log": "x" * 10}


@pytest.mark.parametrize("how", ["gone", "a file now"])
def test_a_directory_that_goes_while_it_is_saved_ends_nothing(
    files: list[int], top: Path, tmp_path: Path, how: str
) -> None:
    def goes() -> None:
        if (top / "b").is_dir():
            (top / "b" / "inner").unlink()
            (top / "b").rmdir()
            if how != "gone":
                (top / "b").write_text("plain")

    (top / "a").write_text("x" * 3_000_000)
    (top / "b").mkdir()
    (top / "b" / "inner").write_text("1")
    kept = Kept(files, str(top), goes)
    kept.save()
    assert found_by_the_next(files, tmp_path) == {}
    kept.save()
    assert set(found_by_the_next(files, tmp_path)) == {"a"} | ({"b"} if how != "gone" else set())


def test_a_disk_that_is_full_is_told(files: list[int], top: Path) -> None:
    class Full(Kept):
        def _pack(self, descriptor: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    (top / "step").write_text("1")
    with pytest.raises(OSError, match="No space left"):
        Full(files, str(top)).save()


def test_it_says_that_it_lives_as_long_as_it_saves_and_restores(
    files: list[int], top: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    (top / "weights").write_bytes(bytes(5_000_000))
    Kept(files, str(top), lambda: said.append("saves")).save()
    second = tmp_path / "second"
    second.mkdir()
    Kept(files, str(second), lambda: said.append("restores")).restore()
    assert said.count("saves") > 50 and said.count("restores") > 50
