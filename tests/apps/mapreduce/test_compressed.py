"""Compressed inputs: what comes out, how much at a time, and what is said of files that are not whole."""

from __future__ import annotations

import builtins
import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from helpers_mapreduce import Job, blocks_of, program
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.compressed import PIECE, Damaged, NoDecompressor, Truncated, WindowTooBig, decompressed

MEMORY = 24 << 20
KINDS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
try:
    from compression import zstd  # Python 3.14

    KINDS["zst"] = zstd.compress
except ImportError:
    try:
        import zstandard

        KINDS["zst"] = zstandard.ZstdCompressor().compress
    except ImportError:
        zstandard = None
BINARY = random.Random(1).randbytes(300_000)


def text_of(data: bytes, kind: str, block: int, memory: int = MEMORY) -> bytes:
    read = decompressed(blocks_of(data, 0, block), kind, f"f.{kind}", memory)
    return b"".join(iter(read, b""))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 80),
       st.integers(0, 9))  # fmt: skip
def test_streams_one_after_the_other_are_one_text(kind: str, texts: list[bytes], block: int, padding: int) -> None:
    pad = {"gz": bytes(padding), "xz": bytes(4 * padding)}.get(kind, b"")
    data = b"".join(KINDS[kind](text) + pad for text in texts)
    assert text_of(data, kind, block) == b"".join(texts)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("block", [1 << 20, 5000])
def test_what_hardly_packs_and_what_packs_well(kind: str, block: int) -> None:
    for text in (BINARY, b"line\n" * 200_000, BINARY[:100_000] + b"x" * 3_000_000 + BINARY[100_000:]):
        assert text_of(KINDS[kind](text), kind, block) == text


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_offsets_are_those_of_the_text_and_nothing_is_split(kind: str) -> None:
    text = b"one\ntwo\r\n\nf\xffour"
    job = Job(program(map=lambda key, line: [(key, line)]))
    assert job.run({f"f.{kind}": KINDS[kind](text)}, split=3, block=5) == [b"0\tone\n4\ttwo\r\n9\t\n10\tf\xffour\n"]
    assert job.counters[0]["input_bytes"] == len(KINDS[kind](text))  # as the file lies there
    [part] = job.run({f"f.{kind}": KINDS[kind](b"line\n" * 10_000)}, block=50)
    assert part.count(b"\n") == 10_000 and part.endswith(b"\n49995\tline\n")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bomb_unfolds_a_little_at_a_time(kind: str) -> None:
    data = KINDS[kind](bytes(64 << 20))
    read = decompressed(blocks_of(data, 0, 1 << 20), kind, "bomb", MEMORY)
    tracemalloc.start()
    try:
        size = sum(map(len, iter(read, b"")))
        assert size == 64 << 20 and tracemalloc.get_traced_memory()[1] < 20 * PIECE + (9 << 20 if kind == "xz" else 0)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_file_that_is_cut_off_says_so(kind: str) -> None:
    whole = KINDS[kind](BINARY)
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", whole + whole[:9]):
        with pytest.raises(Truncated, match=rf"f\.{kind} is cut off: the {kind} data end too early"):
            text_of(data, kind, 1000)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_file_that_is_damaged_says_so(kind: str) -> None:
    whole = KINDS[kind](BINARY)
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 255
    for data in (b"no such thing at all", whole + b"rubbish behind it", bytes(middle)):
        if kind == "zst" and data == bytes(middle) and "zstandard" in globals():
            continue  # without a checksum nobody can tell
        with pytest.raises(Damaged, match=rf"f\.{kind} is damaged, or no {kind}: "):
            text_of(data, kind, 1000)


def test_a_window_beyond_the_memory_says_what_to_do() -> None:
    data = lzma.compress(b"text", preset=9)  # 64 MB
    assert text_of(data, "xz", 1000, 256 << 20) == b"text"
    with pytest.raises(WindowTooBig, match="f.xz takes more memory .* than a runner with 24 MB has: .*xz -6"):
        text_of(data, "xz", 1000)


def test_zst_without_a_module_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("compression", "zstandard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NoDecompressor, match=r"f\.zst is compressed by zstd, .*python3-zstandard.*\.gz"):
        decompressed(lambda: b"", "zst", "f.zst", MEMORY)


def test_the_task_says_which_file_it_was() -> None:
    files = {"good.gz": gzip.compress(b"a\n"), "bad.gz": gzip.compress(BINARY)[:-9]}
    with pytest.raises(Truncated) as caught:
        Job(program(map=lambda key, line: [])).run(files, together=2)
    assert caught.value.position == {"where": "input", "input": "bad.gz"}  # type: ignore[attr-defined]


def test_formats_read_compressed_files_too() -> None:
    files = {"f.gz": gzip.compress(b'{"a": 1}\n[2]\n')}
    job = Job(program(map=lambda key, value: [(key, value)], input_format="json"))
    assert job.run(files) == [b'0\t{"a":1}\n9\t[2]\n']
    job = Job(program(map=lambda key, value: [(key, value.decode())], input_format="whole-file"))
    assert job.run(files) == [b'f.gz\t{"a": 1}\n[2]\n\n']
