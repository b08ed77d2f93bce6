"""The daemon's modules need each other in one direction only: what each imports says so, also what it imports when
that is needed. Types alone make no need."""

from __future__ import annotations

import ast
import os

import ipdc_edge.daemon

HERE = os.path.dirname(os.path.abspath(ipdc_edge.daemon.__file__))


def needed(text: str) -> set[str]:
    """The modules beside it that a module imports, anywhere but for its annotations."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def circle(needs: dict[str, set[str]]) -> list[str]:
    """Modules of which none can stand without another one of them."""
    left = dict(needs)
    while lowest := [name for name, others in left.items() if not others & left.keys()]:
        for name in lowest:
            del left[name]
    return sorted(left)


def test_a_circle_is_found() -> None:
    texts = {"a": "def f():\n    from .b import x\n", "b": "from . import c\n", "c": "from .a import y\n", "d": "",
             "e": "if TYPE_CHECKING:\n    from .f import z\n", "f": "from .e import z\n"}
    assert circle({name: needed(text) for name, text in texts.items()}) == ["a", "b", "c"]


def test_the_modules_of_the_daemon_stand_on_each_other_in_no_circle() -> None:
    needs = {}
    for file in os.listdir(HERE):
        if file.endswith(".py"):
            with open(os.path.join(HERE, file), encoding="utf-8") as source:
                needs[file.removesuffix(".py")] = needed(source.read())
    assert len(needs) > 20 and "background" in needs["daemon"]
    assert circle(needs) == []
