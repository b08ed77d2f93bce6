"""The core is pure: what it imports says so. So are the plans of the architectures, which it calls; codecs
open nothing either."""

from __future__ import annotations

import ast
import os

import pytest

import ipdc_edge

PACKAGE = os.path.dirname(os.path.abspath(ipdc_edge.__file__))
ALLOWED = {  # of the standard library
    "__future__", "bisect", "collections", "dataclasses", "typing", "hashlib", "json", "random"
}
CODEC = ALLOWED | {"re", "struct", "zlib", "base64", "binascii", "itertools", "functools", "math", "bisect", "operator"}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "hash", "id"}


def files(*parts: str) -> list[str]:
    top = os.path.join(PACKAGE, *parts)
    if top.endswith(".py"):
        return [top]
    return sorted(os.path.join(top, name) for name in os.listdir(top) if name.endswith(".py"))


PLAN = [file for name in ("plan.py", "spec.py") for file in files("apps", "mapreduce", name)]
PLAN += [file for name in ("plan.py", "formats.py", "serve_plan.py") for file in files("apps", "tflite", name)]


def imported(path: str) -> set[str]:
    """Full names of all modules that a file imports, relative ones resolved; TYPE_CHECKING blocks count too."""
    package = os.path.relpath(os.path.dirname(path), os.path.dirname(PACKAGE)).split(os.sep)
    names = set()
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


def strangers(path: str, allowed: set[str], own: tuple[str, ...]) -> set[str]:
    return {n for n in imported(path) if n.split(".")[0] not in allowed and not (n + ".").startswith(own)}


@pytest.mark.parametrize("path", files("core"), ids=os.path.basename)
def test_the_core_imports_nothing_of_the_outside(path: str) -> None:
    assert not strangers(path, ALLOWED, ("ipdc_edge.core.", "ipdc_edge.errors."))


@pytest.mark.parametrize("path", [*files("errors.py"), *PLAN], ids=os.path.basename)
def test_what_the_core_calls_is_pure_too(path: str) -> None:
    pure = ("ipdc_edge.core.", "ipdc_edge.codec.", "ipdc_edge.errors.", "ipdc_edge.apps.mapreduce.spec.",
            "ipdc_edge.apps.mapreduce.plan.", "ipdc_edge.apps.mapreduce.choices.", "ipdc_edge.apps.tflite.formats.",
            "ipdc_edge.apps.tflite.plan.")
    assert not strangers(path, ALLOWED, pure) - {"ipdc_edge.apps.mapreduce"}  # the package, for its module spec


@pytest.mark.parametrize("path", files("codec"), ids=os.path.basename)
def test_codecs_open_nothing(path: str) -> None:
    assert not strangers(path, CODEC, ("ipdc_edge.core.", "ipdc_edge.codec.", "ipdc_edge.errors."))


@pytest.mark.parametrize("path", files("core"), ids=os.path.basename)
def test_the_core_calls_nothing_that_reaches_out_or_depends_on_the_hash_seed(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & FORBIDDEN_CALLS
    modules = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert "random" not in modules, "the core uses the Random it was handed, never the module's"


def test_the_check_sees_an_import() -> None:
    """The reader of imports is itself able to find one: the daemon's main file is anything but pure."""
    assert {"asyncio", "time", "ipdc_edge.core.node"} <= imported(os.path.join(PACKAGE, "daemon", "daemon.py"))
