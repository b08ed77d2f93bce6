"""The runner: a real child process, what it computes, how it fails, and what it cannot do to the daemon.

Every test with a runner runs for each kind of child: under rlimits, and in bubblewrap where that works.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.codec import frames
from ipdc_edge.drivers import scratch
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.drivers.runner import Output, RunnerBroken, RunnerDied, TaskFailed
from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
from ipdc_edge.drivers.runner_child import RunnerProcess
from ipdc_edge.drivers.scratch import NoRoom
from ipdc_edge.frame_socket import FrameSocket
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.waiting import eventually_async

MEGABYTE = 1 << 20
WORDS = b"""
def map(key, line):
    for word in line.split():
        yield word, 1

def combine(key, values):
    yield key, sum(values)

reduce = combine
"""
PEAK = b"""
def map(key, line):
    with open("/proc/self/status") as status:
        yield "peak", next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""
MODULE = "ipdc_edge.apps.mapreduce.task"
MAP_RUNS = {"stage": "map", "index": 0, "outputs": {"kind": "runs", "count": 2}}
MAP_FILE = {"stage": "map", "index": 0, "outputs": {"kind": "files", "count": 1}}


KINDS: list[type[RunnerProcess]] = [RunnerProcess, RunnerBubblewrap]
Kind: type[RunnerProcess] = RunnerProcess  # of the test that runs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tmp_path" in metafunc.fixturenames:  # as every test with a runner has
        metafunc.parametrize("sandbox", KINDS, ids=[kind.kind for kind in KINDS], indirect=True)


@pytest.fixture(autouse=True)
def sandbox(request: pytest.FixtureRequest) -> Iterator[None]:
    global Kind
    Kind = getattr(request, "param", RunnerProcess)
    if Kind is RunnerBubblewrap:
        needs_bubblewrap()
    yield
    Kind = RunnerProcess


def spec(map_file: str = "Map.py", reduce_file: str | None = None, **more: Any) -> dict[str, Any]:
    step = {"map": map_file} if reduce_file is None else {"map": map_file, "reduce": reduce_file}
    options = {"steps": [step], **more.pop("options", {})}
    return {
        "version": 1,
        "app": "mapreduce",
        "memory": 24 * MEGABYTE,
        "arguments": {},
        "options": options,
        **more,
    }


def in_pieces(code: dict[str, bytes]) -> list[tuple[str, int, AsyncIterator[bytes]]]:
    """Code as the daemon hands it on: a chunk at a time."""

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), MEGABYTE):
            yield data[start : start + MEGABYTE]

    return [(name, len(data), pieces(data)) for name, data in code.items()]


@asynccontextmanager
async def runner(path: Path, code: dict[str, bytes] | bytes, job: dict[str, Any] | None = None, **options: Any) -> Any:
    process = Kind(str(path), **options)
    try:
        files = code if isinstance(code, dict) else {"Map.py": code}
        await process.start(job or spec(), in_pieces(files), MODULE, "job")
        yield process
    finally:
        await process.close()
        assert os.listdir(path) == []  # spill files have no names


class Streams:
    """What a task reads (inputs: a list of lists of blocks) and writes."""

    def __init__(self, inputs: list[list[bytes]]) -> None:
        self.inputs = [iter(blocks) for blocks in inputs]
        self.written: dict[int, list[bytes]] = {}
        self.told: list[dict[str, Any]] = []
        self.aside: list[dict[str, Any]] = []

    async def read(self, stream: int) -> bytes | None:
        return next(self.inputs[stream], None)

    async def write(self, stream: int, data: bytes) -> None:
        self.written.setdefault(stream, []).append(data)


async def do(
    process: RunnerProcess, params: dict[str, Any], inputs: list[list[bytes]]
) -> tuple[dict[str, Any], Streams]:
    streams = Streams(inputs)
    if params["stage"] == "map":
        entries = []
        for number, blocks in enumerate(inputs):
            entries.append({"range": {"name": f"in{number}.txt", "start": 0, "end": sum(map(len, blocks))}})
    else:
        entries = [{"run": {}} for _ in inputs]
    done = await process.run(
        "task", {**params, "inputs": entries}, streams.read, streams.write, streams.told.append, streams.aside.append
    )
    return done, streams


def failure(path: Path, code: dict[str, bytes] | bytes, text: bytes = b"one\ntwo\n", **more: Any) -> dict[str, Any]:
    """The details of the TaskFailed that a map-only task (or loading) ends with."""

    async def main() -> dict[str, Any]:
        with pytest.raises(TaskFailed) as caught:
            async with runner(path, code, more.get("job")) as process:
                await do(process, more.get("params", MAP_FILE), [[text]])
        return caught.value.details

    return asyncio.run(main())


