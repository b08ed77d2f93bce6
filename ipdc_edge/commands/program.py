"""The user's files before they are submitted: programs, the modules beside them that they import, and whatever
else shall travel.

Owns finding and checking these files, and what a Python file defines. Never runs a line of them: they are
compiled and looked through, so that a mistake is told here, with its line, and not by some board after a
minute. A module that is not beside the program is taken to be installed on the nodes.
"""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Collection, Iterator

from ipdc_edge.codec.bundle import MODEL, MOST_BYTES, MOST_FILES, MOST_PYTHON_BYTES, NAME, most_bytes
from ipdc_edge.errors import IpdcError

NAMES_SHOWN = 10


class FileUnreadable(IpdcError):
    """Cannot read {path}: {reason}.{hint}"""


class ProgramBroken(IpdcError):
    """{file}, line {line}: {message}{text}"""


class FunctionMissing(IpdcError):
    """{file} defines no {wanted}. {advice}"""


class NameTwice(IpdcError):
    """{first} and {second} would both travel as {name}. Rename one of them, or put both programs into one
    directory."""


class CannotTravel(IpdcError):
    """{path} cannot travel with the job: {reason}."""


class Source:
    """A Python file: its name in the bundle, its path here, its syntax tree, and the line at which each name
    is defined at its top level."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree
        self.lines = _names(tree)

    def defines(self, *names: str) -> bool:
        """Whether one of the names is defined, or may be by a star import."""
        return "*" in self.lines or any(name in self.lines for name in names)

    def demand(self, *names: str, wanted: str = "") -> None:
        """FunctionMissing, with what there is and the nearest of it, unless one of the names is defined."""
        if not self.defines(*names):
            advice = known(self.lines, names[0])
            if any(isinstance(node, ast.Attribute) and node.attr == "stdin" for node in ast.walk(self.tree)):
                advice += " A program that reads standard input: --mapper 'python3 FILE', --reducer 'python3 FILE'."
            raise FunctionMissing(file=self.path, wanted=wanted or names[0], advice=advice)


class Files:
    """What travels with a job: `paths` is name in the bundle -> path here."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}
        self.bytes = 0
        self._sources: dict[str, Source] = {}

    def python(self, path: str) -> Source:
        """Takes a Python file and, from there on, every module beside it that is imported; all are checked."""
        directory, first = os.path.split(path)
        waiting = [first]
        while waiting:
            name = waiting.pop()
            here = os.path.join(directory, name)
            entered = self._enter(name, here)
            if entered and name in self._sources:
                continue
            self._sources[name] = source = Source(name, here, parse(here))
            if not entered:
                self._count(here)
            waiting += [found for wanted in _imports(source.tree, name) for found in _files(directory, wanted)]
        return self._sources[first]

    def ship(self, path: str, name: str | None = None) -> str:
        """Takes any regular file; its name in the bundle, which is its base name unless told."""
        name = name or os.path.basename(path)
        if not self._enter(name, path):
            size = self._count(path)
            if size > most_bytes(name):
                raise CannotTravel(path=path, reason=f"it has {size} bytes, more than {most_bytes(name)}")
        return name

    def ship_all(self, path: str) -> None:
        """Takes a file, or every file below a directory by its name relative to where the directory lies."""
        if not os.path.isdir(path):
            self.ship(path)
            return
        base = path if os.path.basename(os.path.normpath(path)) in (".", "..") else os.path.dirname(
            os.path.abspath(path))
        found = list(files_below(path))
        if not found:
            raise FileUnreadable(path=path, reason="it is a directory without a file in it", hint="")
        for file in found:
            if "__pycache__" not in file.split(os.sep):
                self.ship(file, os.path.relpath(file, base))

    def _enter(self, name: str, path: str) -> bool:
        """Whether a file stands in the bundle already; enters it where not."""
        first = self.paths.get(name)
        if first is not None:
            if first != path and os.path.exists(path) and not os.path.samefile(first, path):
                raise NameTwice(first=first, second=path, name=name)
            return True
        if not NAME.fullmatch(name):
            reason = "its name may have letters of ASCII, digits, - _ and . only (not first), in at most 8 directories"
            raise CannotTravel(path=path, reason=reason)
        if len(self.paths) >= MOST_FILES:
            raise CannotTravel(path=path, reason=f"the program has more than {MOST_FILES} files")
        self.paths[name] = path
        return False

    def _count(self, path: str) -> int:
        """The size of a file that can be read; CannotTravel where all together become too many bytes."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
        except OSError as error:
            raise unreadable(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise CannotTravel(path=path, reason="it is not a regular file")
        self.bytes += 0 if path.endswith(MODEL) else status.st_size
        if self.bytes > MOST_BYTES:
            raise CannotTravel(path=path, reason=f"with it the program's files have more than {MOST_BYTES} bytes; "
                               "give big data as --input, or install it on the nodes")
        return status.st_size


def known(names: Collection[str], wanted: str) -> str:
    """What a file defines, and the nearest to what was wanted, in words."""
    import difflib

    has = sorted(name for name in names if not name.startswith("_"))
    if not has:
        return "It defines nothing."
    more = f" and {len(has) - NAMES_SHOWN} more" if len(has) > NAMES_SHOWN else ""
    near = difflib.get_close_matches(wanted, has, 1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return f"It defines {', '.join(has[:NAMES_SHOWN])}{more}.{guess}"


def parse(path: str) -> ast.Module:
    """The syntax tree of a Python file. Raises FileUnreadable, or ProgramBroken with file, line and text."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            source = file.read(MOST_PYTHON_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(source) > MOST_PYTHON_BYTES:
        raise CannotTravel(path=path, reason=f"a Python file has at most {MOST_PYTHON_BYTES} bytes")
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


def files_below(directory: str) -> Iterator[str]:
    """Files below a directory in the order of their names; hidden ones and links to directories stay out."""
    def fail(error: OSError) -> None:
        raise FileUnreadable(path=error.filename, reason=error.strerror or str(error), hint="") from error

    for here, directories, names in os.walk(directory, onerror=fail):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(here, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def _names(tree: ast.Module) -> dict[str, int]:
    """What a module defines at its top level, also under if, try and with, and in which line first; "*" where
    a star import may bring more."""
    names: dict[str, int] = {}
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found = [node.id]
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
        for name in found:
            names[name] = min(names.get(name, node.lineno), node.lineno)  # type: ignore[attr-defined]
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
