"""What --input names: files, quoted patterns, directories, standard input, and content by its CID.

Owns the order and the names of inputs, and which of them are compressed. Opens files to see that they can be read
and are what their names say; what is in them is the runner's. Never adds content.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from ipdc_edge.codec.cid import BadCid, canonical
from ipdc_edge.codec.compression import LONGEST, STARTS
from ipdc_edge.commands.display import size
from ipdc_edge.commands.program import FileUnreadable, files_below, nearest_file, unreadable
from ipdc_edge.commands.upload import open_file
from ipdc_edge.errors import IpdcError, WrongUsage

INPUTS_LIMIT = 10_000
PIECE = 1 << 18  # bytes of standard input at a time
TELL_EVERY = 0.1  # seconds

ZSTD_SINCE = (3, 14)  # the first Python that reads .zst by itself


class NoInput(IpdcError):
    """{path} is a directory without a file in it."""


class NoMatch(IpdcError):
    """{pattern} matches no file here.{hint}"""


class TooManyInputs(IpdcError):
    """There are more than {limit} input files. Put small files together first, for example with `cat`."""


class NotCompressed(IpdcError):
    """{path} is named .{kind} but does not begin as such a file does{empty}. Rename it if it is plain text."""


class Input(NamedTuple):
    """An input of a job: a file here, or content that has a CID already. `compression` is "" or a key of STARTS;
    `spool` is the unnamed file that holds what came on standard input, which `path` leads to."""

    name: str
    path: str | None
    cid: str | None = None
    compression: str = ""
    spool: IO[bytes] | None = None


STANDARD_INPUT = Input("standard-input", None)


def find_inputs(words: Sequence[str], tell: Callable[[str], None] = lambda text: None) -> list[Input]:
    """The inputs that --input names, in their order: files, directories (every file below that is not hidden, by
    name), patterns that the shell left alone, CIDs, and - for standard input, which is read now. `tell` is
    called with how far that is. Raises FileUnreadable, NotAFile, NoInput, NoMatch, NotCompressed, TooManyInputs."""
    found: list[Input] = []
    for word in words:
        if word == "-":
            if STANDARD_INPUT in found:
                raise WrongUsage(reason="--input - stands there twice; standard input can be read once.")
            found.append(STANDARD_INPUT)
        elif os.path.lexists(word):
            found += _path(word)
        elif glob.has_magic(word):
            found += _matches(word)
        else:
            found.append(_content(word))
        if len(found) > INPUTS_LIMIT:
            raise TooManyInputs(limit=INPUTS_LIMIT)
    found = _told_apart(found)
    found = [_checked(item) if item.path is not None else item for item in found]
    # Last, when nothing else can be wrong any more: reading it may take long.
    return [_spooled(tell) if item is STANDARD_INPUT else item for item in found]


def compressed_text(inputs: Iterable[Input]) -> str:
    """What to say of compressed inputs; empty where there are none."""
    names = [item.name for item in inputs if item.compression]
    if not names:
        return ""
    if len(names) == 1:
        text = f"{names[0]} is compressed: one task reads all of it"
    else:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        text = f"{len(names)} inputs are compressed ({shown}): one task reads all of each"
    if any(item.compression == "zst" for item in inputs) and sys.version_info < ZSTD_SINCE:
        text += "\nipdc-edge: .zst is read by Python 3.14 and newer; this node's is older, the others' may be too"
    return text


def named_compression(path: str) -> str:
    """The key of STARTS that a file's extension names, or ""."""
    kind = os.path.splitext(path)[1][1:].lower()
    return kind if kind in STARTS else ""


def local_pattern(text: str) -> str:
    """The pattern of --input-local. Raises WrongUsage unless it is an absolute path."""
    if not text.startswith("/"):
        raise WrongUsage(reason=f"--input-local {text}: give an absolute path, because it is looked for on every node, "
                         "such as '/var/log/sensors/*.csv'.")
    if ".." in text.split("/"):
        raise WrongUsage(reason=f"--input-local {text}: leave out .., the nodes do not follow it.")
    return text


def _path(word: str) -> list[Input]:
    if not os.path.isdir(word):
        return [Input(os.path.basename(word), word)]
    base = os.path.dirname(os.path.abspath(word))
    below = [Input(os.path.relpath(os.path.abspath(path), base), path) for path in files_below(word)]
    if not below:
        raise NoInput(path=word)
    return below


def _told_apart(found: list[Input]) -> list[Input]:
    """The inputs with other names for different files of one name: the whole path, as nothing shorter is sure to tell
    them apart. A program knows its inputs by these names only."""
    paths: dict[str, set[str]] = {}
    for item in found:
        if item.path is not None:
            paths.setdefault(item.name, set()).add(os.path.abspath(item.path))
    return [item._replace(name=os.path.abspath(item.path)) if item.path is not None and len(paths[item.name]) > 1
            else item for item in found]


def _matches(pattern: str) -> Iterator[Input]:
    """What a pattern means that no shell has expanded: as one would, and ** is any depth."""
    paths = sorted(set(glob.iglob(pattern, recursive=True)))
    if "**" in pattern:
        top = os.path.dirname(pattern[: pattern.index("**") + 1])
        base = os.path.dirname(os.path.abspath(top)) if top else os.getcwd()
        found = [Input(os.path.relpath(os.path.abspath(path), base), path) for path in paths if os.path.isfile(path)]
    else:
        found = [item for path in paths if not os.path.isdir(path) or any(files_below(path)) for item in _path(path)]
    if not found:
        upper = os.path.dirname(pattern)
        missing = upper and not glob.has_magic(upper) and not os.path.isdir(upper)
        raise NoMatch(pattern=pattern, hint=f" There is no directory {upper}." if missing else "")
    yield from found


def _content(word: str) -> Input:
    """A word that is no file: a CID, or a mistake."""
    text = word.removeprefix("ipfs://").removeprefix("/ipfs/")
    try:
        return Input(text, None, canonical(text))
    except BadCid as error:
        hint = nearest_file(word) or " It is no CID either."
        raise FileUnreadable(path=word, reason="No such file or directory", hint=hint) from error


def _checked(item: Input) -> Input:
    """The input with its compression. Raises unless the file can be read and begins as its name says."""
    assert item.path is not None
    kind = named_compression(item.path)
    with open_file(item.path) as file:
        if not kind:
            return item
        try:
            start = file.read(LONGEST)
        except OSError as error:
            raise unreadable(item.path, error) from error
    if not start.startswith(STARTS[kind]):
        raise NotCompressed(path=item.path, kind=kind, empty="" if start else ": it is empty")
    return item._replace(compression=kind)


def _spooled(tell: Callable[[str], None]) -> Input:
    """Standard input as a file."""
    source = open(0, "rb", buffering=0, closefd=False)
    if source.isatty():
        print("ipdc-edge: reading standard input; Ctrl-D ends it", file=sys.stderr)
    # Where TMPDIR says, else on a disk: /tmp is memory on many systems, and small on boards.
    disk = "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK)
    spool = tempfile.TemporaryFile(dir="/var/tmp" if disk else None)
    shown = 0.0
    try:
        for piece in iter(lambda: source.read(PIECE), b""):
            spool.write(piece)
            if time.monotonic() - shown > TELL_EVERY:
                shown = time.monotonic()
                tell(f"reading standard input  {size(spool.tell())}")
        spool.flush()
    except OSError as error:
        raise FileUnreadable(path="standard input", reason=error.strerror or str(error), hint="") from error
    return STANDARD_INPUT._replace(path=f"/proc/self/fd/{spool.fileno()}", spool=spool)