# What it computes


def test_word_count_over_several_tasks_of_one_runner(tmp_path: Path) -> None:
    text = [
        " ".join(f"w{number * number % 977}" for number in range(at, at + 9)).encode() + b"\n" for at in range(20_000)
    ]
    halves = [b"".join(text[:9000]), b"".join(text[9000:])]

    async def main() -> tuple[list[bytes], list[dict[str, Any]]]:
        async with runner(tmp_path, WORDS, spec(reduce_file="Map.py")) as process:
            runs: list[list[list[bytes]]] = [[], []]
            counters = []
            for half in halves:
                blocks = [half[at : at + 100_000] for at in range(0, len(half), 100_000)]
                done, streams = await do(process, MAP_RUNS, [blocks])
                counters.append(done)
                for partition in (0, 1):
                    blocks = streams.written[partition]
                    runs[partition].append(blocks)
                    assert done["streams"][partition]["bytes"] == sum(map(len, blocks))
                    assert max(map(len, blocks)) <= 32768
            parts = []
            for partition in (0, 1):
                params = {"stage": "reduce", "index": partition, "outputs": {"kind": "files", "count": 1}}
                _, streams = await do(process, params, runs[partition])
                parts.append(b"".join(streams.written[0]))
            assert process.alive
        return parts, counters

    parts, counters = asyncio.run(main())
    expected = Counter(b"".join(halves).split())
    plain = b"".join(sorted(b"%s\t%d\n" % entry for entry in expected.items()))
    assert b"".join(sorted(b"".join(parts).splitlines(keepends=True))) == plain
    assert sum(done["counters"]["pairs"] for done in counters) == 9 * 20_000


def test_spills_go_to_the_descriptors_and_change_nothing(tmp_path: Path) -> None:
    text = "".join(f"{number * 7919 % 50_000} x\n" for number in range(50_000)).encode()

    async def main(budget: int) -> tuple[dict[str, Any], dict[int, list[bytes]]]:
        async with runner(tmp_path, WORDS, spec(options={"sort_budget": budget})) as process:
            done, streams = await do(process, MAP_RUNS, [[text]])
            again, _ = await do(process, MAP_RUNS, [[text]])
            assert again == done  # the scratch was cleared in between
            return done, streams.written

    done, written = asyncio.run(main(MEGABYTE))
    assert done["counters"]["spills"] > 3 and done["counters"]["spilled_bytes"] > 10_000
    plain_done, plain_written = asyncio.run(main(20 * MEGABYTE))
    assert plain_done["counters"]["spills"] == 0
    assert {stream: b"".join(blocks) for stream, blocks in written.items()}.keys() == plain_written.keys()
    assert done["streams"][0]["records"] == plain_done["streams"][0]["records"]


def test_modules_and_packages_travel_and_setup_gets_its_arguments(tmp_path: Path) -> None:
    code = {
        "my-map.py": b"import helper\nfrom pkg import deep\nfrom pkg.sub import names\n"
        b"def setup(args):\n    helper.suffix = args['suffix']\n"
        b"def map(key, line):\n    yield helper.decorate(line), deep.VALUE + names.MORE\n",
        "helper.py": b"def decorate(text):\n    return text + suffix\n",
        "pkg/__init__.py": b"",
        "pkg/deep.py": b"from . import other\nVALUE = other.ONE\n",
        "pkg/other.py": b"ONE = 1\n",
        "pkg/sub/names.py": b"MORE = 10\n",
    }

    async def main() -> bytes:
        async with runner(tmp_path, code, spec("my-map.py", arguments={"suffix": "!"})) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\nb"]])
            return b"".join(streams.written[0])

    assert asyncio.run(main()) == b"a!\t11\nb!\t11\n"


def test_big_code_and_prints(tmp_path: Path) -> None:
    code = (
        b"import sys\nprint('loaded')\ndef map(key, line):\n"
        b"    print('saw', line)\n    print('to stderr', file=sys.stderr)\n#" + b"x" * 3_000_000
    )

    async def main() -> bytes:
        async with runner(tmp_path, code) as process:
            await do(process, MAP_FILE, [[b"a\n"]])
            await do(process, MAP_FILE, [[b"b\n"]])
        return bytes(process.output())

    assert asyncio.run(main()) == b"loaded\nsaw a\nto stderr\nsaw b\nto stderr\n"


