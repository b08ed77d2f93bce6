"""app-crawl's plan: what a job may say, its rounds and their tasks, what each is told, and when there is enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from app_crawl.plan import DEFAULTS, Crawl, fetch_id, links_id

from ipdc_edge.codec.messages import TASK
from ipdc_edge.core.architecture import BadSpec
from ipdc_edge.core.values import JobSpec, Result, Task

SEEDS = ["http://one.example/", "https://two.example/start?x=1"]
A = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
B = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def spec(workers: int = 2, memory: int = 24 << 20, inputs: list[dict[str, Any]] | None = None, **said: Any) -> JobSpec:
    body = {"version": 1, "app": "crawl", "workers": workers, "memory": memory, "inputs": inputs or [], "code": {},
            "options": {}, "arguments": {"seeds": SEEDS, **said}}
    return JobSpec("cid", "crawl", workers, memory, body)


def result(node: str, answers: int = 1, size: int = 100) -> Result:
    return Result(node, f"cid of {node}", size, {"counters": {"answers": answers}})


@pytest.mark.parametrize(("said", "words"), [
    ({"seeds": []}, "seeds [] is not a list of 1 to 5000"),
    ({"seeds": "http://one.example/"}, "is not a list"),
    ({"seeds": ["ftp://one.example/"]}, "seeds: 'ftp://one.example/' is not among http:// or https:// URLs"),
    ({"seeds": ["http://me:secret@one.example/"]}, "is not among"),
    ({"seeds": ["http://one.example/a b"]}, "is not among"),
    ({"seeds": ["http://one.example/" + "a" * 2000]}, "is not among"),
    ({"seeds": [7]}, "seeds: 7 is not among"),
    ({"scope": "everything"}, "scope 'everything' is not a list"),
    ({"scope": ["http://one.example/"]}, "scope: 'http://one.example/' is not among host names"),
    ({"rounds": 0}, "rounds 0 is not a number from 1 to 999"),
    ({"rounds": True}, "rounds True is not"),
    ({"rounds": 2.0}, "rounds 2.0 is not"),
    ({"pages": 0}, "pages 0 is not"),
    ({"delay": -1}, "delay -1 is not a number from 0 to 3600"),
    ({"delay": float("nan")}, "delay nan is not"),
    ({"delay": "1"}, "delay '1' is not"),
    ({"largest": 999}, "largest 999 is not"),
    ({"timeout": 0}, "timeout 0 is not"),
    ({"partitions": 0}, "partitions 0 is not"),
    ({"partitions": 501, "rounds": 10}, "10 rounds of 501 partitions are more than 5000"),
    ({"agent": "my bot"}, "agent 'my bot' is not a name of letters"),
    ({"agent": ""}, "agent '' is not"),
    ({"contact": "me\r\nX-Evil: 1"}, "is not a URL or a mail address"),
    ({"depth": 3}, "there is no argument 'depth'; a crawl has seeds, "),
    ({"largest": 2 << 20}, "pages of 2097152 bytes need runners of 28 MB, not 24"),
])
def test_what_a_crawl_cannot_do_is_refused_by_name(said: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec) as caught:
        Crawl().check(spec(**said))
    assert words in str(caught.value)


@pytest.mark.parametrize("said", [
    {}, {"scope": ["one.example", "*.two.example"]}, {"delay": 0, "contact": "mailto:me@one.example"}, {"delay": 2.5},
    {"agent": "Some_bot-x", "rounds": 999, "partitions": 5}, {"partitions": 5000, "rounds": 1},
])
def test_what_a_crawl_can_do_is_taken(said: dict[str, Any]) -> None:
    Crawl().check(spec(**said))


@pytest.mark.parametrize("item", ["a", {"cid": 1, "size": 1}, {"cid": "a"}, {"cid": "a", "size": -1}])
def test_inputs_need_a_cid_and_a_size(item: Any) -> None:
    with pytest.raises(BadSpec, match="has no CID and size"):
        Crawl().check(spec(inputs=[item]))


def test_rounds_are_stages_of_fetches_and_links_by_turns() -> None:
    tasks = Crawl().plan(spec(workers=2, rounds=2))
    assert [(t.id, t.stage, t.command, t.report, t.index, t.final, t.beside) for t in tasks] == [
        ("fetch-000-0000", 0, "do-fetch", "fetched", 0, True, ""),
        ("fetch-000-0001", 0, "do-fetch", "fetched", 1, True, ""),
        ("links-000-0000", 1, "do-links", "linked", 0, False, "fetch-000-0000"),
        ("links-000-0001", 1, "do-links", "linked", 1, False, "fetch-000-0001"),
        ("fetch-001-0000", 2, "do-fetch", "fetched", 2, True, "fetch-000-0000"),
        ("fetch-001-0001", 2, "do-fetch", "fetched", 3, True, "fetch-000-0001"),
    ]


def test_earlier_crawls_come_first() -> None:
    tasks = Crawl().plan(spec(rounds=1, partitions=1, inputs=[{"cid": A, "size": 7}, {"cid": B, "size": 0}]))
    assert [(task.id, task.stage, task.final, task.size) for task in tasks] == [
        ("read-00000", 0, False, 7), ("read-00001", 0, False, 0), ("fetch-000-0000", 1, True, 0)]


def test_every_task_of_a_big_crawl_has_an_id_of_its_own_and_parts_have_five_digits() -> None:
    tasks = Crawl().plan(spec(rounds=5, partitions=1000))
    assert len({task.id for task in tasks}) == len(tasks) == 9000
    assert all(TASK.fullmatch(task.id) for task in tasks)
    assert sorted(task.index for task in tasks if task.final) == list(range(5000))


def params(task: Task, job: JobSpec, results: Mapping[str, Result]) -> Mapping[str, Any]:
    return Crawl().params(job, task, results, "master")


def test_a_fetch_reads_its_partition_of_all_links_before_it() -> None:
    job = spec(workers=2, rounds=3, inputs=[{"cid": A, "size": 7}])
    tasks = {task.id: task for task in Crawl().plan(job)}
    results = {ident: result(f"node of {ident}") for ident in ("read-00000", links_id(0, 0), links_id(0, 1))}
    told = params(tasks[fetch_id(1, 1)], job, results)
    assert told["inputs"] == [{"run": {"manifest": results[ident].output, "index": 1, "node": results[ident].node}}
                              for ident in ("read-00000", links_id(0, 0), links_id(0, 1))]
    assert told["outputs"] == {"kind": "files", "count": 1}
    assert set(told["providers"]) == {entry.node for entry in results.values()}
    assert (told["kind"], told["round"], told["partition"], told["partitions"]) == ("fetch", 1, 1, 2)


def test_links_read_the_whole_archive_where_it_was_made() -> None:
    job = spec(workers=2, rounds=2)
    task = next(task for task in Crawl().plan(job) if task.id == links_id(0, 1))
    made = result("node-7", size=12345)
    told = params(task, job, {fetch_id(0, 1): made})
    assert told["inputs"] == [{"range": {"cid": made.output, "size": 12345, "name": links_id(0, 1), "start": 0,
                                         "end": 12345}}]
    assert told["outputs"] == {"kind": "runs", "count": 2} and told["providers"] == ["node-7"]


def test_an_earlier_archive_is_the_masters() -> None:
    job = spec(inputs=[{"cid": A, "size": 7}])
    told = params(Crawl().plan(job)[0], job, {})
    assert told["inputs"][0]["range"]["cid"] == A and told["inputs"][0]["range"]["end"] == 7
    assert told["providers"] == ["master"]


def test_a_round_without_a_page_is_enough() -> None:
    job, crawl = spec(workers=2, rounds=3), Crawl()
    results: dict[str, Result] = {}
    assert not crawl.enough(job, results)
    results[fetch_id(0, 0)] = result("a", 0)
    assert not crawl.enough(job, results)  # the other partition may find something
    results[fetch_id(0, 1)] = result("b", 3)
    assert not crawl.enough(job, results)
    results |= {links_id(0, 0): result("a"), links_id(0, 1): result("b"), fetch_id(1, 0): result("a", 0)}
    assert not crawl.enough(job, results)
    results[fetch_id(1, 1)] = result("b", 0)
    assert crawl.enough(job, results)


def test_stages_have_names_for_people() -> None:
    crawl, fresh, resumed = Crawl(), spec(), spec(inputs=[{"cid": A, "size": 7}])
    assert [crawl.stage_name(fresh, stage) for stage in range(3)] == ["round 1", "links of round 1", "round 2"]
    assert [crawl.stage_name(resumed, stage) for stage in range(3)] == ["earlier crawls", "round 1", "links of round 1"]


def test_it_needs_a_network() -> None:
    assert Crawl.network and DEFAULTS["delay"] >= 1
