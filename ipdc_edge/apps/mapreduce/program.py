"""The user's program: the functions and commands of each step, found and set up.

Owns how a job's steps become what tasks call. Never calls map or reduce itself. `load` with `paths` is for
run-inline: then files on disk are imported, by sys.path, and breakpoints work.

A step's entry is "FILE", which is the function of the conventional name (`map_lines` before `map`; `combine` is
then looked for in the map's file and in the reduce's, unless the step names one), or "FILE:FUNCTION". A map whose
name ends in `_lines` is called once with an iterator over all lines (in later steps: over all pairs); any other
is called as map(key, value).
"""

from __future__ import annotations

import os
from importlib import import_module

from ipdc_edge.apps.mapreduce.context import Context, Now, bound
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.failure import place
from ipdc_edge.runner.importer import CodeImporter

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from ipdc_edge.apps.mapreduce.source import Source

MEGABYTE = 1024 * 1024
# Where the job's options do not say: what a runner's memory leaves beside interpreter, blocks and user's own,
# halved, because lines are made beside the table that they come from. 6 MB of 24.
FIXED_MEMORY = 12 * MEGABYTE
LEAST_BUDGET = 1 * MEGABYTE
MOST_NAMES = 10  # that an error lists
ROLES = ("map", "combine", "reduce", "partition", "pre", "post")  # in which modules are imported and set up
CONVENTION = {"map": "map(key, line) or map_lines(lines)", "reduce": "reduce(key, values)",
              "combine": "combine(key, values)", "partition": "partition(key, count)",
              "pre": "pre(name, data)", "post": "post(name, outputs)"}  # fmt: skip


class FunctionMissing(IpdcError):
    """{file} defines no {function}. {known}"""


class NoFunction(IpdcError):
    """{function} in {file} is no function but of type {type}"""


class NameTaken(IpdcError):
    """{file} has the name of a module that Python has loaded already: give it another name"""


class Step:
    """One step of a job: its functions, with their context where they want one, or its commands. None: it has none."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.map: Callable[..., Any] | None = None
        self.map_is_lines = False
        self.combine: Callable[..., Any] | None = None
        self.reduce: Callable[..., Any] | None = None
        self.partition: Callable[..., Any] | None = None
        self.pre: Callable[..., Any] | None = None  # around a model, which is the map then
        self.post: Callable[..., Any] | None = None
        self.mapper: list[str] | None = None
        self.combiner: list[str] | None = None
        self.reducer: list[str] | None = None

    @property
    def reduces(self) -> bool:
        """Whether it ends in a reduce, and so has a shuffle."""
        return self.reduce is not None or self.reducer is not None


class Program:
    """A job's steps, its options as the runner needs them, and what its tasks share."""

    def __init__(self, spec: dict[str, Any], code: dict[str, bytes]) -> None:
        options = spec["options"]
        self.spec = spec
        self.code = code
        self.memory = int(spec["memory"])
        self.budget = sort_budget(spec)
        self.output_limit = int(options.get("output_limit") or 0)
        self.input_format: str = options.get("input_format") or "lines"
        self.output_format: str = options.get("output_format") or "text"
        self.sort_values = bool(options.get("sort_values"))
        self.skip_bad = int(options.get("skip_bad") or 0)
        self.arguments: dict[str, Any] = spec.get("arguments") or {}
        self.source: type[Source] | None = None  # what reads the inputs, where that is none of Map-Reduce's formats
        self.now = Now()
        self.steps: list[Step] = []
        self.modules: dict[str, ModuleType] = {}  # by file, in the order of their import
        self._prepared = False
        self._kept: set[str] = set()  # what lay in the runner's directory when the first task's program was to start

    def prepare(self, directory: str) -> None:
        """Puts what travelled with the job where its commands find it; once is enough for all tasks. OSError."""
        if not self._prepared:
            from ipdc_edge.apps.mapreduce.command import prepare

            prepare(self.code, directory)
            self._prepared = True

    def tidy(self, directory: str) -> None:
        """Removes what earlier programs left in the directory: one runner does many tasks, and which ones they are may
        not show in a result. OSError."""
        from ipdc_edge.apps.mapreduce.command import left_in

        if not self._kept:
            self._kept = {directory, *left_in(directory)}
        for path in left_in(directory):
            if path not in self._kept:
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)

    def where(self, role: str, step: Step) -> str:
        """What an error calls a function: "map", or "map of step 2"."""
        return role if len(self.steps) == 1 else f"{role} of step {step.number + 1}"


