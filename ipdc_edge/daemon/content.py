"""What the command line asks about content: add, cat, ls, pin, collect, verify. Loaded with the first such request.

Owns those requests' and answers' shapes, and the directories that are being added. Clients hand over open descriptors,
never paths. Whatever reads or writes much does so in a thread; a client that goes ends its request, and what that was
keeping is let go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

from ..codec import frames
from ..codec.cid import canonical, verify
from ..codec.control import parse_block
from ..codec.unixfs import DIRECTORY, FILE, parse_node
from ..core.values import Json
from ..drivers import block_pins
from ..drivers.block_files import DiskFull
from ..drivers.block_reading import in_store
from ..drivers.block_rows import ADDING, PIN, PINNING, UNPINNED, IndexFailed
from ..drivers.block_verify import check
from ..drivers.blocks import StoreFull
from ..drivers.control import ControlChannel
from ..drivers.provider import Provider
from ..errors import BadRequest, IpdcError
from .request_fields import text_of, waiting_owner
from .submissions import MOST_PROVIDERS
from .tasks import FULL_PAUSE
from .trees import Keeper, entries, in_thread, node_of

if TYPE_CHECKING:
    from ..drivers.block_files import ContentWriter
    from ..drivers.block_import import FileImport
    from .daemon import Daemon

SUBMISSION_LASTS = 3600.0  # seconds that content waits for its job
MOST_OWNER = 128  # characters of an owner's name
UNCOMMITTED = 32 << 20  # bytes of small files that become the node's own at once
UNCOMMITTED_BLOCKS = 4096
MOST_COMPACTED = 1000  # files, by one collection
PIECE = 64 << 10  # bytes of a block that go out at a time
PROGRESS_PAUSE = 0.2  # seconds between two words of how far something is


class NotPinned(IpdcError):
    """{cid} is not pinned here. `ipdc-edge pin --list` shows what is."""


class CidTooLong(IpdcError):
    """{cid} is too long to be pinned: it has {length} characters."""


class _Tree:
    """A directory that is being added: its files and its own blocks, held by one owner until all is here."""

    def __init__(self, content: Content) -> None:
        self.name = os.urandom(8).hex()
        self.owner = ADDING + self.name
        self.lock = asyncio.Lock()  # of the writer
        self._store = content.daemon.store
        self._writer: ContentWriter | None = None
        self._blocks = 0

    async def writer(self) -> ContentWriter:
        """Where its blocks go; what is there becomes durable when it is much."""
        if self._writer is not None and (self._writer.size > UNCOMMITTED or self._blocks > UNCOMMITTED_BLOCKS):
            await in_thread(self.commit)
        if self._writer is None:
            self._writer, self._blocks = self._store.new_file(self.owner), 0
        self._blocks += 1
        return self._writer

    async def add(self, cid: str, block: bytes) -> None:
        """A directory's own block (one of several, of a sharded one) or a symlink's."""
        verify(cid, block)
        if parse_node(cid, block).kind == FILE:
            raise BadRequest(reason=f"the block {cid} is no directory and no symlink")
        writer = await self.writer()
        await in_store(self._store, lambda: writer.append_block(cid, block))

    def commit(self) -> None:
        """Make what was taken in the owner's, durably."""
        if self._writer is not None:
            self._writer.commit(durable=True)
            self._writer = None


