"""`ipdc-edge result`: a job's parts, in their order, to standard output.

Owns reading the jobs directory (DESIGN.md, section 10). Needs no daemon: what is finished lies there as
plain files.
"""

from __future__ import annotations

import argparse
import os
import sys

from ipdc_edge import settings
from ipdc_edge.commands.choose import choose
from ipdc_edge.commands.client import call, not_allowed
from ipdc_edge.commands.display import print_json
from ipdc_edge.errors import IpdcError, NoDaemon, UnknownJob
from ipdc_edge.home import Home

PIECE = 1 << 18  # bytes copied at a time

EXAMPLES = """\
examples:
  ipdc-edge result abcd > counts.txt
  ipdc-edge result abcd | sort -t "$(printf '\\t')" -k2,2nr | head
  ipdc-edge result abcd --json           (where the parts lie)
  ipfs get $(ipdc-edge result abcd --to-kubo)

Every part is sorted by key (of a job without reduce: in the order of its input); the parts are part-00000,
part-00001, ... below the job's directory, in the job's --output-format, byte for byte as they come out here.
"""


class NoResult(IpdcError):
    """Job {id} has no result: {state}. More: ipdc-edge status {id}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Print the result of a job."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="a job's id, or its beginning or end")
    parser.add_argument("--json", action="store_true", help="print where the parts lie, as JSON")
    parser.add_argument("--to-kubo", action="store_true",
                        help="hand the parts to the Kubo of this machine (kubo_api in ipdc.conf), which pins them;"
                        " prints the CID of their directory, the root in job.json")


def run(args: argparse.Namespace) -> int:
    """0 when every part was printed."""
    home = Home(os.environ)
    job = find(home, args.id)
    parts = find_parts(home, job)
    if args.to_kubo:
        root = to_kubo(home, parts)
        print_json({"id": job, "cid": root}) if args.json else print(root)
        return 0
    if args.json:
        print_json({"id": job, "directory": home.job(job),
                    "parts": [{"path": path, "bytes": os.path.getsize(path)} for path in parts]})
        return 0
    sys.stdout.flush()
    for path in parts:
        with open(path, "rb", buffering=0) as part:
            while piece := part.read(PIECE):
                sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    return 0


def to_kubo(home: Home, parts: list[str]) -> str:
    """The CID of the parts' directory, which Kubo has now."""
    from ipdc_edge.drivers.directory_car import DirectoryCar
    from ipdc_edge.drivers.kubo import import_car

    car = DirectoryCar(parts)
    import_car(settings.load(home.conf).kubo_api, car.root, car.parts())
    return car.root


def find(home: Home, prefix: str) -> str:
    """The id of the job that is meant, from the jobs directory, else from the daemon."""
    try:
        names = os.listdir(home.jobs)
    except FileNotFoundError:
        names = []
    except PermissionError as error:
        raise not_allowed(home.jobs) from error
    try:
        return choose(prefix, [name for name in names if not name.startswith(".")])
    except UnknownJob:
        job = choose(prefix, [*names, *_daemons(home)])
        raise NoResult(id=job, state=_state(home, job)) from None


def find_parts(home: Home, job: str) -> list[str]:
    """The paths of a finished job's parts, in order. Raises NoResult for a job that is not finished."""
    directory = home.job(job)
    names = os.listdir(directory)
    if "_SUCCESS" not in names:
        raise NoResult(id=job, state=_state(home, job))
    parts = [name for name in names if name.startswith("part-") and name[5:].isdigit()]
    return [os.path.join(directory, name) for name in sorted(parts, key=lambda name: int(name[5:]))]


def _daemons(home: Home) -> list[str]:
    try:
        found = call(home, "jobs").get("jobs")
    except NoDaemon:
        return []
    return [str(job.get("id")) for job in found] if isinstance(found, list) else []


def _state(home: Home, job: str) -> str:
    """The state of a job that has no result, in words."""
    try:
        state = call(home, "status", id=job).get("state")
        return "it failed" if state == "failed" else "it was cancelled" if state == "cancelled" else f"it is {state}"
    except IpdcError:
        return "it did not finish, and no daemon tells more"
