"""`ipdc-edge tf install`: the virtual environment with TensorFlow, of which the daemon then tells the others.

Owns whose rights it is made with: those of the owner of the node's files, never root's where that is somebody else. How
it is made is in drivers/tensorflow_install.py.
"""

from __future__ import annotations

import argparse
import os

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import print_json
from ipdc_edge.drivers import tensorflow, tensorflow_install
from ipdc_edge.drivers.tensorflow import Absent, Found
from ipdc_edge.errors import IpdcError, NoDaemon
from ipdc_edge.home import Home

VERSION, MOST = tensorflow_install.VERSION, tensorflow_install.ROOM >> 30
HELP = "install TensorFlow for this node, in pinned versions, and prove that it works"
EXAMPLES = f"""\
examples:
  sudo ipdc-edge tf install
  sudo ipdc-edge tf install --again      anew, such as after an upgrade of Debian brought another Python

It makes /var/lib/ipdc/tensorflow, a virtual environment with TensorFlow {VERSION}, as the user of the node, and takes
it into use when a graph was built with it. That takes a processor of 64 bits, {MOST} GB of the disk while it is made,
half of it later, and about 400 MB from the package index, or from where pip's own settings say.
A daemon that runs tells the others at once; it never imports TensorFlow itself. To be rid of it: remove the directory,
and `sudo systemctl reload ipdc-edge`.
"""


class NotYours(IpdcError):
    """{place} belongs to {owner}: run it with sudo, or as {owner}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("--again", action="store_true", help="make it anew although one is there that works")
    parser.add_argument("--json", action="store_true", help="print nothing but what is there in the end, as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when one is there that works."""
    home = Home(os.environ)
    if not os.path.isdir(home.state):
        home.prepare()
    become_owner(home.state)
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    there = tensorflow.environment(home.tensorflow)
    if isinstance(there, Found) and not args.again and there.version == tensorflow_install.VERSION:
        say(f"TensorFlow {there.version} is there already; proving that it works")
        tensorflow.prove(there)
        found = there
    else:
        if isinstance(there, Absent):
            say(there.reason)
        found = tensorflow_install.install(home.tensorflow, say)
    told = _tell(home)
    if args.json:
        print_json({"version": found.version, "directory": found.place, "daemon": told})
    else:
        say(f"TensorFlow {found.version} works in {found.place}."
            + (" The daemon has told the others." if told else " The daemon finds it when it starts."))
    return 0


def become_owner(place: str) -> None:
    """From now on with the rights of whoever the node's files belong to. NotYours where that cannot be."""
    status = os.stat(place)
    if status.st_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        import pwd

        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = str(status.st_uid)
        raise NotYours(place=place, owner=owner)
    os.setgroups([])
    os.setgid(status.st_gid)
    os.setuid(status.st_uid)
    os.environ["HOME"] = place  # root's is closed to it
    os.umask(0o022)


def _tell(home: Home) -> bool:
    """Whether a daemon runs, which now looks anew; one of another version finds it at its next start."""
    try:
        call(home, "packages")
    except NoDaemon:
        return False
    return True
