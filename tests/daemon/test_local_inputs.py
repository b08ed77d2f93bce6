"""This node's own files as input: those below the opened directories, and nothing else whatever a peer asks for."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.core.architecture import BadSpec
from ipdc_edge.daemon.local_inputs import LocalChanged, LocalInputs, NotOpened, TooManyFiles, opens
from ipdc_edge.daemon.streams import check_params


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A directory that the owner opens, beside one that he does not."""
    top = tmp_path / "sensors"
    for name, text in (("a.csv", "1\n"), ("b.csv", "22\n"), ("c.txt", "333\n"), ("deep/er/d.csv", "4444\n"),
                       ("deep/e.csv.gz", "x"), (".hidden.csv", "h"), ("deep/.dot/f.csv", "f")):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.csv").write_text("secret")
    return top


def names(opened: Path, pattern: str) -> list[str]:
    return [os.path.relpath(found["name"], opened) for found in LocalInputs([str(opened)]).find(f"{opened}/{pattern}")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("?.*", ["a.csv", "b.csv", "c.txt"]),
        ("[ac].*", ["a.csv", "c.txt"]),
        ("**/*.csv", ["a.csv", "b.csv", "deep/er/d.csv"]),
        ("deep/**", ["deep/e.csv.gz", "deep/er/d.csv"]),
        ("*/*.gz", ["deep/e.csv.gz"]),
        (".hidden.csv", [".hidden.csv"]),
        ("a.csv", ["a.csv"]),
        ("a", []),
        ("deep", []),
        ("*.xml", []),
    ],
)
def test_patterns_are_the_shells(opened: Path, pattern: str, found: list[str]) -> None:
    assert names(opened, pattern) == found


def test_a_range_is_the_whole_file_and_says_how_it_is_compressed(opened: Path) -> None:
    (plain,) = LocalInputs([str(opened)]).find(f"{opened}/b.csv")
    assert plain == {"path": f"{opened}/b.csv", "name": f"{opened}/b.csv", "start": 0, "end": 3, "size": 3}
    (packed,) = LocalInputs([f"{opened}/"]).find(f"{opened}/deep/*.gz")
    assert packed["compression"] == "gz"


@pytest.mark.parametrize("pattern", ["/etc/passwd", "{top}/../secret/*", "{top}x/a", "{top}", "/**/*", "", "a.csv"])
def test_nothing_else_is_opened(opened: Path, pattern: str) -> None:
    with pytest.raises(NotOpened, match="local_inputs in its ipdc.conf: /"):
        LocalInputs([str(opened)]).find(pattern.format(top=opened))
    with pytest.raises(NotOpened, match="none"):
        LocalInputs([]).find(f"{opened}/*.csv")


def test_a_link_out_of_the_directory_leads_nowhere(opened: Path) -> None:
    (opened / "z.csv").symlink_to(opened.parent / "secret" / "key.csv")
    (opened / "out").symlink_to(opened.parent / "secret")
    (opened / "y.csv").symlink_to(opened / "a.csv")  # one within is followed
    os.mkfifo(opened / "x.csv")
    assert names(opened, "*.csv") == ["a.csv", "b.csv", "y.csv"]
    assert names(opened, "out/*.csv") == []


def test_what_lies_beside_the_pattern_costs_nothing(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a directory that may not be read, nor one with more names than are looked at."""
    def scandir(path: str) -> object:
        if path.endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    listing = os.scandir
    (opened / "private").mkdir()
    (opened / "many").mkdir()
    for number in range(20):
        (opened / "many" / f"{number}.csv").touch()
    monkeypatch.setattr("ipdc_edge.daemon.local_inputs.MOST_LOOKED_AT", 15)
    monkeypatch.setattr("os.scandir", scandir)
    assert names(opened, "*.csv") == ["a.csv", "b.csv"]
    assert names(opened, "deep/**/*.csv") == ["deep/er/d.csv"]
    with pytest.raises(TooManyFiles):
        names(opened, "many/*.csv")
    with pytest.raises(PermissionError):
        names(opened, "private/*.csv")


def test_what_is_no_file_any_more_is_left_out(opened: Path) -> None:
    (opened / "gone.csv").symlink_to(opened / "nowhere")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(opened / "s.csv"))
    assert names(opened, "*.csv") == ["a.csv", "b.csv"]
    listening.close()


def test_bounds(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSpec, match="more than 3 times"):
        names(opened, "**/**/**/**/x")
    monkeypatch.setattr("ipdc_edge.daemon.local_inputs.MOST_LOOKED_AT", 3)
    with pytest.raises(TooManyFiles):
        names(opened, "**/nothing")


def expanded(local: LocalInputs, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return asyncio.run(local.expanded({"inputs": inputs}))["inputs"]  # type: ignore[no-any-return]


def test_all_patterns_of_a_task_have_one_bound(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone is within it; the names of all are handed to the runner in one frame."""
    monkeypatch.setattr("ipdc_edge.daemon.local_inputs.MOST_FILES", 5)
    local, two = LocalInputs([str(opened)]), {"local": {"pattern": f"{opened}/*.csv"}}
    assert len(expanded(local, [two, two])) == 4
    with pytest.raises(TooManyFiles, match="more than 5 files"):
        expanded(local, [two] * 3)


def test_a_peer_names_patterns_and_never_paths(opened: Path) -> None:
    local = LocalInputs([str(opened)])
    pattern = {"local": {"pattern": f"{opened}/a.csv"}}
    outputs = {"kind": "files", "count": 1}
    check_params({"inputs": [pattern], "outputs": outputs})
    assert [item["range"]["path"] for item in expanded(local, [pattern])] == [f"{opened}/a.csv"]
    lies = ({"range": {"path": f"{opened}/a.csv", "start": 0, "end": 1}}, {"local": {"pattern": "/x", "path": "/x"}},
            {"range": {"path": "/etc/passwd", "cid": "bafkqaaa", "start": 0, "end": 1}}, {"local": "x"})
    for lie in lies:
        with pytest.raises(BadSpec):
            check_params({"inputs": [lie], "outputs": outputs})
    for mixed in ([pattern, {"range": {"cid": "bafkqaaa", "start": 0, "end": 0}}], [{"local": {"pattern": 1}}]):
        with pytest.raises(BadSpec, match="local input"):
            expanded(local, mixed)


def test_reading_gives_the_files_bytes_and_tells_when_they_are_gone(opened: Path) -> None:
    (opened / "big.csv").write_bytes(os.urandom(3_000_000))
    local = LocalInputs([str(opened)])

    async def read(item: dict[str, Any]) -> bytes:
        return b"".join([piece async for piece in local.read(item)])

    (item,) = local.find(f"{opened}/big.csv")
    assert asyncio.run(read(item)) == (opened / "big.csv").read_bytes()
    os.truncate(opened / "big.csv", 1_500_000)
    with pytest.raises(LocalChanged, match="1500000 of 3000000 bytes"):
        asyncio.run(read(item))
    (opened / "big.csv").unlink()
    (opened / "big.csv").symlink_to(opened.parent / "secret" / "key.csv")
    with pytest.raises(LocalChanged):
        asyncio.run(read(item))


@pytest.mark.parametrize(
    ("pattern", "opened"),
    [("/srv/data/*.csv", True), ("/srv/data/a/b", True), ("/srv/data", False), ("/srv/database/x", False),
     ("/var/log/x", True), ("/x", False)])
def test_a_nodes_capabilities_say_what_it_opens(pattern: str, opened: bool) -> None:
    capabilities = ("mapreduce", "input-local:/srv/data/", "input-local:/var/log")
    assert opens(capabilities, pattern) is opened