def sort_budget(spec: dict[str, Any]) -> int:
    """Bytes for tables and merge buffers: the job's option "sort_budget", or its share of "memory"."""
    wanted = spec["options"].get("sort_budget") or (spec["memory"] - FIXED_MEMORY) // 2
    return max(LEAST_BUDGET, int(wanted))


def load(spec: dict[str, Any], code: dict[str, bytes], paths: dict[str, str] | None = None) -> Program:
    """The program of a job's description, loaded and set up.

    code: {file: bytes}, imported from memory; what is no Python among them is put into the current directory (the
    runner's own), where the user's code may open it. With `paths` ({file: path on disk}) modules are imported from
    disk instead, by sys.path, nothing is put anywhere yet, and `code` is only for commands. The user's own errors;
    FunctionMissing, NoFunction, NameTaken; OSError.
    """
    program = Program(spec, code)
    if paths is None:
        CodeImporter(code).install()
        if not all(file.endswith(".py") for file in code):
            program.prepare(os.getcwd())
    for number, entry in enumerate(spec["options"]["steps"]):
        program.steps.append(_step(program, number, entry, paths or {}))
    _set_up(program)
    return program


def module_name(file: str) -> str:
    """What `import` calls a code file: "Map.py" is Map."""
    return file.removesuffix(".py").replace("/", ".")


def split_entry(entry: str) -> tuple[str, str]:
    """(FILE, FUNCTION) of a step's entry; FUNCTION is empty for the conventional one."""
    file, colon, function = entry.rpartition(":")
    return (file, function) if colon else (entry, "")


def _step(program: Program, number: int, entry: dict[str, Any], paths: dict[str, str]) -> Step:
    step = Step(number)
    context = Context(program.now, number, program.arguments)
    files: dict[str, str] = {}
    for role in ROLES:
        if not entry.get(role):
            continue
        file, name = split_entry(entry[role])
        files[role] = file
        module = _module(program, file, paths)
        function = _function(module, file, role, name)
        if role == "map":
            name = name or ("map_lines" if hasattr(module, "map_lines") else "map")
            step.map_is_lines = f"_{name}".endswith("_lines") or getattr(function, "__name__", "").endswith("_lines")
        setattr(step, role, bound(function, context))
    if step.combine is None and files.get("map") == entry.get("map") and "map" in files:
        for file in (files["map"], files.get("reduce", files["map"])):
            found = getattr(program.modules[file], "combine", None)
            if found is not None:
                step.combine = bound(found, context)
                break
    for role in ("mapper", "combiner", "reducer"):
        if entry.get(role):
            setattr(step, role, [str(word) for word in entry[role]])
    return step


def _module(program: Program, file: str, paths: dict[str, str]) -> ModuleType:
    if file not in program.modules:
        module = import_module(module_name(file))
        if getattr(module, "__file__", None) != paths.get(file, file):
            raise NameTaken(file=file)
        program.modules[file] = module
    return program.modules[file]


def _function(module: ModuleType, file: str, role: str, name: str) -> Callable[..., Any]:
    names = [name] if name else ["map_lines", "map"] if role == "map" else [role]
    for wanted in names:
        function = getattr(module, wanted, None)
        if callable(function):
            return function  # type: ignore[no-any-return]
        if function is not None:
            raise NoFunction(file=file, function=wanted, type=type(function).__name__)
    raise FunctionMissing(file=file, function=name or CONVENTION[role], known=_known(module))


def _known(module: ModuleType) -> str:
    own = sorted(
        name
        for name, thing in vars(module).items()
        if callable(thing) and not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    )
    more = ", ..." if len(own) > MOST_NAMES else ""
    return f"It defines {', '.join(own[:MOST_NAMES])}{more}." if own else "It defines no function."


def _set_up(program: Program) -> None:
    """Calls setup(args) of each module that has one, once."""
    context = Context(program.now, None, program.arguments)
    try:
        for module in program.modules.values():
            if hasattr(module, "setup"):
                bound(module.setup, context)(program.arguments)
    except BaseException as error:
        place(error, {"where": "setup"})
        raise
