"""`ipdc-edge submit --model`: what describes a job of inference on the command line.

Owns its flags, and the way from them to the job's files and options: the model is the map of the first step
(apps/tflite/plan.py). Reads of the model what operators it needs. Never runs it: what is wrong with it beyond that, the
first runner says.
"""

from __future__ import annotations

import argparse
import mmap
from collections.abc import Sequence
from typing import Any

from ipdc_edge.apps.tflite.formats import AUTO, FORMATS, STARTS, format_by_start, format_of
from ipdc_edge.codec.bundle import MODEL
from ipdc_edge.commands.inputs import Input
from ipdc_edge.commands.job_options import FORMAT_FLAGS, Job, parse_arguments
from ipdc_edge.commands.program import Files, unreadable
from ipdc_edge.commands.steps import partition, split
from ipdc_edge.commands.upload import open_file
from ipdc_edge.errors import IpdcError, WrongUsage

NAME = "tflite"
FLAGS_OF_OTHERS = ("reduce", "mapper", "reducer", "combiner", "step")


class NoModel(IpdcError):
    """{path} is {reason}"""


class WhatIsIt(IpdcError):
    """{path}: neither its name nor its first bytes say what it is. Say it: --input-format image, csv, npy or raw"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    model = parser.add_argument_group("inference")
    model.add_argument("--model", metavar="FILE", help="a TensorFlow Lite model, to be run over the inputs; the one "
                       "Python file that may stand beside it is REDUCE")
    model.add_argument("--pre", metavar="FILE", help="Python file with pre(name, data), or FILE:FUNCTION: it yields "
                       "what goes into the model")
    model.add_argument("--post", metavar="FILE", help="Python file with post(name, outputs), or FILE:FUNCTION: it "
                       "yields pairs (key, value)")


def check(args: argparse.Namespace, app: str) -> None:
    """WrongUsage for flags that make no sense together. app: what --app says where nobody says it."""
    if args.model is None:
        for name in ("pre", "post"):
            if getattr(args, name) is not None:
                raise WrongUsage(reason=f"--{name} belongs to a model: give --model FILE.")
        return
    if args.app != app:
        raise WrongUsage(reason=f"--model and --app {args.app}: a model is a job of its own kind.")
    for name in FLAGS_OF_OTHERS:
        if getattr(args, name):
            flag = f"{args.map} {args.reduce}" if name == "reduce" else f"--{name}"
            raise WrongUsage(reason=f"{flag} with --model: the model is the map, and one Python file, REDUCE, may "
                             "follow. What comes before and after the model is --pre and --post.")
    if args.input_format is not None and args.input_format not in FORMATS:
        raise WrongUsage(reason=f"--input-format {args.input_format} with --model: there are {', '.join(FORMATS)}.")


def read(args: argparse.Namespace) -> Job:
    """The job of the flags. Raises WrongUsage, NoModel, or what is wrong with a program."""
    files = Files()
    name = args.model.rpartition("/")[2]
    step: dict[str, Any] = {"map": files.ship(args.model, name if name.endswith(MODEL) else name + MODEL)}
    for role, wanted in (("pre", "pre(name, data)"), ("post", "post(name, outputs)")):
        if (word := getattr(args, role)) is not None:
            step[role] = shipped_function(files, role, word, wanted)
    if args.map is not None:
        step["reduce"] = shipped_function(files, "reduce", args.map, "reduce(key, values)")
        source = files.python(split(args.map)[0])
        if "combine" in source.lines:
            step["combine"] = source.name
    for path in args.file:
        files.ship_all(path)
    options: dict[str, Any] = {"steps": [step], "output_format": "json", "operators": needed(args.model)}
    options |= {flag: value for flag in FORMAT_FLAGS if (value := getattr(args, flag)) is not None}
    if args.sort_values and args.map is None:
        raise WrongUsage(reason="--sort-values does nothing in a job without reduce.")
    if args.partition is not None:
        partition(args.partition, [step], files)
    return Job(files.paths, options, parse_arguments(args.arguments))


def shipped_function(files: Files, role: str, word: str, wanted: str) -> str:
    """A Python file that travels with the model, FILE or FILE:FUNCTION, as a description names it."""
    path, function = split(word)
    source = files.python(path)
    source.demand(function or role, wanted=function or wanted)
    return f"{source.name}:{function}" if function else source.name


def needed(path: str) -> list[list[Any]]:
    """The operators of a model, as its description has them. NoModel, FileUnreadable."""
    from ipdc_edge.codec.tflite_model import BadModel, operators  # other jobs start faster without it

    try:
        with open_file(path) as file:
            try:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    found = operators(data)
            except ValueError:  # an empty file cannot be mapped
                raise NoModel(path=path, reason="no TensorFlow Lite model: it is empty") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except BadModel as error:
        raise NoModel(path=path, reason=str(error)) from error
    return [[one.code, one.version, *([one.custom] if one.custom else [])] for one in found]


def has_images(inputs: Sequence[Input], wanted: str, pattern: str | None) -> bool:
    """Whether there are images among the inputs, so that nodes need what decodes them. WhatIsIt for a file here of
    which nobody can say what it is."""
    kinds = {format_of(pattern, wanted)} if pattern is not None else set()
    for item in inputs:
        kind = format_of(item.name, wanted)
        if kind == AUTO and item.path is not None:
            with open_file(item.path) as file:
                kind = format_by_start(file.read(max(map(len, STARTS))))
            if kind == AUTO:
                raise WhatIsIt(path=item.name)
        kinds.add(kind)
    return "image" in kinds
