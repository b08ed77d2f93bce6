"""Who this node is, and the domain that it is in: the directory identity/.

Owns the files there, how they are written (whole or not at all, 0600) and the lock under which they change.
Never loads `cryptography`, which would cost the idle daemon megabytes: what needs it is done by
drivers/authority.py in commands and in the child `ipdc_edge.authority_child`. So what is read here was
verified before it was written.

    identity/key.pem, key.pub                the node's key; its id is made from the public one
    identity/lock                            flock'ed by whoever changes anything here
    identity/domains/<authority's id>/       a domain that the node is or was in:
        authority.pem, node.pem              the authority's and the node's certificate
        members.json, peers.json             the signed list; addresses of members, told at joining
        swarm.json                           the signed key of the private network of the domain's Kubo nodes
        authority-key.pem, alone             only where the domain was made; only in a domain of one
        restored                             the key came from a backup, and the members may not know this node yet
    identity/current                         a link to the domain that the node is in
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..codec import member_list
from ..codec.messages import ADDRESS
from ..codec.node_id import NODE_ID, key_id
from ..core.values import MemberList
from ..errors import IpdcError
from ..home import Home
from .durable import sync_directory, sync_file

KEY, PUBLIC_KEY = "key.pem", "key.pub"
AUTHORITY, AUTHORITY_KEY = "authority.pem", "authority-key.pem"
CERTIFICATE, MEMBERS, PEERS, ALONE = "node.pem", "members.json", "peers.json", "alone"
RESTORED, SWARM = "restored", "swarm.json"
MOST_FILE = 1 << 20  # bytes; everything here is far smaller

Peers = Mapping[str, tuple[str, str]]  # node id -> (mqtt, gateway), each host:port


class NoIdentity(IpdcError):
    """This node has no key or is in no domain yet ({path} is missing). Its daemon makes both when it starts."""


class IdentityBroken(IpdcError):
    """{path} is not what it should be: {reason}. Restore it from a backup; or remove {directory}: the node then is
    a new one, to be joined to its domain again."""


class IdentityClosed(IpdcError):
    """{path} is open to the node's owner only. Use sudo."""


class IdentityNotMade(IpdcError):
    """The node's key and its domain of one could not be made: {reason}"""


class ForeignMemberList(IpdcError):
    """A member list of the authority {authority} came; this node's domain has another, {own}."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files say. `alone`: a domain of one, made by the node itself. `peers` are addresses told at joining.
    `restored`: the authority came here from a backup, and has yet to be announced."""

    id: str
    domain: str
    authority: str
    alone: bool
    has_authority: bool
    members: MemberList
    signed: bytes
    peers: dict[str, tuple[str, str]]
    key: str
    certificate: str
    authority_certificate: str
    restored: bool = False


def load(home: Home) -> Identity:
    """The node's identity. Raises NoIdentity where something was not made yet, IdentityClosed where only its owner may
    read it, and IdentityBroken for what makes no sense."""
    node = own_id(home)
    try:
        directory = os.path.join(domains(home), os.path.basename(os.readlink(home.current)))
    except FileNotFoundError:
        raise NoIdentity(path=home.current) from None
    except OSError as error:
        raise _unreadable(home, home.current, error) from None
    path = os.path.join(directory, MEMBERS)
    signed = read_file(home, path)
    try:
        members = member_list.parse(signed)[0]
    except member_list.BadMemberList as error:
        raise _broken(home, path, error.details["reason"]) from None
    if members.authority != os.path.basename(directory):
        raise _broken(home, path, f"it is of the authority {members.authority}")
    certificate, authority = os.path.join(directory, CERTIFICATE), os.path.join(directory, AUTHORITY)
    for needed in (os.path.join(home.identity, KEY), certificate, authority):
        if not os.path.exists(needed):
            raise _broken(home, needed, "it is missing")
    return Identity(
        id=node, domain=members.domain, authority=members.authority,
        alone=os.path.exists(os.path.join(directory, ALONE)),
        has_authority=os.path.exists(os.path.join(directory, AUTHORITY_KEY)),
        members=members, signed=signed, peers=_peers(os.path.join(directory, PEERS)),
        key=os.path.join(home.identity, KEY), certificate=certificate, authority_certificate=authority,
        restored=all(os.path.exists(os.path.join(directory, name)) for name in (RESTORED, AUTHORITY_KEY)),
    )


def ensure(home: Home, name: str) -> Identity:
    """The node's identity; made, durably, where it is missing. Starts a child process only then."""
    try:
        return load(home)
    except NoIdentity:
        pass
    import subprocess

    done = subprocess.run(child_command("ensure"), env=child_environment(home), capture_output=True,
                          input=json.dumps({"name": name}).encode())
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise IdentityNotMade(reason=done.stderr.decode("utf-8", "replace")[-2000:]) from None
    if "error" in answer:
        raise IpdcError.from_dict(answer["error"])
    return load(home)


def child_command(*words: str) -> list[str]:
    """The command of the child that may load `cryptography`."""
    return [sys.executable, "-P", "-m", "ipdc_edge.authority_child", *words]


def child_environment(home: Home) -> dict[str, str]:
    """Its environment: this home, and this ipdc_edge."""
    package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = {**os.environ, "PYTHONPATH": package_root}
    found.pop("IPDC_HOME", None)
    return {**found, "IPDC_HOME": home.state} if home.own else found


