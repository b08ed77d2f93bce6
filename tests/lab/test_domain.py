"""Nodes that go and come: what the others see of it."""

from __future__ import annotations

import os
import signal

from tests.lab.conftest import Lab, eventually


def states(lab: Lab, node: int) -> dict[str, str]:
    return {found["name"]: found["state"] for found in lab.json(node, "nodes")}


def pid_of(lab: Lab, node: int, what: str = "daemon") -> int:
    with open(os.path.join(lab.home(node), "run", f"{what}.pid")) as file:
        return int(file.read().split()[0])


def test_a_node_that_stops_says_goodbye_and_one_that_is_killed_is_lost(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(str(tmp_path / "lab"), 3)
    try:
        os.kill(pid_of(lab, 3), signal.SIGTERM)
        eventually(lambda: states(lab, 1)["node3"] != "ready", "node 3 has gone")
        os.kill(pid_of(lab, 2), signal.SIGKILL)
        eventually(lambda: states(lab, 1)["node2"] == "lost", "node 2 is lost")
        assert states(lab, 1)["node1"] == "ready"
        again = Lab(lab.directory, 3)
        eventually(lambda: set(states(again, 1).values()) == {"ready"}, "all are back")
    finally:
        lab.down()


def test_a_power_cut_of_all_nodes_costs_time_and_nothing_else(tmp_path, book: str) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(str(tmp_path / "lab"), 2)
    try:
        words = os.path.join(os.path.dirname(__file__), "programs", "words.py")
        job = lab.run(1, "submit", words, "--input", book, "-k", "2", "--id-only").stdout.strip()
        eventually(lambda: lab.json(1, "status", job)["maps"]["done"] >= 4, "four maps are done")
        for node in (1, 2):
            os.kill(pid_of(lab, node), signal.SIGKILL)
            os.kill(pid_of(lab, node, "broker"), signal.SIGKILL)
        Lab(lab.directory, 2)
        eventually(lambda: lab.json(1, "status", job)["state"] in ("succeeded", "failed"), "the job's end", 120)
        assert lab.json(1, "status", job)["state"] == "succeeded", lab.json(1, "status", job)["error"]
        again = lab.submit(2, words, "--input", book, "-k", "2")
        assert lab.result(1, job) == lab.result(2, again)
    finally:
        lab.down()


def test_a_broker_that_is_killed_and_started_again_costs_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(str(tmp_path / "lab"), 2)
    try:
        os.kill(pid_of(lab, 2, "broker"), signal.SIGKILL)
        again = Lab(lab.directory, 2)
        eventually(lambda: states(again, 1) == {"node1": "ready", "node2": "ready"}, "the domain is whole")
        assert again.submit(
            2, os.path.join(os.path.dirname(__file__), "programs", "words.py"), "--input", __file__, "-k", "2"
        )
    finally:
        lab.down()
