"""How code that travelled becomes modules.

Owns the importer. Never writes a file: Map.py and what travels with it (siblings, packages in sub-directories)
are imported from a dict by an importer that stands before the path, as a script's directory does. Tracebacks
show the user's lines, because the loader hands out the source.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from types import CodeType, ModuleType


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
            data = self._code[path]
        except KeyError:
            raise FileNotFoundError(path) from None
        return data.whole() if isinstance(data, OpenFile) else data

    def _compiled(self, file: str) -> CodeType:
        code: CodeType = compile(self._code[file], file, "exec", dont_inherit=True)
        return code
