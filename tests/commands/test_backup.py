"""domain backup and restore: the file, the passphrase and where it comes from, and the reminder of it."""

from __future__ import annotations

import io
import json
import os
import pty
import stat
import sys
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands.domain import BackupExists, _write
from ipdc_edge.drivers import authority, identity
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside("looks for a control server over a unix socket; starts a command on a terminal")
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("correct horse\nthe second line does not count\n")
    return str(path)


@pytest.fixture
def domain(home: Home, capsys: pytest.CaptureFixture[str]) -> Home:
    assert main(["domain", "create", "one"]) == 0
    capsys.readouterr()
    return home


def _stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def _other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / "other"))
    home = Home(os.environ)
    home.prepare()
    return home


def test_a_backup_is_restored_on_another_node(
    domain: Home, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = identity.load(domain)
    path = tmp_path / "one.backup"
    assert main(["domain", "backup", str(path), "--passphrase-file", secret]) == 0
    assert "Backup of the domain one, version 1 with 1 node." in capsys.readouterr().out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in path.read_bytes()
    other = _other_home(tmp_path, monkeypatch)
    Path(secret).write_text("correct horse")  # without a second line, and without the end of the first
    assert main(["domain", "restore", str(path), "--passphrase-file", secret]) == 0
    said, now = capsys.readouterr().out, identity.load(other)
    assert "The domain one with 2 nodes is restored" in said and "those of version 1 of the list" in said
    assert f"({before.id}) held it before and is still a member" in said and f"expel {before.id}\n" in said
    assert (now.domain, now.authority, now.has_authority) == ("one", before.authority, True)
    assert now.id != before.id and now.members.version > before.members.version
    assert {member.id for member in now.members.members} == {before.id, now.id}
    assert main(["domain", "restore", str(path), "--passphrase-file", secret]) == 1
    assert "is in the domain one already" in capsys.readouterr().err


def test_a_wrong_passphrase_and_a_damaged_file_change_nothing(
    domain: Home, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, wrong = tmp_path / "one.backup", tmp_path / "wrong"
    wrong.write_text("wrong horse\n")
    assert main(["domain", "backup", str(path), "--passphrase-file", secret]) == 0
    other = _other_home(tmp_path, monkeypatch)
    capsys.readouterr()
    assert main(["domain", "restore", str(path), "--passphrase-file", str(wrong)]) == 1
    assert "passphrase" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["domain", "restore", str(path), "--passphrase-file", secret]) == 1
    assert main(["domain", "restore", str(tmp_path / "none"), "--passphrase-file", secret]) == 1
    assert f"Cannot read {tmp_path}/none: No such file or directory." in capsys.readouterr().err
    with pytest.raises(identity.NoIdentity):
        identity.load(other)


def test_a_file_is_not_overwritten_unless_told(
    domain: Home, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "there"
    path.write_text("precious")
    words = ["domain", "backup", str(path), "--passphrase-file", secret]
    assert main(words) == 1
    assert f"{path} exists already" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"domain": "one", "version": 1, "file": str(path)}
    assert path.read_bytes() != b"precious" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["home", "secret", "there"]
    assert main(["domain", "backup", f"{tmp_path}/no/where", "--passphrase-file", secret]) == 1
    assert "Cannot write" in capsys.readouterr().err


def test_a_file_that_came_into_being_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("precious")
    with pytest.raises(BackupExists):
        _write(str(path), b"backup", force=False)
    assert path.read_text() == "precious"


def test_a_backup_that_does_not_fit_leaves_no_piece(
    domain: Home, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ipdc_edge.commands.domain.os.fsync", full)
    assert main(["domain", "backup", str(tmp_path / "b"), "--passphrase-file", secret]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["home", "secret"]


def test_dash_is_standard_output_and_input(
    home: Home, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert main(["domain", "create", "one"]) == 0
    capfdbinary.readouterr()
    assert main(["domain", "backup", "-", "--passphrase-file", secret]) == 0
    captured = capfdbinary.readouterr()
    assert b"Backup of the domain one" in captured.err and b"Backup of the domain" not in captured.out
    other = _other_home(tmp_path, monkeypatch)
    _stdin(monkeypatch, captured.out)
    assert main(["domain", "restore", "-", "--passphrase-file", secret]) == 0
    assert identity.load(other).domain == "one"


@pytest.mark.parametrize("given, code", [(b"12345678\n", 0), (b"1234567\n", 2), ("äöüäöü\n".encode(), 2), (b"", 2),
                                         (b"x" * 1025, 2)])
def test_the_passphrase_of_a_pipe(
    given: bytes, code: int, domain: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stdin(monkeypatch, given)
    assert main(["domain", "backup", str(tmp_path / "b")]) == code
    assert os.path.exists(tmp_path / "b") == (code == 0)


@pytest.mark.parametrize("typed, code, words", [
    ("correct horse|correct horse", 0, "Backup of the domain one"),
    ("correct horse|correct house", 2, "The two passphrases are not the same"),
    ("short", 2, "fewer than 8 characters"),
])
def test_the_passphrase_of_a_terminal_is_asked_for_twice_and_not_shown(
    typed: str, code: int, words: str, domain: Home, tmp_path: Path
) -> None:
    path = str(tmp_path / "b")
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "ipdc_edge", "domain", "backup", path]
        os.execve(sys.executable, command, {"IPDC_HOME": domain.state, "PYTHONPATH": str(TOP), "PATH": "/usr/bin"})
    shown = b""
    answers = typed.split("|")
    try:
        while piece := _read(terminal):
            shown += piece
            if shown.endswith((b"backup: ", b"more: ")):
                os.write(terminal, answers.pop(0).encode() + b"\n")
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    assert words in shown.decode() and b"hor" not in shown and b"short" not in shown
    assert os.path.exists(path) == (code == 0)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: the other side is closed
        return b""


def test_without_a_terminal_there_is_a_way_out(
    domain: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ipdc_edge.commands.passphrase.TERMINAL", str(tmp_path / "no-tty"))
    _stdin(monkeypatch, b"the backup itself")
    assert main(["domain", "restore", "-"]) == 2
    assert "--passphrase-file FILE" in capsys.readouterr().err
    assert main(["domain", "backup", "b", "--passphrase-file", str(tmp_path)]) == 1
    assert f"Cannot read the passphrase from {tmp_path}: Is a directory" in capsys.readouterr().err


def test_show_reminds_until_there_is_a_backup_of_this_version(
    domain: Home, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        assert main(["domain", "show"]) == 0
        return capsys.readouterr().out

    assert "There is no backup of the authority" in shown()
    assert main(["domain", "backup", str(tmp_path / "b"), "--passphrase-file", secret]) == 0
    capsys.readouterr()
    assert "backup" not in shown()
    Path(domain.current, "last-backup").write_text("0\n")
    assert "The last backup has version 0 of the list" in shown()


def test_what_there_is_not_to_back_up(
    home: Home, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["domain", "backup", str(tmp_path / "b"), "--passphrase-file", secret]
    for _ in range(2):
        assert main(words) == 1
        assert "ipdc-edge domain create NAME" in capsys.readouterr().err
        authority.ensure(home, "n", 1)  # the second time it has a key, and is alone
    assert main(["domain", "create", "one"]) == 0
    os.unlink(os.path.join(home.current, "authority-key.pem"))
    assert main(words) == 1
    assert "the key of domain one's authority is not on this node" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "b")


def test_a_check_says_whether_anything_would_be_lost(
    home: Home, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def checked() -> tuple[int, str, str]:
        code = main(["domain", "backup", "--check"])
        return code, *capsys.readouterr()

    code, said, complaint = checked()  # it was never started
    assert (code, complaint) == (0, "") and "nothing to back up" in said
    assert main(["domain", "create", "one"]) == 0
    capsys.readouterr()
    code, said, complaint = checked()
    assert (code, said) == (1, "") and "The key of domain one's authority (1 node)" in complaint
    assert "There is no backup" in complaint and "domain backup FILE" in complaint
    assert main(["domain", "backup", str(tmp_path / "first"), "--passphrase-file", secret]) == 0
    capsys.readouterr()
    assert checked() == (0, "The last backup has the domain as it is now.\n", "")
    with open(os.path.join(home.current, "last-backup"), "w") as file:
        file.write("0\n")
    code, said, complaint = checked()
    assert (code, said) == (1, "") and "The last backup has version 0 of the list" in complaint
    assert main(["domain", "backup", "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"needed": True, "saved": False, "version": 1, "backup": 0}
    assert main(["leave", "--yes"]) == 0
    assert "The backup of version 0 (now: 1)" in capsys.readouterr().err
    assert checked()[0] == 0


@pytest.mark.parametrize("words", [[], ["file", "--check"]])
def test_a_backup_has_a_file_or_is_only_checked(
    words: list[str], domain: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["domain", "backup", *words]) == 2
    assert "name the FILE" in capsys.readouterr().err
