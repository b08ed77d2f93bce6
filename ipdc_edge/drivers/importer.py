"""The client's half of `add`: reads a file once and computes its CID and the interior blocks of its tree.

Owns one buffer of a chunk. Never keeps leaves: the store finds them again in the file itself. The command
line uses it, with the rights of whoever called it; the daemon only checks the tree (`block_import`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK, LINKS, FileBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


class Importer:
    """Computes the tree of one file: iterate `blocks()` to its end, then `root`, `size` and `tsize` (the bytes of all
    its blocks) are known."""

    def __init__(self, source: BinaryIO, chunk: int = CHUNK, links: int = LINKS) -> None:
        self.root = ""
        self.size = self.tsize = 0
        self._source = source
        self._chunk = chunk
        self._builder = FileBuilder(links)

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        """(cid, block) of every interior node, children before parents, each as soon as it is complete."""
        buffer = memoryview(bytearray(self._chunk))
        first = True
        while True:
            length = self._fill(buffer)
            if not length and not first:
                break
            first = False
            yield from self._counted(self._builder.add(raw_cid(buffer[:length]), length))
            if length < len(buffer):
                break
        self.root, self.size, last = self._builder.finish()
        self.tsize += self.size
        yield from self._counted(last)

    def _counted(self, blocks: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        self.tsize += sum(len(block) for _, block in blocks)
        return blocks

    def _fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or the source at its end: pipes give less than was asked."""
        length = 0
        while length < len(buffer):
            count = self._source.readinto(buffer[length:])  # type: ignore[attr-defined]
            if not count:
                break
            length += count
        return length


def import_file(source: BinaryIO) -> tuple[str, int, list[tuple[str, bytes]]]:
    """(root, size, interior blocks) of a file open in binary mode, read from where it stands to its end.

    The blocks take about 50 kB a gibibyte of file; nothing else grows with it.
    """
    importer = Importer(source)
    interior = list(importer.blocks())
    return importer.root, importer.size, interior
