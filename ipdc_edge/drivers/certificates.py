"""X.509 of a closed domain: keys, the authority's certificate, its members' certificates, and the CRL.

Owns every use of `cryptography` for these, and what stands in them. Never touches a file, never decides who is a
member. Never imported by the idle daemon.

Boards have no clock when they boot: certificates count from 1970 to 9999, and a CRL is dated by the version of
its member list (seconds after 1950), so that OpenSSL takes the newer of two; no date means more than that.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..codec.node_id import key_id

FIRST, LAST = datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)
CRL_ZERO = datetime(1950, 1, 1)
ECDSA = ec.ECDSA(SHA256())

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def new_key() -> PrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> bytes:
    """PKCS 8, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private(pem: bytes) -> PrivateKey:
    """ValueError for what is no private key on P-256."""
    with _reading():
        return _p256(load_pem_private_key(pem, None), PrivateKey)


@contextmanager
def _reading() -> Iterator[None]:
    """Everything that can be wrong with somebody's bytes becomes a ValueError: a curve that this OpenSSL does not know,
    an X.509 of another version, a key under a passphrase."""
    try:
        yield
    except (UnsupportedAlgorithm, x509.InvalidVersion, TypeError) as error:
        raise ValueError(str(error)) from None


def _p256(key: object, kind: type) -> object:
    if not isinstance(key, kind) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a key that is not on P-256")
    return key


def id_of(key: PublicKey) -> str:
    """The peer id of a key."""
    return key_id(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def load_certificate(pem: bytes) -> tuple[x509.Certificate, PublicKey]:
    """A certificate and its key on P-256; ValueError for anything else."""
    with _reading():
        certificate = x509.load_pem_x509_certificate(pem)
        return certificate, _p256(certificate.public_key(), PublicKey)


def id_of_der(certificate: bytes) -> str:
    """The peer id of the key in a certificate as TLS shows it; ValueError."""
    with _reading():
        return id_of(_p256(x509.load_der_x509_certificate(certificate).public_key(), PublicKey))


def common_name(certificate: x509.Certificate) -> str:
    """The subject, which in a closed domain is an id and nothing else; "" for another."""
    parts = list(certificate.subject)
    return str(parts[0].value) if len(parts) == 1 and parts[0].oid == NameOID.COMMON_NAME else ""


def is_issued(certificate: x509.Certificate, authority: PublicKey) -> bool:
    """Whether this authority signed the certificate."""
    try:
        authority.verify(certificate.signature, certificate.tbs_certificate_bytes, ECDSA)
    except InvalidSignature:
        return False
    return True


def new_serial(used: Collection[str]) -> str:
    """A random serial that is not in `used`, hexadecimal. 63 bits: a list of 256 members stays small."""
    while True:
        number = int.from_bytes(os.urandom(8), "big") >> 1
        if number and f"{number:x}" not in used:
            return f"{number:x}"


def authority_certificate(key: PrivateKey) -> bytes:
    """The self-signed certificate of a domain's authority, PEM. Its subject is its id."""
    builder = _builder(id_of(key.public_key()), key.public_key(), key, int(new_serial(()), 16))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def member_certificate(public: PublicKey, authority: PrivateKey, serial: str) -> bytes:
    """A member's certificate, PEM. Its subject is the id of the key, whatever was asked for."""
    builder = _builder(id_of(public), public, authority, int(serial, 16))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM)


def _builder(subject: str, public: PublicKey, issuer: PrivateKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(id_of(issuer.public_key())))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(FIRST)
        .not_valid_after(LAST)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )


def request(key: PrivateKey, authority: str = "") -> bytes:
    """A signing request of this key, PEM: it proves that whoever made it has the key, and wants in where this
    authority decides. Its organisation is that authority's id; without one it is good for nobody who is asked over the
    network, where it might have been heard before."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, id_of(key.public_key()))]
    if authority:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, authority))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def load_request(pem: bytes) -> tuple[PublicKey, str]:
    """The key that a signing request proves, and the authority that it was made for ("": none); ValueError for a bad
    request, another curve or a false proof."""
    with _reading():
        found = x509.load_pem_x509_csr(pem)
        key = _p256(found.public_key(), PublicKey)
        if not found.is_signature_valid:
            raise ValueError("it is not signed by its own key")
        meant = [str(part.value) for part in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        return key, meant[0] if len(meant) == 1 else ""


def revocation_list(authority: PrivateKey, revoked: Collection[str], version: int) -> str:
    """The CRL of a member list's version, PEM."""
    issuer = _name(id_of(authority.public_key()))
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(CRL_ZERO + timedelta(seconds=version)).next_update(LAST)
    builder = builder.add_extension(x509.CRLNumber(version), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = builder.add_extension(identifier, critical=False)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(CRL_ZERO).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM).decode("ascii")


def sign(authority: PrivateKey, data: bytes) -> bytes:
    """An ECDSA signature (DER) over SHA-256."""
    return authority.sign(data, ECDSA)


def is_signed(authority: PublicKey, data: bytes, signature: bytes) -> bool:
    """Whether `sign` made this signature with this authority's key."""
    try:
        authority.verify(signature, data, ECDSA)
    except InvalidSignature:
        return False
    return True
