"""Sorted lines that wait in memory as text, which takes less than half of what they take as objects, and a fourth of
what a table of their keys takes.

Owns the pieces of text and their bytes. Never sorts: each bucket that it is given is a run of its own, to be merged
with the others.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from ipdc_edge.apps.mapreduce.merge import Lines
    from ipdc_edge.apps.mapreduce.partitioner import Buckets

MOST_RUNS = 32  # of a partition: a merge holds the lines of one piece of each, and opens runs of scratch beside them
LEAST_PIECE, MOST_PIECE = 2 * 1024, 32 * 1024  # bytes of text made into lines at a time
SHARE = 2048  # a piece is that part of a budget: as lines, in a merge, it takes twenty times its bytes


class Packed:
    """The runs of all partitions of one sorter."""

    def __init__(self, partitions: int, budget: int) -> None:
        self._piece = max(LEAST_PIECE, min(MOST_PIECE, budget // SHARE))
        self._texts: list[list[list[str]]] = [[] for _ in range(partitions)]  # [partition][run] -> pieces, last first
        self.runs = 0  # of each partition at most
        self.bytes = 0  # lines are one-byte text (codec/keys.py), so as many characters

    def add(self, buckets: Buckets) -> None:
        """Takes the lines out of the buckets, from their ends, so that what they took is given back on the way."""
        self.runs += 1
        for texts, bucket in zip(self._texts, buckets):
            if not bucket:
                continue
            pieces: list[str] = []
            texts.append(pieces)
            few = bucket[:: len(bucket) // 64 + 1]
            step = max(1, self._piece * len(few) // max(1, sum(map(len, few))))
            while bucket:
                piece = "\n".join(bucket[-step:])
                del bucket[-step:]
                self.bytes += len(piece)
                pieces.append(piece)

    def take(self, partition: int) -> list[Lines]:
        """What gives the lines of each run of a partition, some at a time, and lets go of them."""
        texts, self._texts[partition] = self._texts[partition], []
        self.bytes -= sum([sum(map(len, pieces)) for pieces in texts])
        if not self.bytes:
            self.runs = 0
        return list(map(_reader, texts))


def _reader(pieces: list[str]) -> Lines:
    def lines() -> list[str]:
        return pieces.pop().split("\n") if pieces else []

    return lines
