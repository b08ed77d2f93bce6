"""Programs that do not behave: that print first, or never, or without end; that stop reading; that end badly; that
leave something behind. Nothing hangs, nothing fills the memory, nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_command import Programs, endless, has_gone

from ipdc_edge.apps.mapreduce import command
from ipdc_edge.apps.mapreduce.command import CommandFailed, EndlessLine

pytestmark = pytest.mark.outside("runs real programs")

ROOT = Path(__file__).parents[3]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def children() -> list[str]:
    """Our children in our own session; the fuzz, which passes its minutes beside the tests, leads another."""
    me = os.getpid()
    found = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return [child for child in found if os.getsid(int(child)) == os.getsid(0)]


LARGE_PIPE = b"import fcntl, os\nfcntl.fcntl(%d, 1031, 1 << 20)\n"  # F_SETPIPE_SZ


def until_it_has_ended() -> Iterator[bytes]:
    """Input that comes when the program has ended already."""
    [child] = children()
    while "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        continue
    yield b"too late\n"


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


# Feeding and reading


def test_one_that_prints_much_before_it_reads(programs: Programs) -> None:
    found = programs.shell("seq 300000; exec wc -l", lines=[b"x\n" * 30_000] * 40)
    assert found.endswith(b"\n300000\n1200000\n")


def test_one_that_reads_all_and_prints_nothing(programs: Programs) -> None:
    assert programs.shell("exec cat > /dev/null", lines=[b"x\n" * 30_000] * 100) == b""


def test_one_that_prints_far_more_than_it_reads(programs: Programs) -> None:
    script = "import sys\nfor line in sys.stdin: print('y' * 2000)\n"
    assert len(programs.run("python3", "-c", script, lines=[b"x\n" * 10_000])) == 2001 * 10_000


def test_one_that_never_reads(programs: Programs) -> None:
    assert programs.run("true", lines=endless()) == b""
    assert programs.run("echo", "done", lines=endless()) == b"done\n"


def test_one_that_has_read_enough(programs: Programs) -> None:
    assert programs.run("head", "-2", lines=endless()) == b"line\nline\n"


def test_one_that_closes_its_input_and_goes_on(programs: Programs) -> None:
    assert programs.shell("exec < /dev/null; seq 100000 | tail -1", lines=endless()) == b"100000\n"


def test_one_that_closes_its_output_and_reads_on(programs: Programs) -> None:
    assert programs.shell("exec > /dev/null; cat > read; exit 0", lines=[b"x\n" * 30_000] * 10) == b""
    assert (programs.directory / "read").stat().st_size == 600_000


def test_one_that_closes_all_and_still_fails(programs: Programs) -> None:
    with pytest.raises(CommandFailed, match="status 5"):
        programs.shell("exec < /dev/null > /dev/null 2> /dev/null; exit 5", lines=endless())


def test_input_is_not_taken_before_there_is_room_for_it(programs: Programs) -> None:
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in endless():
            taken += len(chunk)
            yield chunk

    found = programs.command("sh", "-c", "yes; cat").run(counted())  # prints without end and never reads
    for _ in range(200):
        next(found)
    found.close()  # type: ignore[attr-defined]
    assert taken <= 128 * 1024


def test_input_waits_for_room_and_ends_with_the_reader() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    feeder = command._Feeder(writer, iter([b"x" * 70_000, b"never taken\n"]))
    assert feeder.feed() and feeder.feed() and feeder.feed()
    assert os.read(reader, 70_000) == b"x" * 65_536
    assert feeder.feed() and os.read(reader, 70_000) == b"x" * 4464 + b"\n"
    os.close(reader)
    assert not feeder.feed()
    os.close(writer)


# Lines without end


def test_a_line_without_end_is_refused(programs: Programs) -> None:
    with pytest.raises(EndlessLine) as caught:
        programs.shell("yes | tr -d '\\n'")
    assert str(caught.value).startswith(f"sh printed more than {command.MOST_LINE} bytes without a newline")


def test_lines_before_a_line_without_end_are_no_excuse(programs: Programs) -> None:
    with pytest.raises(EndlessLine):
        programs.shell("seq 100000; cat /dev/zero")


# How it ends


def test_an_exit_status_fails_with_the_last_words(programs: Programs) -> None:
    script = b"#!/bin/sh\nread line\necho out\nseq 1 100 >&2\necho 'no such sensor: 7' >&2\nprintf last >&2\nexit 3\n"
    with pytest.raises(CommandFailed) as caught:
        programs.run("m.sh", lines=endless(), m_sh=script)
    lines = [str(number) for number in range(93, 101)] + ["no such sensor: 7", "last"]
    assert str(caught.value) == "m.sh ended with exit status 3. Its last words on standard error:\n" + "\n".join(lines)


def test_a_failure_without_a_word(programs: Programs) -> None:
    with pytest.raises(CommandFailed, match=r"^false ended with exit status 1\. It said nothing"):
        programs.run("false", lines=[])


def test_last_words_may_wait_in_the_pipe(programs: Programs) -> None:
    """A program may be gone before anything of it was read."""
    script = LARGE_PIPE % 2 + b"os.write(2, b'x' * 300_000 + b'\\nlast words\\n')\nos._exit(3)\n"
    with pytest.raises(CommandFailed, match="last words$"):
        programs.run("m.py", lines=until_it_has_ended(), m_py=script)


@pytest.mark.parametrize(("name", "more"), [("SEGV", ""), ("KILL", r" \(the memory"), ("PIPE", "")])
def test_a_signal_is_named(programs: Programs, name: str, more: str) -> None:
    with pytest.raises(CommandFailed, match=f"sh was killed by signal SIG{name}{more}"):
        programs.shell(f"kill -{name} $$", lines=endless())


def test_a_python_traceback_is_shown(programs: Programs) -> None:
    script = b"import sys\nfor line in sys.stdin: int(line)\n"
    with pytest.raises(CommandFailed) as caught:
        programs.run("m.py", lines=[b"1\nx\n"], m_py=script)
    assert str(caught.value).endswith("ValueError: invalid literal for int() with base 10: 'x\\n'")


def test_failing_in_the_middle_ends_the_stream_of_lines(programs: Programs) -> None:
    found = programs.command("sh", "-c", "seq 100000; exit 9").run(endless())
    with pytest.raises(CommandFailed, match="status 9"):
        for _ in found:
            continue


def test_broken_input_ends_the_program(programs: Programs) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a\n" * 100_000
        raise OSError("no block")

    with pytest.raises(OSError, match="no block"):
        programs.run("cat", lines=broken())


# What it leaves behind


def test_being_cut_short_ends_the_program_and_its_group(programs: Programs) -> None:
    for end in ("close", "drop", "Command.close"):
        script = "trap '' TERM HUP INT PIPE; sleep 1000 & echo $$ $!; while :; do seq 20000; done"
        running = programs.command("sh", "-c", script)
        found = running.run(endless())
        program, child = next(found).split()[:2]
        if end == "close":
            found.close()  # type: ignore[attr-defined]
        elif end == "Command.close":
            running.close()
        del found
        assert not Path(f"/proc/{int(program)}").exists()  # reaped
        assert has_gone(int(child))


def test_a_child_that_keeps_the_output_open_is_given_up(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUIET", 0.1)
    pid, done = programs.shell("sleep 1000 & echo $!; echo done", lines=endless()).split()
    assert done == b"done" and has_gone(int(pid))
    assert "sh has ended, but something that it started keeps its output open" in capfd.readouterr().err


@pytest.mark.parametrize("output", [">&1", ">&2", "2>&1 >&2"])
def test_a_child_that_floods_is_given_up(programs: Programs, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.setattr(command, "TALK", 0.05)
    assert programs.shell(f"echo begin; yes {output} & exit 0", lines=endless()).startswith(b"begin\n")
    with pytest.raises(CommandFailed, match="status 4"):
        programs.shell(f"yes {output} & exit 4", lines=endless())


def test_a_flood_from_another_group_is_given_up(programs: Programs) -> None:
    script = "setsid sh -c 'echo $$ > pid; exec yes >&2' & while [ ! -s pid ]; do :; done; exit 4"
    with pytest.raises(CommandFailed, match="status 4"):
        programs.shell(script)
    assert has_gone(int((programs.directory / "pid").read_text()))  # by SIGPIPE


def test_what_is_left_in_a_pipe_is_bounded() -> None:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    assert len(list(command._left(descriptor))) == command.MOST_LEFT
    os.close(descriptor)


def test_what_a_program_has_left_in_a_large_pipe_is_not_lost(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUIET", 0)
    script = LARGE_PIPE % 1 + b"os.write(1, b'a line of text\\n' * 40_000)\n"
    assert programs.run("m.py", lines=until_it_has_ended(), m_py=script) == b"a line of text\n" * 40_000


def test_a_child_of_another_group_is_given_up_too(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "QUIET", 0.1)
    found = programs.shell("setsid sh -c 'echo $$; exec sleep 1000' & read x; echo done", lines=[b"x\n"])
    pid = int(next(word for word in found.split() if word != b"done"))
    os.kill(pid, signal.SIGKILL)  # out of reach for us; the daemon's cgroup has it
    assert b"done\n" in found and has_gone(pid)


def test_what_children_still_print_at_once_is_not_lost(programs: Programs) -> None:
    """As with bash's `tee >(sort)`, whose sort may outlive the program by a moment."""
    script = "(until grep -q '^State:.Z' /proc/$$/status; do :; done; seq 50000) & echo early"
    assert programs.shell(script).split() == [b"early", *[str(number).encode() for number in range(1, 50_001)]]


def test_a_silent_child_does_not_outlive_the_program(programs: Programs) -> None:
    pid = int(programs.shell("sleep 1000 > /dev/null 2>&1 & echo $!"))
    assert has_gone(pid)


@pytest.mark.skipif(not os.access("/usr/bin/setpriv", os.X_OK), reason="needs setpriv")
def test_the_program_ends_with_its_runner(tmp_path: Path) -> None:
    script = """if True:
        import sys
        from ipdc_edge.apps.mapreduce.command import Command
        from ipdc_edge.runner.task_io import TaskIo
        argv = ["sh", "-c", "echo $$ >&2; exec python3 -c 'while True: pass'"]
        list(Command(argv, {}, {}, TaskIo(None, None, directory=sys.argv[1]), None).run([]))
    """
    runner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
    assert runner.stderr is not None
    with runner:
        pid = int(runner.stderr.readline())
        runner.kill()
    assert has_gone(pid)
