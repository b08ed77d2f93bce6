"""The user's program: modules loaded from memory, and the functions that a job calls.

Owns how code that travelled becomes modules. Never writes a file: Map.py and what travels with it (siblings,
packages in sub-directories) are imported from a dict by an importer that stands before the path, as a
script's directory does. Tracebacks show the user's lines, because the loader hands out the source.
`load_program` of files on disk is for run-inline, where breakpoints shall work.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any

FUNCTIONS = ("map", "map_lines", "reduce", "combine")


class FunctionMissing(IpdcError):
    """{file} defines no {function}"""


class NameTaken(IpdcError):
    """{file} has the name of a module that Python has loaded already: give it another name"""


class CodeImporter:
    """Meta path finder and loader over {"Map.py": bytes, "pkg/__init__.py": bytes, ...}."""

    def __init__(self, code: dict[str, bytes]) -> None:
        self._code = code

    def install(self) -> None:
        """Before the path, after built-in and frozen modules: as if the code's directory were first on sys.path."""
        finders = sys.meta_path
        finders.insert(finders.index(PathFinder) if PathFinder in finders else len(finders), self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The import system's question (importlib.abc.MetaPathFinder)."""
        stem = name.replace(".", "/")
        for file, package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if file in self._code:
                spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
                spec.has_location = True  # gives the module its __file__
                if package:
                    spec.submodule_search_locations = [stem]
                return spec
        if any(file.startswith(f"{stem}/") for file in self._code):  # a directory without __init__.py
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [stem]
            return spec
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """The default module object (importlib.abc.Loader)."""

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's code (importlib.abc.Loader)."""
        exec(self._compiled(str(module.__file__)), module.__dict__)

    def get_source(self, name: str) -> str | None:
        """The module's source: traceback and linecache ask for it (PEP 302)."""
        spec = self.find_spec(name)
        if spec is None or spec.origin is None:
            return None
        return self._code[spec.origin].decode("utf-8", "replace")

    def get_data(self, path: str) -> bytes:
        """A file that travelled along (importlib.abc.ResourceLoader). OSError when there is none."""
        try:
            return self._code[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _compiled(self, file: str) -> CodeType:
        code: CodeType = compile(self._code[file], file, "exec", dont_inherit=True)
        return code


class Program:
    """The user's functions by name (None: not defined) and their set-up; reduce and combine may stand in
    either file."""

    def __init__(self, modules: dict[str, ModuleType], map_file: str, reduce_file: str | None) -> None:
        map_module = modules[map_file]
        self.map: Callable[..., Any] | None = getattr(map_module, "map", None)
        self.map_lines: Callable[..., Any] | None = getattr(map_module, "map_lines", None)
        self.reduce: Callable[..., Any] | None = None
        self.combine: Callable[..., Any] | None = getattr(map_module, "combine", None)
        if self.map is None and self.map_lines is None:
            raise FunctionMissing(file=map_file, function="map(key, line) or map_lines(lines)")
        if reduce_file is not None:
            self.reduce = getattr(modules[reduce_file], "reduce", None)
            if self.reduce is None:
                raise FunctionMissing(file=reduce_file, function="reduce(key, values)")
            if self.combine is None:
                self.combine = getattr(modules[reduce_file], "combine", None)
        self._modules = modules

    def set_up(self, arguments: dict[str, Any]) -> None:
        """Calls setup(args) of each module that has one, once."""
        for module in self._modules.values():
            if hasattr(module, "setup"):
                module.setup(arguments)


def module_name(file: str) -> str:
    """What `import` calls a code file: "Map.py" is Map."""
    return file.removesuffix(".py").replace("/", ".")


def load_program(map_file: str, reduce_file: str | None, paths: dict[str, str] | None = None) -> Program:
    """The program of the files' modules, as sys.meta_path or sys.path find them.

    paths: where each file lies, for files on disk. The user's own errors; FunctionMissing, NameTaken.
    """
    files = [map_file] if reduce_file in (None, map_file) else [map_file, str(reduce_file)]
    modules = {file: import_module(module_name(file)) for file in files}
    for file, module in modules.items():
        if getattr(module, "__file__", None) != (paths or {}).get(file, file):
            raise NameTaken(file=file)
    return Program(modules, map_file, reduce_file)
