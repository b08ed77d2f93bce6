"""How a Map-Reduce job becomes tasks: splits for the maps, then one stage of reduces for each reduce among its steps.
Pure; the core calls it.

Owns the sizes of splits and the params that workers are given; what a description may say is checked in `spec.py`. A
split is a range of a file's bytes at block boundaries, or several small files; which lines belong to it is the
runner's rule (`lines.py`). What is compressed is not split, nor is what is mapped as a whole file. A job without a
reduce is map-only: its maps write the parts. With `local`, each of the job's nodes maps its own files in one task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...core.architecture import Architecture, BadSpec
from ...core.values import JobSpec, Json, Result, Task
from . import spec as description
from .spec import has_reduce

BLOCK = 1024 * 1024  # bytes of a leaf under the profile unixfs-v1-2025
LARGEST_SPLIT = 16 * BLOCK  # a lost task costs no more than this, and sorts within a few spills
TASKS_FOR_EACH_WORKER = 4  # so that faster workers can pull more
MOST_SPLITS = 10_000  # a reduce is told of every map; the list of more would not fit into a block
MOST_TOGETHER = 256  # small files in one split
FILES_FOR_EACH_WORKER = 16  # splits of small files, before they go together: each may be much work
MAPS = 0  # the first stage; reduces follow


def split_size(total: int, workers: int) -> int:
    """Bytes of a split, a multiple of the block size, for `total` bytes of input on so many workers."""
    wanted = total // max(1, workers * TASKS_FOR_EACH_WORKER)
    return max(BLOCK, min(LARGEST_SPLIT, -(-wanted // BLOCK) * BLOCK))


def cut(
    inputs: Sequence[Json], size: int, whole: bool | Callable[[Json], bool] = False, most_together: int = MOST_TOGETHER
) -> Iterator[list[tuple[int, int, int]]]:
    """Splits, each a list of (input's number, start, end), of about `size` bytes at most where that can be: small files
    that stand side by side go together. An empty file has no range, but for `whole` files (all, or which are); a job
    without any has one split without a byte."""
    is_whole = whole if callable(whole) else lambda item: bool(whole)
    together: list[tuple[int, int, int]] = []
    gathered = none = 0
    for number, item in enumerate(inputs):
        length = item["size"]
        if not length and not is_whole(item):
            continue
        none += 1
        if length < size or item.get("compression") or is_whole(item):
            if together and (gathered + length > size or len(together) == most_together):
                yield together
                together, gathered = [], 0
            together.append((number, 0, length))
            gathered += length
            continue
        if together:
            yield together
            together, gathered = [], 0
        for start in range(0, length, size):
            yield [(number, start, min(start + size, length))]
    if together:
        yield together
    if not none:
        yield [(0, 0, 0)]


class MapReduce(Architecture):
    """The architecture `mapreduce`: `do-map` answered by `buffer`, `do-reduce` by `get-result` (and by `buffer` where
    another reduce follows)."""

    name = "mapreduce"
    module = "ipdc_edge.apps.mapreduce.task"
    commands: tuple[str, ...] = ("do-map", "do-reduce")
    reports: tuple[str, ...] = ("buffer", "get-result")
    decompresses = True

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the description is valid and its splits are not too many; counts, and makes none."""
        self.check_description(spec)
        size = self._split_size(spec)
        splits = small = 0
        for item in spec.body["inputs"]:
            if item["size"] < size:
                small += item["size"]
            else:
                splits += 1 if item.get("compression") or self.whole(spec, item) else -(-item["size"] // size)
        splits += 2 * small // size
        if splits > MOST_SPLITS:
            raise BadSpec(reason=f"{splits} splits, more than {MOST_SPLITS}: give fewer or smaller inputs")

    def check_description(self, spec: JobSpec) -> None:
        """BadSpec unless every field is as it must be."""
        description.check(spec)

    def whole(self, spec: JobSpec, item: Json) -> bool:
        """Whether an input is one record, and so not cut."""
        return bool(spec.body["options"].get("input_format") == "whole-file")

    def _split_size(self, spec: JobSpec) -> int:
        return split_size(sum(item["size"] for item in spec.body["inputs"]), spec.workers)

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """The maps by split (or by node), then a reduce for each worker that was asked for, and so for each stage."""
        stages = len(self._reducing(spec))
        (do_map, do_reduce), (buffer, get_result) = self.commands, self.reports
        report, final = (buffer, False) if stages else (get_result, True)
        if spec.body.get("local"):
            maps = [Task(_map(n), MAPS, do_map, report, n, final, node=node) for n, node in enumerate(spec.nodes)]
        else:
            files = len(spec.body["inputs"])
            together = min(MOST_TOGETHER, max(1, -(-files // (spec.workers * FILES_FOR_EACH_WORKER))))
            maps = [
                Task(_map(n), MAPS, do_map, report, n, final, sum(end - start for _, start, end in ranges),
                     {"ranges": ranges})
                for n, ranges in enumerate(cut(spec.body["inputs"], self._split_size(spec),
                                               lambda item: self.whole(spec, item), together))
            ]
        reduces = []
        for stage in range(1, stages + 1):
            final = stage == stages
            report = get_result if final else buffer
            reduces += [Task(_reduce(stage, n), stage, do_reduce, report, n, final) for n in range(spec.workers)]
        return (*maps, *reduces)

    def _reducing(self, spec: JobSpec) -> list[int]:
        """The numbers of the steps that have a reduce; the n-th of them is done by stage n."""
        return [number for number, step in enumerate(spec.body["options"]["steps"]) if has_reduce(step)]

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """What the runner and the worker's node need for one task; see `Architecture.params`."""
        reducing = self._reducing(spec)
        runs = task.stage < len(reducing)
        outputs = {"kind": "runs", "count": spec.workers} if runs else {"kind": "files", "count": 1}
        if task.stage == MAPS:
            inputs, providers = self._splits(spec, task, holder)
            return {"stage": "map", "step": 0, "index": task.index, "inputs": inputs, "outputs": outputs,
                    "providers": providers}
        before = [results[ident] for ident in self._stage_before(spec, task, results)]
        return {
            "stage": "reduce",
            "step": reducing[task.stage - 1],
            "index": task.index,
            "inputs": [{"run": {"manifest": r.output, "index": task.index, "node": r.node}} for r in before],
            "outputs": outputs,
            "providers": list(dict.fromkeys(r.node for r in before)),
        }

    def reads(self, task: Task) -> Sequence[tuple[int, int, int]]:
        """A map's ranges."""
        return (task.data or {}).get("ranges", ()) if task.stage == MAPS else ()

    def _splits(self, spec: JobSpec, task: Task, holder: str) -> tuple[list[dict[str, Any]], list[str]]:
        if spec.body.get("local"):
            return [{"local": {"pattern": spec.body["local"]["pattern"]}}], []
        inputs: list[dict[str, Any]] = []
        providers = {holder: None}
        for number, start, end in (task.data or {})["ranges"]:
            item = spec.body["inputs"][number]
            split = {"cid": item["cid"], "name": item["name"], "size": item["size"], "start": start, "end": end}
            if item.get("compression"):
                split["compression"] = item["compression"]
            inputs.append({"range": split})
            providers.update(dict.fromkeys(item.get("holders", ())))
        return inputs, list(providers)

    def _stage_before(self, spec: JobSpec, task: Task, results: Mapping[str, Result]) -> list[str]:
        if task.stage > 1:
            return [_reduce(task.stage - 1, number) for number in range(spec.workers)]
        return sorted(ident for ident in results if ident.startswith("map-"))

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """`maps` and `reduces` with how many there are and how many are done, and the bytes of input."""
        total, finished = done.get(MAPS, (0, 0))
        reduces = [counts for stage, counts in done.items() if stage != MAPS]
        local = spec.body.get("local") or {}
        return {
            "maps": {"total": total, "done": finished},
            "reduces": {"total": sum(t for t, _ in reduces), "done": sum(d for _, d in reduces)},
            "input_bytes": sum(item["size"] for item in spec.body["inputs"]),
            "local": local.get("pattern"),
        }

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """`maps`, `reduces`, `reduces 2` and so on."""
        return "maps" if stage == MAPS else "reduces" if stage == 1 else f"reduces {stage}"

    def hopeless(self, spec: JobSpec, counters: Mapping[str, int]) -> str:
        """More bad records than the job may set aside."""
        bad, most = counters.get("bad_records", 0), spec.body["options"].get("skip_bad", 0)
        return f"{bad} records are bad, and --skip-bad allows {most}" if bad > most else ""


def _map(number: int) -> str:
    return f"map-{number:05d}"


def _reduce(stage: int, number: int) -> str:
    return f"reduce-{number:05d}" if stage == 1 else f"reduce-{stage}-{number:05d}"
