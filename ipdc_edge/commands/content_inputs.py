"""Directories of content as a job's input: the files below a CID, by name.

Owns the walk, one directory's entries at a time. The daemon reads them, here or in the domain; what they hold stays
where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipdc_edge.codec.cid import RAW, parse_cid
from ipdc_edge.codec.unixfs import DIRECTORY, FILE
from ipdc_edge.commands import inputs as named
from ipdc_edge.commands.client import events
from ipdc_edge.commands.content import shown_name
from ipdc_edge.commands.inputs import Input, NoInput, TooManyInputs, named_compression
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

MOST_LEVELS = 64  # of directories in each other


class NotReachable(IpdcError):
    """{name} in the directory {cid} cannot be had: {reason}."""


def expanded(home: Home, inputs: list[Input]) -> list[Input]:
    """The inputs, with the files below in the place of each CID of a directory; hidden ones and symlinks are left out.
    NotReachable, NoInput, TooManyInputs."""
    found: list[Input] = []
    for item in inputs:
        if item.cid is None or parse_cid(item.cid).codec == RAW:
            found.append(item)
        else:
            found += _below(home, item)
        if len(found) > named.INPUTS_LIMIT:
            raise TooManyInputs(limit=named.INPUTS_LIMIT)
    return found


def _below(home: Home, item: Input) -> list[Input]:
    """The item itself, unless it is a directory."""
    found: list[Input] = []
    waiting = [(item.name, str(item.cid))]
    while waiting:
        name, cid = waiting.pop()
        try:
            kind, entries = _entries(home, cid)
        except TooManyInputs:
            raise
        except IpdcError:
            if cid != item.cid:
                raise
            return [item]  # what is wrong with it is told when it is submitted, as of every content
        if kind != DIRECTORY:
            return [item]
        below = []
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            path = f"{name}/{entry['name']}"
            if str(entry["name"]).startswith("."):
                continue
            if entry["kind"] == FILE:
                found.append(Input(path, None, str(entry["cid"]), named_compression(path)))
            elif entry["kind"] == DIRECTORY:
                below.append((path, str(entry["cid"])))
            elif entry["kind"] == "missing":
                raise NotReachable(name=shown_name(path), cid=item.cid, reason="no node that is reached has it")
            if len(found) > named.INPUTS_LIMIT:
                raise TooManyInputs(limit=named.INPUTS_LIMIT)
        waiting += reversed(below)
        if name.count("/") > MOST_LEVELS:
            raise NotReachable(name=shown_name(name), cid=item.cid, reason=f"more than {MOST_LEVELS} levels")
    if not found:
        raise NoInput(path=item.name)
    return found


def _entries(home: Home, cid: str) -> tuple[str, list[Mapping[str, Any]]]:
    """(kind, entries of a directory)."""
    found: list[Mapping[str, Any]] = []
    answer: Mapping[str, object] = {}
    for answer in events(home, "ls", "submit again", cid=cid):
        entry = answer.get("entry")
        if isinstance(entry, Mapping):
            found.append(entry)
            if len(found) > named.INPUTS_LIMIT:
                raise TooManyInputs(limit=named.INPUTS_LIMIT)
    return str(answer.get("kind")), found
