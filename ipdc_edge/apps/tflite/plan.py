"""How inference becomes tasks, and which nodes can do it. Pure; the core calls it.

Owns what a description says beside Map-Reduce's, and what of a node's record speaks against it. A model is the `map` of
the job's first step, so splits, stages and results are Map-Reduce's:

    "options": {"steps": [{"map": "m.tflite", "pre"?: "Pre.py", "post"?: "Post.py", "reduce"?, ...}, ...],
                "operators": [[code, version] | [code, version, name], ...], "images"?: true, "input_format"?, ...}

`operators` are what the model needs, as codec/tflite_model.py reads them. Who lies here gets a task that fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...codec.tflite_model import MOST_CODE, MOST_NAME, MOST_OPERATORS, MOST_VERSION, Operator
from ...core.architecture import BadSpec
from ...core.values import JobSpec, Json, NodeRecord
from ..mapreduce import spec as mapreduce
from ..mapreduce.plan import MapReduce
from .formats import AUTO, FORMATS, format_of

MODEL = ".tflite"
INTERPRETER = "tflite="  # begin words of a node's record: "tflite=ai_edge_litert 2.3.0"
OPERATORS = "tflite-operators="  # the highest version of each BuiltinOperator, a digit to base 36 each
PILLOW = "pillow="
HEAVY = "tensorflow"  # this interpreter brings all of TensorFlow with it,
HEAVY_MEMORY = 640 << 20  # which takes so much of a runner
MOST_NAMED = 5  # operators in a reason


class TFLite(MapReduce):
    """The architecture `tflite`: `do-infer` answered by `inferred`, and reduces as in Map-Reduce."""

    name = "tflite"
    module = "ipdc_edge.apps.tflite.task"
    commands: tuple[str, ...] = ("do-infer", "do-summarise")
    reports: tuple[str, ...] = ("inferred", "get-inferred")
    memory = 48 << 20  # LiteRT and numpy take 30 of them (benchmarks/RESULTS.md)
    mapped = 48 << 20  # numpy's linear algebra maps 32 MB at its start
    proven = True

    def check_description(self, spec: JobSpec) -> None:
        """BadSpec unless every field is as it must be."""
        mapreduce.check(spec, FORMATS)
        options = spec.body["options"]
        first = options["steps"][0]
        if not str(first.get("map")).endswith(MODEL):
            raise BadSpec(reason=f"the map of the first step is no file of a model (*{MODEL})")
        for role in ("pre", "post"):
            function = first.get(role)
            if function is not None and (
                not isinstance(function, str) or function.partition(":")[0] not in spec.body["code"]
            ):
                raise BadSpec(reason=f"the {role} program {str(function)[:100]!r} is not among the job's code")
        if not isinstance(options.get("images", False), bool):
            raise BadSpec(reason=f"images {str(options['images'])[:40]!r} is not true or false")
        operators_of(options)

    def whole(self, spec: JobSpec, item: Json) -> bool:
        """Whether an input is one record: all but CSV are."""
        return format_of(item["name"], spec.body["options"].get("input_format", AUTO)) != "csv"

    def unfit(self, spec: JobSpec, record: NodeRecord) -> tuple[str, ...]:
        """What of a node's record speaks against it: operators that its interpreter does not know, no Pillow for
        images, too little memory for the interpreter."""
        told = word_of(record.capabilities, INTERPRETER)
        if not told:
            return ()
        options, reasons = spec.body.get("options"), []
        if not isinstance(options, dict):
            raise BadSpec(reason="'options' must be an object")
        if lacking := unknown(operators_of(options), word_of(record.capabilities, OPERATORS)):
            named = ", ".join(lacking[:MOST_NAMED]) + (f" and {len(lacking) - MOST_NAMED} more"
                                                       if len(lacking) > MOST_NAMED else "")
            reasons.append(f"its interpreter, {told}, does not know the model's {named}")
        if options.get("images") and not word_of(record.capabilities, PILLOW):
            reasons.append("has no Pillow to decode images with (`sudo apt install python3-pil`)")
        if told.startswith(HEAVY) and spec.memory < HEAVY_MEMORY:
            reasons.append(f"its interpreter is TensorFlow's own, which needs --memory {HEAVY_MEMORY >> 20}M")
        return tuple(reasons)


def word_of(capabilities: Iterable[str], beginning: str) -> str:
    """What follows the beginning in the word of a record that has it, "" where none has."""
    return next((word[len(beginning) :] for word in capabilities if word.startswith(beginning)), "")


def operators_of(options: Json) -> list[Operator]:
    """What the model needs. BadSpec."""
    listed = options.get("operators")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_OPERATORS:
        raise BadSpec(reason=f"'operators' is not a list of 1 to {MOST_OPERATORS} operators")
    return [_operator(item) for item in listed]


def _operator(item: Any) -> Operator:
    if not isinstance(item, list) or not 2 <= len(item) <= 3:
        raise BadSpec(reason=f"operator {str(item)[:100]} is not [code, version]")
    code, version, custom = item[0], item[1], item[2] if len(item) == 3 else ""
    if type(code) is not int or type(version) is not int or not 0 <= code <= MOST_CODE or (
        not 1 <= version <= MOST_VERSION or not isinstance(custom, str) or len(custom) > MOST_NAME
    ):
        raise BadSpec(reason=f"operator {str(item)[:100]} is not [code, version]")
    if not custom.isascii() or custom and not custom.isprintable():
        raise BadSpec(reason=f"operator {ascii(custom)}")
    return Operator(code, version, custom)


def unknown(operators: Iterable[Operator], known: str) -> list[str]:
    """Those that an interpreter does not know, in words. known: as in a record; custom operators are known to none of
    those that Python has, but for the ones of TensorFlow Lite itself."""
    found = []
    for operator in operators:
        if operator.custom:
            if operator.custom not in CUSTOM_OF_ITS_OWN:
                flex = operator.custom.startswith("Flex")
                found.append(f"{operator}, an operator of {'TensorFlow (a Flex one)' if flex else 'its own'}")
            continue
        digit = known[operator.code : operator.code + 1]
        highest = int(digit, 36) if digit.isascii() and digit.isalnum() else 0
        if operator.version > highest:
            found.append(f"{operator}" + (f" (only up to version {highest})" if highest else ""))
    return found


CUSTOM_OF_ITS_OWN = ("TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify")
