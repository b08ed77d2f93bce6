"""The architectures: each package here is one kind of job (how it becomes tasks, what a runner does with a
task)."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from ..core.architecture import Architecture


def built_in() -> list[Architecture]:
    """The architectures that every node has."""
    from .mapreduce.plan import MapReduce
    from .tensorflow.plan import Roles
    from .tflite.plan import TFLite
    from .tflite.serve_plan import Serve

    return [MapReduce(), TFLite(), Serve(), Roles()]
