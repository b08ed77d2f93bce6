"""What changes a domain and a node's place in it: create, admit, expel, leave, backup, restore.

Owns the order in which files below identity/ are written, so that a power cut leaves the old state or the new
one, and the rule that each change makes the member list's version one higher. Every function takes the lock and
reads the present list from its file. Never speaks to anybody. Loads `cryptography`: only commands and children
import it, never the idle daemon.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from ..codec import member_list, swarm_key
from ..codec.member_list import MOST_BYTES, MOST_MEMBERS, MOST_REVOKED, BadMemberList
from ..codec.messages import NAME
from ..codec.swarm_key import BadSwarmKey, SwarmKey
from ..core.values import Member, MemberList
from ..errors import IpdcError
from ..home import Home
from . import certificates as x
from . import identity as files
from .durable import sync_directory
from .identity import Identity
from .signatures import verify, verify_swarm_key

ALONE_NAME = "alone"  # label of the domain that a node makes by itself


class NotTheAuthority(IpdcError):
    """This node does not hold the key of domain {domain}, so it cannot change who is in it. Do it on the node that made
    the domain, or bring the key here: `ipdc-edge domain restore FILE`."""


class StillAlone(IpdcError):
    """This node is alone in a domain that it made by itself; nobody joins that one. First: `ipdc-edge domain create
    NAME`."""


class BadDomainName(IpdcError):
    """{name!r} is no name for a domain or a node. Allowed: up to 63 letters, digits, - _ or . (first a letter or
    digit)."""

    exit_code = 2


class BadSigningRequest(IpdcError):
    """The signing request of the newcomer is refused: {reason}."""


class OwnNode(IpdcError):
    """{id} is this node, which holds the domain's key: it can neither be expelled nor join as another's. To end the
    domain: `ipdc-edge leave`; to hand it on, first `ipdc-edge domain backup FILE`, then `domain restore` elsewhere."""


class DomainFull(IpdcError):
    """Domain {domain} is full: it has {count} members. Expel nodes that are gone: `ipdc-edge expel NODE`."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a newcomer gets: its certificate and the authority's (PEM), the signed list that has it, and the signed key
    of the private network of the domain's Kubo nodes."""

    member: Member
    certificate: bytes
    authority: bytes
    members: MemberList
    signed: bytes
    swarm: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of a backup. `known`: the version of the list that the members were taken from; who joined or was
    expelled after it is not known here. `holder`: the member that made the backup and so had the key, if another."""

    members: MemberList
    known: int
    holder: Member | None


def make_key(home: Home) -> str:
    """The node's id. Its key is made, durably, where it is missing."""
    with files.locked(home):
        return x.id_of(_own_key(home).public_key())


def signing_request(home: Home, authority: str = "") -> bytes:
    """What `admit` wants of a newcomer, PEM, for this node's key; over the network, for the authority of this id."""
    with files.locked(home):
        return x.request(_own_key(home), authority)


def ensure(home: Home, name: str, memory: int) -> str:
    """The node's id; makes its key and its domain of one where they are missing."""
    node = make_key(home)
    try:
        files.load(home)
    except files.NoIdentity:
        leave(home, name, memory)
    return node


def create_domain(home: Home, name: str, *, alone: bool = False, node_name: str, memory: int) -> MemberList:
    """A new domain with a key of its own and this node as its only member; it becomes the current one. The directory of
    the domain before stays. Raises BadDomainName."""
    _check_names(name, node_name)
    with files.locked(home):
        own = _own_key(home).public_key()
        key = x.new_key()
        authority = x.id_of(key.public_key())
        serial = x.new_serial(())
        member = Member(x.id_of(own), node_name, memory, True, serial)
        signed = _sign(key, MemberList(name, authority, 0, (member,)))
        directory = make_directory(home, authority)
        _write(directory, files.AUTHORITY_KEY, x.private_pem(key))
        _write(directory, files.AUTHORITY, x.authority_certificate(key))
        _write(directory, files.CERTIFICATE, x.member_certificate(own, key, serial))
        if alone:
            _write(directory, files.ALONE, b"")
        else:
            _write(directory, files.SWARM, _new_swarm_key(key, 1))
        _write(directory, files.MEMBERS, signed)
        files.switch(home, authority)
    return member_list.parse(signed)[0]


def leave(home: Home, node_name: str, memory: int) -> MemberList:
    """Back to the node's domain of one, which is made where there is none yet. The node's key stays, and so does the
    directory of the domain that it leaves: should it join again, nobody can hand it an older list than that."""
    node = make_key(home)
    for authority in sorted(os.listdir(files.domains(home))):
        directory = os.path.join(files.domains(home), authority)
        if not os.path.exists(os.path.join(directory, files.ALONE)):
            continue
        with files.locked(home):
            members = known(directory)  # written last, so a domain that has it is whole
            if members is not None and members.member(node) is not None:
                files.switch(home, authority)
                return members
    return create_domain(home, ALONE_NAME, alone=True, node_name=node_name, memory=memory)


