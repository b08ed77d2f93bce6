"""How fast a served model answers, against the bare interpreter in a loop.

usage: /usr/bin/python3 benchmarks/serving.py [--rounds 5] [--seconds 5] [--json FILE]

The model is the megabyte of tests/tensorflow/models.py (32 by 32 by 3 floats, two convolutions), served on a lab of
one node, in its sandbox, and asked by a program that is a process of its own at that node's broker. Inputs travel as
.npy of bytes, since 3 kB an image do, and not 12; the bare loop has them in memory as floats. Every round runs all of
it in turn:

bare            set_tensor, invoke, get_tensor, one input a call: what the goal is measured against
bare, 32        the same with 32 inputs a call
one by one      a request of one input, and the next when it is answered
one, 16         requests of one input, 16 under way: the queue makes batches of them
32, 4           requests of 32 inputs, 4 under way

Throughput is in inputs a second, p50 and p99 are of a request (of a call, where it is bare), in milliseconds. Ratios
are taken within a round. What all processes take of processors for an input stands beside: on a busy machine the bare
loop competes with others as one, and a served model as four (client, broker, daemon, runner). After the rounds the PSS
of the runner, in which the model is, is read. TensorFlow (which makes the model) and LiteRT are installed once, in the
tests' cache.

Exit code: 0; 1 where the goal of issue 8 is missed, 0.6 of the bare loop's throughput with batches; 2 when it was not
measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from memory import Lab, Node  # beside this file
from processes import NotMeasured, descendants, read_pss
from trial import CHECKOUT, Meter, head, spread, table, up

sys.path.insert(1, CHECKOUT)
from ipdc_edge.commands.client import call
from ipdc_edge.home import Home
from tests.tensorflow import installed
from tests.tensorflow.inference import models
from tests.tensorflow.serving import Program

GOAL = 0.6
TOPIC = "megabyte"
SHAPE, BYTES = (32, 32, 3), 32 * 32 * 3
WITHIN = 60.0  # seconds until the model is served
ROWS = {"one by one": (1, 1), "one, 16": (1, 16), "32, 4": (32, 4)}  # inputs a request, requests under way
BARE = """
import json, sys, time
import numpy
from ai_edge_litert.interpreter import Interpreter
path, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
interpreter = Interpreter(model_path=path, num_threads=1)
index = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(index, [count, 32, 32, 3])
interpreter.allocate_tensors()
output = interpreter.get_output_details()[0]["index"]
given = numpy.random.default_rng(7).integers(0, 256, (count, 32, 32, 3)).astype("float32")
took, begun, used = [], time.monotonic(), time.process_time()
while time.monotonic() - begun < seconds:
    before = time.monotonic()
    interpreter.set_tensor(index, given)
    interpreter.invoke()
    interpreter.get_tensor(output)
    took.append(time.monotonic() - before)
whole, used = time.monotonic() - begun, time.process_time() - used
took.sort()
print(json.dumps([len(took) * count / whole, took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3,
                  used / len(took) / count * 1e6, len(took) * count]))
