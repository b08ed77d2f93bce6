"""The daemon's own rule: a save is durable before any message of the same batch leaves, and nothing waits
that need not."""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ipdc_edge import settings as conf
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core.messages import CleanUp
from ipdc_edge.core.values import JobSpec, Member, NodeRecord, Vitals
from ipdc_edge.daemon import main as daemon_main
from ipdc_edge.daemon.background import note, report_bug
from ipdc_edge.daemon.daemon import Daemon, NotDurable
from ipdc_edge.daemon.requests import Requests
from ipdc_edge.daemon.submissions import _nobody
from ipdc_edge.drivers import identity
from ipdc_edge.home import Home
from tests.waiting import eventually_async


def daemon_in(directory: str) -> Daemon:
    home = Home({"IPDC_HOME": directory})
    os.makedirs(directory, exist_ok=True)
    home.prepare()
    with open(home.conf, "w", encoding="utf-8") as file:
        file.write("sandbox = rlimits\n")  # what this machine has says a line
    return Daemon(home, conf.load(home.conf), identity.ensure(home, "node"))


def test_a_save_is_durable_before_anything_of_its_batch_or_after_it_is_sent(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[str]:
        daemon, order = daemon_in(str(tmp_path)), []
        write = daemon.ledger._write

        def slow_write(saves: list[fx.Save]) -> None:
            write(saves)
            order.append("durable " + ", ".join(save.key for save in saves))

        daemon.ledger._write = slow_write  # type: ignore[method-assign]
        daemon.mqtt.send = lambda node, address, message: order.append(f"sent {message.job}")  # type: ignore[method-assign,union-attr,assignment]
        send = lambda job: fx.Send("n", "a:1", CleanUp(job))  # noqa: E731
        daemon._batch([send("with-save"), fx.Save("task", "one", {}), send("with-save")])
        daemon._batch([send("after it")])
        await daemon.durable()
        daemon._batch([send("at once")])
        assert order.pop() == "sent at once", "without a save nothing waits"
        return order

    assert asyncio.run(main()) == ["durable one", "sent with-save", "sent with-save", "sent after it"]


def test_saves_that_come_together_are_one_commit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> int:
        daemon = daemon_in(str(tmp_path))
        for number in range(100):
            daemon._batch([fx.Save("task", f"job/{number}", {"n": number})])
        await daemon.durable()
        assert len(daemon.ledger.unfinished()) == 100
        return daemon.ledger.commits

    assert asyncio.run(main()) == 1


def test_a_fact_of_a_story_costs_no_commit_and_holds_nothing_up(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[int]:
        daemon, commits = daemon_in(str(tmp_path)), []
        daemon._batch([fx.Tell("job", "accepted")])
        assert daemon.commits.saving is None, "nothing waits for it"
        await daemon.durable()
        commits.append(daemon.ledger.commits)
        assert [fact.kind for fact in daemon.ledger.stories.story("job")[0]] == ["accepted"]
        daemon._batch([fx.Tell("job", "lost", node="w1"), fx.Save("task", "job/map-00000", {})])
        await daemon.durable()
        commits.append(daemon.ledger.commits)
        assert daemon.ledger.stories.tales["job"].pending == [], "all of it went with the save"
        return commits

    assert asyncio.run(main()) == [0, 1]


def test_a_commit_that_fails_is_told_to_whoever_waits_for_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))

        def full(saves: list[fx.Save]) -> None:
            raise OSError(28, "No space left on device")

        daemon.ledger._write = full  # type: ignore[method-assign]
        daemon._batch([fx.Save("job", "one", {})])
        with pytest.raises(NotDurable, match="No space left"):
            await daemon.durable()
        with pytest.raises(NotDurable):
            await daemon.durable()
        assert daemon.stopped.is_set()

    asyncio.run(main())


