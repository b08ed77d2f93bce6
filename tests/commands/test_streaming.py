"""The commands of Hadoop Streaming: their words, which of them travel, and what is told before a node sees them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ipdc_edge.commands.program import CannotTravel, Files, ProgramBroken
from ipdc_edge.commands.steps import command_steps
from ipdc_edge.commands.streaming import NoSuchProgram, NoSuchScript, NotExecutable, command
from ipdc_edge.errors import WrongUsage

PYTHON = "#!/usr/bin/env python3\nimport helper\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    for name, text in {
        "mapper.py": PYTHON, "helper.py": "", "old.py": "#!/usr/bin/env python\nprint 'a'\n", "bin/prog": "\x7fELF\0",
        "lib/words.txt": "a\n", "count.awk": "{ n++ }\n", "notes": "hello\n", "dos.sh": "#!/bin/sh\r\ntrue\r\n",
        "sort": "#!/bin/sh\n", "dos": "#!/usr/bin/env bash\r\n", "bare.sh": "true\r\n", "a b.sh": "true\n",
    }.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    monkeypatch.chdir(work)


def _absolute(name: str) -> str:
    return os.path.abspath(name)


def test_a_script_that_is_not_here_is_told_before_a_node_misses_it() -> None:
    with pytest.raises(NoSuchScript, match=r"--mapper: there is no file maper\.py here .* Did you mean mapper\.py\?"):
        command("--mapper", "python3 maper.py", Files())
    with pytest.raises(NoSuchScript, match=r"no file lib here .*, for sh to run"):
        command("--reducer", "sh lib", Files())
    for well in "python3 -c 'print(1)'", "python3 /opt/other.py", "bash -e notes", "awk nothing", "python3":
        command("--mapper", well, Files())
    files = Files()
    files.ship_all("lib")
    assert command("--mapper", "python3 lib/words.txt", files)[0] == "python3"


@pytest.mark.parametrize(
    "text, words, shipped",
    [
        ("mapper.py", ["mapper.py"], {"mapper.py", "helper.py"}),
        ("./mapper.py -v", ["mapper.py", "-v"], {"mapper.py", "helper.py"}),
        ("python3 mapper.py 'a b'", ["python3", "mapper.py", "a b"], {"mapper.py", "helper.py"}),
        ("python mapper.py", ["python", "mapper.py"], {"mapper.py", "helper.py"}),
        ("old.py", ["old.py"], {"old.py"}),  # of another Python: that is no mistake here
        ("bin/prog -d lib/words.txt", ["prog", "-d", "words.txt"], {"prog", "words.txt"}),
        ("awk -f count.awk", ["awk", "-f", "count.awk"], {"count.awk"}),
        ("count.awk", ["count.awk"], {"count.awk"}),
        ("awk '{print $1}'", ["awk", "{print $1}"], set()),
        ("grep '>'", ["grep", ">"], set()),
        ("/bin/cat", ["/bin/cat"], set()),
        ("cat /etc/passwd lib", ["cat", "/etc/passwd", "lib"], set()),
        ("sort -n", ["sort", "-n"], {"sort"}),  # a file here comes first
        ("sh -c 'cat | sort'", ["sh", "-c", "cat | sort"], set()),
    ],
)
def test_what_travels(text: str, words: list[str], shipped: set[str]) -> None:
    files = Files()
    assert command("--mapper", text, files) == words
    assert set(files.paths) == shipped


def test_an_absolute_program_travels_unless_it_is_the_systems(tmp_path: Path) -> None:
    files = Files()
    assert command("--mapper", f"{_absolute('bin/prog')} {_absolute('lib/words.txt')}", files) == [
        "prog", _absolute("lib/words.txt")]
    assert files.paths == {"prog": _absolute("bin/prog")}


def test_what_file_ships_is_known_by_its_name() -> None:
    files = Files()
    files.ship_all("bin/prog")
    files.ship_all("lib")
    for text in ("prog lib/words.txt", "./prog ./lib/words.txt"):
        assert command("--mapper", text, files)[0] == "prog"
    assert files.paths.keys() == {"prog", "lib/words.txt"}


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("", WrongUsage, "--mapper is empty"),
        ("  ", WrongUsage, "--mapper is empty"),
        ("awk '{print", WrongUsage, "No closing quotation. Quotes come in pairs"),
        ("cat | sort", WrongUsage, r"no shell reads this, so \| would be a word.*sh -c"),
        ("cat > out", WrongUsage, "> would be a word"),
        ("maper.py", NoSuchProgram, r"--mapper: there is no program 'maper.py'.*Did you mean mapper.py\?"),
        ("bin/prg", NoSuchProgram, "Did you mean bin/prog"),
        ("awkk", NoSuchProgram, r"Did you mean \w*awk\?"),
        ("no-such-program-at-all", NoSuchProgram, "neither as a file here nor on the PATH. Ship it with --file"),
        ("lib x", NotExecutable, "lib is a directory"),
        ("notes", NotExecutable, "notes says not what runs it: give it a first line like #!"),
        ("dos.sh", NotExecutable, "CR LF.*sed -i"),
        ("dos", NotExecutable, "CR LF.*sed -i"),
        ("bare.sh", NotExecutable, "CR LF.*sed -i"),
        ("python3 old.py", ProgramBroken, "old.py, line 2: Missing parentheses"),
        ("sh 'a b.sh'", CannotTravel, "its name may have"),
    ],
)
def test_mistakes(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        command("--mapper", text, Files())


def test_a_program_that_only_our_path_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own" / "mine"
    own.parent.mkdir()
    own.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
    with pytest.raises(NotExecutable, match=rf"mine is {own} here; nodes look in .* only. Let it travel: --file {own}"):
        command("--mapper", "mine", Files())


def test_steps_of_commands() -> None:
    files = Files()
    flags = {"mapper": "mapper.py", "combiner": None, "reducer": "uniq -c"}
    assert command_steps(flags, (["-", "sort -n"], ["cat"]), files) == [
        {"mapper": ["mapper.py"], "reducer": ["uniq", "-c"]}, {"reducer": ["sort", "-n"]}, {"mapper": ["cat"]}]
    assert set(files.paths) == {"mapper.py", "helper.py", "sort"}
    with pytest.raises(WrongUsage, match="--combiner does nothing without --reducer"):
        command_steps({"mapper": "cat", "combiner": "cat", "reducer": None}, (), Files())
    with pytest.raises(NoSuchProgram, match="--step"):
        command_steps({"mapper": "cat"}, (["nothing-of-the-kind"],), Files())
