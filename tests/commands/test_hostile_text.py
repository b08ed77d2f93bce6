"""What others wrote does nothing to the reader's terminal, whichever command shows it."""

from __future__ import annotations

import json

import pytest

from ipdc_edge.commands import display, logs, nodes, progress, status

ACTING = ("\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\rb", "\x08\x08", "\x7f", "\u202egnp", "\u2028", "\ud800", "\0")


@pytest.mark.parametrize("said", ACTING, ids=ascii)
def test_nothing_acts(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    failure = dict.fromkeys(("type", "message", "name", "task", "node", "input", "offset", "record", "traceback"), said)
    job = {"id": said, "state": "failed", "error": said, "failure": failure, "placement": [
        {"name": said, "suitable": False, "reasons": [said]}], "nodes": [{"name": said, "state": said, "reason": said}]}
    print(display.plain(status.text(job)))
    print(display.plain(logs.text({"tasks": [{"task": said, "log": said, "error": failure}], "failure": failure})))
    node = {**dict.fromkeys(("name", "version", "sandbox", "state", "architecture", "id", "address"), said),
            "capabilities": [said], "undervoltage": True}
    print(nodes.overview([node, node]) + nodes.details(node))
    print(progress.progress_text({"state": said}))
    shown = capsys.readouterr().out
    shown.encode()
    assert not display.ACTS.search(shown)
    display.print_json({"a": said})
    shown = capsys.readouterr().out
    assert not display.ACTS.search(shown) and json.loads(shown) == {"a": said}


def test_a_cell_is_on_one_line_and_ordinary_text_stays() -> None:
    assert display.table([["A"], ["a\nnode9  forged\tx"]]).count("\n") == 1
    text = "é 日本 \U0001f468\u200d\U0001f469 a\n\tb\u00a0c"
    assert display.plain(text) == text