def own_id(home: Home) -> str:
    """The id of the node's key. Raises NoIdentity, IdentityBroken."""
    path = os.path.join(home.identity, PUBLIC_KEY)
    try:
        text = read_file(home, path).decode("ascii").split()
        if text[:3] != ["-----BEGIN", "PUBLIC", "KEY-----"]:
            raise ValueError
        return key_id(base64.b64decode("".join(text[3:-3]), validate=True))
    except (ValueError, binascii.Error):
        raise _broken(home, path, "it is no public key in PEM") from None


def store_members(home: Home, data: bytes) -> bool:
    """Keeps a signed list that the caller has verified, if it is newer than the one that is kept; says whether it was.
    Raises BadMemberList, ForeignMemberList."""
    members = member_list.parse(data)[0]
    with locked(home):
        present = load(home)
        if members.authority != present.authority:
            raise ForeignMemberList(authority=members.authority, own=present.authority)
        if members.version <= present.members.version:
            return False
        write_file(os.path.join(domains(home), members.authority, MEMBERS), data)
        return True


def swarm_key(home: Home, authority: str) -> bytes:
    """The signed key of the private network of this authority's domain; b"" where none is here. Raises IdentityClosed,
    IdentityBroken."""
    try:
        return read_file(home, os.path.join(domains(home), authority, SWARM))
    except NoIdentity:
        return b""


def store_swarm_key(home: Home, data: bytes) -> bool:
    """Keeps a signed key that the caller has verified, if it is newer than the one that is kept; says whether it was.
    Raises BadSwarmKey, ForeignMemberList."""
    from ..codec import swarm_key as codec

    key = codec.parse(data)[0]
    with locked(home):
        present = load(home)
        if key.authority != present.authority:
            raise ForeignMemberList(authority=key.authority, own=present.authority)
        kept = swarm_key(home, key.authority)
        if kept and codec.parse(kept)[0].version >= key.version:
            return False
        write_file(os.path.join(domains(home), key.authority, SWARM), data)
        return True


def write_peers(directory: str, peers: Peers) -> None:
    """Writes the addresses by which a domain's nodes are found into its directory. The caller holds the lock."""
    text = json.dumps({node: list(addresses) for node, addresses in sorted(peers.items())}, indent=1)
    write_file(os.path.join(directory, PEERS), text.encode("ascii") + b"\n")


def switch(home: Home, authority: str) -> None:
    """Makes a domain whose directory is complete the current one, at once or not at all. The caller holds the lock."""
    new = home.current + ".new"
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(os.path.join("domains", authority), new)
    os.rename(new, home.current)
    sync_directory(home.identity)


def forget(home: Home, authority: str) -> None:
    """Is in the domain of this authority no more: `ensure` makes the node alone again. Its directory stays, so that
    nobody can hand the node an older list should it join again."""
    with locked(home):
        if os.path.islink(home.current) and os.path.basename(os.readlink(home.current)) == authority:
            os.unlink(home.current)
            sync_directory(home.identity)


def announced(home: Home, authority: str) -> None:
    """The members know by now that this authority is on this node."""
    directory = os.path.join(domains(home), authority)
    with locked(home):
        if os.path.exists(os.path.join(directory, RESTORED)):
            os.unlink(os.path.join(directory, RESTORED))
            sync_directory(directory)


def domains(home: Home) -> str:
    """The directory that has one directory for each domain that this node was ever in."""
    return os.path.join(home.identity, "domains")


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Nobody else changes identity/ meanwhile, in no other process. Not to be nested: flock would wait for itself.
    Raises IdentityClosed for who may not write there."""
    try:
        os.makedirs(domains(home), mode=0o700, exist_ok=True)
        os.chmod(home.identity, 0o700)
        descriptor = os.open(os.path.join(home.identity, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise IdentityClosed(path=home.identity) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Writes a file of identity/ durably, whole or not at all. The caller holds the lock."""
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        sync_file(file.fileno())
    os.rename(path + ".new", path)
    sync_directory(os.path.dirname(path))


def read_file(home: Home, path: str) -> bytes:
    """A file of identity/. Raises NoIdentity where it is missing, IdentityClosed or IdentityBroken where it cannot be
    read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_FILE + 1)
    except FileNotFoundError:
        raise NoIdentity(path=path) from None
    except OSError as error:
        raise _unreadable(home, path, error) from None
    if len(data) > MOST_FILE:
        raise _broken(home, path, f"it has more than {MOST_FILE} bytes")
    return data


def become_owner(home: Home) -> None:
    """As root, becomes the user that owns the node's directory, so that what is written there stays that user's; for
    anybody else, or before the directory is there, nothing changes."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(home.state)
    except FileNotFoundError:
        return
    if owner.st_uid != 0:
        os.setgroups([owner.st_gid])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def _peers(path: str) -> dict[str, tuple[str, str]]:
    """The addresses told at joining. They only help to find the others: a file that cannot be read is none."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(MOST_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    found = {}
    for node, pair in value.items() if isinstance(value, dict) else ():
        if NODE_ID.fullmatch(node) and isinstance(pair, list) and len(pair) == 2 and all(
            isinstance(address, str) and ADDRESS.fullmatch(address) for address in pair
        ):
            found[node] = (pair[0], pair[1])
    return found


def _broken(home: Home, path: str, reason: object) -> IdentityBroken:
    return IdentityBroken(path=path, reason=reason, directory=home.identity)


def _unreadable(home: Home, path: str, error: OSError) -> IpdcError:
    if isinstance(error, PermissionError):
        return IdentityClosed(path=path)
    return _broken(home, path, error.strerror or str(error))
