"""The architectures: each package here is one kind of job (how it becomes tasks, what a runner does with a
task)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.architecture import Architecture


def built_in() -> list[Architecture]:
    """The architectures that every node has."""
    from .mapreduce.plan import MapReduce

    return [MapReduce()]
