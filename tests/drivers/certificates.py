"""Domains for tests of the drivers: authorities, nodes' certificates and member lists, made in memory and written out.

Owns keys and certificates as the project's own authority makes them; uses `cryptography` directly, so that a mistake
there is not shared.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipdc_edge.codec.node_id import key_id
from ipdc_edge.core.values import Member, MemberList
from ipdc_edge.drivers.identity import Identity

EVER, NEVER = datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31)
CRL_BEGIN = datetime.datetime(1950, 1, 1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def id_of(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key_id(key.public_key().public_bytes(serialization.Encoding.DER, form))


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def write(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


@dataclass
class Domain:
    """An authority and whom it admitted. `directory` takes everybody's files."""

    directory: str
    name: str = "test"
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    members: tuple[Member, ...] = ()
    revoked: tuple[str, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        own = self._builder(id_of(self.key), self.key).add_extension(x509.BasicConstraints(True, 0), True)
        certificate = own.add_extension(usage, True).sign(self.key, hashes.SHA256())
        self.certificate = write(os.path.join(self.directory, "authority.pem"),
                                 certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, common_name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (x509.CertificateBuilder().subject_name(name(common_name)).issuer_name(name(id_of(self.key)))
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(EVER).not_valid_after(NEVER))

    def admit(self, label: str, *, portal: bool = False, common_name: str = "") -> Identity:
        """A new node's identity, as of the list that first has it. `common_name` instead of its id is a lie."""
        key = new_key()
        own = common_name or id_of(key)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self._builder(own, key).add_extension(usage, False).sign(self.key, hashes.SHA256())
        serial = f"{certificate.serial_number:x}"
        if not common_name:
            self.members += (Member(own, label, 1 << 30, portal, serial),)
        self.version += 1
        base = os.path.join(self.directory, label)
        return Identity(
            id=own, domain=self.name, authority=id_of(self.key), alone=False, has_authority=False,
            members=self.list(), signed=b"", peers={},
            key=write(base + "-key.pem", pem_of_key(key)),
            certificate=write(base + ".pem", certificate.public_bytes(serialization.Encoding.PEM)),
            authority_certificate=self.certificate,
        )

    def expel(self, identity: Identity) -> None:
        member = next(member for member in self.members if member.id == identity.id)
        self.members = tuple(other for other in self.members if other is not member)
        self.revoked += (member.serial,)
        self.version += 1

    def list(self) -> MemberList:
        return MemberList(self.name, id_of(self.key), self.version, self.members, self.revoked, self._crl())

    def now(self, identity: Identity) -> Identity:
        """The same node with the present list."""
        return replace(identity, members=self.list())

    def _crl(self) -> str:
        builder = x509.CertificateRevocationListBuilder().issuer_name(name(id_of(self.key)))
        builder = builder.last_update(CRL_BEGIN + datetime.timedelta(seconds=self.version)).next_update(NEVER)
        for serial in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(EVER).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
