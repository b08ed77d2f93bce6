"""What becomes of a job that a client hands in: its description is completed and checked, kept as content, and given to
the core.

Owns what only the daemon knows of a description: the size of content that is named by its CID and who has it, and the
nodes whose own files are mapped. Never reads a file that a client names.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..codec.bundle import bundle_items
from ..codec.cid import raw_cid
from ..codec.compression import LONGEST, compression_of
from ..core.architecture import BadSpec, spec_of
from ..core.effects import Save
from ..core.events import JobSubmitted
from ..core.placement import incapable, rank, usual_memory
from ..core.values import JobSpec, NodeRecord
from ..drivers.block_reading import in_store
from ..drivers.fetcher import BlockUnavailable
from ..drivers.provider import Provider
from ..drivers.tflite_capability import PROVING
from ..errors import BadRequest, IpdcError, NotPlaced
from .input_sizes import LARGE, size_of
from .job_source import MOST_JSON
from .local_inputs import LOCAL_INPUT, opens

if TYPE_CHECKING:
    from .daemon import Daemon
    from .kubo_content import Tell

PATIENCE = 3.0  # seconds that a job waits to hear of that
MOST_PROVIDERS = 16  # peers asked for content that is not here
MOST_REASONS, MOST_NAMES = 20, 8  # told of the nodes that cannot do a job


class ContentNowhere(IpdcError):
    """{cid} is not on this node{others}{kubo}. Add it on the node that has the file: ipdc-edge add FILE"""


async def _nobody(progress: dict[str, object]) -> None:
    """Tells nobody."""


class Submissions:
    """Takes jobs in."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def submit(self, wanted: object, owner: str, tell: Tell = _nobody) -> dict[str, object]:
        """{"id": that of the job of this description, durable by now, "compressed": the inputs without a name that are,
        "left_out": which nodes cannot do it, and why}. `owner` is whose the content is that waits for it; in the end it
        is the job's, or released. `tell` is told how far content is that comes from Kubo. BadRequest, BadSpec,
        ContentNowhere, NotPlaced."""
        daemon = self.daemon
        try:
            if not isinstance(wanted, dict):
                raise BadRequest(reason="submit without a job's description")
            spec, compressed = await self._stored_spec(wanted, owner, tell)
            left_out = await self._able(spec)
            effects = daemon.ask(JobSubmitted(time.strftime("%Y%m%d-%H%M%S", time.gmtime(daemon.now())), spec))
        except BaseException:
            daemon.store.release(owner)
            raise
        job = next(effect.key for effect in effects if isinstance(effect, Save) and effect.kind == "job")
        daemon.store.transfer(owner, job)
        await daemon.durable()
        return {"id": job, "compressed": compressed, "left_out": left_out}

    async def _stored_spec(self, wanted: dict[str, Any], owner: str, tell: Tell) -> tuple[JobSpec, list[str]]:
        """The job's description, completed, checked, and kept as content; and which CIDs are found to be compressed."""
        daemon = self.daemon
        architecture = daemon.architectures.get(str(wanted.get("app")))
        least = architecture.memory if architecture is not None else 0
        body = {"version": 1, **wanted}
        if "memory" not in body:
            usual = daemon.settings.runner_memory or usual_memory(await self._records(), daemon.domain.members.members)
            body["memory"] = max(usual, least)
        inputs = body.get("inputs")
        listed = inputs if isinstance(inputs, list) else []
        bare = [item for item in listed if isinstance(item, dict) and item.get("size") is None]
        for item in bare:
            providers = await self._locate(item, owner, tell)
            if architecture is not None and architecture.decompresses:
                await self._look_into(item, providers)
        await self._find_holders(body, listed)
        if body.get("local"):
            self._choose_nodes(body, await self._records())
        block = json.dumps(body, separators=(",", ":")).encode()
        if len(block) > MOST_JSON:
            raise BadSpec(reason=f"its description takes {len(block)} bytes, at most {MOST_JSON}: give fewer inputs, "
                          "or shorter names, or put small files together")
        spec = spec_of(raw_cid(block), body)
        bundle_items(body)
        await in_store(daemon.store, lambda: daemon.store.put(spec.cid, block, owner, durable=True))
        return spec, [str(item["cid"]) for item in bare if item.get("compression")]

    async def _able(self, spec: JobSpec) -> list[str]:
        """Of a kind of job that nodes find out about whether they can do it: those that cannot do this one, with their
        reasons. NotPlaced where none can; what is only busy now can."""
        architecture = self.daemon.architectures.get(spec.app)
        if architecture is None or not architecture.proven:
            return []
        architecture.check(spec)
        records = await self._records()
        able: list[str] = []
        against: dict[str, list[str]] = {}  # what several lack is said once
        for record in records:
            cannot = incapable(record, spec.app)
            reasons = (cannot,) if cannot else architecture.unfit(spec, record)
            (against.setdefault("; ".join(reasons), []) if reasons else able).append(record.name)
        told = [f"{_several(names)}: {reason}" for reason, names in against.items()]
        told[MOST_REASONS:] = [f"and {len(told) - MOST_REASONS} more reasons"] if len(told) > MOST_REASONS else []
        if not able and not any(PROVING in record.unable for record in records):
            raise NotPlaced(reason=f"none of the {len(records)} nodes here can do it:"
                            + "".join(f"\n  {line}" for line in told))
        return [*told, f"{_several(able)} can"] if told and able else told

    async def _locate(self, item: dict[str, Any], owner: str, tell: Tell) -> list[Provider]:
        """Completes an input that is named by its CID alone: its size, and who has it if this node has not. What only
        Kubo has becomes this node's, held by `owner`."""
        cid, fetcher = str(item.get("cid")), self.daemon.fetcher
        try:
            item["size"] = await fetcher.file_size(cid, [])
            return []
        except BlockUnavailable:
            pass
        others = [Provider(record.id, record.gateway) for record in await self._records()
                  if record.id != self.daemon.id][:MOST_PROVIDERS]
        sizes = await asyncio.gather(*(fetcher.file_size(cid, [other]) for other in others), return_exceptions=True)
        found = [(other.node, size) for other, size in zip(others, sizes) if isinstance(size, int)]
        if not found:
            asked = f", nor on one of the {len(others)} others asked" if others else ""
            item["size"] = await self._from_kubo(cid, owner, tell, asked)
            return []
        item["size"], item["holders"] = found[0][1], [node for node, _ in found]
        return [other for other in others if other.node in item["holders"]]

    async def _from_kubo(self, cid: str, owner: str, tell: Tell, asked: str) -> int:
        """The size of a file that Kubo has or can reach, and that is here now. `asked` says who has it not."""
        from . import kubo_content  # for what is nowhere else

        await tell({"fetching": cid, "bytes": 0})  # Kubo may search for a while
        try:
            kubo = await kubo_content.found(self.daemon, cid)
        except BlockUnavailable as error:
            raise ContentNowhere(cid=cid, others=asked, kubo=f" ({error.details['reasons']})") from None
        size = await self.daemon.fetcher.file_size(cid, [kubo])
        await kubo_content.take_in(self.daemon, cid, owner, tell)
        return size

    async def _find_holders(self, body: dict[str, Any], inputs: list[Any]) -> None:
        """Names the nodes that hold a whole input, of the larger ones: workers fetch it from all of them at once. And
        how much of them each node holds: such ones are better workers."""
        large = [item for item in inputs if size_of(item) >= LARGE]
        if not large:
            return
        from .holdings import ask  # rarely needed

        large.sort(key=lambda item: -item["size"])
        told: dict[str, dict[str, int]] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                others = [record for record in await self._records() if record.id != self.daemon.id]
                told = await ask(self.daemon.mqtt.context, others, [item["cid"] for item in large])
        for item in large:
            if whole := [node for node, sizes in told.items() if sizes.get(item["cid"]) == item["size"]]:
                item["holders"] = whole
        total = sum(item["size"] for item in large)
        shares = {node: min(100, 100 * sum(sizes.values()) // total) for node, sizes in told.items()}
        body["held"] = {node: share for node, share in shares.items() if share}

    async def _look_into(self, item: dict[str, Any], providers: list[Provider]) -> None:
        """Whether content is compressed: a CID has no extension that would say so."""
        start = b""
        async for _, data in self.daemon.fetcher.file_blocks(str(item["cid"]), 0, LONGEST, providers):
            start += data[:LONGEST]
            if len(start) >= LONGEST:
                break
        if kind := compression_of(start):
            item["compression"] = kind

    async def _records(self) -> list[NodeRecord]:
        """All nodes that are there, this one among them."""
        await self.daemon.look()
        return self.daemon.node.membership.candidates()

    def _choose_nodes(self, body: dict[str, Any], records: list[NodeRecord]) -> None:
        """The nodes whose own files a job maps: the best of those that open any."""
        spec = spec_of("", body)
        local = body["local"]
        architecture = self.daemon.architectures.get(spec.app)
        unfit = architecture.unfit if architecture is not None else None
        pattern = str(local.get("pattern")) if isinstance(local, dict) else ""
        verdicts = rank([r for r in records if opens(r.capabilities, pattern)], spec, "", "", unfit=unfit)
        body["nodes"] = [verdict.node for verdict in verdicts if verdict.suitable][: spec.workers]
        body["workers"] = max(1, len(body["nodes"]))
        if not body["nodes"]:
            told = [f"{v.name}: {', '.join(v.reasons)}" for v in verdicts]
            for record in records:
                if not opens(record.capabilities, pattern):
                    opened = [c.removeprefix(LOCAL_INPUT) for c in record.capabilities if c.startswith(LOCAL_INPUT)]
                    told.append(f"{record.name}: local_inputs in its ipdc.conf: {' '.join(opened) or 'none'}")
            files = f"{pattern.rstrip('/')}/*"
            if any(opens(record.capabilities, files) for record in records):
                told.append(f"It means files, not directories: --input-local '{files}'")
            raise NotPlaced(reason=f"no node opens {pattern} to jobs:" + "".join(f"\n  {line}" for line in told))


def _several(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