def test_the_child_has_no_environment_and_no_descriptors_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = b"""
import os
def map(key, line):
    yield 'environment', sorted(os.environ)
    yield 'cwd', os.getcwd()
    paths = [f'/proc/self/fd/{n}' for n in range(50)]
    yield 'descriptors', sorted(os.readlink(path).split(':')[0] for path in paths if os.path.lexists(path))
    import resource
    yield 'core', resource.getrlimit(resource.RLIMIT_CORE)
"""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")

    async def main() -> bytes:
        async with runner(tmp_path, code) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\n"]])
            return b"".join(streams.written[0])

    text = asyncio.run(main()).decode()
    assert "SECRET" not in text and ("HOME" in text) == (Kind is RunnerBubblewrap)
    place = "/mnt\n" if Kind is RunnerBubblewrap else f"{tmp_path}/runner-"
    assert f"cwd\t{place}" in text and "core\t[0,0]" in text
    descriptors = text.split("descriptors\t")[1].split("\n")[0]
    assert descriptors.count("socket") == 1 and descriptors.count("pipe") == 2 and descriptors.count("/dev/null") == 1


def test_context_status_counters_and_what_is_set_aside_reach_the_daemon(tmp_path: Path) -> None:
    code = b"""
def map(key, line, context):
    context.status(f"at {line} of {context.input}, {context.task} of {context.job}\\n")
    context.count("lines")
    context.counters["odd: bytes"] += len(line)
    yield line, 1 // int(line)
"""

    async def main() -> tuple[dict[str, Any], Streams]:
        async with runner(tmp_path, code, spec(options={"skip_bad": 2})) as process:
            first = await do(process, MAP_FILE, [[b"1\n0\nxyz\n"]])
            again, _ = await do(process, MAP_FILE, [[b"1\n"]])
            assert again["user_counters"] == {"lines": 1, "odd: bytes": 1}
            return first

    done, streams = asyncio.run(main())
    assert done["user_counters"] == {"lines": 3, "odd: bytes": 5} and done["counters"]["bad_records"] == 2
    assert streams.told[0]["status"] == "at 1 of in0.txt, task of job"
    assert [(aside["where"], aside["input"], aside["offset"], aside["record"]) for aside in streams.aside] == [
        ("map", "in0.txt", 2, "0"),
        ("map", "in0.txt", 4, "xyz"),
    ]
    assert "ZeroDivisionError" in streams.aside[0]["error"] and "xyz" in streams.aside[1]["error"]


def test_programs_find_their_files_in_the_runners_directory(tmp_path: Path) -> None:
    script = b"#!/bin/sh\nwhile read line; do echo \"$line\t2\"; done\ncat suffix.txt\n"
    code = {"twice.sh": script, "suffix.txt": b"end"}
    job = {**spec(), "options": {"steps": [{"mapper": ["twice.sh"]}]}, "workers": 1}

    async def main() -> bytes:
        async with runner(tmp_path, code, job) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\nb"]])
            return b"".join(streams.written[0])

    assert asyncio.run(main()) == b"a\t2\nb\t2\nend\n"


def test_programs_find_nothing_of_earlier_tasks(tmp_path: Path) -> None:
    """Which tasks a runner does is chance; the files that their programs leave may not show in a result."""
    job = spec(options={"steps": [{"mapper": ["sh", "-c", "mkdir -p d; cat >> d/seen; cat table d/seen"]}]})

    async def main() -> list[bytes]:
        async with runner(tmp_path, {"table": b"t\n"}, job) as process:
            tasks = [await do(process, MAP_FILE, inputs) for inputs in ([[b"1\n"], [b"2\n"]], [[b"3\n"]])]
            return [b"".join(streams.written[0]) for _, streams in tasks]

    assert asyncio.run(main()) == [b"t\n1\nt\n2\n", b"t\n3\n"]


def test_python_finds_files_beside_it_too(tmp_path: Path) -> None:
    code = {
        "Map.py": b"stop = open('stop words.txt').read().split()\ndef map(key, line):\n"
        b"    yield line, [line in stop, open('data/more.txt').read()]\n",
        "stop words.txt": b"a b",
        "data/more.txt": b"",
    }

    async def main() -> bytes:
        async with runner(tmp_path, code) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\nc"]])
            return b"".join(streams.written[0])

    assert asyncio.run(main()) == b'a\t[true,""]\nc\t[false,""]\n'


def test_files_that_travel_are_held_once(tmp_path: Path) -> None:
    """They come before the limits are set, so nothing else would hold their copies in bounds."""
    most = 16 if Kind is RunnerProcess else 3  # megabytes; a sandbox has room for 4

    async def peak(megabytes: int) -> int:
        async with runner(tmp_path, {"Map.py": PEAK, "table": os.urandom(megabytes * MEGABYTE)}) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\n"]])
            return int(b"".join(streams.written[0]).partition(b"\t")[2]) // 1024

    async def main() -> int:
        return await peak(most) - await peak(0)

    assert asyncio.run(main()) < most * 1.5


