"""What is done to plain files while their n-th write fails: those of identity/, a job's results, and a job's spills."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands import run_inline
from ipdc_edge.core.effects import DiscardResult, FetchPart, KeepLog, PublishResult
from ipdc_edge.core.events import Event, PartFetched, ResultPublished
from ipdc_edge.core.values import Attempt
from ipdc_edge.daemon.results import Results
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import Fetcher
from ipdc_edge.home import Home

from .disk_workloads import (
    JOB,
    LEAF,
    OTHER,
    QUOTA,
    LedgerWorkload,
    NotDone,
    StoreWorkload,
    Workload,
    data_of,
    files_below,
)


class IdentityWorkload(Workload):
    """The files of identity/: lists and addresses that are replaced, and the domain that is entered and left."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.home = Home({"IPDC_HOME": os.path.join(directory, "home")})
        self.list = os.path.join(identity.domains(self.home), "first", identity.MEMBERS)
        for domain in ("first", "second"):
            os.makedirs(os.path.join(identity.domains(self.home), domain))
        self.old, self.new = b"old " * 100, b"new " * 200

    def steps(self) -> list[Callable[[], None]]:
        return [self.write, self.peers, self.enter, self.replace, self.move, self.leave]

    def write(self) -> None:
        identity.write_file(self.list, self.old)

    def peers(self) -> None:
        identity.write_peers(os.path.dirname(self.list), {"n" * 10: ("127.0.0.1:1", "127.0.0.1:2")})

    def enter(self) -> None:
        with identity.locked(self.home):
            identity.switch(self.home, "first")

    def replace(self) -> None:
        identity.write_file(self.list, self.new)

    def move(self) -> None:
        with identity.locked(self.home):
            identity.switch(self.home, "second")

    def leave(self) -> None:
        identity.forget(self.home, "second")

    def look(self, directory: str) -> None:
        home = Home({"IPDC_HOME": os.path.join(directory, "home")})
        path = os.path.join(identity.domains(home), "first", identity.MEMBERS)
        found = b""
        if os.path.exists(path):
            with open(path, "rb") as file:
                found = file.read()
        allowed = (self.new,) if "replace" in self.done else (self.old, self.new) if "write" in self.done else (
            b"", self.old)
        assert found in allowed, f"{found!r}"
        current = os.path.basename(os.readlink(home.current)) if os.path.lexists(home.current) else ""
        known = [name for step, name in (("enter", "first"), ("move", "second"), ("leave", "")) if step in self.done]
        follows = {"": ("", "first"), "first": ("first", "second"), "second": ("second", "")}
        allowed_now = ("",) if "leave" in self.done else follows[known[-1] if known else ""]
        assert current in allowed_now, f"the domain is {current!r}"

    def state(self) -> object:
        return files_below(self.directory)


