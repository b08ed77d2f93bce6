"""A file from one host to another: `ipdc-edge get` against curl from nginx with TLS, over a shaped link and a free one.

usage: /usr/bin/python3 benchmarks/transfer.py [--size 1G] [--rates 1gbit,none] [--pairs 5] [--json FILE]

example: /usr/bin/python3 benchmarks/transfer.py --size 16M --pairs 1

Two hosts in network namespaces, with a node each (TLS on both sides, every block hashed before it is sent and again
when it has come) and nginx beside the first one, whose TLS is checked on one side. Both ends of the link are shaped by
the kernel (`tc qdisc ... tbf`); "none" is a link that only the processors bound. A pair is one after the other of both;
the time is what the shell sees, with the interpreter's start; every file that came is compared. Processor seconds are
of the command and of both daemons, or of curl and nginx.

Needs root, iproute2, nginx, curl and openssl. Exit code: 0; 1 where the nodes have less than 0.8 of curl's MB/s over a
shaped link; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from content import CHECKOUT, Nginx, check, find, timed  # beside this file
from memory import parse_size
from processes import NotMeasured, process_of
from text import NoDictionary, make_text
from trial import Meter, Took, head, spread, table

sys.path.insert(1, CHECKOUT)
from tests.network.hosts import PYTHON, CommandFailed, Domain, Host, Network, sh
from tests.waiting import eventually

LEAST = 0.8  # of curl's speed, where the link is shaped
FREE = "none"
BURST = "256k"  # bytes that a shaped link lets through at once: more than one packet that the kernel has put together
OURS, OTHERS = "ipdc-edge get", "curl from nginx"


def shape(host: Host, rate: str) -> None:
    """What this host sends."""
    sh("ip", "netns", "exec", host.namespace, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
    if rate != FREE:
        sh("ip", "netns", "exec", host.namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate,
           "burst", BURST, "latency", "50ms")


class Link:
    """Two nodes on hosts of their own, and nginx beside the first."""

    def __init__(self, directory: Path, text: Path, stack: ExitStack) -> None:
        network = stack.enter_context(Network())
        self.text, self.target = text, directory / "target"
        self.one, self.two = Domain(network, str(directory), 2).nodes
        inside = ["ip", "netns", "exec"]
        self.nginx = Nginx(directory / "nginx", text.parent, self.one.host.address, [*inside, self.one.host.namespace])
        stack.callback(self.nginx.stop)
        self.there = [*inside, self.two.host.namespace]
        self.cid = self.one.ipdc("add", str(text)).stdout.split()[0]
        eventually(lambda: self.two.host.run(*self.nginx.fetch("empty", os.devnull), check=False).returncode == 0,
                   "nginx answers")

    def daemons(self) -> list[int]:
        """Of both nodes."""
        return [process_of(node.home, lambda words: "ipdc_edge" in words and "run" in words)
                for node in (self.one, self.two)]

    def get(self) -> Took:
        """By the second node."""
        words = [*self.there, PYTHON, "-P", "-m", "ipdc_edge", "get", self.cid, "-o", str(self.target)]
        env = {"IPDC_HOME": self.two.home, "PYTHONPATH": CHECKOUT}
        return self._came(words, env, self.daemons())

    def curl(self) -> Took:
        """By curl on the second host."""
        return self._came([*self.there, *self.nginx.fetch(self.text.name, str(self.target))], None,
                          [self.nginx.process.pid])

    def _came(self, words: list[str], env: dict[str, str] | None, behind: list[int]) -> Took:
        self.target.unlink(missing_ok=True)
        with Meter(behind) as meter:  # not trial.run: that waits for all children, and nginx and the daemons are ours
            took = timed(*words, env=env)
        check(self.text, self.target)
        return Took(took.wall, took.processor + meter.seconds())


def measure(directory: Path, size: int, rates: list[str], pairs: int) -> dict[str, dict[str, list[Took]]]:
    """Runs of both, by rate."""
    for tool in ("nginx", "curl", "openssl", "ip", "tc"):
        find(tool)
    if os.geteuid():
        raise NotMeasured("network namespaces need root")
    files = directory / "files"
    files.mkdir()
    (files / "empty").touch()
    make_text(str(files / "text"), size)
    found: dict[str, dict[str, list[Took]]] = {}
    with ExitStack() as stack:
        link = Link(directory, files / "text", stack)
        for rate in rates:
            for node in (link.one, link.two):
                shape(node.host, rate)
            runs: dict[str, list[Took]] = {OURS: [], OTHERS: []}
            for number in range(pairs):
                for name, ask in ((OURS, link.get), (OTHERS, link.curl)):
                    runs[name].append(ask())
                    took = runs[name][-1].wall
                    print(f"{rate}, pair {number + 1}: {name}: {took:.2f} s", file=sys.stderr, flush=True)
            found[rate] = runs
    return found


def report(found: dict[str, dict[str, list[Took]]], size: int) -> tuple[str, bool]:
    """Markdown, and whether the goal is missed."""
    rows, said, missed = [], [], False
    for rate, runs in found.items():
        for name, each in runs.items():
            rows.append([f"{rate}: {name}", spread([took.wall for took in each], ".2f"),
                         spread([size / 2**20 / took.wall for took in each]),
                         spread([took.processor for took in each], ".2f")])
        ratios = [other.wall / own.wall for own, other in zip(runs[OURS], runs[OTHERS])]
        holds = median(ratios) >= LEAST
        goal = "" if rate == FREE else f", at least {LEAST}: {'holds' if holds else 'MISSED'}"
        missed = missed or rate != FREE and not holds
        said.append(f"{rate}: {spread(ratios, '.2f')} of curl's speed{goal}")
    heads = [f"{size / 2**20:.0f} MB, link", "wall s", "MB/s", "processor s, both sides"]
    return "\n\n".join([table(heads, rows), *said]), missed


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("1G"), metavar="BYTES")
    parser.add_argument("--rates", default=f"1gbit,{FREE}", help=f"of the link, as tc writes them; {FREE}: not shaped")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ipdc-transfer-", dir="/var/tmp"))
    try:
        found = measure(directory, options.size, options.rates.split(","), options.pairs)
        size = os.path.getsize(directory / "files/text")
    except (NotMeasured, NoDictionary, CommandFailed, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text, missed = report(found, size)
    print(f"{head()}\n\n{text}")
    if options.json:
        figures: dict[str, Any] = {"head": head(), "size": size, "rates": found}
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
