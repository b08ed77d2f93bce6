"""The steps of a Map-Reduce job, as its description has them: from MAP and REDUCE, from --step, from commands, or
from a list `steps` in the program itself.

Owns the forms in which people name functions, and the words for those that are not understood. A step is a
dict of "map", "combine", "reduce", "partition" with values "FILE" (the function of that name) or
"FILE:FUNCTION", or of "mapper", "combiner", "reducer" with lists of words. Nothing of the program is run.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ipdc_edge.commands.program import Files, FunctionMissing, ProgramBroken, Source, known
from ipdc_edge.commands.streaming import command
from ipdc_edge.errors import WrongUsage

Step = dict[str, Any]
ROLES = ("map", "combine", "reduce", "partition")
NOTHING = "-"  # in place of MAP: the pairs pass as they are
EXAMPLE = 'steps = [{"map": words, "reduce": total}, (swap, top)]'
WANTED = {"map": "map(key, line) or map_lines(lines)", "reduce": "reduce(key, values)"}


def python_steps(first: Sequence[str], more: Sequence[Sequence[str]], files: Files) -> list[Step]:
    """The steps of MAP [REDUCE] and of every --step; or those that MAP alone lists in itself."""
    if len(first) == 1 and not more:
        path, function = split(first[0])
        if function is None and path != NOTHING:
            source = files.python(path)
            listed = _listed(source)
            if listed:
                return listed
    return [_python_step(words, files) for words in (first, *more) if words]


def command_steps(flags: Mapping[str, str | None], more: Sequence[Sequence[str]], files: Files) -> list[Step]:
    """The step of --mapper, --combiner and --reducer, and of every --step, whose words are commands too."""
    steps = [{role: command(f"--{role}", text, files) for role, text in flags.items() if text is not None}]
    for words in more:
        step = {role: command("--step", text, files) for role, text in zip(("mapper", "reducer"), words)
                if text != NOTHING}
        steps.append(_not_empty(step))
    if steps[0].get("combiner") and not steps[0].get("reducer"):
        raise WrongUsage(reason="--combiner does nothing without --reducer.")
    return steps


def partition(text: str, steps: list[Step], files: Files) -> None:
    """Enters the function of --partition into the first step that has a reduce. Raises FunctionMissing."""
    step = next((step for step in steps if "reduce" in step), None)
    if step is None:
        programs = any("reducer" in step for step in steps)
        raise WrongUsage(reason="--partition is for programs in Python: commands have their keys spread by hash."
                         if programs else "--partition does nothing in a job without reduce.")
    path, function = split(text)
    if function is not None or text.endswith(".py") or os.path.exists(text):
        source = files.python(path)
        source.demand(function or "partition", wanted=function or "partition(key, count)")
        step["partition"] = f"{source.name}:{function or 'partition'}"
        return
    names = [str(step[role]).partition(":")[0] for role in ("map", "reduce") if role in step]
    sources = [files.python(files.paths[name]) for name in dict.fromkeys(names)]
    for source in sources:
        if source.defines(text):
            step["partition"] = f"{source.name}:{text}"
            return
    defined = {name for source in sources for name in source.lines}
    paths = " and ".join(source.path for source in sources)
    raise FunctionMissing(file=paths, wanted=text, advice=known(defined, text))


def split(word: str) -> tuple[str, str | None]:
    """(FILE, FUNCTION) of "FILE:FUNCTION", (FILE, None) of "FILE"; a file whose name has a colon is a file."""
    path, colon, function = word.rpartition(":")
    if colon and function.isidentifier() and not os.path.exists(word):
        return path, function
    return word, None


def _python_step(words: Sequence[str], files: Files) -> Step:
    """The step of one or two words. A file that stands alone and defines reduce as well gives both."""
    step: Step = {}
    for role, word in zip(("map", "reduce"), words):
        if word == NOTHING:
            continue
        path, function = split(word)
        source = files.python(path)
        if function is not None:
            source.demand(function)
            step[role] = f"{source.name}:{function}"
            continue
        if role == "map":
            if source.defines("steps") and not source.defines("map", "map_lines"):
                raise WrongUsage(reason=f"{source.path} lists steps, which are a whole job: give it alone, "
                                 "without REDUCE and --step.")
            source.demand("map", "map_lines", wanted=WANTED["map"])
        else:
            source.demand("reduce", wanted=WANTED["reduce"])
        step[role] = source.name
        if len(words) == 1 and "reduce" in source.lines:
            step["reduce"] = source.name
    return _not_empty(step)


def _not_empty(step: Step) -> Step:
    if not step:
        raise WrongUsage(reason=f"--step {NOTHING} does nothing: name a map, a reduce, or both.")
    return step


def _listed(source: Source) -> list[Step]:
    """The steps that a file lists at its top level; none where it has no such list."""
    found: ast.expr | None = None
    for node in source.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
            node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "steps" for target in targets):
            found = node.value  # type: ignore[attr-defined]
    has_map = source.defines("map", "map_lines")
    if found is None or (has_map and not _looks_like_steps(found)):
        return []
    if not isinstance(found, ast.List | ast.Tuple):
        raise _not_understood(source, found, "steps is not a list that is written out")
    if not found.elts:
        raise _not_understood(source, found, "the list of steps is empty")
    return [_listed_step(source, item) for item in found.elts]


def _looks_like_steps(value: ast.expr) -> bool:
    return isinstance(value, ast.List | ast.Tuple) and any(
        isinstance(item, ast.Dict | ast.Tuple | ast.Call) for item in value.elts)


def _listed_step(source: Source, item: ast.expr) -> Step:
    """{"map": function, ...}, dict(map=function, ...) or (map, reduce)."""
    pairs: list[tuple[ast.expr | None, str | None, ast.expr]]
    if isinstance(item, ast.Dict):
        pairs = [(key, str(key.value) if isinstance(key, ast.Constant) else None, value)
                 for key, value in zip(item.keys, item.values)]
    elif isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "dict" and not item.args:
        pairs = [(word.value, word.arg, word.value) for word in item.keywords]
    elif isinstance(item, ast.Tuple) and 1 <= len(item.elts) <= 2:
        pairs = [(value, role, value) for role, value in zip(("map", "reduce"), item.elts)]
    else:
        raise _not_understood(source, item, f"{_text(item)} is no step")
    step: Step = {}
    for place, role, value in pairs:
        if role not in ROLES:
            shown = "**" if place is None else _text(place) if role is None else repr(role)
            raise _not_understood(source, place or value, f"a step has no {shown}: there are {', '.join(ROLES)}")
        if isinstance(value, ast.Constant) and value.value is None:
            continue
        step[role] = f"{source.name}:{_function(source, role, value)}"
    if not step.keys() & {"map", "reduce"}:
        raise _not_understood(source, item, "a step has a map, a reduce, or both")
    return step


def _function(source: Source, role: str, value: ast.expr) -> str:
    """The name of a function that the file defines, and before the list."""
    if not isinstance(value, ast.Name):
        wanted = "the name of a function of this file" + (", unquoted" if isinstance(value, ast.Constant) else "")
        raise _not_understood(source, value, f"{_text(value)} for {role}: write {wanted}")
    if not source.defines(value.id):
        advice = known(source.lines, value.id)
        raise _not_understood(source, value, f"there is no {value.id} for {role} in this file. {advice}")
    if source.lines.get(value.id, 0) > value.lineno:
        message = f"{value.id} is defined only in line {source.lines[value.id]}: put the list of steps below it"
        raise _not_understood(source, value, message)
    return value.id


def _not_understood(source: Source, node: ast.expr, message: str) -> ProgramBroken:
    text = f"\n    {EXAMPLE}"
    return ProgramBroken(file=source.path, line=node.lineno, message=f"{message}. For example:", text=text)


def _text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:57] + "..."
