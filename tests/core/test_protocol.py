"""PROTOCOL.md tells the truth: its diagrams are the tables', its channels the codec's."""

from __future__ import annotations

import re

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.apps.tensorflow.plan import Roles
from ipdc_edge.apps.tflite.serve_plan import Serve
from ipdc_edge.codec.messages import MessageCodec
from tests.core.diagrams import DOCUMENT, rendered


def test_the_diagrams_are_those_of_the_tables() -> None:
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()
    assert rendered(text) == text, "run: python3 -m tests.core.diagrams"


def test_every_channel_is_described_and_no_other() -> None:
    with open(DOCUMENT, encoding="utf-8") as file:
        rows = re.findall(r"^\| (`[a-z`, -]+`) \|", file.read(), re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert described == set(MessageCodec(
        (*MapReduce.commands, *Serve.commands, *Roles.commands),
        (*MapReduce.reports, *Serve.reports, *Roles.reports)).channels)
