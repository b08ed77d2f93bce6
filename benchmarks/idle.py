"""What nodes take while nothing happens: processor, disk, packets, and memory, in domains of 1, 10 and 50 members.

usage: /usr/bin/python3 benchmarks/idle.py [--members 1,10,50] [--minutes 10] [--settle 60] [--json FILE]

Each domain is a lab with TLS on this machine. It is left alone until its members have told each other all there is,
then watched for some minutes: the share of one core that daemon and broker of a node take, bytes that went to the disk
(/proc/PID/io, less what was removed before), packets over the loopback interface, which all members share and which
counts a packet once. PSS is read at the end; nodes on one machine share pages, so `private` stands beside it. Packets
of anything else on the loopback interface count too: nothing else should run.

Exit code: 0; 1 where a node takes more than 0.3 % of a core or writes anything; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from flash import written  # beside this file
from memory import Lab, Node
from processes import NotMeasured, read_pss
from trial import Meter, head, table, up

MOST_SHARE = 0.003  # of a core, daemon and broker together
PARTS = ("daemon", "broker")


def loopback_packets() -> int:
    """Packets that came over the loopback interface so far."""
    with open("/proc/net/dev") as file:
        return next(int(line.split()[2]) for line in file if line.strip().startswith("lo:"))


def watch(nodes: list[Node], seconds: float) -> dict[str, Any]:
    """Figures of all nodes over that time."""
    before = {part: [written(getattr(node, part)) for node in nodes] for part in PARTS}
    packets = loopback_packets()
    meters = {part: [Meter([getattr(node, part)], every=seconds) for node in nodes] for part in PARTS}
    began = time.monotonic()
    with ExitStack() as stack:
        for meter in (meter for part in PARTS for meter in meters[part]):
            stack.enter_context(meter)
        time.sleep(seconds)
    took = time.monotonic() - began
    found: dict[str, Any] = {
        "members": len(nodes), "minutes": took / 60,
        "packets a minute": (loopback_packets() - packets) / took * 60,
        "share": [sum(each) for each in zip(*([meter.seconds() / took for meter in meters[part]] for part in PARTS))],
        "share at its biggest": {part: max(meter.seconds() for meter in meters[part]) / took for part in PARTS},
        "written": {part: sum(written(getattr(node, part)) for node in nodes) - sum(before[part]) for part in PARTS},
    }
    for part in PARTS:
        readings = [read_pss(getattr(node, part)) for node in nodes]
        found[part] = [reading.pss / 1024 for reading in readings]
        found[f"{part} private"] = [reading.private / 1024 for reading in readings]
    return found


def measure(directory: str, members: int, minutes: float, settle: float) -> dict[str, Any]:
    """One domain's figures."""
    os.mkdir(directory)
    lab = Lab(directory, members)
    try:
        nodes = up(lab)
        time.sleep(settle)
        return watch(nodes, minutes * 60)
    finally:
        try:
            lab.down()
        except NotMeasured as error:
            print(error, file=sys.stderr)


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", default="1,10,50", help="of each domain, with commas between")
    parser.add_argument("--minutes", type=float, default=10.0, help="to watch each")
    parser.add_argument("--settle", type=float, default=60.0, metavar="SECONDS", help="before that")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="ipdc-idle-", dir="/var/tmp")
    found = []
    try:
        for members in map(int, options.members.split(",")):
            found.append(measure(os.path.join(directory, str(members)), members, options.minutes, options.settle))
            print(f"{members} members are measured", file=sys.stderr, flush=True)
    except NotMeasured as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    heads = ["members", "minutes", "% of a core for a node: median", "most (daemon, broker)",
             "bytes written by all daemons, brokers", "packets a minute for a node",
             *(f"{part} PSS MB: median, most (private)" for part in PARTS)]
    rows = [[str(one["members"]), f"{one['minutes']:.1f}", f"{median(one['share']):.2%}",
             f"{max(one['share']):.2%} ({', '.join(f'{share:.2%}' for share in one['share at its biggest'].values())})",
             ", ".join(map(str, one["written"].values())), f"{one['packets a minute'] / one['members']:.0f}",
             *(f"{median(one[part]):.1f}, {max(one[part]):.1f} ({median(one[f'{part} private']):.1f})"
               for part in PARTS)] for one in found]
    over = [one for one in found if max(one["share"]) > MOST_SHARE or any(one["written"].values())]
    print(f"{head()}\n\n{table(heads, rows)}\n\nat most {MOST_SHARE:.1%} of a core, nothing written: "
          f"{'MISSED' if over else 'holds'}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
