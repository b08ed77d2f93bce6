"""The node's domain, its key and certificates, and who may read them.

Loads `cryptography`, as only commands and children may. Only the node's owner and root can read what is looked at here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from ipdc_edge.commands import accounts
from ipdc_edge.commands.backup_mark import backed_up
from ipdc_edge.commands.change import present
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers import identity as files
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

JOIN = "{0} domain create NAME, or {0} join TOKEN (of `{0} invite` on the node of the authority)"


def _owners(home: Home) -> str:
    return "ipdc-edge" if home.own else "sudo ipdc-edge"


def domain(home: Home) -> Iterator[Check]:
    """Which domain the node is in, by its files."""
    try:
        now = present(home)
    except IpdcError as error:
        if os.path.exists(home.identity) and not os.access(home.identity, os.R_OK | os.X_OK):
            yield Check("domain", None, f"{home.identity} can be read by its owner only", "look at it: sudo ipdc-edge "
                        "doctor")
        else:
            yield Check("domain", False, str(error), _anew(home))
        return
    if now is None or now.alone:
        before = _before(home)
        detail = "this node is alone and listens on loopback only"
        yield Check("domain", None, f"{detail}; it left {before}, or was expelled from it" if before else detail,
                    JOIN.format(_owners(home)))
        return
    version = now.members.version
    detail = f"{now.domain}, version {version} of its member list"
    if now.members.member(now.id) is None:
        yield Check("domain", False, f"{detail}, on which this node is not: it was expelled",
                    "{0} leave; to come back: {0} join TOKEN, of `{0} invite` on the node of the authority".format(
                        _owners(home)))
    elif now.has_authority and (backed_up(home) or 0) < version:
        yield Check("domain", None, f"{detail}; its authority is here, and there is no backup of this version",
                    f"{_owners(home)} domain backup FILE")
    else:
        yield Check("domain", True, detail)


def certificate(home: Home) -> Iterator[Check]:
    """Whether key, certificates and member list belong together."""
    try:
        now = present(home)
    except IpdcError:
        return  # `domain` tells
    if now is None:
        return
    try:
        wrong = _mismatch(home, now)
    except ImportError:
        return  # `cryptography` is missing, which has its own line
    yield Check("certificate", not wrong, wrong or "key, certificate, authority and member list belong together",
                _anew(home))


def permissions(home: Home) -> Iterator[Check]:
    """Whether the key is the owner's alone, and the files are the owner's."""
    try:
        state, found = os.stat(home.state), os.stat(home.identity)
    except FileNotFoundError:
        return  # the first start makes them
    except PermissionError:
        yield Check("permissions", None, f"{home.state} can be looked into by its owner only", "sudo ipdc-edge doctor")
        return
    path = shlex.quote(home.identity)
    open_ = [place for place in (home.identity, *_inside(home)) if os.stat(place).st_mode & 0o077]
    if open_ and found.st_mode & 0o077:
        yield Check("permissions", False, f"{open_[0]} can be read by others, and this node's key is in it",
                    f"sudo chmod -R go= {path}")
        return
    foreign = [place for place in (home.identity, *_inside(home)) if os.stat(place).st_uid != state.st_uid]
    if foreign:
        own, other = accounts.user(state.st_uid), accounts.user(os.stat(foreign[0]).st_uid)
        yield Check("permissions", False, f"{foreign[0]} belongs to {other}, not to {own} as {home.state} does",
                    f"sudo chown -R {own}:{accounts.group(state.st_gid)} {path}")
        return
    yield Check("permissions", True, f"{home.identity} is open to {accounts.user(state.st_uid)} only")


def _mismatch(home: Home, now: Identity) -> str:
    """What does not fit together; empty where all does."""
    from ipdc_edge.drivers import certificates as x
    from ipdc_edge.drivers import signatures

    path = now.key
    try:
        key = x.load_private(files.read_file(home, path)).public_key()
        path = now.certificate
        own, own_key = x.load_certificate(files.read_file(home, path))
        path = now.authority_certificate
        pem = files.read_file(home, path)
        _, authority_key = x.load_certificate(pem)
    except ValueError as error:
        return f"{path} is damaged: {str(error)[:200] or 'it cannot be read'}"
    except IpdcError as error:
        return str(error)
    if x.id_of(key) != now.id:
        return f"{now.key} and {files.PUBLIC_KEY} beside it are of different keys"
    if x.id_of(authority_key) != now.authority:
        return f"{now.authority_certificate} is of another authority than {now.authority}"
    if x.id_of(own_key) != now.id or x.common_name(own) != now.id:
        return f"{now.certificate} is not of this node's key"
    if not x.is_issued(own, authority_key):
        return f"{now.certificate} was not signed by the domain's authority"
    try:
        signatures.verify(now.signed, pem)
    except IpdcError as error:
        return f"the member list was not signed by the domain's authority: {error}"
    serial = f"{own.serial_number:x}"
    if serial in now.members.revoked:
        return f"{now.certificate} was revoked: another one was made for this node, or it was expelled"
    return ""


def _anew(home: Home) -> str:
    """What helps where files are lost."""
    return (f"restore {home.identity} from a backup; or be a new node: stop ipdc-edge, sudo rm -r "
            f"{shlex.quote(home.identity)}, start it, and join again by a token of `ipdc-edge invite`")


def _before(home: Home) -> str:
    """The name of the domain that the node was in last, beside its own of one; "" where there was none."""
    from ipdc_edge.codec import member_list

    found = []
    top = files.domains(home)
    try:
        names = os.listdir(top)
    except OSError:
        return ""
    for name in names:
        directory = os.path.join(top, name)
        path = os.path.join(directory, files.MEMBERS)
        try:
            if not os.path.exists(os.path.join(directory, files.ALONE)):
                found.append((os.stat(path).st_mtime, member_list.parse(files.read_file(home, path))[0].domain))
        except (OSError, IpdcError):
            continue  # of no use to anybody any more
    return max(found, default=(0.0, ""))[1]


def _inside(home: Home) -> list[str]:
    """The files and directories of identity/; none where they are closed to us."""
    return [os.path.join(directory, name) for directory, directories, names in os.walk(home.identity)
            for name in (*directories, *names) if not os.path.islink(os.path.join(directory, name))]
