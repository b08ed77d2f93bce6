"""The command line as a contract: names, help, exit codes, and nothing loaded that was not asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ipdc_edge import __version__
from ipdc_edge.__main__ import COMMANDS, main
from ipdc_edge.drivers import authority
from ipdc_edge.home import Home

TOP = Path(__file__).resolve().parents[2]


def test_the_commands_of_the_contract_are_there() -> None:
    contract = ("run broker submit status jobs nodes result logs cancel add cat lab demo run-inline doctor "
                "domain invite join leave expel drain story get ls pin unpin gc store kubo tf serve ask")
    assert set(COMMANDS) == set(contract.split())


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: ipdc-edge {command} ")
    assert "examples:" in text.lower()
    assert f"ipdc-edge {command}" in text.lower().partition("examples:")[2]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main([]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ipdc-edge {__version__}\n"


def test_an_unknown_command_is_usage_and_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sumbit"]) == 2
    assert "no command 'sumbit'. Did you mean submit?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "--jsno"],
        ["status", "a", "b"],
        ["story"],
        ["story", "a", "b", "c"],
        ["nodes", "--jsno"],
        ["lab"],
        ["run", "--x"],
        ["lab", "up"],
        ["submit", "Map.py", "--input", "x", "-k", "many"],
    ],
)
def test_a_wrong_command_line_is_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.outside("connects to a socket that is not there")
@pytest.mark.parametrize(
    "words",
    [
        ["nodes"],
        ["jobs"],
        ["status"],
        ["status", "x"],
        ["cancel", "x"],
        ["logs", "x"],
        ["story", "x"],
        ["story", "x", "map-00000"],
        ["cat", "bafkqaaa"],
        ["add", __file__],
    ],
)
def test_without_a_daemon_the_exit_code_is_3_and_the_line_says_what_to_type(
    words: list[str], home: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "No ipdc-edge daemon answers" in captured.err
    assert "ipdc-edge run --with-broker" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_bad_cid_is_a_line_and_not_a_traceback(home: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cat", "nonsense"]) == 1
    captured = capsys.readouterr()
    assert "nonsense" in captured.err and "Traceback" not in captured.err


def test_an_unreadable_conf_stops_the_daemon_with_file_line_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPDC_HOME", str(tmp_path))
    (tmp_path / "ipdc.conf").write_text("name = a\nslots = many\n")
    assert main(["broker"]) == 1
    text = capsys.readouterr().err
    assert f"{tmp_path}/ipdc.conf, line 2: slots = 'many' is not allowed. Allowed: 1 to 256, or auto." in text


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "nodes", ("no_such_module", ""))
    with pytest.raises(ModuleNotFoundError):
        main(["nodes"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipdc_edge.commands import jobs

    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run", interrupted)
    assert main(["jobs"]) == 130


@pytest.mark.outside("starts the command as a process")
def test_it_starts_from_the_checkout_and_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    job = tmp_path / "jobs" / "20261123-010203-abcd"
    job.mkdir(parents=True)
    (job / "_SUCCESS").touch()
    (job / "part-00000").write_bytes(b"x\t1\n" * 1_000_000)
    command = [sys.executable, "-m", "ipdc_edge", "result", "abcd"]
    environ = {"IPDC_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, cwd=TOP, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"x\t1\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.outside("starts Python as a process")
def test_a_command_loads_neither_asyncio_nor_the_daemon_nor_others(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ipdc_edge.__main__ import main\nmain(['nodes'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith('ipdc_edge.') or name in "
        "('asyncio', 'sqlite3', 'psutil', 'paho', 'ast', 'tempfile')))"
    )
    environ = {"IPDC_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, env=environ, capture_output=True, check=True
    )
    loaded = result.stdout.decode().split()
    assert "ipdc_edge.commands.nodes" in loaded
    assert not [
        name for name in loaded if name in ("asyncio", "sqlite3", "psutil", "paho", "ast", "tempfile")
    ]
    assert not [name for name in loaded if "daemon" in name or "drivers" in name or "lab" in name]


@pytest.mark.outside("starts Python as a process")
def test_run_loads_neither_argparse_nor_what_makes_an_identity(tmp_path: Path) -> None:
    authority.ensure(Home({"IPDC_HOME": str(tmp_path)}), "n", 1 << 30)  # only a first start makes it
    code = (
        "import sys, types\nmain = types.ModuleType('ipdc_edge.daemon.main')\n"
        "main.run = lambda home, settings, supervised: 7\nimport ipdc_edge.daemon\n"
        "sys.modules['ipdc_edge.daemon.main'] = ipdc_edge.daemon.main = main\n"
        "from ipdc_edge.__main__ import main\ncode = main(['run'])\n"
        "print(code, *({'argparse', 'subprocess', 'cryptography', 'difflib'} & set(sys.modules)))"
    )
    environ = {"IPDC_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, env=environ, capture_output=True, check=True
    )
    assert result.stdout.decode().split() == ["7"]
