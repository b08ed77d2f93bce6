"""What files become requests, and when they are read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ipdc_edge.codec.serving import MOST_REQUEST
from ipdc_edge.commands.ask import AUTO, _request
from ipdc_edge.errors import IpdcError, WrongUsage


def test_a_file_is_looked_at_first_and_read_when_its_turn_comes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"1,2\n" * (MOST_REQUEST // 4))
    asked = _request(str(path), AUTO)
    assert (asked.content_type, asked.held) == ("text/csv", None)
    assert asked.body() == path.read_bytes()
    with path.open("ab") as file:
        file.write(b"1")
    for look in (asked.body, lambda: _request(str(path), AUTO)):
        with pytest.raises(WrongUsage, match="more than 131072 bytes"):
            look()
    path.unlink()
    with pytest.raises(IpdcError, match=r"rows\.csv"):
        asked.body()


def test_what_cannot_be_read_twice_is_held(tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)

    def write() -> None:
        with open(pipe, "wb") as file:
            file.write(b' {"instances": [1]}')

    writer = threading.Thread(target=write)
    writer.start()
    asked = _request(pipe, AUTO)
    writer.join()
    assert asked.content_type == "application/json"
    assert asked.body() == asked.body() == b' {"instances": [1]}'
