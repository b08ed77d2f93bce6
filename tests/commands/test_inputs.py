"""What --input names: patterns, directories, standard input, compressed files, CIDs; their order and names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands.inputs import (
    NoInput,
    NoMatch,
    NotCompressed,
    TooManyInputs,
    compressed_text,
    find_inputs,
    local_pattern,
)
from ipdc_edge.commands.program import FileUnreadable
from ipdc_edge.errors import WrongUsage

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    for name in ("a.txt", "b.txt", "odd[1].txt", "logs/2.txt", "logs/10.csv", "logs/deep/er/3.txt", "logs/.hidden"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(name)
    (work / "hollow").mkdir()
    monkeypatch.chdir(work)


def _names(*words: str) -> list[str]:
    return [item.name for item in find_inputs(words)]


@pytest.mark.parametrize(
    "word, names",
    [
        ("?.txt", ["a.txt", "b.txt"]),
        ("odd[1].txt", ["odd[1].txt"]),  # a file of that name comes first
        ("logs/*.txt", ["2.txt"]),
        ("l*/*", ["10.csv", "deep/er/3.txt", "2.txt"]),
        ("logs/**/*.txt", ["logs/2.txt", "logs/deep/er/3.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "logs/2.txt", "logs/deep/er/3.txt", "odd[1].txt"]),
        ("logs/**", ["logs/10.csv", "logs/2.txt", "logs/deep/er/3.txt"]),
        ("logs", ["logs/10.csv", "logs/2.txt", "logs/deep/er/3.txt"]),
    ],
)
def test_patterns_and_directories(word: str, names: list[str]) -> None:
    assert sorted(_names(word)) == sorted(names)
    found = find_inputs([word])
    assert [item.path for item in found] == sorted(str(item.path) for item in found)
    assert all(os.path.isfile(str(item.path)) for item in found)


def test_inputs_keep_the_order_in_which_they_are_named() -> None:
    cid = raw_cid(b"x")
    assert _names("logs/*.csv", "b.txt", f"ipfs://{cid}", "a.txt") == ["10.csv", "b.txt", cid, "a.txt"]


def test_what_matches_nothing() -> None:
    with pytest.raises(NoMatch, match=r"\*\.log matches no file here\.$"):
        find_inputs(["*.log"])
    with pytest.raises(NoMatch, match=r"lgs/\*\.txt matches no file here\. There is no directory lgs\."):
        find_inputs(["lgs/*.txt"])
    with pytest.raises(NoMatch):
        find_inputs(["hol*"])
    with pytest.raises(NoInput, match="hollow is a directory without a file"):
        find_inputs(["hollow"])


def test_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipdc_edge.commands.inputs.INPUTS_LIMIT", 2)
    with pytest.raises(TooManyInputs, match="more than 2 input files"):
        find_inputs(["logs"])


def test_compressed_files_are_known_by_their_names_and_their_first_bytes() -> None:
    for name, data in {
        "a.gz": gzip.compress(b"x"), "b.bz2": bz2.compress(b"x"), "C.XZ": lzma.compress(b"x"),
        "d.zst": b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00x\x00\x00\x00\x00", "skip.zst": b"\x5a\x2a\x4d\x18\0\0\0\0",
    }.items():
        Path(name).write_bytes(data)
    found = find_inputs(["a.gz", "b.bz2", "C.XZ", "d.zst", "skip.zst", "a.txt"])
    assert [item.compression for item in found] == ["gz", "bz2", "xz", "zst", "zst", ""]
    assert compressed_text(found[:1]) == "a.gz is compressed: one task reads all of it"
    assert compressed_text(found[:3]) == "3 inputs are compressed (a.gz, b.bz2, C.XZ): one task reads all of each"
    assert compressed_text(found[-1:]) == ""
    assert ("3.14" in compressed_text(found[3:4])) == (sys.version_info < (3, 14))


@pytest.mark.parametrize("data, words", [(b"plain text", "begin as such a file does. Rename"), (b"", "it is empty")])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_name_that_lies(kind: str, data: bytes, words: str) -> None:
    Path(f"book.{kind}").write_bytes(data)
    with pytest.raises(NotCompressed, match=rf"book.{kind} is named .{kind} but .*{words}"):
        find_inputs([f"book.{kind}"])


@pytest.mark.outside("starts a process, to give it a standard input")
def test_standard_input_is_kept_in_a_file_without_a_name(tmp_path: Path) -> None:
    code = ("import os, sys; from ipdc_edge.commands.inputs import find_inputs\n"
            "said = []; found, other = find_inputs(['-', 'a.txt'], said.append)\n"
            "end = open(found.path, 'rb').read()[-3:]\n"
            "print(found.name, os.path.getsize(found.path), end, bool(said), other.name)\n"
            "print(os.listdir(os.environ['TMPDIR']))\n")
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "PYTHONPATH": str(TOP), "TMPDIR": str(tmp_path / "tmp")}
    given = b"x" * 1_000_000 + b"end"
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, env=environ)
    assert done.stdout.decode().splitlines() == ["standard-input 1000003 b'end' True a.txt", "[]"], done.stderr


def test_standard_input_can_be_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("never read"))
    with pytest.raises(WrongUsage, match="--input - stands there twice"):
        find_inputs(["-", "a.txt", "-"])
    with pytest.raises(FileUnreadable):  # told before standard input is waited for
        find_inputs(["-", "nothing"])


def test_local_patterns() -> None:
    assert local_pattern("/var/log/*.csv") == "/var/log/*.csv"
    with pytest.raises(WrongUsage, match="give an absolute path"):
        local_pattern("logs/*.csv")
    with pytest.raises(WrongUsage, match=r"leave out \.\."):
        local_pattern("/var/log/../../etc/*")