"""


def npy(count: int) -> bytes:
    """So many images of bytes, as numpy.save writes them; numpy is not among this interpreter's packages."""
    head_ = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(count, *SHAPE)}, }}"
    head_ += " " * (-(len(head_) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head_).to_bytes(2, "little") + head_.encode() + os.urandom(count * BYTES)


def bare(count: int, seconds: float) -> list[float]:
    """Inputs a second, p50 and p99 in ms, microseconds of processors an input, inputs."""
    words = [str(installed.litert_venv() / "bin" / "python"), "-c", BARE, str(models() / "megabyte.tflite"), str(count),
             str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NotMeasured(done.stderr[-1000:])
    return list(json.loads(done.stdout))


def asked(home: str, nodes: list[Node], count: int, under_way: int, seconds: float) -> list[float]:
    """As `bare`; in a process of its own, with what daemon, broker and runner take."""
    words = ["/usr/bin/python3", os.path.abspath(__file__), "--ask", home, str(count), str(under_way), str(seconds)]
    with Meter([pid for node in nodes for pid in (node.daemon, node.broker)]) as meter:
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NotMeasured(done.stderr[-1000:])
    found: list[float] = json.loads(done.stdout)
    found[3] += meter.seconds() / found[4] * 1e6
    return found


def client(home: str, count: int, under_way: int, seconds: float) -> list[float]:
    """What `asked` starts."""
    program = Program(home, f"bench-{os.getpid()}")
    body = npy(count)
    begun, used = time.monotonic(), time.process_time()
    open_: dict[bytes, float] = {}
    took: list[float] = []
    while True:
        now = time.monotonic()
        if now - begun >= seconds and not open_:
            break
        while len(open_) < under_way and now - begun < seconds:
            open_[program.publish(TOPIC, body, ContentType="application/x-npy")] = time.monotonic()
        program.until(lambda: program.answers)
        now = time.monotonic()
        for correlation, answers in program.answers.items():
            if len(answers[0].get("predictions", ())) != count:
                raise NotMeasured(f"an answer that is none: {str(answers[0])[:300]}")
            took.append(now - open_.pop(correlation))
        program.answers.clear()
    whole, used = time.monotonic() - begun, time.process_time() - used
    program.close()
    took.sort()
    return [len(took) * count / whole, took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3,
            used / len(took) / count * 1e6, len(took) * count]


def serve(lab: Lab) -> None:
    """Has the one node serve the model. NotMeasured."""
    home = lab.home(1)
    os.symlink(installed.litert_venv(), os.path.join(home, "venv"))
    call(Home({"IPDC_HOME": home}), "packages")
    environment = {**lab.environment, "IPDC_HOME": home, "PYTHONPATH": CHECKOUT}
    until = time.monotonic() + WITHIN
    while True:
        done = subprocess.run(["/usr/bin/python3", "-m", "ipdc_edge", "serve", str(models() / "megabyte.tflite"),
                               "--topic", TOPIC, "--id-only"], env=environment, capture_output=True, text=True)
        if not done.returncode:
            break
        if time.monotonic() > until:
            raise NotMeasured(done.stderr)
        time.sleep(1)
    program = Program(home)
    while not program.ask(TOPIC, b"", word="health").get("nodes"):
        if time.monotonic() > until:
            raise NotMeasured(f"it is not served within {WITHIN:g} s")
        time.sleep(0.2)
    program.close()


def runner_pss(home: str) -> float:
    """MB of the biggest process below the daemon: the runner."""
    with open(os.path.join(home, "run", "daemon.pid")) as file:
        daemon = int(file.read().split()[0])
    return max(read_pss(pid).pss for pid in descendants(daemon)) / 1024


def measure(rounds: int, seconds: float) -> tuple[dict[str, list[list[float]]], float]:
    """For each row of the table the figures of all rounds; the runner's PSS."""
    found: dict[str, list[list[float]]] = {name: [] for name in ("bare", "bare, 32", *ROWS)}
    directory = tempfile.mkdtemp(prefix="ipdc-serving-")
    try:
        lab = Lab(directory, 1)
        nodes = up(lab)
        try:
            serve(lab)
            asked(lab.home(1), nodes, 32, 4, 1.0)  # warm
            for _ in range(rounds):
                found["bare"].append(bare(1, seconds))
                found["bare, 32"].append(bare(32, seconds))
                for name, (count, under_way) in ROWS.items():
                    found[name].append(asked(lab.home(1), nodes, count, under_way, seconds))
            pss = runner_pss(lab.home(1))
        finally:
            lab.down()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found, pss


def main() -> int:
    """As the head of this file says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(client(args.ask[0], int(args.ask[1]), int(args.ask[2]), float(args.ask[3]))))
        return 0
    try:
        found, pss = measure(args.rounds, args.seconds)
    except (NotMeasured, installed.CannotInstall, subprocess.SubprocessError, OSError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    rows: list[list[str]] = []
    ratios: dict[str, list[float]] = {}
    for name, took in found.items():
        ratios[name] = [one[0] / base[0] for one, base in zip(took, found["bare"])]
        rows.append([name, spread([one[0] for one in took], ".0f"), spread(ratios[name], ".2f"),
                     spread([one[1] for one in took], ".2f"), spread([one[2] for one in took], ".2f"),
                     spread([one[3] for one in took], ".0f")])
    print(head() + "\n")
    print(table(["", "inputs/s", "of bare", "p50 ms", "p99 ms", "processor \u00b5s an input"], rows))
    best = max(median(ratios[name]) for name in ROWS)
    print(f"\nWith batches: {best:.2f} of the bare loop (goal {GOAL}). The runner's PSS: {pss:.1f} MB.")
    if args.json:
        told: dict[str, Any] = {"rounds": found, "ratios": ratios, "pss": pss}
        args.json.write_text(json.dumps(told, indent=1))
    return 0 if best >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
