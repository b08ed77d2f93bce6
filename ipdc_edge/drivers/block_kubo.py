"""Blocks in this machine's Kubo: what a store needs of it to keep its bytes there, and no more.

Owns one pin for each content file (what `blocks` writes at once), which keeps its blocks from Kubo's own garbage
collection, and patience: a Kubo that does not answer is asked again for a minute, all in all and not for each block.
Never decides what is kept, never looks into a network (`offline`), removes no block: what it unpins goes when Kubo
collects. Never touches a pin that is not its own, of its owner or of another node on the same Kubo; and never takes
another Kubo for the one that has its blocks, since all of them would seem to be lost: it notes that one's peer id.

A pin is of a dag-cbor list of our own: [who, random bytes, links], or where there are many, links to lists of links. So
it is never that of somebody else, and each goes by itself. All links are to the blocks as raw bytes: Kubo knows blocks
by their hash alone, and a pin does not go on to what a directory or a file's inner node leads to, which may be in files
of this node or nowhere here.

Everything here blocks, for a while even without an answer: never in the loop, never under the store's lock. `threads`
is for that, so that those who wait for Kubo keep nobody else waiting.
"""

from __future__ import annotations

import os
import re
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ipdc_edge.codec.cid import RAW, make_cid, parse_cid
from ipdc_edge.codec.dag_cbor import encode_list
from ipdc_edge.drivers.block_files import ContentWriter
from ipdc_edge.drivers.block_rows import KUBO, KUBO_NAME, KUBO_PEER, File, KuboFailed, KuboGone, OtherKubo
from ipdc_edge.drivers.durable import sync_file
from ipdc_edge.drivers.kubo_rpc import KuboRefused, KuboRpc, NoKubo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.blocks import BlockStore

T = TypeVar("T")
_PEER = "[0-9A-Za-z]{20,100}"
# seconds for which a Kubo that has gone is asked again before it counts as gone: its unit starts it again within that,
# also where the daemon ended it for a new key
PATIENCE = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries
LONGEST_CALL = 60.0  # seconds more for one that is not answered while others are
MOST_LINKS = 8192  # of one list, which has about 340 KB then
MOST_THREADS = 8
MOST_DAMAGED = 1000  # blocks that are remembered