class ResultsWorkload(Workload):
    """A job's directory: parts and prints that come home, the result that they become; then a job that fails."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.jobs = os.path.join(directory, "jobs")
        os.makedirs(self.jobs)
        self.store = BlockStore(os.path.join(os.path.dirname(directory), "store-of-parts"), QUOTA)
        self.parts = []
        for number in range(2):
            writer = self.store.new_file("user")
            text = data_of(f"part {number}", 2 * LEAF + 500)
            for start in range(0, len(text), LEAF):
                writer.append(text[start : start + LEAF])
            self.parts.append((text, *writer.commit_file()))
        self.job, self.failed = JOB, ""

    def steps(self) -> list[Callable[[], None]]:
        return [self.fetch_0, self.fetch_1, self.publish, self.fetch_other, self.discard]

    def _ask(self, call: Callable[[Results], None]) -> list[Event]:
        """The events that come of one effect."""
        events: list[Event] = []

        async def ask() -> None:
            results = Results(self.jobs, self.store, Fetcher(self.store, None), events.append, lambda: 1.0)
            call(results)
            while results.background.tasks:
                await asyncio.wait(list(results.background.tasks))

        asyncio.run(ask())
        return events

    def _fetch(self, job: str, number: int) -> None:
        _, cid, size = self.parts[number]
        part = FetchPart(job, f"reduce-{number:05d}", number, cid, size, "node", "127.0.0.1:1")
        self._ask(lambda results: results.keep_log(KeepLog(job, part.task, Attempt(1, number), "printed")))
        (event,) = self._ask(lambda results: results.fetch_part(part))
        if not isinstance(event, PartFetched):
            raise NotDone(event)

    def fetch_0(self) -> None:
        self._fetch(self.job, 0)

    def fetch_1(self) -> None:
        self._fetch(self.job, 1)

    def fetch_other(self) -> None:
        self._fetch(OTHER, 0)

    def publish(self) -> None:
        if self.failed == self.job:  # the core has failed that job; its user submits again
            self.job += "z"
        if self.job != JOB:
            self.fetch_0()
            self.fetch_1()
        effect = PublishResult(self.job, self._view(self.job, "running"))
        (event,) = self._ask(lambda results: results.publish(effect))
        if not isinstance(event, ResultPublished):
            self.failed = self.job
            self._fail(self.job)
            raise NotDone(event)

    def _fail(self, job: str) -> None:
        self._ask(lambda results: results.discard(DiscardResult(job, self._view(job, "failed"))))

    def discard(self) -> None:
        self._fail(OTHER)

    @staticmethod
    def _view(job: str, state: str) -> dict[str, Any]:
        return {"id": job, "state": state, "submitted": 1.0, "started": 1.0, "ended": 0.0}

    def look(self, directory: str) -> None:
        for job in os.listdir(os.path.join(directory, "jobs")):
            place = os.path.join(directory, "jobs", job)
            whole = "_SUCCESS" in os.listdir(place)
            assert whole or job != self.job or "publish" not in self.done, "an acknowledged result is not there"
            for number, (text, _, _) in enumerate(self.parts):
                path = os.path.join(place, f"part-{number:05d}")
                if os.path.exists(path):
                    assert _read(path) == text, f"{path} is not the part"
                else:
                    assert not whole, f"_SUCCESS without {path}"
            if whole:
                assert json.loads(_read(os.path.join(place, "job.json")))["state"] == "succeeded"

    def state(self) -> object:
        """The result, and what lies beside job.json and logs of failed jobs: nothing, if it could be removed."""
        found = files_below(self.jobs)
        place = os.path.join(self.jobs, self.job)
        result = {name: raw_cid(_read(os.path.join(place, name))) for name in ("part-00000", "part-00001", "_SUCCESS")}
        failed = [name for name in found if not name.startswith(self.job + "/")]
        names = {os.path.basename(name) for name in failed if "/log/" not in name}
        return result, [] if self.undeletable else sorted(names - {"job.json"})


class JobWorkload(Workload):
    """A whole job's tasks in one process, with a budget so small that they spill, and the file of its result."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.scratch, self.result = os.path.join(directory, "scratch"), os.path.join(directory, "result")
        self.program, self.input = (os.path.join(os.path.dirname(directory), name) for name in ("Map.py", "in.txt"))
        os.mkdir(self.scratch)
        with open(self.program, "w") as file:
            file.write("def map(key, line):\n    for word in line.split():\n        yield word, word * 600\n"
                       "def reduce(key, values):\n    yield key, sum(len(value) for value in values)\n")
        with open(self.input, "w") as file:
            file.writelines(f"word{number % 700} other{number}\n" for number in range(400))

    def steps(self) -> list[Callable[[], None]]:
        return [self.run]

    def run(self) -> None:
        sys.modules.pop("Map", None)  # as in a new process
        run_inline.SORT_BUDGET = 1  # the least: 1 MB
        tempfile.tempdir = self.scratch
        parser = argparse.ArgumentParser()
        run_inline.configure(parser)
        with open(self.result, "w") as file, contextlib.redirect_stdout(file):
            run_inline.run(parser.parse_args([self.program, "--input", self.input, "-k", "2"]))

    def look(self, directory: str) -> None:
        """Nobody takes up again what it left."""

    def state(self) -> object:
        return raw_cid(_read(self.result))

    def leftovers(self) -> object:
        return os.listdir(self.scratch)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


WORKLOADS = {"store": StoreWorkload, "ledger": LedgerWorkload, "identity": IdentityWorkload, "results": ResultsWorkload,
             "job": JobWorkload}
