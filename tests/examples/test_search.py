"""app-search without a node: what a job may say, how its range is cut, when there is enough, and the hashing, on
published block headers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from app_search.plan import LAST_NONCE, Search, from_bits, read_arguments
from app_search.work import hash_of, load, make_task, search
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.core.architecture import BadSpec
from ipdc_edge.core.values import JobSpec, Result
from tests.examples.headers import GENESIS, PUBLISHED, Header

HEADER = GENESIS.bytes.hex()
ONE = (1 << 224) - 1 - ((1 << 208) - 1)  # the target of 0x1d00ffff, "difficulty 1"


def spec(**arguments: Any) -> JobSpec:
    body = {"version": 1, "app": "search", "workers": 2, "memory": 24 << 20, "inputs": [], "code": {}, "options": {},
            "arguments": {"header": HEADER, **arguments}}
    return JobSpec("cid", "search", 2, 24 << 20, body)


def result(size: int) -> Result:
    return Result("node", "cid", size, {"counters": {}})


class Io:
    """What a runner hands to a task, kept in memory."""

    def __init__(self) -> None:
        self.written = b""
        self.told: list[tuple[int, int]] = []
        self.words: list[str] = []

    def write(self, stream: int, data: bytes) -> None:
        assert stream == 0
        self.written += data

    def progress(self, records: int, size: int) -> None:
        self.told.append((records, size))

    def status(self, text: str) -> None:
        self.words.append(text)


def run(first: int, last: int, target: int, header: bytes = GENESIS.bytes) -> tuple[dict[str, Any], Io]:
    io: Any = Io()
    loaded = load({"arguments": {"header": header.hex()}}, {})
    params = {"first": first, "last": last, "target": f"{target:064x}"}
    return make_task(loaded, "search-00000", params, io).run(), io


# What a job may say


def test_left_out_arguments_have_their_defaults() -> None:
    assert read_arguments({"header": HEADER}) == (GENESIS.bytes, 0, LAST_NONCE, 1 << 20, ONE)


def test_a_header_with_its_nonce_is_the_same_header() -> None:
    assert read_arguments({"header": HEADER + "1dac2b7c"}) == read_arguments({"header": HEADER})


@pytest.mark.parametrize(("arguments", "words"), [
    ({"header": None}, "header None is not 76 or 80 bytes"),
    ({"header": HEADER[:-2]}, "is not 76 or 80 bytes"),
    ({"header": "zz" * 80}, "is not 76 or 80 bytes"),
    ({"first": -1}, "first -1 is not a whole number from 0 to 4294967295"),
    ({"first": 7, "last": 6}, "last 6 is not a whole number from 7 to"),
    ({"last": 1 << 32}, "last 4294967296 is not"),
    ({"first": True}, "first True is not"),
    ({"first": 1.0}, "first 1.0 is not"),
    ({"chunk": 0}, "chunk 0 is not a whole number from 1"),
    ({"chunk": 1000}, "4294968 chunks, more than 10000: give a larger 'chunk' than 1000"),
    ({"target": "easy"}, "target 'easy' is not"),
    ({"target": {"bits": "1d00fff"}}, "target {'bits': '1d00fff'} is not"),
    ({"target": {"bits": "1d00ffgg"}}, "is not"),
    ({"target": {"bits": "1d80ffff"}}, "bits 1d80ffff are no target"),
    ({"target": {"bits": "ff00ffff"}}, "bits ff00ffff are no target"),
    ({"target": {"zero_bits": 257}}, "is not"),
    ({"target": {"zero_bits": 8, "bits": "1d00ffff"}}, "is not"),
    ({"difficulty": 3}, "there is no argument 'difficulty'; a search has header, first, last, chunk, target"),
])
def test_what_a_search_cannot_do_is_refused_by_name(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec) as caught:
        Search().check(spec(**arguments))
    assert words in str(caught.value)


@pytest.mark.parametrize("arguments", [None, [], "header", 3])
def test_arguments_are_an_object(arguments: Any) -> None:
    with pytest.raises(BadSpec, match="is not an object"):
        read_arguments(arguments)


def test_inputs_are_refused() -> None:
    job = spec()
    with pytest.raises(BadSpec, match="no inputs"):
        Search().check(JobSpec("cid", "search", 1, 1, {**job.body, "inputs": [{"name": "a", "cid": "b", "size": 1}]}))


@given(st.integers(0, 255), st.integers(0, (1 << 23) - 1))
def test_a_compact_target_is_its_mantissa_moved(size: int, mantissa: int) -> None:
    """As Bitcoin's arith_uint256 reads it; where it does not fit it is refused."""
    wanted = mantissa * 256 ** (size - 3) if size >= 3 else mantissa // 256 ** (3 - size)
    try:
        assert from_bits(size << 24 | mantissa) == wanted
    except BadSpec:
        assert wanted == 0 or wanted >= 1 << 256


