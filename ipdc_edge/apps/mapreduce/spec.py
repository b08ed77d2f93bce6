"""What the description of a Map-Reduce job may say: checked field by field, since a peer wrote it. Pure.

    {"inputs": [{"name", "cid", "size", "compression"?, "holders"?}, ...], "code": {name: {"cid", "size"}},
     "local"?: {"pattern"}, "options": {"steps": [STEP, ...], "input_format"?, "output_format"?, "sort_values"?,
     "skip_bad"?, "sort_budget"?, "output_limit"?}}

A STEP names Python functions, {"map", "combine", "reduce", "partition"}, each "FILE" (the conventional name) or
"FILE:FUNCTION"; or programs, {"mapper", "combiner", "reducer"}, each a list of words. `holders` are nodes beside the
master that have the content. With `local` every node of the job's `nodes` maps its own files, and `inputs` is empty.
"""

from __future__ import annotations

import json
from typing import Any

from ...codec.messages import CID_TEXT
from ...codec.node_id import NODE_ID
from ...core.architecture import BadSpec
from ...core.values import JobSpec, Json
from .choices import INPUT_FORMATS, MOST_SKIPPED, OUTPUT_FORMATS

FUNCTIONS = ("map", "combine", "reduce", "partition")
PROGRAMS = ("mapper", "combiner", "reducer")
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
INTERPRETER = 8 << 20  # bytes of a runner that are not its sorting's
MOST_STEPS = 20
MOST_WORDS, MOST_WORD_BYTES = 100, 8 * 1024  # of a program's command line
MOST_HOLDERS = 16
MOST_PATTERN = 1000  # characters


def has_reduce(step: Json) -> bool:
    """Whether a step ends in a reduce, and so in a shuffle."""
    return bool(step.get("reduce") or step.get("reducer"))


def check(spec: JobSpec, input_formats: tuple[str, ...] = INPUT_FORMATS) -> None:
    """BadSpec unless the job's description has what this architecture needs, within its bounds. An architecture that is
    built on this one may have formats of its own."""
    inputs, code, options = (spec.body.get(name) for name in ("inputs", "code", "options"))
    local = spec.body.get("local")
    if not isinstance(inputs, list) or bool(inputs) == bool(local):
        raise BadSpec(reason="'inputs' is not a list of at least one input")
    for item in inputs:
        _check_input(item)
    if local is not None:
        _check_local(local, spec)
    if not isinstance(code, dict) or not isinstance(options, dict):
        raise BadSpec(reason="'code' and 'options' must be objects")
    steps = options.get("steps")
    if not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
        raise BadSpec(reason=f"'steps' is not a list of 1 to {MOST_STEPS} steps")
    for number, step in enumerate(steps, 1):
        _check_step(step, f"step {number}", code)
    _choice(options, "input_format", input_formats)
    _choice(options, "output_format", OUTPUT_FORMATS)
    if not isinstance(options.get("sort_values", False), bool):
        raise BadSpec(reason=f"sort_values {options['sort_values']!r} is not true or false")
    budget = options.get("sort_budget")
    if type(budget) is int and budget + INTERPRETER > spec.memory:
        raise BadSpec(reason=f"a sort budget of {budget >> 20} MB does not fit into a runner's memory of "
                      f"{spec.memory >> 20} MB beside the interpreter: give --memory {(2 * budget >> 20) + 12}M")
    for name, most in (("skip_bad", MOST_SKIPPED), ("sort_budget", 1 << 40), ("output_limit", 1 << 50)):
        if not _is_count(options.get(name, 0), most):
            raise BadSpec(reason=f"{name} {options[name]!r} is not a number from 0 to {most}")


def _check_input(item: Any) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise BadSpec(reason=f"input {json.dumps(item)[:100]} has no name and CID")
    name = item["name"][:100]
    if not isinstance(item.get("cid"), str) or not CID_TEXT.fullmatch(item["cid"]):
        raise BadSpec(reason=f"input {name!r} has no name and CID")
    if not _is_count(item.get("size"), (1 << 50) - 1):
        raise BadSpec(reason=f"input {name!r}: size {item.get('size')!r}")
    if item.get("compression") not in (None, *COMPRESSIONS):
        raise BadSpec(reason=f"input {name!r}: compression {str(item['compression'])[:40]!r}")
    holders = item.get("holders", [])
    if not isinstance(holders, list) or len(holders) > MOST_HOLDERS or not all(map(_is_node, holders)):
        raise BadSpec(reason=f"input {name!r}: holders {str(holders)[:100]}")


def _check_local(local: Any, spec: JobSpec) -> None:
    pattern = local.get("pattern") if isinstance(local, dict) else None
    if not isinstance(pattern, str) or not pattern.startswith("/") or not len(pattern) <= MOST_PATTERN:
        raise BadSpec(reason=f"the local pattern {str(pattern)[:100]!r} does not begin with /")
    if "\0" in pattern or not spec.nodes or not all(map(_is_node, spec.nodes)):
        raise BadSpec(reason="local input without nodes, or with a NUL in its pattern")


def _check_step(step: Any, which: str, code: Json) -> None:
    if not isinstance(step, dict) or not any(step.get(name) for name in (*FUNCTIONS, *PROGRAMS)):
        raise BadSpec(reason=f"{which} has neither a map nor a reduce")
    python, programs = any(map(step.get, FUNCTIONS)), any(map(step.get, PROGRAMS))
    if python and programs:
        raise BadSpec(reason=f"{which} has functions and programs")
    if not any(step.get(name) for name in ("map", "reduce", "mapper", "reducer")):
        raise BadSpec(reason=f"{which} has neither a map nor a reduce")
    for role in FUNCTIONS:
        function = step.get(role)
        if function is None:
            continue
        if not isinstance(function, str):
            raise BadSpec(reason=f"the {role} program of {which} is not a name")
        file = function.partition(":")[0]
        if file not in code:
            there = ", ".join(code)[:200]
            raise BadSpec(reason=f"the {role} program {file[:100]!r} is not among the job's code ({there})")
    for role in PROGRAMS:
        words = step.get(role)
        if words is not None and not _is_command(words):
            raise BadSpec(reason=f"the {role} of {which} is not a list of 1 to {MOST_WORDS} words")


def _is_command(words: Any) -> bool:
    if not isinstance(words, list) or not 1 <= len(words) <= MOST_WORDS:
        return False
    if not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        return False
    return sum(map(len, words)) <= MOST_WORD_BYTES


def _choice(options: Json, name: str, allowed: tuple[str, ...]) -> None:
    if options.get(name, allowed[0]) not in allowed:
        raise BadSpec(reason=f"{name} {str(options[name])[:40]!r} is none of {', '.join(allowed)}")


def _is_node(value: Any) -> bool:
    return isinstance(value, str) and NODE_ID.fullmatch(value) is not None


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
