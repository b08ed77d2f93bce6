"""join: a real joining through the real join server, and everything that is refused before the token is spent."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec import join_token
from ipdc_edge.drivers import authority, identity
from ipdc_edge.errors import BadRequest
from ipdc_edge.home import Home
from tests.commands.inviter import Inviter

pytestmark = pytest.mark.outside("a join server as a process, and the network to it")


@pytest.fixture
def inviter(tmp_path: Path) -> Iterator[Inviter]:
    with Inviter(str(tmp_path / "inviter")) as found:
        yield found


def test_a_fresh_node_joins(inviter: Inviter, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Path(home.conf).write_text("name = pi-2\n")
    token = join_token.render(inviter.token())
    assert main(["join", token]) == 0
    out = capsys.readouterr().out
    assert "This node is a member of the domain one now, one of 2 nodes.\n" in out
    assert "No daemon runs here; it takes this up when it starts: " in out
    now = identity.load(home)
    assert (now.domain, now.authority, now.alone, now.has_authority) == ("one", inviter.authority, False, False)
    member = now.members.member(now.id)
    assert member is not None and member.name == "pi-2"
    assert member.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert now.signed == identity.load(inviter.home).signed
    assert [joined["id"] for joined in inviter.joined] == [now.id]


def test_a_node_that_was_alone_keeps_its_key_and_its_daemon_is_told(
    inviter: Inviter, daemon: Any, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = authority.ensure(home, "n", 1 << 30)
    daemon.answers = {"domain_changed": {"restarts": True, "broker": "restarts"},
                      "domain": {"authority": inviter.authority}}
    monkeypatch.setattr(sys, "stdin", io.StringIO(join_token.render(inviter.token()) + "\n"))
    assert main(["join", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "domain": "one", "authority": inviter.authority, "version": 2, "id": own, "members": 2,
        "daemon": {"runs": True, "restarts": True, "broker": "restarts"}}
    assert [request["operation"] for request in daemon.asked] == ["domain_changed", "domain"]


def test_what_is_refused_spends_no_token(
    inviter: Inviter, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = inviter.token()
    text = join_token.render(token)
    assert main(["join", text[:-1]]) != 0
    assert "token" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["join", "-"]) == 2
    assert "There is no token on standard input" in capsys.readouterr().err
    authority.create_domain(home, "two", node_name="n", memory=1)
    assert main(["join", text]) == 1
    assert "is in the domain two already" in capsys.readouterr().err
    assert identity.load(home).domain == "two"
    assert main(["leave", "--yes"]) == 0
    assert main(["join", text]) == 0
    assert main(["leave"]) == 0
    capsys.readouterr()
    assert main(["join", text]) == 1  # now it is spent
    assert identity.load(home).alone


def test_a_token_of_another_authority_at_this_address(
    inviter: Inviter, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.ensure(home, "n", 1)
    other = identity.load(home).authority
    assert main(["join", join_token.render(replace(inviter.token(), authority=other))]) == 1
    assert other in capsys.readouterr().err
    assert identity.load(home).alone and inviter.joined == []


def test_a_daemon_that_cannot_be_told_of_the_joining(
    inviter: Inviter, daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers = {"domain_changed": BadRequest(reason="no")}
    assert main(["join", join_token.render(inviter.token())]) == 1
    assert "This node is a member of one now, but the daemon could not be told" in capsys.readouterr().err
    assert identity.load(home).domain == "one"