def admit(home: Home, request: bytes, name: str, memory: int, *, from_afar: bool = False) -> Admitted:
    """Makes the node that signed `request` (PEM) a member. The subject of its certificate comes from its key. Who is a
    member already gets a new certificate, and the one before is revoked: so a request that came `from_afar` must name
    this authority, or whoever once got a node's request (another domain's authority) could put that node out with it.
    Raises NotTheAuthority, StillAlone, BadDomainName, BadSigningRequest, OwnNode, DomainFull."""
    _check_names(name)
    try:
        newcomer, meant = x.load_request(request)
    except Exception as error:  # of several kinds, in `cryptography` and below it: all say that the request is bad
        raise BadSigningRequest(reason=str(error)[:200] or type(error).__name__) from None
    with files.locked(home):
        present, key = _authority(home)
        if present.alone:
            raise StillAlone
        if meant != present.authority and (meant or from_afar):
            raise BadSigningRequest(reason="it was made for another authority")
        if x.id_of(newcomer) == present.id:
            raise OwnNode(id=present.id)
        swarm = _swarm_key(home, key, present.members.version)
        admitted = _with_certificate(key, present.members, newcomer, name, memory, present.id)
        _keep_list(home, admitted.signed)
    with open(present.authority_certificate, "rb") as file:
        return replace(admitted, authority=file.read(), swarm=swarm)


def make_swarm_key(home: Home) -> None:
    """The key of the private network of the domain's Kubo nodes, made by the authority's node where none is here: a
    domain of an earlier version has none. Raises NotTheAuthority, StillAlone."""
    with files.locked(home):
        present, key = _authority(home)
        if present.alone:
            raise StillAlone
        _swarm_key(home, key, present.members.version)


def expel(home: Home, node: str) -> MemberList:
    """The list without this member (its id, the beginning or end of one, or a name that only one has); and a new key
    for the Kubo nodes of those who stay. Raises NotTheAuthority, UnknownMember, AmbiguousMember, OwnNode."""
    with files.locked(home):
        present, key = _authority(home)
        member = member_list.find_member(present.members, node)
        if member.id == present.id:
            raise OwnNode(id=member.id)
        left = member_list.without_member(present.members.members, member.id, present.id)
        revoked = (*present.members.revoked, member.serial)
        signed = _sign(key, replace(present.members, members=left, revoked=revoked))
        # the key first: after a power cut between the two, nobody is expelled who knows the last key
        _write(os.path.dirname(present.authority_certificate), files.SWARM,
               _new_swarm_key(key, present.members.version + 1))
        _keep_list(home, signed)
    return member_list.parse(signed)[0]


def backup(home: Home, passphrase: bytes) -> bytes:
    """The domain, its key included, sealed under a passphrase. Raises NotTheAuthority."""
    from . import sealed

    with files.locked(home):
        present, key = _authority(home)
        with open(present.authority_certificate, "rb") as file:
            authority = file.read()
        swarm = _swarm_key(home, key, present.members.version)
    return sealed.seal(sealed.Domain(x.private_pem(key), authority, present.signed, present.id, swarm), passphrase)


def restore(home: Home, data: bytes, passphrase: bytes, *, node_name: str, memory: int) -> Restored:
    """Makes this node the authority of the domain in a backup, and a member of it by its own key. Who was a member by
    the newest list that is known here, the backup's or one that this node has from its own time in the domain, stays
    one. Raises sealed.BackupDamaged, sealed.WrongPassphrase."""
    from . import sealed

    _check_names(node_name)
    domain = sealed.unseal(data, passphrase)
    try:
        members = verify(domain.members, domain.authority)
        key = x.load_private(domain.key)
        if x.id_of(key.public_key()) != members.authority:
            raise BadMemberList(reason="the key in the backup is not its authority's")
        if domain.swarm:
            verify_swarm_key(domain.swarm, domain.authority)
    except (ValueError, BadMemberList, BadSwarmKey) as error:
        raise sealed.BackupDamaged(reason=str(error)[:200]) from None
    with files.locked(home):
        own = _own_key(home).public_key()
        directory = make_directory(home, members.authority)
        members = _newest(members, directory, domain.authority)
        before = members.version
        # Nobody here can know how many versions came after this backup, and a member never takes a list that is not
        # above its own: a distance that no domain of 256 nodes goes through between two backups.
        members = replace(members, version=before + 999)
        admitted = _with_certificate(key, members, own, node_name, memory, x.id_of(own))
        _write(directory, files.AUTHORITY_KEY, domain.key)
        _write(directory, files.AUTHORITY, domain.authority)
        _write(directory, files.CERTIFICATE, admitted.certificate)
        _write(directory, files.RESTORED, b"")
        _restore_swarm_key(home, key, admitted.members, domain.swarm)
        _write(directory, files.MEMBERS, admitted.signed)
        files.switch(home, members.authority)
    held = admitted.members.member(domain.holder) if domain.holder != x.id_of(own) else None
    return Restored(admitted.members, before, held)


