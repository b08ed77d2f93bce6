"""Which partition the lines of a key go to: by the hash of the key, or as the user's partition says.

Owns the calls of the user's partition. Never makes lines and never sorts them.
"""

from __future__ import annotations

from itertools import repeat

from ipdc_edge.apps.mapreduce.calls import Calls
from ipdc_edge.codec.keys import decode_key, partitions_of
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Buckets = list[list[str]]  # lines, by partition


class PartitionRefused(IpdcError):
    """partition must return an int, and for the key {key} returned {value} of type {type}"""


class Partitioner:
    """Deals lines out to the partitions of one task."""

    def __init__(self, partitions: int, function: Callable[[object, int], int] | None) -> None:
        """function(key, partitions): the user's; without one the hash of the key decides."""
        self._partitions = partitions
        self._function = function
        self.calls = Calls()

    def buckets(self) -> Buckets:
        """An empty one for each partition."""
        return [[] for _ in range(self._partitions)]

    @property
    def single(self) -> bool:
        """Whether nobody need be asked."""
        return self._partitions == 1 and self._function is None

    def deal(self, names: list[str], lines: list[str], plain: bool, buckets: Buckets) -> None:
        """One line of each name into its partition's bucket. plain: "S" + name is the encoded key, else name is."""
        if self.single:
            buckets[0] += lines
            return
        puts = [bucket.append for bucket in buckets]
        for line, partition in zip(lines, self.of(names, plain)):
            puts[partition](line)

    def of(self, names: list[str], plain: bool) -> Iterator[int]:
        """The partition of each name. PartitionRefused; the user's own errors."""
        if self._function is None:
            return partitions_of("S" if plain else "", names, self._partitions)
        return iter(self._by_user(self._function, [*names] if plain else list(map(decode_key, names))))

    def _by_user(self, function: Callable[[object, int], int], keys: list[object]) -> list[int]:
        """What the user's partition says, modulo their number. C code makes the calls."""
        count = self._partitions
        found: list[int] = []
        for number in map(function, self.calls.begin(keys), repeat(count)):
            if not isinstance(number, int):
                key = self.calls.under_way()[0]
                raise PartitionRefused(key=ascii(key)[:200], value=ascii(number)[:200], type=type(number).__name__)
            found.append(number % count)
        self.calls.end()
        return found
