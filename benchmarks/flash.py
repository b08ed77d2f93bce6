"""What a job and an idle time cost flash and the network: bytes written, fsyncs, bytes on the wire, on a lab of three.

usage: /usr/bin/python3 benchmarks/flash.py [--sizes 64M] [--nodes 3] [--idle 10] [--json FILE]

Starts a lab, submits a word count for each size from node 1, waits until every node holds nothing any more, and reads
/proc/PID/io of every daemon (with runners that have ended) and broker before and after: bytes that were handed to the
disk less those that were removed before they got there. fsyncs are the daemon's own count; where strace is there, it
counts too, in a second run that it slows down. A table tells for each byte of input, with a combiner and without, what
is intermediate, what was spilled, what went over the loopback interface (which all nodes share, and which counts a byte
once; nothing else should talk there), what was written, and the result. Then nothing happens for some minutes, and
whatever is written counts.

Exit code: 0; 1 where a node that only works for others syncs anything, or an idle node writes anything; 2 when it was
not measured. The lab lies below /var/tmp: where that is memory, no kernel counts bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from memory import MAP, REDUCE, parse_size  # beside this file
from processes import NotMeasured
from text import NoDictionary, make_text
from trial import head

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, CHECKOUT)
from ipdc_edge.commands.client import call  # noqa: E402
from ipdc_edge.drivers.block_rows import outlives  # noqa: E402
from ipdc_edge.home import Home  # noqa: E402

PYTHON = "/usr/bin/python3"
COUNTED = ("written_bytes", "fsyncs", "stored_bytes", "spilled_bytes", "shuffle_bytes", "output_bytes")  # by `status`
PATIENCE = 300.0  # seconds for a clean-up
SETTLES = 45.0  # seconds after a job: addresses of peers are written at most every 30 s
SYNC = re.compile(r"\b(?:fsync|fdatasync|sync|syncfs|sync_file_range|msync)\(")


class Lab:
    """Nodes, and what each has written."""

    def __init__(self, directory: str, nodes: int) -> None:
        self.directory = directory
        self.homes = [os.path.join(directory, f"node{number}") for number in range(1, nodes + 1)]
        self.run("lab", "up", "--nodes", str(nodes), "--dir", directory)

    def run(self, *words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": CHECKOUT, "IPDC_HOME": os.path.join(self.directory, "node1")}
        done = subprocess.run([PYTHON, "-m", "ipdc_edge", *words], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"ipdc-edge {' '.join(words[:2])}: {done.stderr[-2000:]}")
        return done.stdout

    def pid(self, home: str, part: str) -> int:
        with open(os.path.join(home, "run", f"{part}.pid")) as file:
            return int(file.read().split()[0])

    def ask(self, home: str) -> dict[str, Any]:
        return dict(call(Home({"IPDC_HOME": home}), "counters"))

    def read(self) -> list[dict[str, int]]:
        """For each node: bytes of daemon and broker, fsyncs of the daemon."""
        return [{"daemon": written(self.pid(home, "daemon")), "broker": written(self.pid(home, "broker")),
                 "fsyncs": int(self.ask(home)["fsyncs"])} for home in self.homes]

    def wait_idle(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = [self.ask(home) for home in self.homes]
            if not any(each["held_jobs"] or [owner for owner in each["owners"] if owner != "members"
                                             and not outlives(owner)] for each in found):
                return
            time.sleep(0.2)
        raise NotMeasured("a job was not cleaned up")


def written(pid: int) -> int:
    """Bytes, less those that were removed before they reached the disk."""
    with open(f"/proc/{pid}/io") as file:
        found = dict(line.split(": ") for line in file)
    return int(found["write_bytes"]) - int(found["cancelled_write_bytes"])


def loopback() -> int:
    """Bytes that went over the loopback interface so far."""
    with open("/proc/net/dev") as file:
        return next(int(line.split()[1]) for line in file if line.strip().startswith("lo:"))


def shift(path: str) -> None:
    """An empty line before the first: all blocks are new, so that no worker has kept any of them."""
    os.rename(path, f"{path}.old")
    with open(f"{path}.old", "rb") as old, open(path, "wb") as new:
        new.write(b"\n")
        shutil.copyfileobj(old, new)
    os.unlink(f"{path}.old")


def submit(lab: Lab, program: list[str], text: str) -> dict[str, Any]:
    job = lab.run("submit", *program, "--input", text, "-k", str(len(lab.homes)), "--json").splitlines()[-1]
    lab.wait_idle()
    return dict(json.loads(lab.run("status", json.loads(job)["id"], "--json")))


def traced(lab: Lab, program: list[str], text: str) -> list[int] | None:
    """fsyncs of each daemon and its children for one more of these jobs, as strace sees them; None without it."""
    if shutil.which("strace") is None:
        return None
    files = [f"{home}.strace" for home in lab.homes]
    calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync"
    tracers = [subprocess.Popen(["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o", file, "-p",
                                 str(lab.pid(home, "daemon"))]) for home, file in zip(lab.homes, files)]
    try:
        time.sleep(1.0)  # until they are attached
        submit(lab, program, text)
    finally:
        for tracer in tracers:
            tracer.terminate()
            tracer.wait()
    found = []
    for file in files:
        with open(file) as lines:
            found.append(sum(bool(SYNC.search(line)) for line in lines))
    return found


def measure(lab: Lab, sizes: list[int], minutes: float) -> dict[str, Any]:
    programs = []
    for name, source in (("Map.py", MAP), ("Reduce.py", REDUCE)):
        programs.append(os.path.join(lab.directory, name))
        with open(programs[-1], "w") as file:
            file.write(source)
    plain = os.path.join(lab.directory, "Plain.py")
    with open(plain, "w") as file:
        file.write(MAP[: MAP.index("def combine")])
    jobs, over = [], []
    for size in sizes:
        text = os.path.join(lab.directory, f"text-{size}")
        make_text(text, size)
        for combines, program in ((True, programs), (False, [plain, programs[1]])):
            if not combines:
                shift(text)
            before, wire = lab.read(), loopback()
            status = submit(lab, program, text)
            wire = loopback() - wire
            nodes = [{name: now[name] - then[name] for name in now} for then, now in zip(before, lab.read())]
            strace = traced(lab, program, text) if combines else None
            jobs.append({"input": os.path.getsize(text), "combines": combines, "nodes": nodes, "strace": strace,
                         "wire": wire, **{name: status[name] for name in COUNTED}})
            over += [f"node {number}, a worker, syncs" for number, node in enumerate(nodes, 1) if number > 1
                     and node["fsyncs"]]
        os.unlink(text)
    time.sleep(SETTLES)
    before = lab.read()
    time.sleep(minutes * 60)
    idle = [{name: now[name] - then[name] for name in now} for then, now in zip(before, lab.read())]
    over += [f"node {number} writes while it is idle" for number, node in enumerate(idle, 1) if any(node.values())]
    return {"machine": platform.machine(), "python": platform.python_version(), "jobs": jobs, "idle_minutes": minutes,
            "idle": idle, "over": over}


def table(result: dict[str, Any]) -> str:
    def mb(count: int) -> str:
        return f"{count / 2**20:.2f}"

    lines = []
    for job in result["jobs"]:
        total = sum(node["daemon"] + node["broker"] for node in job["nodes"])
        how = "combine" if job["combines"] else "no combine"
        lines += [f"{mb(job['input'])} MB of text, {how}: {mb(total)} MB written by all nodes, "
                  f"{total / job['input']:.3f} for each byte of input; intermediate {mb(job['shuffle_bytes'])}, "
                  f"spilled {mb(job['spilled_bytes'])}, result {mb(job['output_bytes'])} MB",
                  f"  status: {mb(job['written_bytes'])} MB and {job['fsyncs']} fsyncs on node 1; "
                  f"{mb(job['stored_bytes'] + job['spilled_bytes'])} MB by tasks on all nodes"]
        for number, node in enumerate(job["nodes"]):
            strace = f", by strace of another run {job['strace'][number]}" if job["strace"] else ""
            lines.append(f"  node {number + 1}: daemon and runners {mb(node['daemon'])} MB, "
                         f"broker {mb(node['broker'])} MB, {node['fsyncs']} fsyncs{strace}")
    for number, node in enumerate(result["idle"], 1):
        lines.append(f"idle for {result['idle_minutes']:g} minutes, node {number}: {node['daemon']} bytes by the "
                     f"daemon, {node['broker']} by the broker, {node['fsyncs']} fsyncs")
    return "\n".join([*lines, *(f"OVER: {line}" for line in result["over"])])


def for_each_byte(result: dict[str, Any]) -> str:
    """Markdown: what each job made of a byte of input."""
    kinds = {"intermediate": "shuffle_bytes", "spilled": "spilled_bytes", "on the wire": "wire",
             "result": "output_bytes"}
    heads = ["bytes for each byte of input", *kinds, "written to disk by all nodes"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for job in result["jobs"]:
        found = [job[name] for name in kinds.values()]
        found.append(sum(node["daemon"] + node["broker"] for node in job["nodes"]))
        name = f"{job['input'] / 2**20:.0f} MB, {'combine' if job['combines'] else 'no combine'}"
        lines.append(f"| {name} | " + " | ".join(f"{count / job['input']:.3f}" for count in found) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="64M", help="texts, with commas between")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--idle", type=float, default=10.0, help="minutes")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="ipdc-flash-", dir="/var/tmp")
    lab = None
    try:
        lab = Lab(directory, options.nodes)
        result = measure(lab, [parse_size(text) for text in options.sizes.split(",") if text], options.idle)
    except (NotMeasured, NoDictionary) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        if lab is not None:
            lab.run("lab", "down", "--dir", directory)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{head()}\n\n{for_each_byte(result)}\n\n{table(result)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 1 if result["over"] else 0


if __name__ == "__main__":
    sys.exit(main())
