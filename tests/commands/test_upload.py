"""add and cat: CIDs, interior blocks, constant memory, and what is refused."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK
from ipdc_edge.commands import upload
from ipdc_edge.drivers.importer import Importer
from ipdc_edge.errors import BadRequest, ControlBroken
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside("speaks to a control server over a unix socket")


def test_add_prints_the_cid(daemon: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"text")
    assert main(["add", str(path)]) == 0
    assert capsys.readouterr().out == raw_cid(b"text") + "\n"
    (request,) = daemon.requests("add")
    assert request == {
        "operation": "add",
        "name": "book.txt",
        "size": 4,
        "root": raw_cid(b"text"),
        "copy": False,
        "keep": True,
        "submission": None,
    }
    assert main(["add", str(path), "--copy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "book.txt", "cid": raw_cid(b"text"), "size": 4, "stored": "copy"}


def test_a_file_of_many_chunks_sends_its_interior_blocks_and_no_leaf(
    daemon: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SPOOL_BYTES", 1)  # interior blocks wait on disk, as those of a huge file
    monkeypatch.setattr(upload, "Importer", lambda source: Importer(source, chunk=1 << 16, links=8))
    path = tmp_path / "big"
    with path.open("wb") as file:
        for number in range(600):
            file.write(bytes([number % 251]) * (1 << 16))
    tracemalloc.start()
    try:
        added = upload.add_file(home, str(path), name="big", copy=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    blocks = daemon.added[added.cid]["blocks"]
    assert (added.size, blocks[-1]) == (600 << 16, added.cid)
    assert len(blocks) == 75 + 10 + 2 + 1
    assert peak < 4 << 20  # of 37 MiB


def test_a_file_that_had_to_be_copied_is_told(
    daemon: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.stored = "copy"
    (tmp_path / "f").write_bytes(b"")
    assert main(["add", str(tmp_path / "f")]) == 0
    assert "the file was copied" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")

    class Slow(Importer):
        def blocks(self) -> Any:
            yield from super().blocks()
            path.write_bytes(b"afterwards")

    monkeypatch.setattr(upload, "Importer", Slow)
    assert main(["add", str(path)]) == 1
    assert f"{path} changed while it was read" in capsys.readouterr().err


def test_what_is_copied_is_read_by_the_daemon_alone(
    daemon: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2 * CHUNK + 1))
    with path.open("rb") as file:
        importer = Importer(file)
        list(importer.blocks())
    monkeypatch.setattr(upload, "Importer", lambda source: pytest.fail("the file was read"))
    expected = upload.Added(importer.root, importer.size, "copy", importer.tsize)
    assert upload.add_file(home, str(path), name="big", copy=True) == expected
    daemon.stored = "copy"
    assert upload.add_file(home, str(path), name="big", copy=False) == expected
    assert [request.get("root") for request in daemon.requests("add")] == [None, None]


@pytest.mark.parametrize("answer", [
    {"cid": "no CID", "size": 4}, {"cid": 3, "size": 4}, {"cid": raw_cid(b"text"), "size": 5},
    {"cid": raw_cid(b"text"), "size": "4"}, {"cid": raw_cid(b"text")},
])
def test_an_answer_that_is_none_is_not_believed(
    daemon: Any, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, object]
) -> None:
    (tmp_path / "f").write_bytes(b"text")
    monkeypatch.setattr(daemon, "_copy", lambda request, fd: answer)
    with pytest.raises(ControlBroken, match="no CID and size of this file"):
        upload.add_file(home, str(tmp_path / "f"), name="f", copy=True)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("nothing", "No such file or directory"),
        ("pipe", "is not a regular file"),
    ],
)
def test_what_cannot_be_added(
    kind: str, words: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    assert main(["add", str(path)]) in (1, 2)
    assert words in capsys.readouterr().err


def test_cat_prints_the_content(daemon: Any, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    content = os.urandom(3 << 20)
    daemon.answers["cat"] = content
    assert main(["cat", f"ipfs://{raw_cid(content)}"]) == 0
    assert capfdbinary.readouterr().out == content
    assert daemon.requests("cat") == [{"operation": "cat", "cid": raw_cid(content)}]


def test_cat_tells_the_daemons_error(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["cat"] = BadRequest(reason="nobody has it")
    assert main(["cat", raw_cid(b"")]) == 1
    assert "nobody has it" in capsys.readouterr().err
