"""Ends a process at its n-th write to the block store, for every n, and judges what the next start finds.

`disk_kills()` starts this module under disk_shim.c, which stops the process at every such call; a copy of its files is
what would lie there if it had been killed, and is opened as the next start would open it. It does what the daemon does
when directories and files are added, pinned, unpinned and collected, under a quota that is always short. What is found
must be sound by `store verify`'s own check, all that was told to be pinned must be there, and the quota was kept.
From the command line: python3 -m tests.faults.disk_kills
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers import block_pins
from ipdc_edge.drivers.input_cache import LEAST, InputCache

from .disk_errors import MEMORY, PYTHON, ROOT, Shim, build
from .disk_workloads import data_of, files_below

QUOTA = 70_000  # four trees, more or less
LEAF = 4096  # bytes of a leaf here
KEPT = 12_000  # bytes of inputs


@dataclass
class Report:
    """`kills` that were judged, and by which step they fell; `violations` in words."""

    kills: int = 0
    during: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def disk_kills(broken: str = "", torn: bool = False) -> Report:
    """All kills, before the n-th write or (`torn`) in the middle of it. `broken` names a build in BROKEN."""
    with tempfile.TemporaryDirectory(prefix="ipdc-disk-kills-", dir=MEMORY) as directory:
        environment = {**os.environ, "PYTHONPATH": ROOT, "LD_PRELOAD": build(directory)}
        command = [PYTHON, "-m", "tests.faults.disk_kills", "--under-the-shim", directory, broken,
                   "torn" if torn else ""]
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=900)
        if done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}")
        return Report(**json.loads(done.stdout))


# -- under the shim


class Work:
    """What is done to the store. `tell` says what was begun and what was done, outside of the disk."""

    def __init__(self, directory: str, tell: Callable[[str], None]) -> None:
        from ipdc_edge.drivers.blocks import BlockStore

        self.directory = directory
        self.tell = tell
        self.store = BlockStore(os.path.join(directory, "blocks"), QUOTA)

    def steps(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """(step, the tree that it is about, itself)."""
        for name in "abcdefg":
            yield "add", name, lambda name=name: self.add(name)  # type: ignore[misc]
            if name in "bd":
                yield "add", name, lambda name=name: self.add(name)  # type: ignore[misc]
            if name in "bde":
                yield "keep", name, lambda name=name: self.keep(name)  # type: ignore[misc]
            if name not in "af":
                yield "unpin", name, lambda name=name: self.unpin(name)  # type: ignore[misc]
            if name == "c":
                yield "collect", "", self.collect
            if name == "d":
                yield "unpin", "a", lambda: self.unpin("a")  # the block that all share lies in its file
                yield "add", "c", lambda: self.add("c")
                yield "unpin", "c", lambda: self.unpin("c")
        yield "collect", "", self.collect

    def add(self, name: str) -> None:
        """As daemon/content.py adds a directory: two copies (by the bytes alone, by the tree), a reference and the
        directory's own block."""
        owner = "adding." + name
        self.store.hold_all(owner, [])
        writer = self.store.new_file(owner)
        for file, copy in ((name + "1", True), (name + "2", True), (name + "3", False)):
            root, interior = imported(file)
            upload = self.store.new_import(owner, writer)
            with open(os.path.join(self.directory, "sources", file), "rb") as source:
                if file == name + "1":
                    assert upload.copy(source.fileno(), LEAF)[0] == root
                else:
                    for cid, block in interior:
                        upload.add(cid, block)
                    upload.finish(source.fileno(), root, copy)
            upload.discard()
        writer.append_block(*tree_of(name))
        writer.commit(durable=True)
        block_pins.settle(self.store, owner, "pin." + tree_of(name)[0])

    def keep(self, name: str) -> None:
        """As a worker keeps what it fetched: some of it more than once, some is here already."""
        cache = InputCache(self.store, KEPT)
        task = cache.writer(LEAST)
        for number in (0, 1, 2, ord(name), ord(name) + 1) if task is not None else ():
            data = b"%d." % number * (LEAF // 4)
            task.came(raw_cid(data), data)
            task.was_here(raw_cid(b"0." * (LEAF // 4)))
        if task is not None:
            task.close()

    def unpin(self, name: str) -> None:
        assert block_pins.unpin(self.store, tree_of(name)[0])

    def collect(self) -> None:
        while block_pins.collect(self.store) is not None:
            pass
        for path in block_pins.sparse(self.store, 10):
            self.tell(f"begin compact {path}")
            block_pins.compact(self.store, path)


def content(file: str) -> bytes:
    """Two files of a tree are its own; those that end in 2 share their second block with all trees."""
    data = data_of(file, 2 * LEAF + 700)
    return data[:LEAF] + data_of("shared", LEAF) + data[2 * LEAF :] if file.endswith("2") else data


def imported(file: str) -> tuple[str, list[tuple[str, bytes]]]:
    """(root, interior blocks)."""
    from ipdc_edge.drivers.importer import Importer

    importer = Importer(io.BytesIO(content(file)), LEAF)
    interior = list(importer.blocks())
    return importer.root, interior


def tree_of(name: str) -> tuple[str, bytes]:
    """(root, block) of the tree's own directory."""
    from ipdc_edge.codec.unixfs import directory_block

    return directory_block((file, imported(file)[0], 1) for file in (name + "1", name + "2", name + "3"))


def every_kill(torn: bool, root: str) -> Iterator[tuple[str, list[str]]]:
    """(during which step, violations) of each, in their order; the last one is of a work that has come to its end."""
    os.makedirs(os.path.join(root, "sources"))
    for name in "abcdefg":
        for file in (name + "1", name + "2", name + "3"):
            with open(os.path.join(root, "sources", file), "wb") as source:
                source.write(content(file))
    telling = os.open(os.path.join(root, "told"), os.O_CREAT | os.O_RDWR)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            shim = Shim()
            shim.calls.disk_arm(-1, 0, int(torn), os.fsencode(os.path.join(root, "blocks")))
            tell = lambda text: os.write(telling, f"{text}\n".encode())  # noqa: E731
            work = Work(root, tell)
            for step, name, do in work.steps():
                tell(f"begin {step} {name}")
                do()
                tell(f"done {step} {name}")
                if work.store.stat()["bytes"] > QUOTA:
                    tell("over the quota")
            work.store.close()
            code = 0
        finally:
            os._exit(code)
    try:
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            yield found_by_the_next_start(root)
            os.kill(child, signal.SIGCONT)
        child = 0
        code = os.waitstatus_to_exitcode(status)
        yield "end", found_by_the_next_start(root)[1] + ([f"the work ended with {code}"] if code else [])
    finally:
        os.close(telling)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def found_by_the_next_start(root: str) -> tuple[str, list[str]]:
    """(during which step it would end now, violations). The work itself is left as it is."""
    with open(os.path.join(root, "told")) as file:
        told = file.read().splitlines()
    found = os.path.join(root, "found")
    os.mkdir(found)
    if os.path.isdir(os.path.join(root, "blocks")):
        shutil.copytree(os.path.join(root, "blocks"), os.path.join(found, "blocks"), symlinks=True)
    violations = [text for text in told if text.startswith("over")] + judge(found, told)
    shutil.rmtree(found)
    steps = [text.split()[1] for text in told if text.startswith("begin")]
    return steps[-1] if steps else "start", violations


def judge(root: str, told: list[str]) -> list[str]:
    """What the next start finds wrong."""
    from ipdc_edge.codec.unixfs import parse_node
    from ipdc_edge.drivers.block_rows import outlives
    from ipdc_edge.drivers.block_verify import check
    from ipdc_edge.drivers.blocks import BlockStore

    pinned: set[str] = set()
    for text in told:
        what, step, *names = text.split()
        if (what, step) == ("done", "add"):
            pinned.update(names)
        elif (what, step) == ("begin", "unpin"):
            pinned.difference_update(names)
    path = os.path.join(root, "blocks")
    found = []
    store = BlockStore(path, QUOTA)
    for owner in store.owners():
        if not outlives(owner):
            store.release(owner)
    found += [str(damage) for step in check(store) for damage in step.damage]

    def read(cid: str) -> bytes:
        data = store.get(cid)
        if data is None:
            raise LookupError(cid)
        node = parse_node(cid, data)
        return b"".join([node.data, *(read(link.cid) for link in node.links)])

    for owner in store.owners():
        for name in "abcdefg" if owner.startswith("pin.") else "":
            if owner.endswith(tree_of(name)[0]):
                pinned.add(name)  # who is a pin is whole, whatever was told
    for name in sorted(pinned):
        try:
            if read(tree_of(name)[0]) != b"".join(content(name + number) for number in "123"):
                found.append(f"{name} is pinned and is not what it was")
        except LookupError as error:
            found.append(f"{name} is pinned, and {error} is not here")
    size = sum(files_below(path).values())
    if size != store.stat()["bytes"] or size > QUOTA:
        found.append(f"{size} bytes lie there, {store.stat()['bytes']} are counted, {QUOTA} are allowed")
    store.close()
    return found


def under_the_shim(directory: str, broken: str, torn: bool) -> None:
    """Print a Report."""
    if broken:
        BROKEN[broken]()
    report = Report()
    root = os.path.join(directory, "run")
    for number, (during, violations) in enumerate(every_kill(torn, root), 1):
        report.violations += [f"killed at write {number}, during {during}: {text}" for text in violations]
        if broken and violations:
            break
        report.kills += 1
        report.during[during] = report.during.get(during, 0) + 1
    print(json.dumps(asdict(report)))


def _removes_first() -> None:
    """A collection that removes files before the index has forgotten them."""
    from ipdc_edge.drivers.block_index import BlockIndex
    from ipdc_edge.drivers.block_places import Places, remove_all

    forget = BlockIndex._remove_freed

    def hasty(self: BlockIndex, *owners: str) -> object:
        freed = forget(self, *owners)
        places = Places(os.path.dirname(self._path))
        remove_all([*map(places.block, freed.cids), *map(places.content, freed.content)])
        return freed

    BlockIndex._remove_freed = hasty  # type: ignore[method-assign,assignment]


def _forgets_to_sweep() -> None:
    """A start that leaves what an unclean end left."""
    from ipdc_edge.drivers.block_places import Places

    Places.sweep = lambda self, index: None  # type: ignore[method-assign]


def _pins_first() -> None:
    """A directory that is pinned before its files are the node's own."""
    from ipdc_edge.drivers.block_files import ContentWriter

    commit, settle = ContentWriter.commit, block_pins.settle
    late: list[ContentWriter] = []

    def settled(store: object, old: str, new: str) -> None:
        settle(store, old, new)  # type: ignore[arg-type]
        while late:
            writer = late.pop()
            writer.owner = new
            commit(writer, True)

    ContentWriter.commit = lambda self, durable=False: late.append(self)  # type: ignore[method-assign,misc,assignment]
    block_pins.settle = settled  # type: ignore[assignment]


BROKEN = {"removes first": _removes_first, "forgets to sweep": _forgets_to_sweep, "pins first": _pins_first}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--under-the-shim"]:
        under_the_shim(sys.argv[2], sys.argv[3], bool(sys.argv[4]))
    else:
        for torn in (False, True):
            print(json.dumps(asdict(disk_kills(torn=torn)), indent=1))
