"""A domain's life on disk."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import member_list, swarm_key
from ipdc_edge.codec.member_list import MOST_BYTES, MOST_MEMBERS, MOST_REVOKED, BadMemberList
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.codec.swarm_key import BadSwarmKey, SwarmKey
from ipdc_edge.core.values import Member, MemberList
from ipdc_edge.drivers import authority, certificates, identity, sealed, signatures
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, current, make_creator, make_node, tree

PASSPHRASE = b"correct horse battery"


def request(key: object, name: str = "anything") -> bytes:
    """A signing request made without our code."""
    subject = x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "root"),
    ])  # fmt: skip
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


# ---- create, leave --------------------------------------------------------------------------------------------------

def test_a_domain_has_its_creator_as_only_member(tmp_path: Path) -> None:
    home = make_node(tmp_path, "one")
    before = identity.load(home)
    members = authority.create_domain(home, "home", node_name="pi", memory=7)
    now = identity.load(home)
    assert (now.id, now.domain, now.alone, now.has_authority) == (before.id, "home", False, True)
    assert now.members == members and members.authority != before.authority
    assert [(m.id, m.name, m.memory, m.portal) for m in members.members] == [(now.id, "pi", 7, True)]


def test_making_a_domain_of_the_same_name_again_is_another_domain(tmp_path: Path) -> None:
    """The list of the one before stays where it was, and no list of one counts in the other."""
    home = make_creator(tmp_path)
    old, directory = identity.load(home), current(home)
    authority.create_domain(home, "home", node_name="one", memory=1)
    new = identity.load(home)
    assert new.authority != old.authority and new.domain == old.domain
    assert Path(directory, "members.json").read_bytes() == old.signed
    with pytest.raises(BadMemberList):
        signatures.verify(old.signed, Path(new.authority_certificate).read_bytes())


@pytest.mark.parametrize("name", ["", "a b", "a/b", "+", "#", "x" * 64, "-a", "a\n"])
def test_names_are_checked_before_anything_is_written(tmp_path: Path, name: str) -> None:
    home = make_node(tmp_path, "one")
    before = tree(home)
    with pytest.raises(authority.BadDomainName):
        authority.create_domain(home, name, node_name="pi", memory=1)
    with pytest.raises(authority.BadDomainName):
        authority.create_domain(home, "home", node_name=name, memory=1)
    assert tree(home) == before


def test_leaving_goes_back_to_the_domain_of_one_and_keeps_the_key(tmp_path: Path) -> None:
    home = make_node(tmp_path, "one")
    alone = identity.load(home)
    authority.create_domain(home, "home", node_name="pi", memory=7)
    domain = current(home)
    authority.leave(home, "pi", 7)
    assert identity.load(home) == alone
    assert os.path.exists(os.path.join(domain, "members.json"))
    assert len(os.listdir(identity.domains(home))) == 2


def test_with_a_new_key_the_old_domain_of_one_is_not_taken_up(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    os.unlink(os.path.join(home.identity, "key.pem"))
    os.unlink(os.path.join(home.identity, "key.pub"))
    authority.leave(home, "pi", 7)
    found = identity.load(home)
    assert found.alone and found.members.member(found.id) is not None


# ---- admit ----------------------------------------------------------------------------------------------------------

def test_a_newcomer_gets_a_certificate_for_its_key_whatever_it_asked_for(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    admitted = authority.admit(home, request(key, identity.own_id(home)), "desk", 9)
    node = certificates.id_of(key.public_key())
    certificate = x509.load_pem_x509_certificate(admitted.certificate)
    assert [(a.oid, a.value) for a in certificate.subject] == [(NameOID.COMMON_NAME, node)]
    assert certificate.public_key().public_numbers() == key.public_key().public_numbers()
    assert (admitted.member.id, admitted.member.name, admitted.member.memory) == (node, "desk", 9)
    assert int(admitted.member.serial, 16) == certificate.serial_number
    assert identity.load(home).members == admitted.members and admitted.members.version == 2
    assert signatures.verify(admitted.signed, admitted.authority) == admitted.members


@pytest.mark.parametrize("what", ["another curve", "another kind", "a false proof", "no request", "nothing", "bytes"])
def test_bad_requests_are_refused_and_change_nothing(tmp_path: Path, what: str) -> None:
    home = make_creator(tmp_path)
    good = request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
    der[-3] ^= 1  # within the signature
    body = base64.encodebytes(bytes(der)).decode()
    bad = {
        "another curve": request(ec.generate_private_key(ec.SECP384R1())),
        "another kind": request(ed25519.Ed25519PrivateKey.generate()),
        "a false proof": f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n".encode(),
        "no request": Path(identity.load(home).certificate).read_bytes(),
        "nothing": b"",
        "bytes": bytes(range(256)),
    }[what]
    before = tree(home)
    with pytest.raises(authority.BadSigningRequest):
        authority.admit(home, bad, "desk", 9)
    assert tree(home) == before
    assert authority.admit(home, good, "desk", 9)


def test_a_request_is_good_only_for_the_authority_that_it_was_made_for(tmp_path: Path) -> None:
    """Or another domain's authority, which got it once, could have a member's certificate revoked with it."""
    one, two = make_creator(tmp_path, "one"), make_creator(tmp_path, "two")
    node = make_node(tmp_path, "three")
    own = authority.signing_request(node, identity.load(one).authority)
    assert authority.admit(one, own, "three", 9, from_afar=True)
    before = tree(one)
    for replayed in (authority.signing_request(node, identity.load(two).authority), authority.signing_request(node)):
        with pytest.raises(authority.BadSigningRequest, match="another authority"):
            authority.admit(one, replayed, "three", 9, from_afar=True)
    assert tree(one) == before


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_bad(data: bytes) -> None:
    with pytest.raises(authority.BadSigningRequest):
        authority.admit(Home({"IPDC_HOME": "/nonexistent"}), data, "desk", 9)


def test_joining_again_gives_a_new_certificate_and_revokes_the_old_one(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    first, second = admit(home, guest, "two"), admit(home, guest, "deux")
    assert first.member.serial != second.member.serial
    assert [m.name for m in second.members.members] == ["one", "deux"]
    assert second.members.revoked == (first.member.serial,) and second.members.version == 3


def test_only_the_authoritys_node_admits_and_none_that_is_alone(tmp_path: Path) -> None:
    alone, other = make_node(tmp_path, "one"), make_node(tmp_path, "two")
    with pytest.raises(authority.StillAlone, match="domain create"):
        admit(alone, other, "two")
    home = make_creator(tmp_path, "three")
    os.unlink(os.path.join(current(home), "authority-key.pem"))
    for refused in (lambda: admit(home, other, "two"), lambda: authority.expel(home, "two"),
                    lambda: authority.backup(home, PASSPHRASE)):
        with pytest.raises(authority.NotTheAuthority, match="restore"):
            refused()


def test_the_authoritys_own_key_joins_no_second_time(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    with pytest.raises(authority.OwnNode):
        admit(home, home, "one")


def signed_list(home: Home, members: MemberList) -> None:
    key = certificates.load_private(Path(current(home), "authority-key.pem").read_bytes())
    payload = member_list.payload(members)
    Path(current(home), "members.json").write_bytes(member_list.signed(payload, certificates.sign(key, payload)))


def crowd(one: Member, count: int) -> tuple[Member, ...]:
    """Members like `one`, with ids and serials of their own and the longest of names."""
    return tuple(
        replace(one, id=node_id(number.to_bytes(32, "big")), name="x" * 63, memory=1 << 62, portal=False,
                serial=f"{1 << 62 | number:x}")
        for number in range(count)
    )  # fmt: skip


def test_a_full_domain_says_so_but_still_renews_and_expels(tmp_path: Path) -> None:
    home, guest, one_more = make_creator(tmp_path), make_node(tmp_path, "two"), make_node(tmp_path, "three")
    present = admit(home, guest, "two").members
    members = (*present.members, *crowd(present.members[1], MOST_MEMBERS - 2))
    signed_list(home, replace(present, members=members))
    with pytest.raises(authority.DomainFull, match="256 members"):
        admit(home, one_more, "three")
    assert len(admit(home, guest, "two").members.members) == MOST_MEMBERS
    assert len(authority.expel(home, "two").members) == MOST_MEMBERS - 1
    assert admit(home, one_more, "three")


def test_a_list_stays_short_enough_to_travel(tmp_path: Path) -> None:
    """In a full domain of the longest names there is room for fewer revoked certificates: the last ones stay."""
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    present = admit(home, guest, "two").members
    members = (*present.members, *crowd(present.members[1], MOST_MEMBERS - 2))
    revoked = tuple(f"{1 << 61 | number:x}" for number in range(300))
    signed_list(home, replace(present, members=members, revoked=revoked))  # its CRL does not have them yet
    after = admit(home, guest, "two")
    assert MOST_BYTES - 2000 < len(after.signed) <= MOST_BYTES and identity.load(home).members == after.members
    assert 100 < len(after.members.revoked) < 300
    assert after.members.revoked == (*revoked, present.members[1].serial)[-len(after.members.revoked) :]


def test_expelling_never_becomes_impossible(tmp_path: Path) -> None:
    """With too many revoked certificates the oldest are dropped."""
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    present = admit(home, guest, "two").members
    revoked = tuple(f"{1 << 61 | number:x}" for number in range(MOST_REVOKED))
    signed_list(home, replace(present, revoked=revoked))
    after = authority.expel(home, "two")
    assert after.revoked == (*revoked[1:], present.members[1].serial)
    assert len(x509.load_pem_x509_crl(after.crl.encode())) == MOST_REVOKED


# ---- expel ----------------------------------------------------------------------------------------------------------

def test_the_expelled_one_is_out_of_the_list_and_on_the_revoked(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    admitted = admit(home, guest, "two")
    after = authority.expel(home, identity.own_id(guest)[-6:])
    assert [m.name for m in after.members] == ["one"] and after.revoked == (admitted.member.serial,)
    assert after.version == 3 and identity.load(home).members == after
    assert len(admit(home, guest, "two").members.members) == 2  # a new token lets it in again


def test_nobody_expels_the_authoritys_own_node_or_a_stranger(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    admit(home, guest, "one")  # of the same name
    before = tree(home)
    with pytest.raises(authority.OwnNode, match="backup"):
        authority.expel(home, identity.own_id(home))
    with pytest.raises(member_list.AmbiguousMember):
        authority.expel(home, "one")
    with pytest.raises(member_list.UnknownMember, match="domain show"):
        authority.expel(home, "garage")
    assert tree(home) == before


# ---- backup, restore ------------------------------------------------------------------------------------------------

def test_another_node_takes_the_domain_over(tmp_path: Path) -> None:
    dead, spare, guest = make_creator(tmp_path), make_node(tmp_path, "spare"), make_node(tmp_path, "guest")
    admit(dead, guest, "guest")
    data = authority.backup(dead, PASSPHRASE)
    later = admit(dead, guest, "guest").members  # after the backup; the spare node never hears of it
    restored = authority.restore(spare, data, PASSPHRASE, node_name="spare", memory=5)
    now, members = identity.load(spare), restored.members
    assert (now.domain, now.alone, now.has_authority) == ("home", False, True) and now.members == members
    assert restored.known == 2 and restored.holder == members.member(identity.own_id(dead))
    assert members.authority == later.authority and members.version > later.version
    assert [m.name for m in members.members] == ["one", "guest", "spare"] and now.id in members.portals
    assert identity.store_members(dead, now.signed)  # who knew a later list takes the new one
    assert authority.expel(spare, "one").version == members.version + 1
    assert admit(spare, make_node(tmp_path, "four"), "four").member.name == "four"


def test_an_old_backup_on_a_node_that_knows_a_later_list_ends_above_it(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    data = authority.backup(home, PASSPHRASE)
    signed_list(home, replace(identity.load(home).members, version=50_000))
    restored = authority.restore(home, data, PASSPHRASE, node_name="one", memory=5)
    assert restored.members.version == 51_000 and restored.holder is None  # it is this node


def left_after(dead: Home, node: Home, signed: bytes) -> None:
    """The node was a member as of this list, and left."""
    directory = authority.make_directory(node, identity.load(dead).authority)
    Path(directory, "members.json").write_bytes(signed)


def test_who_came_or_went_after_the_backup_stays_so_where_a_later_list_is_known(tmp_path: Path) -> None:
    dead, spare = make_creator(tmp_path), make_node(tmp_path, "spare")
    gone, late = make_node(tmp_path, "gone"), make_node(tmp_path, "late")
    admit(dead, gone, "gone")
    data = authority.backup(dead, PASSPHRASE)
    admit(dead, late, "late")
    later = authority.expel(dead, "gone")
    left_after(dead, spare, identity.load(dead).signed)
    restored = authority.restore(spare, data, PASSPHRASE, node_name="spare", memory=5)
    assert restored.known == later.version and restored.members.version == later.version + 1000
    assert [member.name for member in restored.members.members] == ["one", "late", "spare"]
    assert restored.members.member(identity.own_id(late)) == later.member(identity.own_id(late))
    assert set(later.revoked) <= set(restored.members.revoked)


def test_a_later_list_that_the_authority_did_not_sign_counts_for_nothing(tmp_path: Path) -> None:
    dead, spare = make_creator(tmp_path), make_node(tmp_path, "spare")
    data = authority.backup(dead, PASSPHRASE)
    forged = replace(identity.load(dead).members, version=50_000)
    left_after(dead, spare, member_list.signed(member_list.payload(forged), bytes(70)))
    assert authority.restore(spare, data, PASSPHRASE, node_name="spare", memory=5).members.version == 1001


def test_a_backup_says_nothing_without_its_passphrase(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    data = authority.backup(home, PASSPHRASE)
    key = Path(current(home), "authority-key.pem").read_text().split("\n")[1]
    assert key not in data.decode() and b"members" not in data
    assert authority.backup(home, PASSPHRASE) != data
    before = tree(home)
    with pytest.raises(sealed.WrongPassphrase, match="domain home"):
        authority.restore(home, data, b"another", node_name="one", memory=5)
    assert tree(home) == before


def test_a_backup_with_another_domains_key_is_damaged(tmp_path: Path) -> None:
    one, two = make_creator(tmp_path, "one"), make_creator(tmp_path, "two")
    key = Path(current(two), "authority-key.pem").read_bytes()
    present = identity.load(one)
    mixed = sealed.Domain(key, Path(present.authority_certificate).read_bytes(), present.signed)
    with pytest.raises(sealed.BackupDamaged, match="not its authority's"):
        authority.restore(two, sealed.seal(mixed, PASSPHRASE), PASSPHRASE, node_name="two", memory=1)


# ---- the key of the Kubo nodes' network -----------------------------------------------------------------------------

def swarm_of(home: Home) -> SwarmKey:
    return swarm_key.parse(identity.swarm_key(home, identity.load(home).authority))[0]


def test_a_domain_has_a_key_of_its_own_which_only_its_owner_reads_and_a_node_alone_has_none(tmp_path: Path) -> None:
    one, two, alone = make_creator(tmp_path, "one"), make_creator(tmp_path, "two"), make_node(tmp_path, "three")
    assert swarm_of(one).key != swarm_of(two).key and len(swarm_of(one).key) == 32 and swarm_of(one).version == 1
    assert Path(current(one), "swarm.json").stat().st_mode & 0o777 == 0o600
    assert not Path(current(alone), "swarm.json").exists()
    with pytest.raises(authority.StillAlone):
        authority.make_swarm_key(alone)


def test_a_domain_of_an_earlier_version_gets_its_key_once(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    Path(current(home), "swarm.json").unlink()
    authority.make_swarm_key(home)
    made = swarm_of(home)
    authority.make_swarm_key(home)
    assert swarm_of(home) == made
    Path(current(home), "swarm.json").unlink()
    admitted = admit(home, guest, "two")  # by whichever comes first
    assert swarm_key.parse(admitted.swarm)[0] == swarm_of(home) != made
    Path(current(home), "swarm.json").unlink()
    with pytest.raises(authority.NotTheAuthority):
        Path(current(home), "authority-key.pem").unlink()
        authority.make_swarm_key(home)


def test_with_an_expulsion_there_is_a_new_key(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    admit(home, guest, "two")
    before = swarm_of(home)
    members = authority.expel(home, "two")
    after = swarm_of(home)
    assert after.key != before.key and before.version == 1 and after.version == members.version == 3


def test_a_key_counts_only_as_its_authority_signed_it(tmp_path: Path) -> None:
    home, other = make_creator(tmp_path), make_creator(tmp_path, "other")
    own = identity.load(home)
    certificate = Path(own.authority_certificate).read_bytes()
    data = identity.swarm_key(home, own.authority)
    assert signatures.verify_swarm_key(data, certificate) == swarm_of(home)
    foreign = identity.swarm_key(other, identity.load(other).authority)
    digits = swarm_of(home).key.hex().encode()
    forged = data.replace(digits, b"00" * 32)
    for bad, reason in ((foreign, "another authority"), (forged, "signature is false"), (b"{}", "payload is no text")):
        with pytest.raises(BadSwarmKey, match=reason):
            signatures.verify_swarm_key(bad, certificate)
    with pytest.raises(BadSwarmKey, match="certificate"):
        signatures.verify_swarm_key(data, b"x")
    with pytest.raises(identity.ForeignMemberList):
        identity.store_swarm_key(home, foreign)
    assert not identity.store_swarm_key(home, data)  # it is not newer


def test_a_domain_is_restored_with_the_newest_key_that_is_known(tmp_path: Path) -> None:
    dead, spare, guest = make_creator(tmp_path), make_node(tmp_path, "spare"), make_node(tmp_path, "guest")
    admit(dead, guest, "guest")
    first, data = swarm_of(dead), authority.backup(dead, PASSPHRASE)
    assert first.key.hex() not in data.decode()
    authority.restore(spare, data, PASSPHRASE, node_name="spare", memory=5)
    assert swarm_of(spare) == first
    authority.expel(dead, "guest")  # after the backup: who restores it gets the new key from the members
    later = swarm_of(dead)
    assert identity.store_swarm_key(spare, identity.swarm_key(dead, later.authority)) and swarm_of(spare) == later
    authority.leave(spare, "spare", 5)
    authority.restore(spare, data, PASSPHRASE, node_name="spare", memory=5)
    assert swarm_of(spare) == later  # and is not set back by an old backup
    with pytest.raises(sealed.BackupDamaged, match="signature"):
        forged = replace(sealed.unseal(data, PASSPHRASE), swarm=identity.swarm_key(dead, later.authority).replace(
            later.key.hex().encode(), b"00" * 32))
        authority.restore(make_node(tmp_path, "x"), sealed.seal(forged, PASSPHRASE), PASSPHRASE, node_name="x",
                          memory=5)


def test_a_backup_of_an_earlier_version_has_no_key_and_is_restored(tmp_path: Path) -> None:
    dead, spare = make_creator(tmp_path), make_node(tmp_path, "spare")
    domain = replace(sealed.unseal(authority.backup(dead, PASSPHRASE), PASSPHRASE), swarm=b"")
    authority.restore(spare, sealed.seal(domain, PASSPHRASE), PASSPHRASE, node_name="spare", memory=5)
    assert swarm_of(spare).version == identity.load(spare).members.version == 1001


# ---- the child ------------------------------------------------------------------------------------------------------

def child(home: Home, *words: str, question: object = None) -> tuple[int, dict[str, object]]:
    command, environment = identity.child_command(*words), identity.child_environment(home)
    done = subprocess.run(command, env=environment, input=json.dumps(question), capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_child_verifies_a_list(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    certificate = Path(identity.load(home).authority_certificate).read_text()
    good = base64.b64encode(admit(home, guest, "two").signed).decode()
    assert child(home, "verify", question={"list": good, "authority": certificate}) == (0, {"ok": True})
    for question in ({"list": good, "authority": ""}, {"list": "e30=", "authority": certificate},
                     {"list": "?", "authority": certificate}, {"list": good[:-8], "authority": "\u00e4"}):
        code, answer = child(home, "verify", question=question)
        assert code == 0 and answer["ok"] is False and answer["reason"]


def test_the_child_expels(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    admit(home, guest, "two")
    assert child(home, "expel", "two") == (0, {"version": 3, "id": identity.own_id(guest)})
    code, answer = child(home, "expel", "two")
    assert code == 1 and answer["error"]["name"] == "UnknownMember"  # type: ignore[index]
    code, answer = child(home, "dance")
    assert code == 1 and answer["error"]["name"] == "WrongUsage"  # type: ignore[index]
