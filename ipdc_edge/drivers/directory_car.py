"""A CAR of a directory of plain files, out of the files themselves: for a result, which lies in no store.

Owns two reads of every file: the first for the CIDs, since a CAR begins with its root, the second for the bytes. Never
holds more than a chunk and the interior blocks, about 50 kB a gibibyte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ipdc_edge.codec.car import car_header, section_head
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.unixfs import CHUNK, FileBuilder
from ipdc_edge.drivers.importer import Importer
from ipdc_edge.errors import IpdcError


class FileChanged(IpdcError):
    """{path} changed while it was read."""


class DirectoryCar:
    """The directory of these files, each under its own name; `root` is known at once, when all were read."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._files: list[tuple[str, str, list[tuple[str, bytes]]]] = []  # (path, root, interior blocks)
        directory = DirectoryBuilder()
        for path in paths:
            with open(path, "rb") as source:
                importer = Importer(source)
                interior = list(importer.blocks())
            self._files.append((path, importer.root, interior))
            directory.add(os.path.basename(path), importer.root, importer.tsize)
        self._directory = list(directory.blocks())
        self.root = directory.cid

    def parts(self) -> Iterator[bytes]:
        """The CAR, piece by piece. FileChanged, when it is no longer that directory."""
        yield car_header(self.root)
        for cid, block in reversed(self._directory):
            yield from _section(cid, block)
        for path, root, interior in self._files:
            for cid, block in interior:
                yield from _section(cid, block)
            builder, first = FileBuilder(), True
            with open(path, "rb") as source:
                while (leaf := source.read(CHUNK)) or first:
                    first = False
                    cid = raw_cid(leaf)
                    builder.add(cid, len(leaf))
                    yield from _section(cid, leaf)
            if builder.finish()[0] != root:
                raise FileChanged(path=path)


def _section(cid: str, block: bytes) -> Iterator[bytes]:
    yield section_head(cid, len(block))
    yield block
