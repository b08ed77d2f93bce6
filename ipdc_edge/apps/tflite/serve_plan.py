"""A model that is kept loaded on several nodes, as a job: each place is a task that lasts until the job is cancelled.
Pure; the core calls it.

Owns what a description may say. `do-serve` orders a place; `served` would answer it, but no place ends by itself.

    "options": {"model": "m.tflite", "topic": "flowers", "pre"?: "Pre.py", "post"?: "Post.py", "operators": [...],
                "images"?: true, "queue"?: 64, "patience"?: 10}

`operators` are what the model needs (plan.py); `queue` how many requests may wait at one node; `patience` the seconds
that a runner has for the next answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...codec.serving import MOST_TOPICS, SERVES, TOPIC
from ...core.architecture import Architecture, BadSpec
from ...core.values import JobSpec, Json, NodeRecord, Result, Task
from .plan import MODEL, TFLite, operators_of

NAMES = {"model", "topic", "pre", "post", "operators", "images", "queue", "patience", "no_queue"}
QUEUE, MOST_QUEUE = 64, 1000
PATIENCE, MOST_PATIENCE = 10, 25
MOST_PLACES = 64


class Serve(Architecture):
    """The architecture `serve`."""

    name = "serve"
    module = "ipdc_edge.apps.tflite.serve"
    commands: tuple[str, ...] = ("do-serve",)
    reports: tuple[str, ...] = ("served",)
    memory = TFLite.memory
    mapped = TFLite.mapped
    proven = True
    lasts = True

    def check(self, spec: JobSpec) -> None:
        """BadSpec."""
        options, code = spec.body.get("options"), spec.body.get("code")
        if not isinstance(options, dict) or not isinstance(code, dict):
            raise BadSpec(reason="'options' and 'code' must be objects")
        if unknown := set(options) - NAMES:
            raise BadSpec(reason=f"unknown options of a served model: {', '.join(sorted(map(str, unknown)))[:100]}")
        if spec.body.get("inputs") or spec.body.get("local"):
            raise BadSpec(reason="a served model has no inputs but its requests")
        model, topic = options.get("model"), options.get("topic")
        if not isinstance(model, str) or not model.endswith(MODEL) or model not in code:
            raise BadSpec(reason=f"the model {str(model)[:100]!r} is no file of the job (*{MODEL})")
        if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
            raise BadSpec(reason=f"topic {str(topic)[:100]!r} is no word of up to 64 letters, digits, - _ and .")
        for role in ("pre", "post"):
            function = options.get(role)
            if function is not None and (not isinstance(function, str) or function.partition(":")[0] not in code):
                raise BadSpec(reason=f"the {role} program {str(function)[:100]!r} is not among the job's code")
        for name, most in (("queue", MOST_QUEUE), ("patience", MOST_PATIENCE)):
            if type(options.get(name, 1)) is not int or not 1 <= options.get(name, 1) <= most:
                raise BadSpec(reason=f"{name} {str(options[name])[:40]} is not a number from 1 to {most}")
        if any(not isinstance(options.get(name, False), bool) for name in ("images", "no_queue")):
            raise BadSpec(reason="images and no_queue are true or false")
        if spec.workers > MOST_PLACES:
            raise BadSpec(reason=f"a model on {spec.workers} nodes; at most {MOST_PLACES}")
        operators_of(options)

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """A place for each node that is wanted."""
        return tuple(Task(f"serve-{number:02}", 0, "do-serve", "served", number, True, 0, single=True)
                     for number in range(spec.workers))

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """Requests are the one input, answers the one output; neither is content."""
        return {"inputs": [], "outputs": {"kind": "files", "count": 1}, "providers": [holder]}

    def unfit(self, spec: JobSpec, record: NodeRecord) -> tuple[str, ...]:
        """As for inference; and a node serves so many topics only."""
        serves = sum(word.startswith(SERVES) for word in record.capabilities)
        full = (f"serves {serves} topics already",) if serves >= MOST_TOPICS else ()
        return (*full, *TFLite().unfit(spec, record))

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """What `status` and `serve` want to know beside."""
        return {**super().view(spec, done), "topic": spec.body["options"]["topic"], "model": model_of(spec.body)}

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """What people call it."""
        return "places"


def model_of(body: Mapping[str, Any]) -> str:
    """The model's CID."""
    return str(body["code"][body["options"]["model"]].get("cid", ""))