# How it is cut


@given(st.integers(0, LAST_NONCE), st.integers(1, 5000), st.integers(1, 700))
def test_every_number_is_in_one_chunk(first: int, count: int, chunk: int) -> None:
    last = min(first + count - 1, LAST_NONCE)
    job = spec(first=first, last=last, chunk=chunk)
    tasks = Search().plan(job)
    tried: list[int] = []
    for number, task in enumerate(tasks):
        params = Search().params(job, task, {}, "master")
        tried += range(params["first"], params["last"] + 1)
        assert (task.index, task.final, task.size) == (number, True, params["last"] - params["first"] + 1)
        assert params["outputs"] == {"kind": "files", "count": 1} and params["inputs"] == []
        assert int(params["target"], 16) == ONE
    assert tried == list(range(first, last + 1))
    assert len({task.id for task in tasks}) == len(tasks)


def test_the_whole_range_is_within_the_bound() -> None:
    Search().check(spec())
    assert len(Search().plan(spec())) == 4096


def test_one_answer_is_enough() -> None:
    assert not Search().enough(spec(), {})
    assert not Search().enough(spec(), {"search-00000": result(0), "search-00002": result(0)})
    assert Search().enough(spec(), {"search-00000": result(0), "search-00001": result(76)})


# What a runner does


@pytest.mark.parametrize("header", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_headers_have_their_published_hashes(header: Header) -> None:
    assert hash_of(header.bytes, header.nonce) == header.hash


@pytest.mark.parametrize("header", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_published_nonce_is_found_at_the_full_target(header: Header) -> None:
    target = read_arguments({"header": header.bytes.hex()}).target
    done, io = run(header.nonce - 50_000, header.nonce + 1000, target, header.bytes)
    assert io.written.decode() == f"{header.nonce}\t{header.hash}\n"
    assert done["counters"] == {"tried": 50_001, "found": 1, "output_bytes": len(io.written)}
    assert done["streams"] == [{"records": 1, "bytes": len(io.written)}]
    assert io.told[-1] == (50_001, 50_001) and "hashes/s" in io.words[-1]


def test_a_range_without_an_answer_writes_nothing() -> None:
    done, io = run(GENESIS.nonce - 1000, GENESIS.nonce - 1, ONE)
    assert io.written == b"" and done["counters"] == {"tried": 1000, "found": 0, "output_bytes": 0}
    assert done["streams"] == [{"records": 0, "bytes": 0}]


@pytest.mark.parametrize(("first", "last"), [(GENESIS.nonce, GENESIS.nonce), (GENESIS.nonce - 9, GENESIS.nonce)])
def test_both_ends_of_a_range_belong_to_it(first: int, last: int) -> None:
    assert run(first, last, ONE)[0]["counters"]["found"] == 1


def test_the_last_of_all_nonces_can_be_tried() -> None:
    assert run(LAST_NONCE - 5, LAST_NONCE, 0)[0]["counters"]["tried"] == 6


@given(st.integers(0, 100_000), st.integers(0, 12))
def test_the_first_that_is_low_enough_is_what_plain_hashing_finds(first: int, zero_bits: int) -> None:
    target = (1 << (256 - zero_bits)) - 1
    wanted = next((n for n in range(first, first + 300) if int(hash_of(GENESIS.bytes, n), 16) <= target), None)
    assert search(GENESIS.bytes, first, first + 300, target) == wanted


def test_a_hash_that_equals_the_target_will_do() -> None:
    target = int(GENESIS.hash, 16)
    assert search(GENESIS.bytes, GENESIS.nonce, GENESIS.nonce + 1, target) == GENESIS.nonce
    assert search(GENESIS.bytes, GENESIS.nonce, GENESIS.nonce + 1, target - 1) is None


def test_a_failure_says_at_which_nonce() -> None:
    io: Any = SimpleNamespace(progress=None)
    task = make_task(GENESIS.bytes, "search-00000", {"first": 5, "last": 9, "target": "0" * 64}, io)
    with pytest.raises(TypeError):
        task.run()
    assert task.position() == {"where": "search", "record": "nonce 10"}
