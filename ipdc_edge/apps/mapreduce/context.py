"""What the user's functions may ask and tell: the object that those get which have a parameter named `context`.

Owns the user's counters with their bounds, and how it is found out who wants a context. Never costs anything for
functions that want none: whoever does is bound once, when the program is loaded.
"""

from __future__ import annotations

from functools import partial

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

MOST_COUNTERS = 50  # of one task
MOST_NAME, MOST_NAME_BYTES = 80, 160  # characters, and bytes of UTF-8: all counters travel in one message
MOST_COUNT = (1 << 63) - 1
CO_VARKEYWORDS = 0x08  # inspect.CO_VARKEYWORDS; that module costs 2 MB


class TooManyCounters(IpdcError):
    """the counter {name} is one too many: a task has at most {most}. Are there data in its name?"""


class CounterRefused(IpdcError):
    """the counter {name} cannot be carried: {reason}"""


class Counters(dict):  # type: ignore[type-arg]
    """{name: int}; a name that was not counted yet is 0, so that `counters["lines"] += 1` works."""

    def __missing__(self, name: object) -> int:
        return 0

    def __setitem__(self, name: object, value: object) -> None:
        if name not in self:
            if type(name) is not str or not name:
                raise CounterRefused(name=ascii(name)[:200], reason="a counter's name is text")
            if len(name) > MOST_NAME:
                raise CounterRefused(name=ascii(name)[:200], reason=f"its name has more than {MOST_NAME} characters")
            if len(name.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
                raise CounterRefused(name=ascii(name)[:200], reason=f"its name has more than {MOST_NAME_BYTES} bytes")
            if len(self) >= MOST_COUNTERS:
                raise TooManyCounters(name=ascii(name)[:200], most=MOST_COUNTERS)
        if not isinstance(value, int) or not -MOST_COUNT <= value <= MOST_COUNT:
            reason = f"{ascii(value)[:80]} is no int of up to 63 bits"
            raise CounterRefused(name=ascii(name)[:200], reason=reason)
        super().__setitem__(name, int(value))

    def checked(self) -> dict[str, int]:
        """A plain copy; CounterRefused or TooManyCounters for what came in by another door (update, setdefault)."""
        copy = Counters()
        for name, value in self.items():
            copy[name] = value
        return dict(copy)


class Now:
    """What the task is just now; all contexts of a program share it, as the user may keep one."""

    def __init__(self) -> None:
        self.task = self.job = self.node = ""
        self.source: Any = None  # has `name`, the input's
        self.io: TaskIo | None = None
        self.counters = Counters()

    def begin(self, task_id: str, io: TaskIo, node: str) -> None:
        """Another task: what was counted before (by setup, too) is forgotten."""
        self.task, self.job, self.node, self.io, self.source = task_id, io.job, node, io, None
        self.counters.clear()

    def count(self, name: str, amount: int = 1) -> None:
        """Adds to a counter; "group: name" groups it. CounterRefused, TooManyCounters."""
        self.counters[name] += amount


class Context:
    """What a user's function gets as `context`."""

    def __init__(self, now: Now, step: int | None, arguments: dict[str, Any]) -> None:
        self._now = now
        self.step = step  # 0 for the first; None in setup
        self.arguments = arguments  # as setup(args) gets them
        self.counters = now.counters

    @property
    def input(self) -> str | None:
        """The name of the input that is being read; None in a reduce and what follows it."""
        source = self._now.source
        return None if source is None else source.name

    @property
    def task(self) -> str:
        """The task's id, such as map-00003."""
        return self._now.task

    @property
    def job(self) -> str:
        """The job's id."""
        return self._now.job

    @property
    def node(self) -> str:
        """The name of the node that the task runs on: with --input-local, the one whose files these are."""
        return self._now.node

    def count(self, name: str, amount: int = 1) -> None:
        """Adds to a counter; "group: name" groups it. CounterRefused, TooManyCounters."""
        self._now.count(name, amount)

    def status(self, text: str) -> None:
        """A line for people who look at the task just now."""
        if self._now.io is not None:
            self._now.io.status(str(text))


def code_of(function: object) -> CodeType | None:
    """The code object of a function, a method, or an object that is called; None when there is none in Python."""
    found = getattr(function, "__code__", None)
    if found is None and not isinstance(function, type):
        found = getattr(vars(type(function)).get("__call__"), "__code__", None)
    return found if hasattr(found, "co_varnames") else None


def wants_context(function: object) -> bool:
    """Whether it has a parameter named `context`; looks through decorators that pass on what they get."""
    for _ in range(20):
        code = code_of(function)
        if code is None:
            return False
        count = code.co_argcount + code.co_kwonlyargcount
        if "context" in code.co_varnames[code.co_posonlyargcount : count]:
            return True
        if not code.co_flags & CO_VARKEYWORDS or not hasattr(function, "__wrapped__"):
            return False
        function = function.__wrapped__
    return False


def bound(function: Callable[..., Any], context: Context) -> Callable[..., Any]:
    """The function itself, or with its context given, when it wants one."""
    return partial(function, context=context) if wants_context(function) else function
