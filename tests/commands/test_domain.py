"""domain create and show, and what every change of the domain has in common: the owner, the daemon, the refusals."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import change
from ipdc_edge.commands.display import program
from ipdc_edge.drivers import authority, discovery, identity
from ipdc_edge.errors import BadRequest, DaemonLost
from ipdc_edge.home import Home

RESTARTS = {"restarts": True, "broker": "restarts"}
unix_socket = pytest.mark.outside("looks for, or speaks to, a control server over a unix socket")


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def _from_files(home: Home) -> Any:
    """The operation "domain" as a daemon answers it that has just read the files."""
    now = identity.load(home)
    return lambda request: {"domain": now.domain, "authority": now.authority, "id": now.id}


@unix_socket
def test_create_makes_a_domain_whose_authority_is_here(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Path(home.conf).write_text("name = pi-1\n")
    assert main(["domain", "create", "home.1"]) == 0
    out = capsys.readouterr().out
    assert "The domain home.1 is made" in out and "invite" in out and "domain backup FILE" in out
    assert "sudo" not in out, "the node of IPDC_HOME is its user's"
    assert "No daemon runs here; it takes this up when it starts: " in out and "ipdc-edge run --with-broker" in out
    now = identity.load(home)
    assert (now.domain, now.alone, now.has_authority, now.members.version) == ("home.1", False, True, 1)
    (member,) = now.members.members
    assert (member.id, member.name, member.portal) == (now.id, "pi-1", True)
    assert member.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, _, names in os.walk(home.identity):
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600, name


@unix_socket
def test_a_second_domain_wants_the_first_one_left(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", "create", "one", "--json"]) == 0
    made = _json(capsys)
    assert (made["domain"], made["version"], made["daemon"]["runs"]) == ("one", 1, False)
    assert main(["domain", "create", "two"]) == 1
    assert "is in the domain one already" in (text := capsys.readouterr().err) and "`ipdc-edge leave`" in text
    now = identity.load(home)
    assert (now.domain, now.authority, now.id) == ("one", made["authority"], made["id"])


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "a+", "#", "ä", "x" * 64, "a\n"])
def test_names_that_no_domain_may_have(name: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", "create", "--", name]) == 2
    assert "is no name for a domain" in capsys.readouterr().err
    assert os.listdir(home.identity) == []


@unix_socket
def test_a_running_daemon_is_told_and_waited_for(daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    asked = 0

    def domain(request: object) -> object:
        nonlocal asked
        asked += 1
        return _from_files(home)(request) if asked > 2 else BadRequest(reason="starting") if asked == 2 else {}

    daemon.answers = {"domain_changed": RESTARTS, "domain": domain}
    assert main(["domain", "create", "one"]) == 0
    assert "The daemon and its broker have started anew" in capsys.readouterr().out
    assert asked == 3
    assert [request["operation"] for request in daemon.asked] == ["domain_changed"] + ["domain"] * 3


def test_who_owns_the_systems_own_node(home: Home) -> None:
    assert change.owners_program(home) == program()
    assert change.owners_program(Home({})) == f"sudo {program()}"


@unix_socket
def test_the_broker_is_waited_for_too(daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def domain(request: dict[str, object]) -> object:
        asked.append(request.get("broker"))
        return {**_from_files(home)(request), "broker": len(asked) > 2}

    daemon.answers = {"domain_changed": RESTARTS, "domain": domain}
    assert main(["domain", "create", "one"]) == 0
    assert "The daemon and its broker have started anew" in capsys.readouterr().out
    assert asked == [True] * 3


@unix_socket
def test_a_daemon_that_does_not_come_back_is_told(
    daemon: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(change, "SETTLE_SECONDS", 0.1)
    daemon.answers = {"domain_changed": RESTARTS, "domain": {"authority": "another"}}
    assert main(["domain", "create", "one"]) == 0
    assert "which takes long. Look: ipdc-edge doctor" in capsys.readouterr().out


@unix_socket
def test_a_broker_that_nobody_starts_again_is_told(
    daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers = {"domain_changed": {"restarts": True, "broker": "start it again"}}
    assert main(["domain", "create", "one"]) == 0
    assert f"Start it: IPDC_HOME={home.state} ipdc-edge broker\n" in capsys.readouterr().out


@unix_socket
def test_a_daemon_that_begins_anew_before_its_answer_is_out(
    daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = DaemonLost(socket="", advice="")
    daemon.answers = {"domain_changed": lost, "domain": lambda request: _from_files(home)(request)}
    assert main(["domain", "create", "one"]) == 0
    assert "The daemon and its broker have started anew" in capsys.readouterr().out


@unix_socket
def test_a_daemon_that_cannot_be_told_is_an_error_that_says_what_was_done(
    daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers = {"domain_changed": BadRequest(reason="no way")}
    assert main(["domain", "create", "one"]) == 1
    text = capsys.readouterr().err
    assert "The domain one is made, but the daemon could not be told" in text and "no way" in text
    assert identity.load(home).domain == "one"


def test_commands_for_the_broker_fit_the_kind_of_node(tmp_path: Path) -> None:
    assert change.broker_command(Home({})) == "sudo systemctl restart ipdc-broker"
    (tmp_path / "lab.json").write_text("{}")
    assert change.broker_command(Home({"IPDC_HOME": str(tmp_path / "node1")})) == f"ipdc-edge lab up --dir {tmp_path}"


@unix_socket
def test_show_without_a_daemon_reads_the_files(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", "show"]) == 3
    assert "No ipdc-edge daemon answers" in capsys.readouterr().err
    assert main(["domain", "create", "one"]) == 0
    capsys.readouterr()
    now = identity.load(home)
    assert main(["domain", "show"]) == 0
    out = capsys.readouterr().out
    assert "domain     one, version 1" in out and f"authority  {now.authority} (its key is on this node)" in out
    assert f"{now.id}  this portal" in out and "There is no backup of the authority" in out
    assert main(["domain", "show", "--json"]) == 0
    shown = _json(capsys)
    assert (shown["authority"], shown["id"], shown["alone"]) == (now.authority, now.id, False)
    assert [(member["id"], member["self"], member["portal"]) for member in shown["members"]] == [(now.id, True, True)]
    Path(home.current, "members.json").write_text("{")
    assert main(["domain", "show"]) == 1
    assert "members.json is not what it should be" in capsys.readouterr().err


@unix_socket
def test_show_asks_the_daemon_first(daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    authority.create_domain(home, "files", node_name="n", memory=1)
    members = [{"id": "QmB", "name": "pi-2", "portal": False, "memory": 1 << 27, "self": True},
               {"id": "QmA", "name": "pi-1", "portal": True, "memory": 1 << 30, "self": False}]
    answer = {"domain": "d", "authority": "QmX", "version": 7, "id": "QmB", "alone": False, "has_authority": False,
              "members": members}
    daemon.answers = {"domain": answer}
    assert main(["domain", "show"]) == 0
    out = capsys.readouterr().out
    assert "authority  QmX\n" in out and "backup" not in out
    assert out.index("pi-2  QmB  this    128 MB") < out.index("pi-1  QmA  portal  1.0 GB")
    assert main(["domain", "show", "--json"]) == 0
    assert _json(capsys) == answer
    daemon.answers = {"domain": {**answer, "alone": True}}
    assert main(["domain", "show"]) == 0
    out = capsys.readouterr().out
    assert "pi-2 (QmB), is alone: in no domain, on loopback only" in out and "join TOKEN" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="does not apply: root alone can act as another user")
@unix_socket
def test_what_root_makes_belongs_to_the_nodes_owner_and_root_stays_root(home: Home, tmp_path: Path) -> None:
    for folder, names, _ in os.walk(home.state):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(path, 12345, 23456)
    for above in (tmp_path, *tmp_path.parents):
        if above == Path("/tmp"):
            break
        above.chmod(0o711)  # pytest's directories are root's alone
    groups = os.getgroups()
    assert main(["domain", "create", "one"]) == 0
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
    for folder, names, files in os.walk(home.identity):
        for name in names + files:
            found = os.lstat(os.path.join(folder, name))
            assert (found.st_uid, found.st_gid) == (12345, 23456), name


def test_who_is_not_the_owner_learns_the_line_that_works(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr("sys.argv", ["ipdc-edge", "domain", "create", "my-domain"])
    assert main(["domain", "create", "my-domain"]) == 1
    text = capsys.readouterr().err
    assert f"`sudo IPDC_HOME={home.state} ipdc-edge domain create my-domain`" in text
    assert os.listdir(home.identity) == []


@unix_socket
def test_avahi_learns_of_the_systems_node_only_and_from_root(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(discovery, "publish", lambda now, read: told.append((now.domain, os.geteuid())))
    assert main(["domain", "create", "one"]) == 0
    assert told == []
    for words in (["leave", "--yes"], ["domain", "create", "two"]):
        with monkeypatch.context() as system:
            system.setattr(Home, "own", False, raising=False)
            system.setattr(Home, "__init__", lambda self, environ: self.__dict__.update(
                state=home.state, conf=home.conf, run=home.run))
            assert main(words) == 0
    assert told == [("alone", os.geteuid()), ("two", os.geteuid())]
