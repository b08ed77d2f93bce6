"""Which program runs: shipped scripts of any language, native programs, those of the node; and a clean start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_command import Programs

from ipdc_edge.apps.mapreduce import command_child, command_program
from ipdc_edge.apps.mapreduce.command_program import (
    InterpreterMissing,
    ProgramMissing,
    ProgramNotStarted,
    ProgramUnclear,
    WrongMachine,
)

pytestmark = pytest.mark.outside("runs real programs")

CAT = Path("/bin/cat").read_bytes()
PYTHON = b"import sys\nfor line in sys.stdin: print('python', line, end='')\n"
UPPER = b"#!/bin/sh\nexec tr a-z A-Z\n"
AWK = b'{ print "awk", $1 }\n'


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.mark.parametrize(
    ("name", "script", "expected"),
    [
        ("m_py", PYTHON, b"python a\n"),
        ("m", b"#!/usr/bin/env python3\n" + PYTHON, b"python a\n"),
        ("m", b"#!/usr/bin/env -S python3 -u\n" + PYTHON, b"python a\n"),
        ("m", b"#! /usr/bin/python3 -u\n" + PYTHON, b"python a\n"),
        ("m_py", b"#!/usr/bin/env python3\r\n" + PYTHON.replace(b"\n", b"\r\n"), b"python a\n"),
        ("m", b"#!/usr/bin/python3\r\n" + PYTHON, b"python a\n"),
        ("m", b"#!/usr/bin/env WORD=x sh\nsed s/^/$WORD/\n", b"xa\n"),
        ("m", b"#!/opt/other/place/perl -n\nprint 'perl ', $_;\n", b"perl a\n"),
        ("m_sh", b"sed 's/^/sh /'\n", b"sh a\n"),
        ("m_awk", AWK, b"awk a\n"),
        ("m", b"#!/usr/bin/awk -f\n" + AWK, b"awk a\n"),
        ("m_awk", b"#!/usr/bin/env -S awk -f\n" + AWK, b"awk a\n"),
        ("m", UPPER, b"A\n"),
        ("m", CAT, b"a\n"),
        ("bin__m", UPPER, b"A\n"),
        ("bin__m", CAT, b"a\n"),
        ("sort", UPPER, b"A\n"),  # before the node's own
    ],
    ids=lambda it: ascii(it[:40])[1:].strip("'"),
)
def test_shipped_programs_of_any_kind(programs: Programs, name: str, script: bytes, expected: bytes) -> None:
    argv = name.replace("__", "/").replace("_", ".")
    assert programs.run(argv, lines=[b"a\n"], **{name: script}) == expected
    assert programs.run(f"./{argv}", lines=[b"a\n"], **{name: script}) == expected


@pytest.mark.parametrize("python", ["python", "python2", "/usr/local/nowhere/python3", "/usr/bin/env python"])
def test_python_of_old_tutorials_is_python3(programs: Programs, python: str) -> None:
    """Where nothing is called `python`, which is how Debian ships."""
    if shutil.which("python", path=command_program.PATH):
        pytest.skip("this machine has a program named python")
    assert programs.run("m", lines=[b"a\n"], m=b"#!%s\n" % python.encode() + PYTHON) == b"python a\n"
    if not python.startswith("/usr/bin/env"):
        assert programs.run(python, "m.py", lines=[b"a\n"], m_py=PYTHON) == b"python a\n"


@pytest.mark.parametrize("argv", [["awk", "{print $1, $3}"], ["/usr/bin/awk", "{print $1, $3}"]])
def test_programs_of_the_node(programs: Programs, argv: list[str]) -> None:
    assert programs.run(*argv, lines=[b"a b c\n"]) == b"a c\n"


@pytest.mark.parametrize("script", [b"#!/bin/sh\n", CAT], ids=["script", "native"])
def test_words_reach_the_program_as_they_are(programs: Programs, script: bytes) -> None:
    if script == CAT:
        script = Path("/bin/echo").read_bytes()
    else:
        script += b'echo "$@"\n'
    words = ["a  b", "*", "$HOME", "", "é", os.fsdecode(b"\xff")]
    assert programs.run("m", *words, m=script) == b"a  b * $HOME  \xc3\xa9 \xff\n"


def test_files_are_found_by_their_names(programs: Programs) -> None:
    script = b"import beside, pkg.deep\nprint(beside.x, pkg.deep.y, open('data/list.txt').read())\n"
    files = {"beside_py": b"x = 1", "pkg__deep_py": b"y = 2", "data__list_txt": b"3", "tool": UPPER}
    assert programs.run("m.py", m_py=script, **files) == b"1 2 3\n"
    assert programs.shell("echo done | ./tool") == b"DONE\n"  # the executable bit, where the mount allows it


# Native programs


def test_a_native_program_runs_from_memory_that_nobody_can_change(programs: Programs) -> None:
    sh = Path("/bin/sh").read_bytes()
    script = "readlink /proc/$$/exe; cat /proc/$$/comm; ls -l /proc/$$/fd"
    found = programs.run("tools/own", "-c", script, tools__own=sh).decode().splitlines()
    assert "memfd:" in found[0] and found[1] == "own"
    [descriptor] = [line for line in found if re.search(r"\d+ -> ", line) and int(re.findall(r"(\d+) ->", line)[0]) > 2]
    assert "memfd:" in descriptor and descriptor.startswith("lr-x")


def test_its_bytes_are_sealed() -> None:
    descriptor = command_program._sealed("x", b"abc")
    try:
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_TRUNC)
        writable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(writable, b"x")
        os.close(writable)
        assert os.pread(descriptor, 10, 0) == b"abc"
    finally:
        os.close(descriptor)


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "noexec"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "noexec,nosuid,nodev,size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mounted, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_all_kinds_run_where_the_directory_forbids_execution(noexec: Path) -> None:
    programs = Programs(noexec)
    for script, expected in ((CAT, b"a\n"), (UPPER, b"A\n"), (b"#!/usr/bin/env python3\n" + PYTHON, b"python a\n")):
        assert programs.run("m", lines=[b"a\n"], m=script) == expected
    with pytest.raises(PermissionError):
        subprocess.run([str(noexec / "m")])


def test_a_native_program_knows_its_name(programs: Programs) -> None:
    """Multi-call programs go by it; also without setpriv."""
    sh = Path("/bin/sh").read_bytes()
    for _ in range(2):
        found = programs.run("tools/own", "-c", "cat /proc/$$/cmdline", tools__own=sh)
        assert os.path.basename(found.split(b"\0")[0]) == b"own"
        command_child.SETPRIV, before = "/nonexistent", command_child.SETPRIV
    command_child.SETPRIV = before


# What is told when it cannot be


def refusal(programs: Programs, kind: type[Exception], *argv: str, **files: bytes) -> str:
    with pytest.raises(kind) as caught:
        programs.run(*argv, **files)
    return str(caught.value)


@pytest.mark.parametrize("name", ["no-such-program", "/usr/bin/no-such-program", "bin/other", "/etc/passwd", "/tmp"])
def test_a_program_that_is_not_there(programs: Programs, name: str) -> None:
    told = refusal(programs, ProgramMissing, name, m=UPPER)
    assert repr(name) in told and "--file" in told


def test_an_interpreter_that_is_not_there(programs: Programs) -> None:
    for line in (b"#!/usr/bin/env no-such-ruby", b"#!/opt/no-such-ruby -w", b"#! no-such-ruby"):
        told = refusal(programs, InterpreterMissing, "m.rb", m_rb=line + b"\nputs 1\n")
        assert "m.rb" in told and "no-such-ruby'" in told and "#! line" in told


def test_a_suffix_whose_interpreter_is_not_there(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_program, "PATH", "/nonexistent")
    assert "'awk'" in refusal(programs, InterpreterMissing, "m.awk", m_awk=AWK)


@pytest.mark.parametrize("script", [b"print(1)\n", b"", b"\0\1\2"], ids=["text", "empty", "binary"])
def test_a_file_that_says_not_what_runs_it(programs: Programs, script: bytes) -> None:
    assert "#!/usr/bin/env python3" in refusal(programs, ProgramUnclear, "mapper", mapper=script)


def test_a_native_program_of_another_machine(programs: Programs) -> None:
    other, name = (183, "aarch64") if os.uname().machine == "x86_64" else (62, "x86_64")
    told = refusal(programs, WrongMachine, "tool", tool=CAT[:18] + other.to_bytes(2, sys.byteorder) + CAT[20:])
    assert "tool" in told and name in told and os.uname().machine in told
    told = refusal(programs, WrongMachine, "tool", tool=CAT[:18] + b"\xfe\xfe" + CAT[20:])
    assert "machine 65278" in told


def test_a_native_program_whose_loader_is_not_there(programs: Programs) -> None:
    broken = re.sub(rb"/lib[^\0]*/ld-linux", lambda found: found[0].replace(b"ld-linux", b"ld-muslx"), CAT, count=1)
    assert broken != CAT
    told = refusal(programs, InterpreterMissing, "tool", tool=broken)
    assert "ld-muslx" in told and "-static" in told


@pytest.mark.parametrize("data", [CAT[:4], CAT[:30], CAT[:64], CAT[:900], CAT[:2000]], ids=len)
def test_a_native_program_that_is_cut_off(programs: Programs, data: bytes) -> None:
    with pytest.raises(Exception, match="tool|fd"):
        programs.run("tool", tool=data)


def test_what_the_kernel_refuses_is_told(programs: Programs) -> None:
    told = refusal(programs, ProgramNotStarted, "cat", "x" * (1 << 18))
    assert told == "cat cannot be started on this node: Argument list too long"


# A clean start


@pytest.fixture(params=["with setpriv", "without"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(command_child, "SETPRIV", "/nonexistent")


def test_no_descriptor_is_inherited(programs: Programs, either: None) -> None:
    ends = os.pipe()
    for end in ends:
        os.set_inheritable(end, True)
    before = os.listdir("/proc/self/fd")
    try:
        assert programs.run("ls", "/proc/self/fd") == b"0\n1\n2\n3\n"  # 3: the listing's own
    finally:
        os.close(ends[0]), os.close(ends[1])
    assert len(os.listdir("/proc/self/fd")) == len(before) - 2  # and none is left open here


def test_signals_are_as_after_a_start_from_a_shell(programs: Programs, either: None) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        status = programs.run("cat", "/proc/self/status").decode()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    found = dict(line.split(":\t", 1) for line in status.splitlines() if line.startswith("Sig"))
    assert int(found["SigBlk"], 16) == 0
    # 32 and 33 are the C library's own (nptl), which it sets anew in every program
    assert int(found["SigIgn"], 16) & ~(1 << 31 | 1 << 32) == 0


def test_nothing_of_the_runners_environment_is_seen(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, either: None
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(command_child.__file__).parents[3]))
    monkeypatch.setenv("SECRET", "1")
    script = "import sys, os; print(sorted(set(os.environ) - {'LC_CTYPE'})); print(sys.path)"
    names, path = programs.run("python3", "-c", script).decode().splitlines()
    assert names == str(["HOME", "LANG", "PATH", "PWD", "TMPDIR"])
    assert os.environ["PYTHONPATH"] not in path
    with pytest.raises(Exception, match="No module named 'ipdc_edge'"):
        programs.run("python3", "-I", "-S", "-c", "import ipdc_edge")


def test_it_runs_in_the_directory_and_the_runner_stays_where_it_is(programs: Programs, either: None) -> None:
    here = os.getcwd()
    assert programs.run("pwd") == os.fsencode(programs.directory) + b"\n"
    assert os.getcwd() == here


@pytest.mark.parametrize("closed", [(0,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("script", [b"echo words >&2\ncat\n", CAT], ids=["script", "native"])
def test_it_starts_where_the_users_code_has_closed_its_streams(
    programs: Programs, either: None, script: bytes, closed: tuple[int, ...]
) -> None:
    kept = {number: os.dup(number) for number in closed}
    for number in closed:
        os.close(number)
    try:
        found = programs.run("m.sh", lines=[b"a\n"] * 50_000, m_sh=script)
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
    assert found == b"a\n" * 50_000
