"""The keys that a function of the user's is called for by C code, which tells nobody where it is.

Owns how the key is found all the same, when a call fails: by how many are left. A note for each call would cost more
than many a call does.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator


class Calls:
    """One function's."""

    def __init__(self) -> None:
        self._keys: list[object] = []
        self._rest: Iterator[object] = iter(())

    def begin(self, keys: list[object]) -> Iterator[object]:
        """The keys, one after the other."""
        self._keys, self._rest = keys, iter(keys)
        return self._rest

    def end(self) -> None:
        """All calls came back."""
        self._keys, self._rest = [], iter(())

    def under_way(self) -> list[object]:
        """The key of the call that has not come back, or nothing."""
        given = len(self._keys) - self._rest.__length_hint__()  # type: ignore[attr-defined]
        return self._keys[given - 1 : given]