class _Saying:
    """Tells a client how far something is, the first time at once."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._due = 0.0

    async def now_and_then(self, counts: Mapping[str, object]) -> None:
        """Unless it was told a moment ago."""
        if self._loop.time() >= self._due:
            self._due = self._loop.time() + PROGRESS_PAUSE
            await self._channel.send(dict(counts))


class Content:
    """The operations, by their names on the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._trees: dict[str, _Tree] = {}

    def providers(self) -> list[Provider]:
        """Who may have what is not here."""
        peers = self.daemon.node.membership.peers.values()
        return [Provider(peer.record.id, peer.record.gateway) for peer in peers if peer.alive()][:MOST_PROVIDERS]

    async def _sources(self, cid: str) -> Sequence[Provider]:
        """Who is asked for this content; the Kubo of this machine where nobody else has it."""
        from .kubo_content import sources

        return await sources(self.daemon, cid, self.providers())

    # -- in

    async def add(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """A file, for the user, for a job, or into a directory. Its interior blocks come as BLOCK frames. Without a
        `root` none come: it is copied, and events tell how much of it was read; but where it can stay where it is, and
        may, nothing is done, and the answer has no `cid`."""
        if len(fds) != 1:
            raise BadRequest(reason=f"add needs one descriptor, not {len(fds)}")
        root = canonical(text_of(request, "root")) if "root" in request else ""
        if not request.get("tree"):
            return await self._add(request, fds[0], channel, root, None)
        tree = self._trees.get(text_of(request, "tree"))
        if tree is None:
            raise BadRequest(reason="no directory of that name is being added")
        async with tree.lock:
            return await self._add(request, fds[0], channel, root, tree)

    async def _add(
        self, request: Json, fd: int, channel: ControlChannel, root: str, tree: _Tree | None
    ) -> dict[str, object]:
        store, copy = self.daemon.store, bool(request.get("copy"))
        kept = tree is None and bool(request.get("keep"))
        if tree is not None:
            owner = tree.owner
        elif not kept:
            owner = waiting_owner(request)
            # a submission that never comes is not kept for ever; released twice does no harm
            self.daemon.loop.call_later(SUBMISSION_LASTS, self._withdraw, owner)
        else:
            owner = PIN + root if root else ADDING + os.urandom(8).hex()
        upload = store.new_import(owner, await tree.writer() if tree is not None else None)
        descriptor = os.dup(fd)  # a thread may outlive the connection
        try:
            if root:
                async for cid, block in _blocks(channel, "blocks are"):
                    await in_store(store, partial(upload.add, cid, block))
                stored = await in_thread(lambda: upload.finish(descriptor, root, copy), upload.stop)
                return {"cid": root, "size": request.get("size"), "stored": stored}
            if not copy and await in_thread(lambda: upload.may_refer(descriptor)):
                return {"cid": None, "stored": "reference"}
            return await self._copy(upload, descriptor, owner if kept else "", channel)
        except BaseException:
            if tree is None and not (kept and root):  # the client gives up: no job comes of what it added before either
                self.daemon.loop.call_soon(self._withdraw, owner)
            raise
        finally:
            os.close(descriptor)
            upload.discard()

    async def _copy(self, upload: FileImport, fd: int, pinned: str, channel: ControlChannel) -> dict[str, object]:
        """The file as it is; what `pinned` holds of it becomes a pin."""
        def work() -> tuple[str, int]:
            root, size = upload.copy(fd)
            if pinned:
                block_pins.settle(self.daemon.store, pinned, PIN + root)
            return root, size

        copying = asyncio.ensure_future(in_thread(work, upload.stop))
        try:
            while not (await asyncio.wait([copying], timeout=PROGRESS_PAUSE))[0]:
                await channel.send({"read": upload.copied})
            root, size = copying.result()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        return {"cid": root, "size": size, "stored": "copy"}

    async def add_tree(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """A directory: says under which name its files shall be added, takes the blocks of directories and symlinks as
        BLOCK frames, of which the last is the root, and pins that at END."""
        tree = _Tree(self)
        store, root = self.daemon.store, ""
        store.hold_all(tree.owner, [])
        self._trees[tree.name] = tree
        try:
            await channel.send({"tree": tree.name})
            async for cid, block in _blocks(channel, "a directory is"):
                root = canonical(cid)
                async with tree.lock:
                    await tree.add(root, block)
            if not root:
                raise BadRequest(reason="a directory without a block")
            async with tree.lock:
                await in_thread(tree.commit)
                await in_thread(lambda: block_pins.settle(store, tree.owner, PIN + root))
            return {"cid": root}
        finally:
            del self._trees[tree.name]
            async with tree.lock:  # no file is on its way into it any more
                self._withdraw(tree.owner)  # nothing, where it was settled

    def _withdraw(self, owner: str) -> None:
        """Let go what waits for a job; later, where the disk is too full even for that."""
        try:
            self.daemon.store.release(owner)
        except IndexFailed:
            self.daemon.loop.call_later(FULL_PAUSE, self._withdraw, owner)

    # -- out

    async def cat(self, request: Json, fds: list[int], channel: ControlChannel) -> None:
        """A file's bytes."""
        cid = canonical(text_of(request, "cid"))
        async for _, data in self.daemon.fetcher.file_blocks(cid, 0, 1 << 62, await self._sources(cid)):
            await channel.send_data(data)
            del data  # two more may come by now

    async def car(self, request: Json, fds: list[int], channel: ControlChannel) -> None:
        """A CAR of what this node has of a CID; the connection ends early where something is missing."""
        from ..drivers.gateway_car import sections  # rarely needed

        root = canonical(text_of(request, "cid"))
        async with aclosing(sections(self.daemon.store, root)) as parts:
            async for before, block in parts:
                try:
                    await channel.send_data(before)
                    while piece := block.read(PIECE):
                        await channel.send_data(piece)
                finally:
                    block.close()

    async def ls(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """What a CID names; of a directory first an event for each entry."""
        root = canonical(text_of(request, "cid"))
        providers = await self._sources(root)
        node = await node_of(self.daemon.fetcher, root, providers)
        if node.kind == DIRECTORY:
            async with aclosing(entries(self.daemon.fetcher, root, node, providers)) as listed:
                async for entry in listed:
                    await channel.send({"entry": entry})
        target = node.data.decode("utf-8", "surrogateescape") if node.kind not in (FILE, DIRECTORY) else None
        return {"cid": root, "kind": node.kind, "size": node.size, "target": target}

    # -- kept

    async def pin(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Keep a CID and all that it leads to; what is not here is fetched. Events tell how far it is."""
        root = canonical(text_of(request, "cid"))
        if len(UNPINNED + root) > MOST_OWNER:
            raise CidTooLong(cid=root, length=len(root))
        store, owner = self.daemon.store, PINNING + os.urandom(8).hex()
        keeper = Keeper(store, self.daemon.fetcher, owner, await self._sources(root))
        said = _Saying(channel)
        try:
            async for _ in keeper.keep(root):
                await said.now_and_then(keeper.counts())
            await in_thread(lambda: block_pins.settle(store, owner, PIN + root))
        except BaseException:
            self._withdraw(owner)
            raise
        return {"cid": root, **keeper.counts()}

    async def unpin(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Keep it no longer than there is room."""
        root = canonical(text_of(request, "cid"))
        if not await in_thread(lambda: block_pins.unpin(self.daemon.store, root)):
            raise NotPinned(cid=root)
        return {"cid": root}

    async def pins(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """What is pinned."""
        return {"pins": [owner.removeprefix(PIN) for owner in self._owners(PIN)]}

    def _owners(self, prefix: str) -> list[str]:
        return [owner for owner in self.daemon.store.owners() if owner.startswith(prefix)]

    async def gc(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Free what was unpinned and inputs that were kept. Events tell how much it is so far."""
        store, said = self.daemon.store, _Saying(channel)
        counts = {"blocks": 0, "bytes": 0}
        while (gone := await in_thread(lambda: block_pins.collect(store))) is not None:
            counts["blocks"] += gone.blocks
            counts["bytes"] += gone.size
            await said.now_and_then(counts)
        with suppress(StoreFull, DiskFull):  # no room for the copies: what is left stays where it is
            for path in await in_thread(lambda: block_pins.sparse(store, MOST_COMPACTED)):
                counts["bytes"] += await in_thread(
                    lambda path=path: block_pins.compact(store, path))  # type: ignore[misc]
                await said.now_and_then(counts)
        return dict(counts)

    # -- the store

    async def store_stat(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Blocks, bytes, references, lost, quota, pins, and the bytes of what was unpinned and of kept inputs."""
        store = self.daemon.store
        counts: dict[str, object] = dict(await in_thread(store.stat))
        unpinned = await in_thread(lambda: store.owned_bytes(UNPINNED))
        return {**counts, "pins": len(self._owners(PIN)), "unpinned": unpinned,
                "cached": sum(store.cached.values())}

    async def store_verify(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Every block is read and checked. Events tell what is damaged, and how far it is."""
        steps = check(self.daemon.store)
        counts = {"blocks": 0, "bytes": 0, "total": self.daemon.store.stat()["blocks"], "damaged": 0}
        said = _Saying(channel)
        while (step := await in_thread(lambda: next(steps, None))) is not None:
            counts["blocks"] += step.blocks
            counts["bytes"] += step.bytes
            counts["damaged"] += len(step.damage)
            for damage in step.damage:
                await channel.send({"damage": damage._asdict()})
            await said.now_and_then(counts)
        return dict(counts)


async def _blocks(channel: ControlChannel, what: str) -> AsyncIterator[tuple[str, bytes]]:
    """(CID, block) of BLOCK frames, up to END. BadRequest for any other, while `what` added."""
    while True:
        kind, payload = await channel.receive()
        if kind == frames.END:
            return
        if kind != frames.BLOCK:
            raise BadRequest(reason=f"a frame {frames.NAMES[kind]} while {what} added")
        yield parse_block(payload)
