"""app-search installed by pip and run on nodes: published nonces are found, the first answer ends the job, and mistakes
are refused before anything starts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.examples.headers import BLOCK_125552, GENESIS, PUBLISHED, Header
from tests.examples.labs import Lab


def answers(lab: Lab, view: dict[str, Any]) -> list[bytes]:
    return [line for part in lab.parts(view).values() for line in part.splitlines()]


def test_the_package_registers_its_architecture(search_environment: Any) -> None:
    assert "search=app_search.plan:Search" in search_environment.registered()


def test_every_node_offers_it(search_lab: Lab) -> None:
    nodes = json.loads(search_lab.ipdc("nodes", "--json", node=2).stdout)
    assert len(nodes) == 2 and all("search" in node["capabilities"] for node in nodes)


@pytest.mark.parametrize("header", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_published_nonce_is_found(search_lab: Lab, header: Header) -> None:
    wanted = {"header": header.bytes.hex(), "first": header.nonce - 100_000, "last": header.nonce + 5000, "chunk": 7000}
    view = search_lab.submit("search", wanted, "-k", "2")
    assert answers(search_lab, view) == [f"{header.nonce}\t{header.hash}".encode()]


def test_an_easier_target_has_an_answer_from_zero(search_lab: Lab) -> None:
    wanted = {"header": GENESIS.bytes.hex(), "last": 2_000_000, "chunk": 20_000, "target": {"zero_bits": 14}}
    view = search_lab.submit("search", wanted)
    found = answers(search_lab, view)
    assert found and all(line.split(b"\t")[1].startswith(b"000") for line in found)


def test_the_first_answer_stops_everybody(search_lab: Lab) -> None:
    """The whole range, 1.8 thousand million nonces, would take both nodes a quarter of an hour or more."""
    wanted = {"header": BLOCK_125552.bytes.hex(), "first": BLOCK_125552.nonce - 300_000, "chunk": 200_000}
    began = time.monotonic()
    view = search_lab.submit("search", wanted, "-k", "2")
    assert time.monotonic() - began < 60
    assert f"{BLOCK_125552.nonce}\t{BLOCK_125552.hash}".encode() in answers(search_lab, view)
    assert len(search_lab.parts(view)) < 50  # of 8955 chunks; the rest was skipped


def test_a_range_without_an_answer_succeeds_with_empty_parts(search_lab: Lab) -> None:
    wanted = {"header": GENESIS.bytes.hex(), "last": 9_999, "chunk": 2500}
    view = search_lab.submit("search", wanted, "-k", "2")
    assert list(search_lab.parts(view).values()) == [b""] * 4
    assert view["counters"]["hashes"] == 10_000


@pytest.mark.parametrize(("arguments", "words"), [
    ({"header": "00"}, "is not 76 or 80 bytes in hexadecimal"),
    ({"header": GENESIS.bytes.hex(), "chunk": 3}, "give a larger 'chunk' than 3"),
])
def test_mistakes_are_refused_at_once(search_lab: Lab, arguments: dict[str, Any], words: str) -> None:
    done = search_lab.ipdc("submit", "--app", "search", "--args", json.dumps(arguments), node=1, check=False)
    assert done.returncode == 1 and words in done.stderr