def test_a_user_s_own_connection_error_is_told_as_such(tmp_path: Path) -> None:
    """Only the daemon's leaving ends a runner in silence."""
    details = failure(tmp_path, b"def map(key, line):\n    raise ConnectionResetError('far away')\n")
    assert (details["type"], details["message"]) == ("ConnectionResetError", "far away")
    details = failure(tmp_path, b"def map(key, line):\n    raise EOFError('no more')\n")
    assert (details["type"], details["message"]) == ("EOFError", "no more")


def seen_from_here(leader: int, number: int) -> int:
    """The number here of a process that has another one in its own namespace; proc(5), NSpid."""
    parents, inner = {}, {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/status") as status:
            fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
            parents[int(name)], inner[int(name)] = int(fields["PPid"]), int(fields["NSpid"].split()[-1])

    def below(pid: int) -> bool:
        return pid == leader or pid in parents and below(parents[pid])

    (found,) = (pid for pid in inner if inner[pid] == number and below(pid))
    return found


# How it fails


def test_an_exception_shows_the_users_lines_and_the_record(tmp_path: Path) -> None:
    code = {
        "Map.py": b"import helper\n\ndef map(key, line):\n    yield line, helper.risky(line)\n",
        "helper.py": b"def risky(text):\n    return 1 // (text != 'two')\n",
    }
    details = failure(tmp_path, code)
    assert (details["where"], details["type"]) == ("map", "ZeroDivisionError")
    assert (details["input"], details["offset"], details["record"]) == ("in0.txt", 4, "two")
    assert 'File "Map.py", line 4, in map\n    yield line, helper.risky(line)\n' in details["traceback"]
    assert 'File "helper.py", line 2, in risky\n    return 1 // (text' in details["traceback"]
    assert "ipdc_edge" not in details["traceback"]


@pytest.mark.parametrize(
    ("code", "where", "kind", "words"),
    [
        (b"def map(key, line)\n    pass\n", "load", "SyntaxError", "':'"),
        (b"import not_there\n", "load", "ModuleNotFoundError", "Modules of your own lie beside the program"),
        (b"x = 1\n", "load", "FunctionMissing", "map(key, line)"),
        (
            b"def setup(args):\n    raise RuntimeError('no luck')\ndef map(key, line): pass\n",
            "setup",
            "RuntimeError",
            "no luck",
        ),
        (b"import sys\ndef map(key, line):\n    sys.exit(3)\n", "map", "SystemExit", "exit(3)"),
        (b"def map(key, line):\n    yield line\n", "map", "NoPair", "`yield key, value`"),
        (b"def map(key, line):\n    return line, 1\n", "map", "NoPair", "`yield key, value`"),
        (b"def map(key, line):\n    open('stop.txt')\n", "map", "FileNotFoundError", "travel with the job by --file"),
        (b"def map(key, line):\n    return 5\n", "map", "TypeError", "must yield"),
        (b"def map(key, line):\n    raise OSError(97, 'no INET')\n", "map", "OSError", "no network"),
        (
            b"import urllib.error\ndef map(key, line):\n    raise urllib.error.URLError(OSError(-3, 'far'))\n",
            "map",
            "URLError",
            "no network",
        ),
        (b"def map(key, line):\n    yield line, {1}\n", "map", "ValueNotCarried", "type set"),
        (
            b"class Odd(Exception):\n    def __str__(self): return 1/0\ndef map(key, line):\n    raise Odd\n",
            "map",
            "Odd",
            "cannot be shown",
        ),
        (b"def map(key, line):\n    return map(key, line)\n", "map", "RecursionError", "recursion"),
    ],
)
def test_the_users_mistakes_are_told_in_words(tmp_path: Path, code: bytes, where: str, kind: str, words: str) -> None:
    details = failure(tmp_path, code)
    assert (details["where"], details["type"]) == (where, kind)
    assert words in details["message"]


def test_a_syntax_error_shows_its_line(tmp_path: Path) -> None:
    assert (
        'File "Map.py", line 1\n    def map(key, line)\n'
        in failure(tmp_path, b"def map(key, line)\n    pass\n")["traceback"]
    )


def test_a_file_with_the_name_of_a_loaded_module_is_told(tmp_path: Path) -> None:
    details = failure(tmp_path, {"socket.py": WORDS}, job=spec("socket.py"))
    assert details["type"] == "NameTaken" and "socket.py" in details["message"]


def test_a_missing_reduce_is_told(tmp_path: Path) -> None:
    details = failure(tmp_path, b"def map(key, line): pass\n", job=spec(reduce_file="Map.py"))
    assert details["message"] == "Map.py defines no reduce(key, values). It defines map."


def test_a_failure_in_combine_names_its_key(tmp_path: Path) -> None:
    code = b"def map(key, line): yield 'k', 1\ndef combine(key, values): yield key, 1 / 0\n"
    details = failure(tmp_path, code, params=MAP_RUNS)
    assert (details["where"], details["record"], details["offset"]) == ("combine", "key 'k'", None)


def test_memory_over_the_budget_is_told_and_the_runner_goes_on(tmp_path: Path) -> None:
    code = b"""
def map(key, line):
    held = [bytes(1 << 20) for _ in range(int(line))]
    yield line, len(held)
"""

    async def main() -> tuple[dict[str, Any], bytes]:
        async with runner(tmp_path, code) as process:
            with pytest.raises(TaskFailed) as caught:
                await do(process, MAP_FILE, [[b"100\n"]])
            _, streams = await do(process, MAP_FILE, [[b"3\n"]])
            return caught.value.details, b"".join(streams.written[0])

    details, result = asyncio.run(main())
    assert details["type"] == "MemoryError" and "24 MB" in details["message"]
    assert details["record"] == "100" and "Map.py" in details["traceback"]
    assert result == b"3\t3\n"


@pytest.mark.parametrize(
    "text", [b"x", b"x" * 99 + "\U0001f600".encode(), "ä".encode()], ids=["ascii", "wide", "utf-8"]
)
def test_a_line_as_long_as_the_memory_allows_is_mapped(tmp_path: Path, text: bytes) -> None:
    line = text * (3 * MEGABYTE // len(text))
    blocks = [line[at : at + MEGABYTE] for at in range(0, len(line), MEGABYTE)]
    code = b"def map(key, line):\n    yield key, len(line)\n"

    async def main() -> bytes:
        async with runner(tmp_path, code) as process:
            _, streams = await do(process, MAP_FILE, [[*blocks, b"\nlast"]])
            return b"".join(streams.written[0])

    assert asyncio.run(main()) == b"0\t%d\n%d\t4\n" % (len(line.decode()), len(line) + 1)


@pytest.mark.parametrize("kind", ["lines", "json", "csv", "whole-file"])
def test_a_line_of_200_mb_is_refused_with_its_place_and_the_runner_goes_on(tmp_path: Path, kind: str) -> None:
    size = 200 * MEGABYTE

    async def main() -> tuple[dict[str, Any], int, bytes]:
        code = b"def map(key, value):\n    yield str(value)[:9], 1\n"
        async with runner(tmp_path, code, spec(options={"input_format": kind})) as process:
            given = [0]

            async def read(stream: int) -> bytes | None:
                given[0] += 1
                return b"1\n" if given[0] == 1 else b"7" * MEGABYTE if given[0] <= 200 else None

            streams = Streams([])
            params = {**MAP_FILE, "inputs": [{"range": {"name": "in.txt", "start": 0, "end": size}}]}
            with pytest.raises(TaskFailed) as caught:
                await process.run("t", params, read, streams.write, streams.told.append, streams.aside.append)
            _, streams = await do(process, MAP_FILE, [[b"5\n"]])
            return caught.value.details, given[0], b"".join(streams.written[0])

    details, blocks, result = asyncio.run(main())
    assert details["where"] == "input" and details["input"] == "in.txt" and blocks < 10
    if kind == "whole-file":
        assert details["type"] == "FileRefused" and "6291456 bytes" in details["message"] and result.startswith(b"b'5")
    else:
        assert "in.txt, byte offset 2: a line of more than 3145728" in details["message"]
        assert details["type"] == "LineRefused" and details["offset"] == 2 and b"5" in result


@pytest.mark.parametrize("kind", ["xz", "bz2", "gz"])
def test_big_whole_files_and_windows_fit_into_the_memory(tmp_path: Path, kind: str) -> None:
    import bz2
    import gzip
    import lzma

    text = bytes(range(256)) * (6 * MEGABYTE // 256)
    packed = {"xz": lzma.compress, "bz2": bz2.compress, "gz": gzip.compress}[kind](text)
    code = b"def map(name, data):\n    yield name, [len(data), data[-1]]\n"

    async def main() -> bytes:
        async with runner(tmp_path, code, spec(options={"input_format": "whole-file"})) as process:
            streams = Streams([[packed]])
            entry = {"name": "f", "start": 0, "end": len(packed), "compression": kind}
            params = {**MAP_FILE, "inputs": [{"range": entry}]}
            await process.run("t", params, streams.read, streams.write, streams.told.append, streams.aside.append)
            return b"".join(streams.written[0])

    assert asyncio.run(main()) == b"f\t[6291456,255]\n"


def test_a_plain_job_imports_nothing_that_costs(tmp_path: Path) -> None:
    code = b"import sys\ndef map(key, line):\n    yield 'modules', sorted(sys.modules)\nreduce = combine = map\n"

    async def main() -> bytes:
        async with runner(tmp_path, code, spec(reduce_file="Map.py")) as process:
            _, streams = await do(process, MAP_FILE, [[b"a\n"]])
            return b"".join(streams.written[0])

    modules = set(json.loads(asyncio.run(main()).partition(b"\t")[2]))
    own = {name for name in modules if name.startswith("ipdc_edge.apps.mapreduce.")}
    assert "ipdc_edge.apps.mapreduce.task" in own
    assert not {name.rpartition(".")[2] for name in own} & {"command", "compressed", "formats", "skipping", "plan"}
    assert modules & {"inspect", "asyncio", "dataclasses", "subprocess", "tempfile", "traceback", "csv",
                          "bz2", "lzma", "gzip", "ssl", "ipdc_edge.codec.sorted_values"} == set()  # fmt: skip


def test_a_runner_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def main(code: bytes) -> RunnerDied:
        async with runner(
            tmp_path, b"import os\ndef map(key, line):\n    print('good bye', flush=True)\n    " + code
        ) as process:
            with pytest.raises(RunnerDied) as caught:
                await do(process, MAP_FILE, [[b"a\n"]])
            assert not process.alive
            with pytest.raises(RunnerDied):
                await do(process, MAP_FILE, [[b"a\n"]])
            return caught.value

    assert "exit status 7" in str(asyncio.run(main(b"os._exit(7)\n")))
    died = asyncio.run(main(b"os.kill(os.getpid(), 9)\n"))
    assert "signal SIGKILL" in str(died) and "good bye" in str(died) and died.retry


def test_what_the_code_started_ends_with_the_runner(tmp_path: Path) -> None:
    async def main() -> None:
        code = (
            b"import subprocess, sys\n"
            b"child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
            b"print(child.pid)\ndef map(key, line):\n    yield 1, 1\n"
        )
        async with runner(tmp_path, code) as process:
            await eventually_async(lambda: process.output().endswith(b"\n"), "the child's number")
            pidfd = os.pidfd_open(seen_from_here(process.pid, int(process.output())))
            assert not select.select([pidfd], [], [], 0)[0], "it lives"
        assert select.select([pidfd], [], [], 20)[0], "it has ended"
        os.close(pidfd)

    asyncio.run(main())


def test_a_flood_of_words_holds_nobody_up(tmp_path: Path) -> None:
    """A child that says thousands of words at once: between any two of them the loop has time for others."""

    async def main() -> list[int]:
        code = (
            b"import os, struct, sys\ndef map(key, line):\n"
            b"    text = b'{\"records\":1,\"bytes\":1}'\n    word = struct.pack('>BI', 19, len(text)) + text\n"
            b"    os.write(int(sys.argv[1]), word * 3000)\n    yield 1, 1\n"
        )
        turn = 0
        told: list[int] = []

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        async with runner(tmp_path, code) as process:
            beside = asyncio.create_task(others())
            streams = Streams([[b"a\n"]])
            params = {**MAP_FILE, "inputs": [{"range": {"name": "in", "start": 0, "end": 2}}]}
            await process.run(
                "task", params, streams.read, streams.write, lambda report: told.append(turn), streams.aside.append
            )
            beside.cancel()
        return told

    told = asyncio.run(main())
    assert len(told) >= 3000 and len(set(told)) == len(told), "words were taken one after the other without a turn"


def test_killing_ends_an_endless_loop(tmp_path: Path) -> None:
    async def main() -> None:
        code = b"def map(key, line):\n    print('in the loop')\n    while True: pass\n"
        async with runner(tmp_path, code) as process:
            task = asyncio.create_task(do(process, MAP_FILE, [[b"a\n"]]))
            await eventually_async(lambda: b"in the loop" in process.output(), "the endless loop has begun")
            process.kill()
            with pytest.raises(RunnerDied, match="SIGKILL"):
                await task
            assert not process.alive

    asyncio.run(main())


def test_a_cancelled_task_and_a_failing_callback_end_the_runner(tmp_path: Path) -> None:
    async def fails(stream: int) -> bytes | None:
        raise LookupError("no provider")

    async def waits(stream: int) -> bytes | None:
        reading.set()
        await asyncio.Event().wait()
        return None

    reading = asyncio.Event()
    params = {**MAP_FILE, "inputs": [{"range": {"name": "f", "start": 0, "end": 9}}]}

    async def main() -> None:
        streams = Streams([])
        async with runner(tmp_path, WORDS) as process:
            with pytest.raises(LookupError, match="no provider"):
                await process.run("t", params, fails, streams.write, streams.told.append, streams.aside.append)
            assert not process.alive
        async with runner(tmp_path, WORDS) as process:
            running = process.run("t", params, waits, streams.write, streams.told.append, streams.aside.append)
            task = asyncio.create_task(running)
            await reading.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not process.alive

    asyncio.run(main())


# What it cannot do


SOCKET = b"""
import json, os, socket, struct, sys
paths = {n: f'/proc/self/fd/{n}' for n in range(3, 30)}
link = next(n for n, path in paths.items() if os.path.lexists(path) and os.readlink(path)[0] == 's')
def send(kind, payload=b'', length=None):
    os.write(link, struct.pack('>BI', kind, len(payload) if length is None else length) + payload)
"""
WRITE_BEYOND = b"send(18, struct.pack('>I', 5) + b'x')"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (b"send(99)", "no frame kind 99"),
        (b"send(18, length=4294967295)", "4294967295"),
        (b"send(18, b'x')", "without a stream number"),
        (WRITE_BEYOND, "WRITE to a stream"),
        (b"send(18, struct.pack('>I', 0))", "of nothing"),
        (b"send(17, b'{}')", "READ of a stream"),
        (b"send(17, b'{\"stream\": -1}')", "READ of a stream"),
        (b"send(17, b'{\"stream\": true}')", "READ of a stream"),
        (b"send(17, b'[' * 100000)", "not JSON"),
        (b'send(19, b\'{"records": -1, "bytes": 0}\')', "a count"),
        (b'send(20, b\'{"counters": [], "streams": [{}]}\')', "without counters"),
        (b'send(20, b\'{"counters": {}, "streams": []}\')', "without its streams"),
        (b'send(20, b\'{"counters": {"x": 1.5}, "streams": [{}]}\')', "a count"),
        (b'send(20, json.dumps({"counters": {}, "user_counters": {f"{n:02d}" + chr(128512) * 78: 1 for n in range(50)},'
         b' "streams": [{}]}).encode())', "more than 11264 bytes"),
        (b"send(16, b'{}')", "READY frame within a task"),
        (b"send(1, b'{}')", "JOB frame within a task"),
    ],
)
def test_a_runner_that_breaks_the_protocol_is_killed(tmp_path: Path, action: bytes, words: str) -> None:
    code = SOCKET + b"def map_lines(lines):\n    " + action + b"\n    while True: pass\n"

    async def main() -> None:
        async with runner(tmp_path, code) as process:
            with pytest.raises(RunnerBroken, match=words):
                await do(process, MAP_FILE, [[b"a\n"]])
            assert not process.alive

    asyncio.run(main())


def test_a_failure_that_the_child_invents_is_held_in_bounds(tmp_path: Path) -> None:
    action = b'send(21, b\'{"where": 5, "traceback": "\' + b\'x\' * 1000000 + b\'", "offset": "no", "more": 1}\')'
    details = failure(tmp_path, SOCKET + b"def map_lines(lines):\n    " + action + b"\n    while True: pass\n")
    assert len(details["traceback"]) == 32 * 1024 and details["where"] == "" and details["offset"] is None
    assert set(details) == {"where", "type", "message", "traceback", "input", "offset", "record"}


def test_a_child_that_floods_its_prints_costs_nothing(tmp_path: Path) -> None:
    code = b"def map(key, line):\n    for n in range(100000): print('line', n)\n"

    async def main() -> bytes:
        async with runner(tmp_path, code) as process:
            await do(process, MAP_FILE, [[b"a\n"]])
        return bytes(process.output())

    output = asyncio.run(main())
    assert output.startswith(b"line 0\n") and output.endswith(b"line 99999\n") and b"bytes left out" in output
    assert len(output) < 66 * 1024


def test_output_keeps_first_and_last() -> None:
    output = Output(4)
    for piece in (b"ab", b"cde", b"f", b"ghij"):
        output.add(piece)
    assert output.text() == b"abcd\n... 2 bytes left out ...\nghij"


def test_the_file_size_limit_holds(tmp_path: Path) -> None:
    code = b"def map(key, line):\n    yield from ((str(n * 7919), n * 7919) for n in range(200000))\n"
    job = spec(reduce_file=None, options={"sort_budget": MEGABYTE})

    async def main() -> dict[str, Any]:
        async with runner(tmp_path, code, job, spill_files=1, file_size=100_000) as process:
            with pytest.raises(TaskFailed) as caught:
                await do(process, MAP_RUNS, [[b"a\n"]])
            return caught.value.details

    details = asyncio.run(main())
    assert details["type"] == "ScratchFull" and "scratch" in details["message"]


def test_the_child_leaves_when_the_daemon_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        process = Kind(str(tmp_path))
        await process.start(spec(), in_pieces({"Map.py": WORDS}), MODULE, "job")
        process._socket.end.shutdown(socket.SHUT_RDWR)
        await process.exit()
        await process.close()
        assert process._process is not None and process._process.returncode == 0

    asyncio.run(main())


def test_a_close_that_is_not_heeded_becomes_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipdc_edge.drivers.runner.LEAVE_WITHIN", 0.1)

    async def main() -> int:
        process = Kind(str(tmp_path))
        await process.start(spec(), in_pieces({"Map.py": WORDS}), MODULE, "job")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        await process.close()
        await process.close()
        assert process._process is not None
        return process._process.returncode

    assert asyncio.run(main()) == -signal.SIGKILL


def test_a_child_that_cannot_be_watched_is_killed_and_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not ended because this process has no descriptor left to see it by."""
    refused = []
    really = os.pidfd_open

    def none_left(pid: int) -> int:
        if len(refused) < 3:
            refused.append(pid)
            raise OSError(errno.EMFILE, "Too many open files")
        return really(pid)

    async def main() -> int | None:
        monkeypatch.setattr(os, "pidfd_open", none_left)
        process = Kind(str(tmp_path))
        with pytest.raises(OSError, match="Too many open files"):
            await process.start(spec(), in_pieces({"Map.py": WORDS}), MODULE, "job")
        assert not process.alive
        await process.close()
        assert process._process is not None
        return process._process.returncode

    assert asyncio.run(main()) is not None, "nobody waited for it"
    assert len(refused) == 3


# The blocking end of frames


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, FrameSocket]]:
    one, other = (FrameSocket(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


Pair = tuple[FrameSocket, FrameSocket]


def test_descriptors_come_with_their_frame(pair: Pair, tmp_path: Path) -> None:
    one, other = pair
    (tmp_path / "f").write_bytes(b"content")
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    one.send(frames.DATA, b"before")
    one.send_json(frames.REQUEST, {"a": 1}, (descriptor, descriptor))
    one.send(frames.END)
    os.close(descriptor)
    assert other.receive() == (frames.DATA, b"before") and other.take_descriptors() == []
    assert other.receive() == (frames.REQUEST, b'{"a":1}')
    received = other.take_descriptors()
    assert [os.pread(number, 9, 0) for number in received] == [b"content"] * 2
    assert all(not os.get_inheritable(number) for number in received)
    for number in received:
        os.close(number)
    assert other.receive() == (frames.END, b"")


def test_a_connection_that_ends(pair: Pair) -> None:
    one, other = pair
    one.sock.sendall(frames.encode(frames.DATA, b"whole") + b"\x04\x00\x00\x00\x09cut")
    one.sock.shutdown(socket.SHUT_WR)
    assert other.receive() == (frames.DATA, b"whole")
    with pytest.raises(frames.BadFrame, match="within a DATA frame"):
        other.receive()
    assert other.receive() is None


def test_big_frames_cross_a_small_buffer(pair: Pair) -> None:
    one, other = pair
    payload = os.urandom(frames.MAX_PAYLOAD)

    async def main() -> tuple[int, bytearray] | None:
        sending = asyncio.to_thread(one.send, frames.DATA, payload)
        _, received = await asyncio.gather(sending, asyncio.to_thread(other.receive))
        return received

    assert asyncio.run(main()) == (frames.DATA, payload)


def test_a_big_file_is_counted_and_refused_where_the_disk_has_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runner has a copy, which the flash feels; models may have 256 MB."""
    code = {"Map.py": WORDS, "model": b"m" * (2 * MEGABYTE)}

    async def main() -> None:
        before = FLASH.job("job")
        async with runner(tmp_path, code):
            after = FLASH.job("job")
        assert after is not None and after.written - (before.written if before else 0) == 2 * MEGABYTE
        monkeypatch.setattr(scratch, "LEAST_FILE", 1 << 60)
        with pytest.raises(NoRoom, match="the job's file model of 2 MB has no room"):
            async with runner(tmp_path, code, file_size=MEGABYTE):
                pass
        async with runner(tmp_path, WORDS):  # takes none
            pass

    asyncio.run(main())
