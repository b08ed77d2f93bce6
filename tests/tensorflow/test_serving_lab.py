"""`serve` and `ask` on a lab of real nodes with real interpreters: three nodes with LiteRT, and one without any, from
which the models are served and asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.commands.client import call
from ipdc_edge.drivers.tflite_capability import PROVING
from ipdc_edge.home import Home
from tests.lab.conftest import ROOT, Lab, eventually
from tests.tensorflow import inference, installed
from tests.tensorflow.serving import ANSWERS, Program
from tests.tensorflow.test_inference import furthest

pytestmark = pytest.mark.tensorflow
NONE, FIRST, SECOND, THIRD = 1, 2, 3, 4
PRE = """
import os, time

def pre(name, data):
    import numpy
    value = float(data if not isinstance(data, list) else data[0])
    if value == -1:
        os._exit(3)
    if value == -2:
        raise ValueError("minus two is not served")
    if value == -3:
        time.sleep(3600)
    while value == 7 and not os.path.exists("/proc/self/fd/nothing"):
        time.sleep(0.001)
    yield numpy.array([[value, 1, 2, 3]], "float32")
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    directory = tempfile.mkdtemp(prefix="ipdc-serve-")
    found = Lab(os.path.join(directory, "lab"), THIRD)
    try:
        for node in (FIRST, SECOND, THIRD):
            os.symlink(installed.litert_venv(), os.path.join(found.home(node), "venv"))
            call(Home({"IPDC_HOME": found.home(node)}), "packages")
        eventually(lambda: sum("serve" in node["capabilities"] for node in found.json(NONE, "nodes")) == 3
                   and not any(PROVING in node["unable"] for node in found.json(NONE, "nodes")), "nodes can serve", 60)
        yield found
        eventually(found.idle, "clean-up of every job on every node")
        assert found.left_over() == []
    finally:
        found.run(NONE, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def tiny_model(tmp_path: Path) -> str:
    """RELU of four numbers."""
    path = tmp_path / "relu.tflite"
    path.write_bytes(tiny.model(tiny.RELU))
    return str(path)


@pytest.fixture
def pre(tmp_path: Path) -> str:
    path = tmp_path / "Pre.py"
    path.write_text(PRE)
    return str(path)


class Served:
    """A model that is served while the block runs, and how to speak with it."""

    def __init__(self, lab: Lab, topic: str, model: str, *words: str, k: int = 1) -> None:
        self.lab, self.topic, self.k = lab, topic, k
        self.job = lab.run(NONE, "serve", model, "--topic", topic, "-k", str(k), *words, "--id-only").stdout.strip()

    def __enter__(self) -> Served:
        eventually(lambda: len(self.health()["nodes"]) == self.k, f"{self.topic} is served by {self.k}", 60)
        return self

    def __exit__(self, *error: object) -> None:
        self.lab.run(NONE, "cancel", self.job)
        eventually(lambda: not self.health()["nodes"], f"nobody serves {self.topic} any more", 60)

    def health(self) -> dict[str, Any]:
        return dict(json.loads(self.lab.run(NONE, "ask", self.topic, "--health", "--json", check=False).stdout))

    def nodes(self) -> list[int]:
        return sorted(int(node["name"].removeprefix("node")) for node in self.health()["nodes"])


def numbers(*rows: object) -> bytes:
    return json.dumps({"instances": list(rows)}).encode()


def test_answers_are_the_models_whatever_the_input_is_and_from_any_node(lab: Lab, tmp_path: Path) -> None:
    models, expected = inference.models(), inference.expected()["float"]
    images = sorted((models / "images").iterdir())
    with Served(lab, "waves", str(models / "float32.tflite"), "--images", k=2) as served:
        for node in (NONE, SECOND):
            lines = lab.run(node, "ask", "waves", "--input", *map(str, images), "--json").stdout.splitlines()
            found = {f"images/{Path(line['input']).name}": line["predictions"][0] for line in map(json.loads, lines)}
            assert furthest(found, expected) < 1e-4
        few = tmp_path / "few.csv"
        few.write_text("".join(inference.pixels()[name] for name in list(expected)[:3]))
        told = json.loads(lab.run(NONE, "ask", "waves", "--input", str(few), "--json").stdout)
        wanted = {name: expected[name] for name in list(expected)[:3]}
        assert furthest(dict(zip(wanted, told["predictions"])), wanted) < 1e-4
        write = ("import numpy, sys; numpy.save(sys.argv[2], numpy.loadtxt(sys.argv[1], delimiter=',', dtype='float32')"
                 "[:20].reshape(-1, 16, 16, 3))")
        subprocess.run([str(installed.litert_venv() / "bin" / "python"), "-c", write, str(models / "rows.csv"),
                        str(tmp_path / "batch.npy")], check=True)
        told = json.loads(lab.run(NONE, "ask", "waves", "--input", str(tmp_path / "batch.npy"), "--json").stdout)
        wanted = {name: expected[name] for name in list(expected)[:20]}
        assert furthest(dict(zip(wanted, told["predictions"])), wanted) < 1e-4
        assert len(told["predictions"]) == 20
        health = served.health()
        assert {node["name"] for node in health["nodes"]} <= {"node2", "node3", "node4"}
        assert sum(node["answered"] for node in health["nodes"]) >= 2 * len(images)
        assert all(node["p50_ms"] <= node["p99_ms"] for node in health["nodes"] if node["answered"])
        assert len({node["model"] for node in health["nodes"]}) == 1


def test_mqtt_by_hand_with_the_password_and_with_the_certificate(lab: Lab, tiny_model: str) -> None:
    with Served(lab, "relu", tiny_model):
        for certificate in (False, True):
            program = Program(lab.home(NONE), f"hand-{certificate}", certificate)
            answer = program.ask("relu", numbers([-1, 2, -3, 4], [5, -6, 7, -8]))
            assert answer == {"predictions": [[0.0, 2.0, 0.0, 4.0], [5.0, 0.0, 7.0, 0.0]]}
            health = program.ask("relu", b"", word="health")
            assert [node["queue"] for node in health["nodes"]] == [0]
            program.close()


def test_a_bad_request_is_told_why_and_harms_nobody(lab: Lab, tiny_model: str) -> None:
    with Served(lab, "strict", tiny_model):
        program, other = Program(lab.home(NONE), "bad"), Program(lab.home(SECOND), "good")
        well = numbers([1, 2, 3, 4])
        bad = {
            "does not fit": numbers([1, 2, 3]),
            "no JSON": b"{",
            "instances": b'{"inputs": 1}',
            "no tensor": numbers([1, [2], 3, 4]),
            "that is no number": numbers(["a", "b", "c", "d"]),
            "a request of 131073 bytes; at most 131072": b"{" + b" " * (128 << 10),
            "has no Content Type": b"\0\1\2",
            "more than 256 inputs": numbers(*[[1, 2, 3, 4]] * 257),
        }
        sent = {reason: program.publish("strict", body) for reason, body in bad.items()}
        sent["is none of"] = program.publish("strict", well, ContentType="text/html")
        sent["can be decoded"] = program.publish("strict", b"no image", ContentType="image/png")
        sent["no CSV"] = program.publish("strict", b"\xff\xfe", ContentType="text/csv")
        sent["up to 100 letters"] = program.publish("strict", well, UserProperty=("name", "x" * 101))
        for reason, correlation in sent.items():
            assert reason in program.answer(correlation)["error"], reason
        assert "no node serves nobody" in program.ask("nobody", well)["error"]
        assert other.ask("strict", well) == {"predictions": [[1.0, 2.0, 3.0, 4.0]]}
        # there is no place for an answer, or it is one that is not for answers: that is told where all can read it
        for to in (None, "ipdc/serve/strict/request", f"{ANSWERS}#", "$SYS/broker", "ipdc/1/x"):
            correlation = os.urandom(6)
            if to is not None and "#" in to:
                continue  # paho itself refuses it
            program.publish("strict", well, to=to, CorrelationData=correlation)
            assert "a response topic below ipdc/serve/answer/" in program.answer(correlation)["error"]
        assert program.ask("strict", well)["predictions"] == [[1.0, 2.0, 3.0, 4.0]]
        program.close()
        other.close()


def test_who_asks_may_do_nothing_else_at_the_broker(lab: Lab) -> None:
    for certificate in (False, True):
        program = Program(lab.home(NONE), "curious", certificate)
        program.client.subscribe([("#", 1), ("ipdc/#", 1), ("ipdc/serve/+/request", 1)])
        domain = lab.json(NONE, "domain", "show")["domain"]
        own = next(node["id"] for node in lab.json(NONE, "nodes") if node["name"] == "node1")
        for topic in (f"ipdc/1/{domain}/{own}/cancel", f"ipdc/1/{domain}/{own}/node", "ipdc/serve/answer/curious"):
            program.client.publish(topic, b"{}", 1, retain=True)
        program.ask("nobody", numbers([1]))
        assert set(program.answers) == {b"\0\0\0\1"}, "it reads what is not for it"
        retained = Program(lab.home(NONE), "curious")
        retained.ask("nobody", numbers([1]))
        assert set(retained.answers) == {b"\0\0\0\1"}, "it could have something retained"
        program.close()
        retained.close()


def test_a_request_that_kills_or_holds_the_runner_is_told_so_and_the_others_are_answered(
    lab: Lab, tiny_model: str, pre: str,
) -> None:
    with Served(lab, "deadly", tiny_model, "--pre", pre, "--patience", "5") as served:
        program = Program(lab.home(NONE), "deadly")
        sent = [(value, program.publish("deadly", numbers(value))) for value in (1, 2, -1, 3, -2, 4, -1, 5, -3, 6)]
        for value, correlation in sent:
            answer = program.answer(correlation)
            reasons = {-1: "the runner ended while it worked on this", -2: "ValueError: minus two is not served",
                       -3: "the runner ended while it worked on this"}
            if value < 0:
                assert reasons[value] in answer["error"]
            else:
                assert answer == {"predictions": [[value, 1.0, 2.0, 3.0]]}
        assert served.health()["nodes"][0]["deaths"] >= 3
        assert lab.json(NONE, "status", served.job)["state"] == "running"
        program.close()


def test_a_runner_that_ends_with_nothing_to_do_costs_no_request(lab: Lab, tiny_model: str) -> None:
    with Served(lab, "idle", tiny_model) as served:
        program = Program(lab.home(NONE), "idle")
        assert program.ask("idle", numbers([1, 2, 3, 4])) == {"predictions": [[1.0, 2.0, 3.0, 4.0]]}
        for pid in lab.in_runners():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.until(lambda: served.health()["nodes"][0]["deaths"] == 1)
        assert program.ask("idle", numbers([5, 6, 7, 8])) == {"predictions": [[5.0, 6.0, 7.0, 8.0]]}
        assert served.health()["nodes"][0]["errors"] == 0
        program.close()


def test_a_full_queue_says_busy_and_a_patient_client_gets_its_answer(lab: Lab, tiny_model: str, pre: str) -> None:
    with Served(lab, "narrow", tiny_model, "--pre", pre, "--queue", "4", "--patience", "5") as served:
        program = Program(lab.home(NONE), "many")
        held = program.publish("narrow", numbers(7))  # which is worked on until patience is over
        program.until(lambda: served.health()["nodes"][0]["queue"] == 1)
        sent = [program.publish("narrow", numbers(number)) for number in range(10, 30)]
        answers = [program.answer(correlation) for correlation in sent]
        busy = [answer for answer in answers if answer.get("busy") is True]
        assert len(busy) == 19 and all("busy: all nodes that serve narrow are busy" in one["error"] for one in busy)
        assert "the runner ended while it worked on this" in program.answer(held)["error"]
        assert answers[0] == {"predictions": [[10.0, 1.0, 2.0, 3.0]]}
        assert served.health()["nodes"][0]["busy"] == 19
        program.publish("narrow", numbers(7))
        told = lab.run(NONE, "ask", "narrow", "--input", "-", "--json", input=numbers(31).decode())
        assert json.loads(told.stdout)["predictions"] == [[31.0, 1.0, 2.0, 3.0]]
        program.close()


def test_what_is_asked_of_a_node_that_is_killed_is_answered_and_another_takes_its_place(
    lab: Lab, tiny_model: str, pre: str,
) -> None:
    with Served(lab, "lasting", tiny_model, "--pre", pre, k=2) as served:
        first, second = served.nodes()
        program = Program(lab.home(NONE), "lasting")
        killed = False
        sent = []
        for number in range(400):
            sent.append((number + 10, program.publish("lasting", numbers(number + 10))))
            if number % 20 == 19:
                program.until(lambda: len(program.answers) >= len(sent) - 10)
            if number == 200:
                killed = bool(kill(lab, first))
        assert killed
        for value, correlation in sent:
            assert program.answer(correlation) == {"predictions": [[float(value), 1.0, 2.0, 3.0]]}
        assert all(len(answers) == 1 for answers in program.answers.values())
        eventually(lambda: len(served.nodes()) == 2 and first not in served.nodes(), "another node serves", 60)
        assert second in served.nodes()
        program.close()
        ipdc_up(lab, first)


def kill(lab: Lab, node: int) -> list[int]:
    """SIGKILL to a node's daemon, broker and runners."""
    found = []
    home = lab.home(node)
    for name in ("daemon.pid", "mosquitto.pid"):
        with open(os.path.join(home, "run", name)) as file:
            found.append(int(file.read().split()[0]))
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


def ipdc_up(lab: Lab, node: int) -> None:
    lab.run(NONE, "lab", "up", "--nodes", str(lab.nodes), "--dir", lab.directory)
    eventually(lambda: any(one["name"] == f"node{node}" and one["state"] == "ready" and "serve" in one["capabilities"]
                           for one in lab.json(NONE, "nodes")), "the node is back", 60)


def test_a_node_that_drains_hands_its_place_on(lab: Lab, tiny_model: str) -> None:
    with Served(lab, "moving", tiny_model) as served:
        (node,) = served.nodes()
        lab.run(node, "drain")
        eventually(lambda: served.nodes() not in ([node], []), "another node serves", 60)
        lab.run(node, "drain", "--off")
        told = lab.run(NONE, "ask", "moving", "--input", "-", "--json", input=numbers([1, 2, 3, 4]).decode())
        assert json.loads(told.stdout)["predictions"] == [[1.0, 2.0, 3.0, 4.0]]
        assert lab.json(NONE, "status", served.job)["state"] == "running"


def test_it_is_a_job_like_others(lab: Lab, tiny_model: str) -> None:
    command = [sys.executable, "-m", "ipdc_edge", "serve", tiny_model, "--topic", "waited"]
    environ = {**os.environ, "IPDC_HOME": lab.home(NONE), "PYTHONPATH": ROOT}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None and waiting.stderr is not None
        job = waiting.stdout.readline().split()[1].rstrip(":")
        while not (line := waiting.stdout.readline()).startswith("served by node"):
            assert line, waiting.stderr.read()
        taken = lab.run(NONE, "serve", tiny_model, "--topic", "waited", check=False)
        assert taken.returncode == 1 and "waited is served already, by node" in taken.stderr
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(30) == 130
        assert f"ipdc-edge cancel {job}" in waiting.stderr.read()
    view = lab.json(NONE, "status", job)
    assert view["state"] == "running" and view["running"][0]["status"].startswith("serves waited")
    assert job in lab.run(NONE, "jobs").stdout
    lab.run(NONE, "cancel", job)
    assert lab.json(NONE, "status", job)["state"] == "cancelled"
    assert "cancelled" in lab.run(NONE, "story", job).stdout
    lab.run(NONE, "logs", job)
    eventually(lambda: not lab.in_runners(), "no runner is left", 30)
    nobody = lab.run(NONE, "ask", "waited", "--input", "-", input=numbers([1, 2, 3, 4]).decode(), check=False)
    assert nobody.returncode == 4 and "No node of the domain serves waited" in nobody.stderr


def test_a_model_that_nobody_can_run_is_refused_by_the_name_of_its_operator(lab: Lab) -> None:
    done = lab.run(NONE, "serve", str(inference.models() / "flex.tflite"), "--topic", "flex", check=False)
    assert done.returncode == 4 and "FlexSinh" in done.stderr


@pytest.mark.parametrize(("words", "reason"), [
    (("--topic", "a/b"), "--topic 'a/b'"), (("--topic", "answer"), "not 'answer'"),
    (("--topic", "a", "-k", "0"), "-k 0: give 1 to 64"), (("--topic", "a", "--queue", "0"), "--queue 0"),
    (("--topic", "a", "--patience", "26"), "--patience 26"), (("--topic", "a", "--memory", "1M"), "at least"),
])
def test_usage(lab: Lab, tiny_model: str, words: tuple[str, ...], reason: str) -> None:
    done = lab.run(NONE, "serve", tiny_model, *words, check=False)
    assert done.returncode == 2 and reason in done.stderr


def test_ask_says_what_is_wrong_with_its_words(lab: Lab, tmp_path: Path) -> None:
    long, odd = tmp_path / "long.npy", tmp_path / "odd"
    long.write_bytes(bytes(129 << 10))
    odd.write_bytes(b"?")
    for words, reason in ((("a/b", "--health"), "is no topic"), (("a",), "what shall it be asked"),
                          (("a", "--input", str(long)), "more than 131072 bytes"),
                          (("a", "--input", str(odd)), "--input-format")):
        done = lab.run(NONE, "ask", *words, check=False)
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    done = lab.run(NONE, "ask", "a", "--input", str(tmp_path / "none"), check=False)
    assert done.returncode == 1 and "none" in done.stderr