def _newest(members: MemberList, directory: str, authority: bytes) -> MemberList:
    """This list, or a newer one of the same authority (its certificate, PEM) that a domain's directory has."""
    try:
        with open(os.path.join(directory, files.MEMBERS), "rb") as file:
            kept = verify(file.read(MOST_BYTES + 1), authority)
    except (FileNotFoundError, BadMemberList):
        return members
    return kept if kept.version > members.version else members


def _with_certificate(
    key: x.PrivateKey, members: MemberList, newcomer: x.PublicKey, name: str, memory: int, own: str
) -> Admitted:
    """The next list, with a new certificate for this key in it. Raises DomainFull."""
    node = x.id_of(newcomer)
    before = members.member(node)
    if before is None and len(members.members) >= MOST_MEMBERS:
        raise DomainFull(domain=members.domain, count=MOST_MEMBERS)
    revoked = members.revoked if before is None else (*members.revoked, before.serial)
    serial = x.new_serial({*revoked, *(member.serial for member in members.members)})
    member = Member(node, name, memory, False, serial)
    joined = member_list.with_member(members.members, member, own)
    signed = _sign(key, replace(members, members=joined, revoked=revoked))
    made = member_list.parse(signed)[0]
    return Admitted(made.member(node) or member, x.member_certificate(newcomer, key, serial), b"", made, signed)


def _swarm_key(home: Home, key: x.PrivateKey, version: int) -> bytes:
    """The signed key of this authority's private network; made, where there is none. The caller holds the lock."""
    authority = x.id_of(key.public_key())
    found = files.swarm_key(home, authority)
    if not found:
        found = _new_swarm_key(key, version)
        _write(os.path.join(files.domains(home), authority), files.SWARM, found)
    return found


def _new_swarm_key(key: x.PrivateKey, version: int) -> bytes:
    payload = swarm_key.payload(SwarmKey(x.id_of(key.public_key()), version, os.urandom(swarm_key.BYTES)))
    return swarm_key.signed(payload, x.sign(key, payload))


def _restore_swarm_key(home: Home, key: x.PrivateKey, members: MemberList, saved: bytes) -> None:
    """Keeps the newest key that is known: the backup's, or one that this node has from its own time in the domain.
    Members may have a newer one, made by an expulsion after the backup; this node gets it from them."""
    if saved:
        kept = files.swarm_key(home, members.authority)
        if not kept or swarm_key.parse(kept)[0].version < swarm_key.parse(saved)[0].version:
            _write(os.path.join(files.domains(home), members.authority), files.SWARM, saved)
    _swarm_key(home, key, members.version)


def _sign(key: x.PrivateKey, members: MemberList) -> bytes:
    """The list of the next version, signed, with its CRL.

    Nobody must find that expelling has become impossible, so the oldest revoked certificates are dropped where there
    are too many, or too many bytes. They then pass a broker's TLS again, but not its access list, nor a gateway: both
    go by the ids of the members.
    """
    version, revoked = members.version + 1, members.revoked[-MOST_REVOKED:]
    while True:
        crl = x.revocation_list(key, revoked, version)
        payload = member_list.payload(replace(members, version=version, revoked=revoked, crl=crl))
        signed = member_list.signed(payload, x.sign(key, payload))
        if len(signed) <= MOST_BYTES or not revoked:
            return signed
        revoked = revoked[len(revoked) // 8 + 1 :]


def _authority(home: Home) -> tuple[Identity, x.PrivateKey]:
    present = files.load(home)
    path = os.path.join(files.domains(home), present.authority, files.AUTHORITY_KEY)
    if not present.has_authority:
        raise NotTheAuthority(domain=present.domain)
    return present, _load_key(home, path)


def _own_key(home: Home) -> x.PrivateKey:
    path, public_path = os.path.join(home.identity, files.KEY), os.path.join(home.identity, files.PUBLIC_KEY)
    try:
        key = _load_key(home, path)
    except files.NoIdentity:
        key = x.new_key()
        files.write_file(path, x.private_pem(key))
    public = x.public_pem(key.public_key())
    try:
        if files.read_file(home, public_path) == public:
            return key
    except files.NoIdentity:
        pass
    files.write_file(public_path, public)
    return key


def _load_key(home: Home, path: str) -> x.PrivateKey:
    try:
        return x.load_private(files.read_file(home, path))
    except ValueError as error:
        raise files.IdentityBroken(path=path, reason=str(error)[:200], directory=home.identity) from None


def _check_names(*names: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise BadDomainName(name=name[:100])


def make_directory(home: Home, authority: str) -> str:
    directory = os.path.join(files.domains(home), authority)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    sync_directory(files.domains(home))
    return directory


def _write(directory: str, name: str, data: bytes) -> None:
    files.write_file(os.path.join(directory, name), data)


def _keep_list(home: Home, signed: bytes) -> None:
    _write(os.path.join(files.domains(home), member_list.parse(signed)[0].authority), files.MEMBERS, signed)


def known(directory: str) -> MemberList | None:
    """The list that a domain's directory has, None where it has none that can be read."""
    try:
        with open(os.path.join(directory, files.MEMBERS), "rb") as file:
            return member_list.parse(file.read(MOST_BYTES + 1))[0]
    except (FileNotFoundError, BadMemberList):
        return None