def test_the_end_of_a_job_is_told_when_it_is_durable(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[str]:
        daemon, order = daemon_in(str(tmp_path)), []
        body = {"inputs": [{"name": "text", "cid": raw_cid(b""), "size": 0}], "code": {"Map.py": "bafkqaaa"},
                "options": {"steps": [{"map": "Map.py"}]}}
        daemon.ask(e.JobSubmitted("20260101-000000", JobSpec(raw_cid(b"job"), "mapreduce", 1, 16 << 20, body)))
        (job,) = daemon.node.masters
        await daemon.durable()
        write = daemon.ledger._write

        def told(saves: list[fx.Save]) -> None:
            write(saves)
            order.extend("durable" for save in saves if save.kind == "ended")

        daemon.ledger._write = told  # type: ignore[method-assign]
        daemon.ask(e.CancelRequested(job))
        order.append(str((await Requests(daemon)._do_watch({"id": job}, [], None))["state"]))  # type: ignore[arg-type]
        return order

    assert asyncio.run(main()) == ["durable", "cancelled"]


def test_the_end_of_a_job_that_never_will_be_durable_is_an_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        body = {"inputs": [{"name": "text", "cid": raw_cid(b""), "size": 0}], "code": {"Map.py": "bafkqaaa"},
                "options": {"steps": [{"map": "Map.py"}]}}
        daemon.ask(e.JobSubmitted("20260101-000000", JobSpec(raw_cid(b"job"), "mapreduce", 1, 16 << 20, body)))
        (job,) = daemon.node.masters
        await daemon.durable()

        def full(saves: list[fx.Save]) -> None:
            raise OSError(5, "Input/output error")

        daemon.ledger._write = full  # type: ignore[method-assign]
        daemon.ask(e.CancelRequested(job))
        for _ in range(2):  # who asks while it is tried, and who asks later
            with pytest.raises(NotDurable, match="Input/output error"):
                async with asyncio.timeout(20):
                    await Requests(daemon)._do_watch({"id": job}, [], None)  # type: ignore[arg-type]

    asyncio.run(main())


def test_nothing_overtakes_what_could_not_be_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[str]:
        daemon, order = daemon_in(str(tmp_path)), []
        daemon.mqtt.send = lambda node, address, message: order.append(message.job)  # type: ignore[method-assign,union-attr,assignment]
        send = lambda job: fx.Send("n", "a:1", CleanUp(job))  # noqa: E731
        write = daemon.ledger._write

        def full(saves: list[fx.Save]) -> None:
            raise OSError(5, "Input/output error")

        daemon.ledger._write = full  # type: ignore[method-assign]
        daemon._batch([fx.Save("task", "one", {}), send("unsaved")])
        with pytest.raises(NotDurable):
            await daemon.durable()
        daemon.ledger._write = write  # type: ignore[method-assign]
        daemon._batch([send("later")])
        assert order == []
        await eventually_async(lambda: not daemon.commits.batches, "the disk takes it after all")
        assert daemon.ledger.commits == 1
        return order

    assert asyncio.run(main()) == ["unsaved", "later"]


def test_a_job_gets_the_memory_that_a_member_spares_who_is_away(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[int]:
        daemon, found = daemon_in(str(tmp_path)), []
        requests = Requests(daemon)
        vitals = Vitals(4 << 30, 3 << 30, 1, 1.0, 0.0, 1.0, 1)
        there = [replace(daemon.node.membership.own, vitals=vitals, slots=1)]

        async def records() -> list[NodeRecord]:
            return there

        requests.submissions._records = records  # type: ignore[method-assign]
        held = daemon.domain.held
        wanted = {"app": "mapreduce", "workers": 1, "code": {"Map.py": {"cid": "bafkqaaa", "size": 0}},
                  "inputs": [{"name": "text", "cid": raw_cid(b""), "size": 0}],
                  "options": {"steps": [{"map": "Map.py"}]}}
        own = replace(held.members.members[0], memory=4 << 30)
        for members in ((own,), (own, Member("away", "away", 512 << 20, False, "1"))):
            daemon.domain.held = replace(held, members=replace(held.members, members=members))
            spec, _ = await requests.submissions._stored_spec(wanted, "user", _nobody)
            found.append(spec.memory >> 20)
        return found

    assert asyncio.run(main()) == [128, 64]


def test_a_client_that_leaves_while_it_waits_takes_nothing_with_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        asked = asyncio.create_task(Requests(daemon)._do_nodes({}, [], None))  # type: ignore[arg-type]
        await eventually_async(lambda: daemon.node.membership.watching_since is not None, "it waits for lists")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        change = daemon.change
        daemon.emit(e.TimePassed())
        await asyncio.wait([change])
        assert asked.cancelled() and daemon.failed is None

    asyncio.run(main())


def test_parameters_without_room_fail_their_job_and_not_the_daemon(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        daemon.store.quota = 10
        assert not daemon.keep_block(raw_cid(b"x" * 1000), b"x" * 1000, "20260101-000000-abcd")
        assert isinstance(daemon.events[0], e.ResultFailed) and "quota" in daemon.events[0].reason
        assert daemon.failed is None

    asyncio.run(main())


def test_only_whole_parts_become_the_result(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> list[str]:
        daemon = daemon_in(str(tmp_path))
        incoming = daemon.results._incoming("job")
        for name in ("part-00000", "part-00001", "part-00001.7"):
            with open(os.path.join(incoming, name), "w") as file:
                file.write(name)
        daemon.results._rename("job", {"id": "job"})
        return sorted(os.listdir(daemon.results.directory("job")))

    assert asyncio.run(main()) == ["_SUCCESS", "job.json", "part-00000", "part-00001"]


def test_a_bug_in_the_core_ends_the_daemon_and_is_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def main() -> BaseException | None:
        daemon = daemon_in(str(tmp_path))

        def broken(event: e.Event, now: float) -> list[fx.Effect]:
            raise ZeroDivisionError("a bug")

        daemon.node.handle = broken  # type: ignore[method-assign]
        daemon.emit(e.TimePassed())
        await daemon.stopped.wait()
        return daemon.failed

    assert isinstance(asyncio.run(main()), ZeroDivisionError)


def test_what_was_left_over_is_freed_at_the_start_but_not_what_people_added(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def first() -> None:
        daemon = daemon_in(str(tmp_path))
        for owner in ("user", "pin.bafk", "unpinned.bafk", "submit-0123456789abcdef", "adding.0", "pinning.0",
                      "20260101-000000-abcd.Qm"):
            daemon.store.put(raw_cid(owner.encode()), owner.encode(), owner)
        daemon.store.close()

    async def second() -> list[str]:
        return daemon_in(str(tmp_path)).store.owners()

    asyncio.run(first())
    assert asyncio.run(second()) == ["members", "pin.bafk", "unpinned.bafk", "user"]


def test_a_broker_that_is_not_there_to_read_a_new_list_is_named(tmp_path, capfd) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        await daemon.domain._update_broker(())

    asyncio.run(main())
    assert "no broker was found that could read the new member list" in capfd.readouterr().err


def test_a_broker_that_cannot_begin_anew_with_its_domain_is_named(tmp_path, capfd, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The node changes its domain once, and no broker runs."""
    home = Home({"IPDC_HOME": str(tmp_path)})
    home.prepare()
    lives = [SimpleNamespace(restarts=True, failed=None), SimpleNamespace(restarts=False, failed=None)]

    async def live(*_: object) -> SimpleNamespace:
        return lives.pop(0)

    monkeypatch.setattr(daemon_main, "_live", live)
    assert daemon_main.run(home, conf.load(home.conf)) == 0
    assert "no broker was found that could begin anew with the new domain" in capfd.readouterr().err


def test_of_a_result_that_could_not_be_put_in_place_nothing_stays(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A disk that failed after _SUCCESS was written, say: the job has failed, and must not look as if it had not."""
    async def main() -> list[str]:
        daemon = daemon_in(str(tmp_path))
        directory = daemon.results.directory("job")
        os.makedirs(os.path.join(directory, "log"))
        for name in ("part-00000", "_SUCCESS", "job.json"):
            with open(os.path.join(directory, name), "w") as file:
                file.write(name)
        daemon.results._leave_record("job", {"id": "job", "state": "failed"})
        return sorted(os.listdir(directory))

    assert asyncio.run(main()) == ["job.json", "log"]


def test_a_journal_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    with pytest.raises(OSError, match="No space"):
        full.write("this is what it says")
    monkeypatch.setattr("sys.stderr", full)
    note("a line")
    report_bug(ValueError("a bug"))