class InKubo:
    """The blocks of the store in `directory` that lie in the Kubo whose RPC is at `api`."""

    def __init__(self, directory: str, api: tuple[str, int], patience: float = PATIENCE) -> None:
        self.rpc = KuboRpc(api)
        self.name = f"ipdc-edge {_name(directory)}"  # all pins' names begin so
        self._directory = directory
        self._patience = patience
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._gone_since: float | None = None
        self._known: dict[str, str] = {}  # pins that the index has, until they were compared with Kubo's
        self._compared = False
        self._comparing = threading.Lock()
        self._unpinned: dict[str, None] = {}  # that are to go
        self._unpinning = False
        self._damaged: dict[str, str] = {}  # blocks that Kubo has wrongly -> the pin for which it was seen
        self._mending = threading.Lock()
        self._lifted: dict[str, None] = {}  # pins that are gone for that, and are to be there again

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where those wait who wait for Kubo."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MOST_THREADS, "kubo")
            return self._threads

    # --- blocks

    def put(self, cid: str, data: Buffer) -> None:
        """Store a block, which nothing keeps there yet. KuboFailed."""
        raw = _raw(cid)
        found = self._patiently(lambda: self.rpc.put_block(data))
        if found != raw:
            raise KuboFailed(address=self.rpc.address, reason=f"it stored {cid} as {found}")
        if cid in self._damaged:
            with self._mending:
                if cid in self._damaged:  # nobody mended it meanwhile
                    self._patiently(lambda: self._mend(cid, raw, data))

    def get(self, cid: str) -> bytes | None:
        """The block as Kubo has it, unchecked; None where it has not. KuboFailed, also where another Kubo answers."""
        raw = _raw(cid)
        data = self._patiently(lambda: self.rpc.get_block(raw))
        if data is None:
            self._patiently(self._check_peer)
        return data

    def damaged(self, cid: str, name: str) -> None:
        """Kubo gave other bytes for this block. It never writes over what it has: `put` has it forget them first.
        KuboFailed where it is another Kubo, or none."""
        self._patiently(self._check_peer)
        if len(self._damaged) < MOST_DAMAGED:
            self._damaged[cid] = _cid(name)

    def writer(self, store: BlockStore, owner: str, name: str) -> KuboWriter:
        """A content file to write here."""
        return KuboWriter(store, owner, name, self)

    # --- pins

    def known(self, names: Iterable[str]) -> None:
        """Which pins the index has at the start: `begin` has Kubo hold these of ours, and no others."""
        self._known = {_cid(name): name for name in names}
        self._compared = False

    def pin(self, owner: str, cids: Sequence[str]) -> str:
        """Keep these blocks: the name of what does. KuboFailed, also where some of them are gone again."""
        self.begin()
        self._patiently(self._check_peer)  # it may have been put in the other's place since
        links = list(dict.fromkeys(map(_raw, cids)))
        if len(links) > MOST_LINKS:
            links = [self._put_links(encode_list([], links[at : at + MOST_LINKS]))
                     for at in range(0, len(links), MOST_LINKS)]
        root = self._put_links(encode_list([self.name, os.urandom(12).hex()], links))
        if not self._patiently(lambda: self.rpc.pin(root, f"{self.name} {owner}", self._closing)):
            raise KuboFailed(address=self.rpc.address, reason="it collected blocks while they were written")
        return f"{owner}/{root}"

    def unpin(self, names: Iterable[str]) -> None:
        """Keep these no longer: soon, or when Kubo is there again, or after the next start. Waits for nothing."""
        with self._lock:
            self._unpinned.update(dict.fromkeys(map(_cid, names)))
        self._go_on()

    def begin(self) -> None:
        """Have Kubo's pins of ours be those of the index, once. KuboFailed, but not for a pin that it refuses."""
        with self._comparing:
            if self._compared:
                return
            self._patiently(self._check_peer)
            held = self._pins()
            for cid in held:
                if cid not in self._known:
                    self._unless_refused(partial(self.rpc.unpin, cid))
            for cid, name in self._known.items():
                # somebody unpinned it; a pin of what is not whole would wait for the rest
                if cid not in held and self._unless_refused(partial(self.rpc.is_whole, cid)):
                    owner = name.rpartition("/")[0]
                    self._unless_refused(partial(self.rpc.pin, cid, f"{self.name} {owner}", self._closing))
            self._known, self._compared = {}, True

    def missing(self, names: Iterable[str]) -> list[str]:
        """Which of these Kubo does not pin. KuboFailed."""
        self._patiently(self._check_peer)
        held = self._pins()
        return [name for name in names if _cid(name) not in held]

    def settled(self) -> bool:
        """Whether nothing is left to be unpinned."""
        with self._lock:
            return not self._unpinned

    # --- the daemon there

    def version(self) -> str:
        """Which Kubo answers. KuboFailed."""
        return self._patiently(self.rpc.version)

    def hurry(self) -> None:
        """Nobody waits for a Kubo that has gone any more: who does gets KuboGone."""
        self._closing.set()

    def close(self) -> None:
        """The end."""
        self.hurry()
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        self.rpc.close()

    # --- inside

    def _mend(self, cid: str, raw: str, data: Buffer) -> None:
        """Have Kubo take good bytes for damaged ones: it removes none that are pinned, so the pin goes for a moment."""
        root = self._damaged[cid]
        if self.rpc.unpin(root):
            self._lifted[root] = None  # noted here, because all this may be asked again from its middle
        try:
            self.rpc.remove_block(raw)
            self.rpc.put_block(data)
        except KuboRefused:
            self._put_back(root)
            raise
        self._put_back(root)
        if self.rpc.get_block(raw) != data:
            reason = f"it has damaged bytes for {cid}, and somebody's pin keeps them. See `ipfs repo verify`"
            raise KuboRefused(address=self.rpc.address, reason=reason)
        self._damaged.pop(cid, None)

    def _put_back(self, root: str) -> None:
        """The pin that was lifted, unless it is to go."""
        with self._lock:
            wanted = root in self._lifted and root not in self._unpinned
        if not wanted or self.rpc.pin(root, f"{self.name} mended", self._closing):
            self._lifted.pop(root, None)

    def _check_peer(self) -> None:
        """OtherKubo where it is not the one that this store's blocks are in; the first one is. NoKubo, KuboRefused."""
        found = str(self.rpc.identity()["ID"])
        if not re.fullmatch(_PEER, found):
            raise KuboRefused(address=self.rpc.address, reason="it says no peer id")
        path = os.path.join(self._directory, KUBO_PEER)
        expected = _noted(path, _PEER)
        if not expected:
            _note(path, found)
        elif found != expected:
            raise OtherKubo(address=self.rpc.address, reason="another one", found=found, expected=expected, path=path)

    def _pins(self) -> dict[str, None]:
        """The CIDs of ours that Kubo has."""
        ours = self.name + " "  # Kubo looks for it anywhere in names
        found = self._patiently(lambda: list(self.rpc.pins(ours)))
        return dict.fromkeys(cid for cid, name in found if name.startswith(ours))

    def _put_links(self, block: bytes) -> str:
        """Store a block of links."""
        return self._patiently(lambda: self.rpc.put_block(block, "dag-cbor"))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What it says, asked again while nobody answers: until Kubo has been gone for as long as we have patience,
        whoever asked first."""
        pause, began = FIRST_PAUSE, time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                found = ask()
            except NoKubo as error:
                with self._lock:
                    if self._gone_since is None:
                        self._gone_since = asked
                    over = time.monotonic() - self._gone_since > self._patience
                # one thing may be answered never, and everything else at once
                over = over or time.monotonic() - began > self._patience + LONGEST_CALL
                if over or self._closing.wait(pause):
                    raise KuboGone(**error.details) from None
                pause = min(2 * pause, LONGEST_PAUSE)
            except KuboRefused as error:
                raise KuboFailed(**error.details) from None
            else:
                if self._gone_since is not None:
                    self._gone_since = None
                    self._go_on()
                return found

    def _unless_refused(self, ask: Callable[[], T]) -> T | None:
        """What it says, asked with patience; None where it answers, but not to this."""
        try:
            return self._patiently(ask)
        except (KuboGone, OtherKubo):
            raise
        except KuboFailed:
            return None

    def _go_on(self) -> None:
        """Have a thread unpin what waits for it."""
        with self._lock:
            if not self._unpinned or self._unpinning or self._closing.is_set():
                return
            self._unpinning = True
        try:
            self.threads.submit(self._unpin)
        except RuntimeError:  # it was closed meanwhile
            self._unpinning = False

    def _unpin(self) -> None:
        try:
            self.begin()
            while not self._closing.is_set():
                with self._lock:
                    cid = next(iter(self._unpinned), None)
                    if cid is None:
                        self._unpinning = False
                        return
                with suppress(KuboRefused):  # it is none of ours
                    self.rpc.unpin(cid)
                with self._lock:
                    self._unpinned.pop(cid, None)
        except (NoKubo, KuboGone):
            with self._lock:
                self._gone_since = self._gone_since or time.monotonic()  # who finds it there again has this go on
                self._unpinning = False
        except KuboFailed:
            with self._lock:
                self._unpinning = False  # later


class KuboWriter(ContentWriter):
    """A content file in Kubo: its blocks are there at once, and one pin keeps them from its commit on."""

    def __init__(self, store: BlockStore, owner: str, name: str, kubo: InKubo) -> None:
        super().__init__(store, owner, name)
        self._kubo = kubo
        self._pinned = False

    def write(self, cid: str, data: Buffer, offset: int) -> None:
        """To Kubo."""
        self._kubo.put(cid, data)

    def read_back(self, offset: int, size: int) -> bytes:
        """From there."""
        cid = self._rows[bisect_right(self._rows, offset, key=lambda row: row[2]) - 1][0]
        data = self._kubo.get(cid)
        if data is None or len(data) != size:
            raise KuboFailed(address=self._kubo.rpc.address, reason=f"it lost {cid}, which it had just taken")
        return data

    def settle(self, durable: bool) -> File:
        """Pinned, and named by its pin."""
        if self._rows and not self._pinned:
            self.name = self._kubo.pin(self.owner, [cid for cid, _, _ in self._rows])
            self._pinned = True
        return File(KUBO, self.name, self.size)

    def remove(self) -> None:
        """Unpin it, if it came so far."""
        if self._pinned:
            self._kubo.unpin([self.name])


def _raw(cid: str) -> str:
    """The same block as bytes without links."""
    return make_cid(RAW, parse_cid(cid).digest)


def _cid(name: str) -> str:
    return name.rpartition("/")[2]


def _name(directory: str) -> str:
    """Of the store in Kubo, which it keeps; made here where it has none, or a power cut took it."""
    path = os.path.join(directory, KUBO_NAME)
    name = _noted(path, "[0-9a-f]{16}")
    if not name:
        name = os.urandom(8).hex()
        os.makedirs(directory, exist_ok=True)
        _note(path, name)
    return name


def _noted(path: str, form: str) -> str:
    """What stands in that file; "" where that is nothing of this form."""
    with suppress(FileNotFoundError), open(path, encoding="ascii", errors="replace") as file:
        if re.fullmatch(form, found := file.read(128).strip()):
            return found
    return ""


def _note(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        sync_file(file.fileno())
