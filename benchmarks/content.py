"""Adding content and moving it between two nodes, side by side with other tools, in one run.

usage: /usr/bin/python3 benchmarks/content.py [--size 1G] [--rounds 3] [--only-copy] [--json FILE]

add: `ipdc-edge add` by reference and with --copy against `ipfs add` and sha256sum, over the same file, each into what
holds nothing of it. Transfer over loopback into a file: `ipdc-edge get` on the second node of a lab (TLS, every block
checked) against Kubo's bitswap between two daemons that know each other, curl from nginx with TLS 1.3, and rsync's own
protocol, which encrypts nothing. Every round runs each of them once, in that order; medians, least and most.
Copying without its fsyncs: `add --copy` into a node whose store lies in memory (/dev/shm), where an fsync is nothing,
against `openssl dgst -sha256` of the same file, which lies there too. A copy must hash all bytes once; transfer.py has
links that are not loopback.
Processor seconds are of the command, with those of our daemons (Kubo's own and nginx's are not counted). Memory: the
highest resident set of the command, and of the daemons behind it, in MB.

Needs nginx, rsync, curl and openssl; Kubo is built by Go where it is not in the tests' cache. Exit code: 0; 1
where copying has less than 0.6 of openssl's speed; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from memory import parse_size  # beside this file
from processes import NotMeasured, highest_rss
from text import NoDictionary, make_text
from trial import Meter, head

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, CHECKOUT)
from tests.ipfs.kubo import CannotBuild, Kubo, program  # noqa: E402

PYTHON = "/usr/bin/python3"
IN_MEMORY = "/dev/shm"  # a tmpfs
COPY, OPENSSL, LEAST_COPY = "ipdc-edge add --copy, in memory", "openssl dgst -sha256", 0.6


class Run(NamedTuple):
    """One measurement: seconds by the clock and of processors (the command's own, and of our daemons), MB of the
    command."""

    wall: float
    processor: float
    memory: float


def timed(*words: str, env: dict[str, str] | None = None, output: str = os.devnull) -> Run:
    """Runs a command to its end. NotMeasured when it fails."""
    with open(output, "wb") as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        child = subprocess.Popen(words, env={**os.environ, **(env or {})}, stdout=out, stderr=errors)
        ended, memory = 0, 0
        while not ended:  # the kernel's record for a child begins with what its parent takes, so it is looked at here
            memory = max(memory, highest_rss(child.pid))
            time.sleep(0.005)
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if child.returncode:
            raise NotMeasured(f"{' '.join(words[:4])}: {errors.read()[-1000:].decode(errors='replace')}")
    return Run(wall, used.ru_utime + used.ru_stime, memory / 1024)


class Lab:
    """Two nodes of a closed domain."""

    def __init__(self, directory: Path, nodes: int = 2) -> None:
        self.directory = directory
        self.run(1, "lab", "up", "--nodes", str(nodes), "--dir", str(directory))

    def env(self, node: int) -> dict[str, str]:
        return {"PYTHONPATH": CHECKOUT, "IPDC_HOME": str(self.directory / f"node{node}")}

    def run(self, node: int, *words: str) -> str:
        done = subprocess.run([PYTHON, "-m", "ipdc_edge", *words], env={**os.environ, **self.env(node)},
                              capture_output=True, text=True)
        if done.returncode:
            raise NotMeasured(f"ipdc-edge {' '.join(words[:2])}: {done.stderr[-1000:]}")
        return done.stdout.strip()

    def command(self, node: int, *words: str) -> Run:
        with Meter(self.daemons()) as meter:
            took = timed(PYTHON, "-m", "ipdc_edge", *words, env=self.env(node))
        return took._replace(processor=took.processor + meter.seconds())

    def daemons(self) -> list[int]:
        found = self.directory.glob("node*/run/daemon.pid")
        return [int(path.read_text().split()[0]) for path in found]

    def memory(self) -> float:
        """MB of the bigger daemon, at its highest so far."""
        return max(map(highest_rss, self.daemons())) / 1024

    def forget(self, cid: str) -> None:
        self.run(1, "unpin", cid)
        self.run(1, "gc")

    def down(self) -> None:
        self.run(1, "lab", "down", "--dir", str(self.directory))


class Nginx:
    """nginx with TLS 1.3 over a directory, one worker. `wrap`: words before its command."""

    def __init__(self, directory: Path, files: Path, address: str = "127.0.0.1", wrap: Sequence[str] = ()) -> None:
        directory.mkdir()
        self.address = address
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run(["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate),
                        "-subj", "/CN=localhost"], check=True, capture_output=True)
        self.certificate = str(certificate)
        parts = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{part}_temp_path {directory}/{part}; " for part in parts)
        (directory / "nginx.conf").write_text(
            f"daemon off; pid {directory}/pid; worker_processes 1; error_log {directory}/log; user root;\n"
            f"events {{}}\nhttp {{ {temporary}access_log off; sendfile on; server {{\n"
            f"listen {address}:{self.port} ssl; ssl_protocols TLSv1.3; ssl_certificate {certificate};"
            f" ssl_certificate_key {key}; root {files}; }} }}\n")
        words = [*wrap, find("nginx"), "-e", str(directory / "log"), "-c", str(directory / "nginx.conf")]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fetch(self, name: str, target: str) -> list[str]:
        """curl's command for one of its files."""
        return ["curl", "-sS", "--fail", "--cacert", self.certificate, "--resolve",
                f"localhost:{self.port}:{self.address}", f"https://localhost:{self.port}/{name}", "-o", target]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Rsync:
    """rsync's daemon over a directory."""

    def __init__(self, directory: Path, files: Path) -> None:
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        conf = directory / "rsyncd.conf"
        conf.write_text(f"use chroot = no\nuid = root\ngid = root\n[files]\npath = {files}\nread only = yes\n")
        self.process = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={self.port}", f"--config={conf}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def find(tool: str) -> str:
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        raise NotMeasured(f"needs {tool}")
    return path


def listening(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise NotMeasured(f"nothing listens on port {port}")


def measure(directory: Path, size: int, rounds: int) -> dict[str, Any]:
    """Every figure, by its name."""
    for tool in ("nginx", "rsync", "curl", "openssl", "sha256sum"):
        find(tool)
    files = directory / "files"
    files.mkdir()
    text = files / "text"
    make_text(str(text), size)
    lab = Lab(directory / "lab")
    peers = []
    for name in ("kubo1", "kubo2"):
        (directory / name).mkdir()
        peers.append(Kubo(directory / name))
    nginx, rsync = Nginx(directory / "nginx", files), Rsync(directory / "rsync", files)
    figures: dict[str, list[Run]] = {}
    target = directory / "target"
    kubo_peaks: list[float] = []

    def note(name: str, run: Run) -> None:
        figures.setdefault(name, []).append(run)
        print(f"{name}: {run.wall:.2f} s, {run.processor:.2f} s of processor, {run.memory:.0f} MB", flush=True)

    try:
        listening(nginx.port)
        listening(rsync.port)
        kubo_env = [{"IPFS_PATH": str(peer.directory / "repository"), "IPFS_TELEMETRY": "off"} for peer in peers]
        for _ in range(rounds):
            note("sha256sum", timed("sha256sum", str(text)))
            note("ipdc-edge add", lab.command(1, "add", str(text)))
            cid = lab.run(1, "add", str(text))
            lab.forget(cid)
            note("ipdc-edge add --copy", lab.command(1, "add", "--copy", str(text)))
            lab.forget(cid)
            note("ipfs add", timed(program(), "add", "--quieter", str(text), env=kubo_env[0]))
            kubo_peaks.append(transfer(lab, cid, text, target, peers, kubo_env, nginx, rsync, note))
        return {"size": os.path.getsize(text), "daemon_mb": lab.memory(), "kubo_mb": max(kubo_peaks),
                "figures": {name: [run._asdict() for run in runs] for name, runs in figures.items()}}
    finally:
        for peer in peers:
            peer.stop()
        nginx.stop()
        rsync.stop()
        lab.down()


def measure_copying(size: int, rounds: int) -> dict[str, list[Run]]:
    """`add --copy` and openssl, in pairs, over a file in memory and into a store in memory."""
    find("openssl")
    free = os.statvfs(IN_MEMORY)
    if free.f_bavail * free.f_frsize < 2.5 * size:
        raise NotMeasured(f"{IN_MEMORY} has no room for {2 * size} bytes: a smaller --size")
    directory = Path(tempfile.mkdtemp(prefix="ipdc-copying-", dir=IN_MEMORY))
    found: dict[str, list[Run]] = {OPENSSL: [], COPY: []}
    try:
        text = directory / "text"
        make_text(str(text), size)
        lab = Lab(directory / "lab", 1)
        try:
            cid = lab.run(1, "add", str(text))
            lab.forget(cid)  # the first one begins what later ones have: threads, the index
            for _ in range(rounds):
                found[OPENSSL].append(timed("openssl", "dgst", "-sha256", str(text)))
                found[COPY].append(lab.command(1, "add", "--copy", str(text)))
                lab.forget(cid)
                for name, runs in found.items():
                    print(f"{name}: {runs[-1].wall:.2f} s", file=sys.stderr, flush=True)
        finally:
            lab.down()
        return found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copying_ratio(figures: dict[str, list[dict[str, float]]]) -> float:
    """Of openssl's speed, the median over pairs."""
    return median(one["wall"] / two["wall"] for one, two in zip(figures[OPENSSL], figures[COPY]))


def transfer(lab: Lab, cid: str, text: Path, target: Path, peers: list[Kubo], kubo_env: list[dict[str, str]],
             nginx: Nginx, rsync: Rsync, note: Callable[[str, Run], None]) -> float:
    """One round of every way from one to another; MB of the bigger Kubo."""
    def fresh() -> str:
        target.unlink(missing_ok=True)
        return str(target)

    lab.run(1, "add", str(text))
    note("ipdc-edge get", lab.command(2, "get", cid, "-o", fresh()))
    check(text, target)
    lab.forget(cid)
    note("curl from nginx", timed(*nginx.fetch("text", fresh())))
    check(text, target)
    note("rsync", timed("rsync", "--whole-file", f"rsync://127.0.0.1:{rsync.port}/files/text", fresh()))
    check(text, target)
    for peer in peers:
        peer.start()
    try:
        address = peers[0].call("id")["Addresses"][0]
        peers[1].run("swarm", "connect", address)
        words = "get", "--progress=false", "--output", fresh(), cid
        note("ipfs get (bitswap)", timed(program(), *words, env=kubo_env[1]))
        check(text, target)
        peak = max(highest_rss(peer.process.pid) for peer in peers if peer.process is not None) / 1024
    finally:
        for peer in peers:
            peer.stop()
    for peer in peers:
        for pin in peer.run("pin", "ls", "--type=recursive", "--quiet").decode().split():
            peer.run("pin", "rm", pin)
        peer.run("repo", "gc", "--quiet")
    target.unlink()
    return peak


def check(text: Path, target: Path) -> None:
    if subprocess.run(["cmp", "--silent", str(text), str(target)]).returncode:
        raise NotMeasured(f"{target} is not {text}")


def table(found: dict[str, Any]) -> str:
    """The figures as lines of a table, each against the first of its group."""
    figures, size = found["figures"], int(found["size"])
    lines = ["| | s | least to most | MB/s | processor s | command MB |", "| --- | --- | --- | --- | --- | --- |"]
    for name, runs in figures.items():
        walls = sorted(run["wall"] for run in runs)
        middle, processor = median(walls), median(run["processor"] for run in runs)
        lines.append(f"| {name} | {middle:.2f} | {walls[0]:.2f} to {walls[-1]:.2f} | {size / 1e6 / middle:.0f} |"
                     f" {processor:.2f} | {max(run['memory'] for run in runs):.0f} |")
    if "kubo_mb" in found:
        peaks = f"ipdc-edge {found['daemon_mb']:.0f} MB, Kubo {found['kubo_mb']:.0f} MB"
        lines += ["", f"Daemons at their highest: {peaks}."]
    ratio = copying_ratio(figures)
    lines += ["", f"{COPY}: {ratio:.2f} of {OPENSSL}, at least {LEAST_COPY}: "
              f"{'holds' if ratio >= LEAST_COPY else 'MISSED'}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("1G"), metavar="BYTES")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-copy", action="store_true", help="against openssl, and nothing else")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ipdc-content-", dir="/var/tmp"))
    try:
        copied = {name: [run._asdict() for run in runs]
                  for name, runs in measure_copying(args.size, args.rounds).items()}
        found = {"size": args.size, "figures": {}} if args.only_copy else measure(directory, args.size, args.rounds)
        found["figures"] = {**found["figures"], **copied}
        found["head"] = head()
    except (NotMeasured, NoDictionary, CannotBuild, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{found['head']} {found['size']} bytes.\n")
    print(table(found))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if copying_ratio(found["figures"]) < LEAST_COPY else 0


if __name__ == "__main__":
    sys.exit(main())
