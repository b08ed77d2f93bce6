"""The user's program before it is submitted: Map.py, Reduce.py and the modules beside them that they
import.

Owns finding and checking these files. Never runs a line of them: they are compiled and looked through, so
that a mistake is told here, with its line, and not by some board after a minute. A module that is not
beside the program is taken to be installed on the nodes.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator

from ipdc_edge.codec.bundle import MOST_FILE_BYTES, MOST_FILES, NAME
from ipdc_edge.errors import IpdcError


class FileUnreadable(IpdcError):
    """Cannot read {path}: {reason}.{hint}"""


class ProgramBroken(IpdcError):
    """{file}, line {line}: {message}{text}"""


class FunctionMissing(IpdcError):
    """{file} defines no {wanted}. {advice}"""


class NameTwice(IpdcError):
    """{first} and {second} would both travel as {name}. Rename one of them, or put both programs into one
    directory."""


class ProgramTooBig(IpdcError):
    """{path} cannot travel with the job: {reason}."""


class Program:
    """What a job runs: `files` is name in the bundle -> path here, `map` and `reduce` name two of them;
    `reduce` is None for a map-only job, and equals `map` where one file holds both."""

    def __init__(self, map_path: str, reduce_path: str | None) -> None:
        self.files: dict[str, str] = {}
        self.map = os.path.basename(map_path)
        self.reduce: str | None = None
        self._defined: dict[str, set[str]] = {}
        self._collect(map_path)
        self._demand(map_path, ("map", "map_lines"), "map(key, line) or map_lines(lines)")
        if reduce_path is None:
            if "reduce" in self._defined[map_path]:
                self.reduce = self.map
        else:
            self._collect(reduce_path)
            self.reduce = os.path.basename(reduce_path)
            self._demand(reduce_path, ("reduce",), "reduce(key, values)")

    def _collect(self, path: str) -> None:
        """Reads and checks a program and, from there on, every module beside it that is imported."""
        directory = os.path.dirname(path)
        waiting = [os.path.basename(path)]
        while waiting:
            name = waiting.pop()
            here = os.path.join(directory, name)
            if not self._take(name, here):
                continue
            tree = parse(here)
            self._defined[here] = _names(tree)
            waiting += [found for wanted in _imports(tree, name) for found in _files(directory, wanted)]

    def _take(self, name: str, path: str) -> bool:
        """Enters a file; False where it stands in the bundle already."""
        first = self.files.setdefault(name, path)
        if first != path and os.path.exists(path) and not os.path.samefile(first, path):
            raise NameTwice(first=first, second=path, name=name)
        if not NAME.fullmatch(name):
            raise ProgramTooBig(path=path, reason="its name may have letters of ASCII, digits, - _ and . only")
        if len(self.files) > MOST_FILES:
            raise ProgramTooBig(path=path, reason=f"the program has more than {MOST_FILES} files")
        return path not in self._defined

    def _demand(self, path: str, names: tuple[str, ...], wanted: str) -> None:
        defined = self._defined[self.files[os.path.basename(path)]]
        if "*" in defined or defined & set(names):
            return
        has = sorted(name for name in defined if not name.startswith("_"))
        advice = f"It defines {', '.join(has[:10])}." if has else "It defines nothing."
        raise FunctionMissing(file=path, wanted=wanted, advice=advice)


def parse(path: str) -> ast.Module:
    """The syntax tree of a Python file. Raises FileUnreadable, or ProgramBroken with file, line and text."""
    try:
        with open(path, "rb") as file:
            source = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(source) > MOST_FILE_BYTES:
        raise ProgramTooBig(path=path, reason=f"a code file has at most {MOST_FILE_BYTES} bytes")
    try:
        compile(source, path, "exec", dont_inherit=True)
        return ast.parse(source, path)
    except SyntaxError as error:
        text = (error.text or "").rstrip("\n")
        shown = f"\n    {text.strip()}" if text.strip() else ""
        if shown and error.offset:
            column = min(error.offset, len(text) + 1) - 1 - (len(text) - len(text.lstrip()))
            shown += "\n    " + " " * max(0, column) + "^"
        raise ProgramBroken(file=path, line=error.lineno or 0, message=error.msg, text=shown) from error
    except ValueError as error:  # a zero byte, before Python 3.12
        raise ProgramBroken(file=path, line=0, message=str(error), text="") from error
    except RecursionError as error:
        raise ProgramBroken(file=path, line=0, message="nested too deeply", text="") from error


def unreadable(path: str, error: OSError) -> FileUnreadable:
    """The error for a file that cannot be opened, with a guess at what was meant."""
    return FileUnreadable(path=path, reason=error.strerror or str(error), hint=nearest_file(path))


def nearest_file(path: str) -> str:
    """" Did you mean ...?" where a file of nearly that name exists."""
    import difflib

    directory = os.path.dirname(path)
    try:
        names = os.listdir(directory or ".")
    except OSError:
        return ""
    wanted = os.path.basename(path)
    near = [name for name in names if name.lower() == wanted.lower() and name != wanted]
    near = near or difflib.get_close_matches(wanted, names, 1, 0.75)
    return f" Did you mean {os.path.join(directory, near[0])}?" if near and near[0] != wanted else ""


def _names(tree: ast.Module) -> set[str]:
    """What a module defines at its top level, also under if, try and with; "*" where a star import may bring more."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return names


def _imports(tree: ast.Module, name: str) -> Iterator[list[str]]:
    """Every dotted name that the file `name` imports, anywhere in it, as parts; relative ones made absolute."""
    package = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package):
                continue  # beyond the program's directory: Python refuses it as well
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield base
            yield from (base + [alias.name] for alias in node.names if alias.name != "*")


def _files(directory: str, parts: list[str]) -> Iterator[str]:
    """Names of the files beside the program that importing `parts` runs: the packages on the way, then the module."""
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if os.path.isfile(os.path.join(directory, name, "__init__.py")):
            yield f"{name}/__init__.py"
        elif os.path.isfile(os.path.join(directory, f"{name}.py")):
            yield f"{name}.py"
            return
        elif not os.path.isdir(os.path.join(directory, name)):
            return
