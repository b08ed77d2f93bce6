"""leave and expel: asking back, who is told, and who may."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.drivers import authority, identity
from ipdc_edge.errors import BadRequest, NoDaemon
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside("speaks to a control server over a unix socket")


class Terminal(io.StringIO):
    """A standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def domain(home: Home) -> Home:
    authority.create_domain(home, "one", node_name="first", memory=1 << 30)
    return home


def _newcomer(domain: Home, directory: Path, name: str) -> str:
    """Another node that the authority in `domain` admits; its id."""
    home = Home({"IPDC_HOME": str(directory / name)})
    home.prepare()
    authority.ensure(home, name, 1 << 30)
    return authority.admit(domain, authority.signing_request(home), name, 1 << 30).member.id


def _without_authority(home: Home) -> None:
    """Makes the node look like one that has joined."""
    os.unlink(os.path.join(home.current, "authority-key.pem"))


def test_leave_needs_a_domain(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for made in (False, True):
        assert main(["leave"]) == 1
        assert "is in no domain: it is alone already" in capsys.readouterr().err
        if not made:
            authority.ensure(home, "n", 1)


def test_leave_keeps_the_key_and_says_that_the_others_do_not_know(
    domain: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before = identity.load(domain)
    _without_authority(domain)
    assert main(["leave"]) == 0
    out = capsys.readouterr().out
    assert "has left the domain one and is alone" in out
    assert f"no daemon runs here); on the node of its authority: ipdc-edge expel {before.id[-10:]}\n" in out
    now = identity.load(domain)
    assert now.alone and now.id == before.id and now.authority != before.authority
    assert main(["domain", "create", "two"]) == 0


def test_leave_lets_the_daemon_tell_the_authority_before_anything_changes(
    daemon: Any, domain: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_authority(domain)
    heard = []

    def leave(request: object) -> dict[str, object]:
        heard.append(identity.load(domain).domain)
        return {"told": True}

    daemon.answers = {"leave": leave, "domain_changed": {"restarts": True, "broker": "start it again"}}
    assert main(["leave", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["domain"], said["others_know"], heard) == ("one", True, ["one"])
    assert [request["operation"] for request in daemon.asked] == ["leave", "domain_changed"]


@pytest.mark.parametrize("answer, words", [
    ({"told": False}, "its authority did not answer"), (BadRequest(reason="a fault"), "a fault"),
])
def test_leave_goes_on_when_the_authority_is_not_told(
    answer: object, words: str, daemon: Any, domain: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_authority(domain)
    daemon.answers = {"leave": answer, "domain_changed": {"restarts": True, "broker": "start it again"}}
    assert main(["leave"]) == 0
    assert words in (out := capsys.readouterr().out) and "ipdc-edge expel" in out
    assert identity.load(domain).alone


def test_a_daemon_that_learns_of_the_leaving_by_itself_is_waited_for(
    daemon: Any, domain: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_authority(domain)
    own = lambda request: {"authority": identity.load(domain).authority}  # noqa: E731
    daemon.answers = {"leave": {"told": True}, "domain_changed": NoDaemon(socket="", start=""), "domain": own}
    assert main(["leave"]) == 0
    assert "The daemon and its broker have started anew" in capsys.readouterr().out
    daemon.answers["domain_changed"] = BadRequest(reason="a fault")
    authority.create_domain(domain, "two", node_name="n", memory=1)
    _without_authority(domain)
    assert main(["leave"]) == 1
    assert "has left the domain two, but the daemon could not be told" in capsys.readouterr().err


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("Yes\n", 0), ("\n", 1), ("n\n", 1), ("", 1)])
def test_leave_asks_back_where_the_authority_is(
    answer: str, code: int, domain: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["leave"]) == code
    text = capsys.readouterr().err
    assert "There is NO backup of it" in text and "Leave? [y/N]" in text
    assert identity.load(domain).alone == (code == 0)


def test_leave_knows_of_the_backup_and_asks_nobody_where_nobody_is(
    domain: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(domain.current, "last-backup").write_text("1\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["leave"]) == 2
    text = capsys.readouterr().err
    assert "The backup of version 1 (now: 1)" in text and "ipdc-edge leave --yes" in text
    assert not identity.load(domain).alone
    assert main(["leave", "--yes"]) == 0
    assert identity.load(domain).alone


def test_expel_by_name_and_by_the_end_of_an_id(
    daemon: Any, domain: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (_newcomer(domain, tmp_path, name) for name in ("pi-1", "pi-2"))
    daemon.answers = {"domain_changed": {"restarts": False, "broker": "reloaded"}}
    assert main(["expel", "pi-1"]) == 0
    out = capsys.readouterr().out
    assert f"pi-1 ({one}) is expelled. Member list of one: version 4, 2 nodes." in out
    assert "on its way to the others" in out
    assert main(["expel", two[-6:], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["expelled"]) == (5, [{"id": two, "name": "pi-2"}])
    assert len(daemon.requests("domain_changed")) == 2
    assert main(["expel", "pi-1"]) == 1
    assert "No member of domain one is called 'pi-1'" in capsys.readouterr().err
    assert len(daemon.requests("domain_changed")) == 2


def test_expel_without_a_daemon_says_when_the_others_learn_of_it(
    domain: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _newcomer(domain, tmp_path, "pi-1")
    assert main(["expel", "pi-1"]) == 0
    assert "the new list spreads when it does: IPDC_HOME=" in capsys.readouterr().out


def test_who_cannot_expel(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["expel", "x"]) == 1
        assert "This node is alone" in capsys.readouterr().err
        authority.ensure(home, "n", 1)
    assert main(["domain", "create", "one"]) == 0
    assert main(["expel", identity.load(home).id]) == 1
    assert "can neither be expelled" in capsys.readouterr().err
    _newcomer(home, tmp_path, "pi-1")
    _without_authority(home)
    assert main(["expel", "pi-1"]) == 1
    assert "This node does not hold the key of domain one" in capsys.readouterr().err
    assert len(identity.load(home).members.members) == 2
