"""A cluster as its user writes it (ClusterSpec.conf) and as its roles read it (ClusterSpec.json).

Owns both formats and their bounds. Pure. The formats are IPDC's: the first says jobs and the indices of their tasks,
`{"local": [0, 1]}`; the second gives each an address, and beside `ClusterSpec` and `TaskIndex` what we add says on
which node each role is, with which TensorFlow, and how much memory it may take.

Addresses are of the loopback, the same in every role's own network: what listens at another role's address there is our
end of a tunnel to it. So one file serves all, and no address of a node stands in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ipdc_edge.errors import IpdcError

JOB = re.compile(r"[a-z][a-z0-9]{0,30}")  # they are parts of tasks' ids
CHIEF, WORKER, PS, LOCAL = "chief", "worker", "ps", "local"
FIRST_PORT = 2222  # IPDC's; every role has a network of its own, where no port is taken
STARTER = "create_worker.py"  # is given job and index; other programs find theirs in TF_CONFIG
MOST_ROLES = 20  # as many as a job's view shows
MOST_BYTES = 64 << 10  # of a file
LEAST_MEMORY, MEMORY = 256 << 20, 768 << 20  # bytes: a role of TensorFlow 2.21 takes 550 to 600 MB
VERSION = re.compile(r"\d[\w.+]{0,40}", re.ASCII)


class BadCluster(IpdcError):
    """{file}: {reason}. A cluster is written as {{"local": [0, 1]}}, or
    {{"chief": [0], "worker": [0, 1], "ps": [0]}}"""

    exit_code = 2


class BadPlan(IpdcError):
    """{file} is no plan of a cluster: {reason}. `ipdc-edge tf plan` makes one"""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Role:
    """One task of a cluster: `worker` 1 is the second of the job `worker`."""

    job: str
    index: int

    def __str__(self) -> str:
        return f"{self.job}:{self.index}"

    @property
    def task(self) -> str:
        """The id of the task that is this role."""
        return f"{self.job}-{self.index}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role is: the node's id, what people call it, and the role's address in the cluster's own network."""

    role: Role
    node: str
    name: str
    port: int

    @property
    def address(self) -> str:
        """As ClusterSpec.json has it."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A planned cluster."""

    places: tuple[Place, ...]
    tensorflow: str
    memory: int

    @property
    def spec(self) -> dict[str, list[str]]:
        """What tf.train.ClusterSpec takes."""
        found: dict[str, list[str]] = {}
        for place in self.places:
            found.setdefault(place.role.job, []).append(place.address)
        return found


def roles(text: str | bytes, file: str = "ClusterSpec.conf") -> tuple[Role, ...]:
    """The roles that a ClusterSpec.conf wants, in its order. BadCluster."""
    value = _object(text, file, BadCluster)
    if not value:
        raise BadCluster(file=file, reason="it names no job")
    found: list[Role] = []
    for job, indices in value.items():
        if not JOB.fullmatch(job):
            raise BadCluster(file=file, reason=f"{job[:40]!r} is no name of a job: small letters and digits")
        if not isinstance(indices, list) or not indices or any(type(index) is not int for index in indices):
            raise BadCluster(file=file, reason=f"{job}: {str(indices)[:60]} is not a list of numbers")
        if sorted(indices) != list(range(len(indices))):
            raise BadCluster(file=file, reason=f"{job}: {str(indices)[:60]} are not the numbers from 0 on, each once")
        if job == CHIEF and len(indices) > 1:
            raise BadCluster(file=file, reason=f"there is one chief, not {len(indices)}")
        found += [Role(job, index) for index in sorted(indices)]
    if len(found) > MOST_ROLES:
        raise BadCluster(file=file, reason=f"it has {len(found)} roles, at most {MOST_ROLES}")
    return tuple(found)


def planned(cluster: Cluster) -> str:
    """The text of ClusterSpec.json."""
    value = {
        "ClusterSpec": cluster.spec,
        "TaskIndex": {place.address: place.role.index for place in cluster.places},
        "Nodes": {place.address: {"id": place.node, "name": place.name} for place in cluster.places},
        "TensorFlow": cluster.tensorflow, "Memory": cluster.memory,
    }
    return json.dumps(value, indent=1) + "\n"


def read(text: str | bytes, file: str = "ClusterSpec.json") -> Cluster:
    """The cluster of a ClusterSpec.json, which its user may have edited. BadPlan."""
    value = _object(text, file, BadPlan)

    def bad(reason: str) -> BadPlan:
        return BadPlan(file=file, reason=reason)

    spec, indices, nodes = (value.get(name) for name in ("ClusterSpec", "TaskIndex", "Nodes"))
    for name, found in (("ClusterSpec", spec), ("TaskIndex", indices), ("Nodes", nodes)):
        if not isinstance(found, dict) or not found:
            raise bad(f"it has no {name}")
    version, memory = value.get("TensorFlow"), value.get("Memory")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise bad(f"TensorFlow {version!r} is no version")
    if type(memory) is not int or not LEAST_MEMORY <= memory <= 1 << 40:
        raise bad(f"Memory {memory!r} is not a number of bytes of at least {LEAST_MEMORY}")
    places = tuple(_places(spec, indices, nodes, bad))  # type: ignore[arg-type]
    if len(places) > MOST_ROLES:
        raise bad(f"it has {len(places)} roles, at most {MOST_ROLES}")
    if len({place.port for place in places}) < len(places) or len(indices) != len(places):  # type: ignore[arg-type]
        raise bad("two roles have the same address, or TaskIndex names more than ClusterSpec")
    return Cluster(places, version, memory)


def _places(spec: Mapping[str, Any], indices: Mapping[str, Any], nodes: Mapping[str, Any], bad: Any) -> Iterator[Place]:
    for job, addresses in spec.items():
        if not JOB.fullmatch(job) or not isinstance(addresses, list) or not addresses:
            raise bad(f"the job {job[:40]!r} is not a list of addresses")
        for index, address in enumerate(addresses):
            found = re.fullmatch(r"127\.0\.0\.1:([1-9][0-9]{3,4})", address) if isinstance(address, str) else None
            if found is None or not 1024 <= int(found[1]) <= 65535:
                raise bad(f"{str(address)[:60]!r} is not 127.0.0.1 with a port of 1024 or more")
            node = nodes.get(address)
            if indices.get(address) != index or not isinstance(node, dict):
                raise bad(f"{address} is {job} {index}, and TaskIndex or Nodes do not say so")
            ident, name = str(node.get("id")), node.get("name")
            if not re.fullmatch(r"[A-Za-z0-9]{40,64}", ident) or not isinstance(name, str):
                raise bad(f"{address} is on no node")
            yield Place(Role(job, index), ident, name[:64], int(found[1]))


def config(cluster: Cluster, role: Role | None, client: str = "") -> str:
    """TF_CONFIG of a role; of a program that is no role where that is None, which TensorFlow knows as `client`."""
    task = {"type": role.job, "index": role.index} if role else {"type": client or CHIEF, "index": 0}
    return json.dumps({"cluster": cluster.spec, "task": task})


def _object(text: str | bytes, file: str, error: type[BadCluster] | type[BadPlan]) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise error(file=file, reason=f"it has more than {MOST_BYTES} bytes")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise error(file=file, reason=str(problem)) from None
    if not isinstance(value, dict):
        raise error(file=file, reason="it is not a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found
