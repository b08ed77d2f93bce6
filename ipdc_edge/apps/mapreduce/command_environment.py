"""What a user's program is told about its task: environment variables, as Hadoop Streaming has them.

Owns the names and the fixed part of the environment. Never passes on anything of the runner's own environment. Names of
today: "Configured Parameters" in Hadoop's MapReduce tutorial; those of old: its page "Deprecated Properties", with `_`
for each dot.
"""

from __future__ import annotations

import json

from ipdc_edge.apps.mapreduce.command_program import PATH

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

_OLD_NAMES = {
    "mapreduce_job_id": "mapred_job_id",
    "mapreduce_task_id": "mapred_tip_id",
    "mapreduce_task_attempt_id": "mapred_task_id",
    "mapreduce_task_partition": "mapred_task_partition",
    "mapreduce_task_ismap": "mapred_task_is_map",
    "mapreduce_job_maps": "mapred_map_tasks",
    "mapreduce_job_reduces": "mapred_reduce_tasks",
    "mapreduce_map_input_file": "map_input_file",
    "mapreduce_map_input_start": "map_input_start",
    "mapreduce_map_input_length": "map_input_length",
}


def task_environment(spec: dict[str, Any], job: str, task_id: str, params: dict[str, Any]) -> dict[str, str]:
    """A task's variables, by Hadoop's names of today and of old, `ipdc_node` and `ipdc_arguments`.

    Attempts have one id, for they give the same bytes. Therefore PYTHONHASHSEED is fixed: a set of strings has another
    order in every process without it.
    """
    step, outputs, workers = params.get("step", 0), params["outputs"], spec.get("workers")
    is_map = params["stage"] == "map"
    after_reduce = any(one.get("reduce") or one.get("reducer") for one in spec["options"].get("steps", ())[:step])
    found: dict[str, object] = {
        "mapreduce_job_id": job,
        "mapreduce_task_id": task_id,
        "mapreduce_task_attempt_id": f"{task_id}_0",
        "mapreduce_task_partition": params["index"],
        "mapreduce_task_ismap": "true" if is_map else "false",
    }
    if outputs["kind"] == "runs":
        found["mapreduce_job_reduces"] = outputs["count"]
    elif is_map or workers is not None:
        found["mapreduce_job_reduces"] = 0 if is_map else workers
    if not is_map and not after_reduce:
        found["mapreduce_job_maps"] = len(params["inputs"])
    own = {"ipdc_arguments": json.dumps(spec.get("arguments") or {}), "ipdc_node": str(params.get("node", ""))}
    return {**_with_old_names(found), **own, "PYTHONHASHSEED": "0"}


def input_environment(range: dict[str, Any]) -> dict[str, str]:
    """The variables of one range {"name", "start", "end", ...} of an input."""
    found = {
        "mapreduce_map_input_file": range["name"],
        "mapreduce_map_input_start": range["start"],
        "mapreduce_map_input_length": range["end"] - range["start"],
    }
    return _with_old_names(found)


def clean_environment(environment: dict[str, str], directory: str) -> dict[bytes, bytes]:
    """All that a program's environment holds; nothing of the runner's."""
    own = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": directory, "TMPDIR": directory, "PWD": directory}
    return {_bytes(name): _bytes(text) for name, text in {**environment, **own}.items()}


def _with_old_names(found: dict[str, object]) -> dict[str, str]:
    texts = {name: str(thing) for name, thing in found.items()}
    return {**texts, **{_OLD_NAMES[name]: text for name, text in texts.items()}}


def _bytes(text: str) -> bytes:
    """Any text; without NUL, which has no place in an environment."""
    text = text.replace("\0", "")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
