"""How a Map-Reduce job becomes tasks: splits for the maps, one partition for each reduce. Pure; the core
calls it.

Owns the sizes of splits and the params that workers are given. A split is a range of a file's bytes at block
boundaries; which lines belong to it is the runner's rule (`mapper.py`). A job without a reducer is map-only:
its maps write the parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...core.architecture import BadSpec
from ...core.values import JobSpec, Json, Result, Task

BLOCK = 1024 * 1024  # bytes of a leaf under the profile unixfs-v1-2025
LARGEST_SPLIT = 16 * BLOCK  # a lost task costs no more than this, and sorts within a few spills
TASKS_FOR_EACH_WORKER = 4  # so that faster workers can pull more
MOST_SPLITS = 10_000  # a reduce is told of every map; the list of more would not fit into a block
MAP, REDUCE = 0, 1  # stages


def split_size(total: int, workers: int) -> int:
    """Bytes of a split, a multiple of the block size, for `total` bytes of input on so many workers."""
    wanted = total // max(1, workers * TASKS_FOR_EACH_WORKER)
    return max(BLOCK, min(LARGEST_SPLIT, -(-wanted // BLOCK) * BLOCK))


def cut(inputs: list[dict[str, Any]], size: int) -> list[tuple[int, int, int]]:
    """Splits of at most `size` bytes: (input's number, start, end). An empty file has none, but an empty job
    has one."""
    splits = [
        (number, start, min(start + size, item["size"]))
        for number, item in enumerate(inputs)
        for start in range(0, item["size"], size)
    ]
    return splits or [(0, 0, 0)]


class MapReduce:
    """The architecture `mapreduce`: `do-map` answered by `buffer`, `do-reduce` by `get-result`."""

    name = "mapreduce"
    commands: tuple[str, ...] = ("do-map", "do-reduce")
    reports: tuple[str, ...] = ("buffer", "get-result")

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the description is valid and its splits are not too many; counts, and makes none."""
        check(spec.body)
        inputs = spec.body["inputs"]
        size = self._split_size(spec)
        splits = sum(-(-item["size"] // size) for item in inputs)
        if splits > MOST_SPLITS:
            raise BadSpec(reason=f"{splits} splits, more than {MOST_SPLITS}: give fewer or smaller inputs")

    def _split_size(self, spec: JobSpec) -> int:
        return split_size(sum(item["size"] for item in spec.body["inputs"]), spec.workers)

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """The maps by split, then a reduce for each worker that was asked for."""
        reduces = self._reduces(spec)
        maps = [
            Task(f"map-{n:05d}", MAP, "do-map", "buffer" if reduces else "get-result", n, not reduces, end - start,
                 {"input": number, "start": start, "end": end})
            for n, (number, start, end) in enumerate(cut(spec.body["inputs"], self._split_size(spec)))
        ]
        return (*maps, *(Task(f"reduce-{n:05d}", REDUCE, "do-reduce", "get-result", n, True) for n in range(reduces)))

    def _reduces(self, spec: JobSpec) -> int:
        return spec.workers if spec.body["options"].get("reduce") else 0

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """What the runner and the worker's node need for one task; see `Architecture.params`."""
        if task.stage == MAP:
            data = task.data or {}
            item = spec.body["inputs"][data["input"]]
            split = {"cid": item["cid"], "name": item["name"], "size": item["size"],
                     "start": data["start"], "end": data["end"]}
            reduces = self._reduces(spec)
            outputs = {"kind": "runs", "count": reduces} if reduces else {"kind": "files", "count": 1}
            return {"stage": "map", "index": task.index, "inputs": [{"range": split}], "outputs": outputs,
                    "providers": [holder]}
        maps = [results[ident] for ident in sorted(results) if ident.startswith("map-")]
        return {
            "stage": "reduce",
            "index": task.index,
            "inputs": [{"run": {"manifest": r.output, "index": task.index, "node": r.node}} for r in maps],
            "outputs": {"kind": "files", "count": 1},
            "providers": list(dict.fromkeys(r.node for r in maps)),
        }

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """`maps` and `reduces` with how many there are and how many are done, and the bytes of input."""
        stages = {}
        for name, stage in (("maps", MAP), ("reduces", REDUCE)):
            total, finished = done.get(stage, (0, 0))
            stages[name] = {"total": total, "done": finished}
        return {**stages, "input_bytes": sum(item["size"] for item in spec.body["inputs"])}


def check(body: Json) -> None:
    """BadSpec unless the job's description has what this architecture needs, within its bounds."""
    inputs, code, options = body.get("inputs"), body.get("code"), body.get("options")
    if not isinstance(inputs, list) or not inputs:
        raise BadSpec(reason="'inputs' is not a list of at least one input")
    for item in inputs:
        if not isinstance(item, dict) or not isinstance(item.get("cid"), str) or not isinstance(item.get("name"), str):
            raise BadSpec(reason=f"input {json.dumps(item)[:100]} has no name and CID")
        size = item.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 50:
            raise BadSpec(reason=f"input {item['name'][:100]!r}: size {size!r}")
    if not isinstance(code, dict) or not isinstance(options, dict):
        raise BadSpec(reason="'code' and 'options' must be objects")
    for role in ("map", "reduce"):
        name = options.get(role)
        if name is not None and not isinstance(name, str):
            raise BadSpec(reason=f"the {role} program is not a name")
        if (role == "map" or name is not None) and name not in code:
            raise BadSpec(reason=f"the {role} program {name!r} is not among the job's code ({', '.join(code)[:200]})")
