"""`ipdc-edge leave`: this node leaves its domain and is alone again.

Owns asking back where that would end the domain. The key, and with it the node's id, stays.
"""

from __future__ import annotations

import argparse
import os
import sys

from ipdc_edge import settings
from ipdc_edge.commands import change
from ipdc_edge.commands.backup_mark import backed_up
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import counted, print_json
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.errors import IpdcError, NoDaemon, WrongUsage
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  sudo ipdc-edge leave
  sudo ipdc-edge leave --yes          (asks nothing)

Jobs, results and content stay on this node. To come back, it joins with a new token.
"""


class NothingToLeave(IpdcError):
    """This node is in no domain: it is alone already."""


class NotLeft(IpdcError):
    """Nothing was changed: this node is still in the domain {domain}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Leave the domain: this node is alone again and listens on loopback only."
    parser.epilog = EXAMPLES
    parser.add_argument("--yes", action="store_true", help="do not ask back")
    parser.add_argument("--json", action="store_true", help="print what was left as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when this node is alone."""
    home = Home(os.environ)
    read = settings.load(home.conf)
    with change.owner(home):
        now = change.present(home)
        if now is None or now.alone:
            raise NothingToLeave()
        if now.has_authority:
            _warn(home, now)
            if not args.yes:
                _ask(now)
        # the authority's own node has nobody to tell
        ran, unheard = (False, "") if now.has_authority else _say_goodbye(home)
        from ipdc_edge.drivers import authority

        authority.leave(home, node_name=read.name, memory=settings.memory_total())
        fresh = change.identity.load(home)
        told = change.announce(home, f"This node has left the domain {now.domain}", ran=ran)
        settled = change.settle(home, fresh.authority, told)
    change.publish(home, read, fresh)
    if args.json:
        print_json({"domain": now.domain, "authority": now.authority, "id": now.id, "others_know": not unheard,
                    "daemon": told.to_dict()})
        return 0
    print(f"This node has left the domain {now.domain} and is alone.")
    if unheard:
        print(f"The domain does not know yet ({unheard}); on the node of its authority: ipdc-edge expel {now.id[-10:]}")
    print(change.explain(home, told, settled))
    return 0


def _warn(home: Home, now: Identity) -> None:
    """Says what goes with the authority's key, and whether a backup has it."""
    others = len(now.members.members) - 1
    backup = backed_up(home)
    kept = (f"The backup of version {backup} (now: {now.members.version}) takes it up on another node: "
            "ipdc-edge domain restore." if backup is not None else
            "There is NO backup of it: nobody could be admitted or expelled any more (ipdc-edge domain backup FILE).")
    print(f"The authority's key of the domain {now.domain} ({counted(others, 'other member')}) is on this node. {kept}",
          file=sys.stderr)


def _ask(now: Identity) -> None:
    """Asks back. Raises NotLeft, or WrongUsage where nobody can answer."""
    if not sys.stdin.isatty():
        raise WrongUsage(reason="There is no terminal to ask on. If it shall be: ipdc-edge leave --yes")
    print("Leave? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NotLeft(domain=now.domain)


def _say_goodbye(home: Home) -> tuple[bool, str]:
    """Lets the daemon tell the authority. Whether one runs, and why the others do not know ("" where they do)."""
    try:
        told = call(home, "leave").get("told")
    except NoDaemon:
        return False, "no daemon runs here"
    except IpdcError as error:
        return True, str(error)
    return True, "" if told else "its authority did not answer"
