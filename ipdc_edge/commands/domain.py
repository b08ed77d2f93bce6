"""`ipdc-edge domain create|show|backup|restore`: the closed domain that this node is in.

Owns what people read and type about it; drivers/authority.py makes keys, certificates and lists. Files that people
name are opened with their rights, before this process acts as the node's owner.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ipdc_edge import settings
from ipdc_edge.commands import change
from ipdc_edge.commands.backup_mark import backed_up, lacking, note_backup
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import counted, print_json, program, size, table
from ipdc_edge.core.values import Member
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.errors import IpdcError, NoDaemon, WrongUsage
from ipdc_edge.home import Home

BACKUP_LIMIT = 1 << 20  # bytes of a backup that is read

EXAMPLES = """\
examples:
  sudo ipdc-edge domain create home            (this node holds the authority: it admits and expels)
  sudo ipdc-edge invite                        (then, for every other node)
  ipdc-edge domain show
  sudo ipdc-edge domain backup home.backup     (keep it away from this node's disk)
  sudo ipdc-edge domain backup --check         (says whether the last one has all; exit code 1 when not)
  sudo ipdc-edge domain restore home.backup    (on a new node, when that of the authority is lost)
"""


class BackupExists(IpdcError):
    """{path} exists already. Take another name, or overwrite it: --force"""


class BackupFileUnusable(IpdcError):
    """Cannot {what} {path}: {reason}."""


class NoAuthorityHere(IpdcError):
    """There is nothing to back up: the key of domain {domain}'s authority is not on this node."""


class NoBackupOfThis(IpdcError):
    """The key of domain {domain}'s authority ({members}) is on this node and goes with it, also by `apt purge`. {why}:
    {command} domain backup FILE"""


class NotADomain(IpdcError):
    """This node is alone, and its key is all that it has. Make a domain first: ipdc-edge domain create NAME"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "The closed domain: its nodes alone connect to each other."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="create|show|backup|restore", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=text, description=text, epilog=EXAMPLES, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
        found.add_argument("--json", action="store_true", help="print what there is, or was done, as JSON")
        return found

    action("create", "make a domain; this node is its first member and holds its authority").add_argument(
        "name", metavar="NAME", help="what people call it: letters, digits, - _ .")
    action("show", "the domain's members, its version and its authority")
    backup = action("backup", "write the authority's key and the member list to a file, under a passphrase")
    backup.add_argument("file", metavar="FILE", nargs="?",
                        help="a file that is not there yet, or - for standard output")
    backup.add_argument("--check", action="store_true",
                        help="only say whether the last backup has the domain as it is now; exit code 1 when not")
    backup.add_argument("--force", action="store_true", help="overwrite FILE")
    restore = action("restore", "take up the domain of a backup: this node becomes a member and holds its authority")
    restore.add_argument("file", metavar="FILE", help="what `domain backup` wrote, or - for standard input")
    for each in (backup, restore):
        each.add_argument("--passphrase-file", metavar="F",
                          help="its first line is the passphrase (default: asked for, or read from a pipe)")


def run(args: argparse.Namespace) -> int:
    """0 when it is done."""
    home = Home(os.environ)
    return {"create": _create, "show": _show, "backup": _backup, "restore": _restore}[args.action](home, args)


def _create(home: Home, args: argparse.Namespace) -> int:
    read = settings.load(home.conf)
    with change.owner(home):
        change.demand_alone(home)
        from ipdc_edge.drivers import authority

        members = authority.create_domain(home, args.name, node_name=read.name, memory=settings.memory_total())
        now = change.identity.load(home)
        told = change.announce(home, f"The domain {args.name} is made")
        settled = change.settle(home, now.authority, told)
    change.publish(home, read, now)
    if args.json:
        print_json({"domain": members.domain, "authority": members.authority, "version": members.version,
                    "id": now.id, "daemon": told.to_dict()})
        return 0
    print(f"The domain {members.domain} is made; this node is its first member and holds its authority.\n"
          f"{change.explain(home, told, settled)}\n"
          f"Let others in, each with a token of its own:\n"
          f"  {change.owners_program(home)} invite\n"
          f"Without a backup the domain dies with this node's disk:\n"
          f"  {change.owners_program(home)} domain backup FILE")
    return 0


def _show(home: Home, args: argparse.Namespace) -> int:
    found = _domain(home)
    if args.json:
        print_json(found)
        return 0
    members: list[dict[str, Any]] = sorted(
        found["members"], key=lambda member: (not member.get("self"), str(member.get("name"))))
    own = next((member for member in members if member.get("self")), {})
    if found.get("alone"):
        print(f"This node, {own.get('name')} ({found.get('id')}), is alone: in no domain, on loopback only.\n"
              f"  {change.owners_program(home)} domain create NAME     makes a domain\n"
              f"  {change.owners_program(home)} join TOKEN             joins one")
        return 0
    here = " (its key is on this node)" if found.get("has_authority") else ""
    print(f"domain     {found.get('domain')}, version {found.get('version')} of its member list\n"
          f"authority  {found.get('authority')}{here}\n"
          f"members    {len(members)}\n")
    print(table([("NAME", "ID", "ROLE", "MEMORY"), *map(_row, members)], right=(3,)))
    reminder = _reminder(home, found)
    if reminder:
        print(f"\n{reminder}")
    return 0


def _domain(home: Home) -> dict[str, Any]:
    """The daemon's answer, or the same from the files where none runs and the caller may read them."""
    try:
        return dict(call(home, "domain"))
    except NoDaemon:
        try:
            now = change.present(home)
        except IpdcError:
            if os.access(home.current, os.R_OK | os.X_OK):
                raise  # they are broken, which is worth more than to know that no daemon runs
            now = None
        if now is None:
            raise
    members = [{"id": member.id, "name": member.name, "portal": member.portal, "memory": member.memory,
                "self": member.id == now.id} for member in now.members.members]
    return {"domain": now.domain, "authority": now.authority, "version": now.members.version, "id": now.id,
            "alone": now.alone, "has_authority": now.has_authority, "members": members}


def _row(member: dict[str, Any]) -> list[object]:
    role = " ".join(word for word, flag in (("this", "self"), ("portal", "portal")) if member.get(flag))
    return [member.get("name"), member.get("id"), role or "-", size(member.get("memory"))]


def _reminder(home: Home, found: dict[str, Any]) -> str:
    """That there is no backup, or an old one; nothing where the caller may not know."""
    if not found.get("has_authority") or not os.access(home.current, os.R_OK | os.X_OK):
        return ""
    why = lacking(home, int(found.get("version") or 0))
    return f"{why}:\n  {change.owners_program(home)} domain backup FILE" if why else ""


def _backup(home: Home, args: argparse.Namespace) -> int:
    from ipdc_edge.commands import passphrase

    if args.check == bool(args.file):
        raise WrongUsage(reason="name the FILE of a backup, or ask for a --check of the last one")
    with change.owner(home):
        now = change.present(home)
        if args.check:
            return _check(home, now, args.json)
    if now is None or now.alone:
        raise NotADomain()
    if not now.has_authority:
        raise NoAuthorityHere(domain=now.domain)
    secret = passphrase.read(args.passphrase_file, twice=True, stdin_taken=False)
    if args.file != "-" and not args.force and os.path.lexists(args.file):
        raise BackupExists(path=args.file)
    with change.owner(home):
        from ipdc_edge.drivers import authority

        data = authority.backup(home, secret)
    if args.file == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        _write(args.file, data, args.force)
    with change.owner(home):
        note_backup(home, now.members.version)
    said = sys.stderr if args.file == "-" else sys.stdout
    if args.json and args.file != "-":
        print_json({"domain": now.domain, "version": now.members.version, "file": os.path.abspath(args.file)})
    else:
        print(f"Backup of the domain {now.domain}, version {now.members.version} with "
              f"{counted(len(now.members.members), 'node')}. Keep it away from this node's disk, and the passphrase "
              f"away from it.", file=said)
    return 0


def _check(home: Home, now: Identity | None, as_json: bool) -> int:
    """0 where nothing would be lost with this node, else 1."""
    needed = now is not None and not now.alone and now.has_authority
    why = lacking(home, now.members.version) if now is not None and needed else ""
    if as_json:
        print_json({"needed": needed, "saved": not why, "version": now.members.version if now else None,
                    "backup": backed_up(home) if needed else None})
        return 1 if why else 0
    if now is not None and why:
        raise NoBackupOfThis(domain=now.domain, members=counted(len(now.members.members), "node"), why=why,
                             command=change.owners_program(home))
    print("The last backup has the domain as it is now." if needed else
          "This node has nothing to back up: it holds no domain's authority.")
    return 0


def _write(path: str, data: bytes, force: bool) -> None:
    """Writes the file whole or not at all, for its owner only; needs no hard links, because a stick may have FAT.
    Raises BackupExists or BackupFileUnusable."""
    made = f"{path}.{os.getpid()}.new" if force else path
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if force:
                os.replace(made, path)
        except BaseException:
            os.unlink(made)
            raise
    except FileExistsError as error:
        raise BackupExists(path=made) from error
    except OSError as error:
        raise BackupFileUnusable(what="write", path=path, reason=error.strerror or str(error)) from error


def _restore(home: Home, args: argparse.Namespace) -> int:
    from ipdc_edge.commands import passphrase

    read = settings.load(home.conf)
    data = _read(args.file)
    secret = passphrase.read(args.passphrase_file, twice=False, stdin_taken=args.file == "-")
    with change.owner(home):
        change.demand_alone(home)
        from ipdc_edge.drivers import authority

        restored = authority.restore(home, data, secret, node_name=read.name, memory=settings.memory_total())
        members, holder = restored.members, restored.holder
        now = change.identity.load(home)
        told = change.announce(home, f"The domain {members.domain} is restored")
        settled = change.settle(home, members.authority, told)
    change.publish(home, read, now)
    if args.json:
        print_json({"domain": members.domain, "authority": members.authority, "version": members.version,
                    "id": now.id, "members": len(members.members), "known": restored.known, "daemon": told.to_dict(),
                    "holder": {"id": holder.id, "name": holder.name} if holder else None})
        return 0
    print(f"The domain {members.domain} with {counted(len(members.members), 'node')} is restored, and its authority is "
          f"on this node now.\n{change.explain(home, told, settled)}\n"
          f"{_held_before(home, holder)}\n"
          f"Its members are those of version {restored.known} of the list. Who joined later must join again; who was "
          f"expelled later is a member again: look, and expel them anew.\n"
          f"  {program()} domain show")
    return 0


def _held_before(home: Home, holder: Member | None) -> str:
    """What to do about the node that held the authority's key."""
    if holder is None:
        return ("The node that held it before is still a member, if it is another one. Expel it:\n"
                f"  {change.owners_program(home)} expel NODE")
    return (f"{holder.name} ({holder.id}) held it before and is still a member. Expel it, if it is lost or stolen:\n"
            f"  {change.owners_program(home)} expel {holder.id}\n"
            f"If it lives, let it leave, and join anew: two nodes with the key would contradict each other.")


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(BACKUP_LIMIT + 1)
    try:
        with open(path, "rb") as file:
            return file.read(BACKUP_LIMIT + 1)
    except OSError as error:
        raise BackupFileUnusable(what="read", path=path, reason=error.strerror or str(error)) from error
