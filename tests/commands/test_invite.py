"""invite: the token alone on standard output, and who may not invite."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.errors import BadRequest

pytestmark = pytest.mark.outside("speaks to a control server over a unix socket")
TOKEN = {"token": "ipdc1abcdef", "expires_in": 600, "addresses": ["192.168.1.4:18832"]}


def test_the_token_alone_is_on_standard_output(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {"invite": TOKEN}
    assert main(["invite"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "ipdc1abcdef\n"
    assert "Valid once, for 10:00, at 192.168.1.4:18832." in captured.err
    assert "  sudo ipdc-edge join ipdc1abcdef\n" in captured.err
    assert daemon.requests("invite") == [{"operation": "invite"}]
    assert main(["invite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TOKEN


@pytest.mark.parametrize("given, sent", [("10.0.0.1", "10.0.0.1"), ("pi.local:99", "pi.local:99")])
def test_an_address_goes_to_the_daemon(given: str, sent: str, daemon: Any) -> None:
    daemon.answers = {"invite": TOKEN}
    assert main(["invite", "--address", given]) == 0
    assert daemon.requests("invite") == [{"operation": "invite", "address": sent}]


@pytest.mark.parametrize("given", ["", "a b", "h:", "h:0", "h:70000", "::1", "http://x"])
def test_what_is_no_address_is_usage(given: str, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invite", "--address", given]) == 2
    assert "not HOST or HOST:PORT" in capsys.readouterr().err
    assert daemon.asked == []


def test_what_the_daemon_refuses_is_told(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {"invite": BadRequest(reason="the key is on pi-1")}
    assert main(["invite"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "the key is on pi-1" in captured.err
