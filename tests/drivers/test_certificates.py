"""Certificates and CRLs as OpenSSL itself judges them, and those that a stranger made."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ipdc_edge.drivers import authority, certificates, identity
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, make_creator, make_node


def openssl(*words: str) -> str:
    """Its output and errors, whatever its exit code."""
    done = subprocess.run(["openssl", *words], capture_output=True, text=True)
    return done.stdout + done.stderr


def checked(home: Home, certificate: str, *options: str, at: int | None = None) -> str:
    """`openssl verify` with the CRL of this home's list, at a time (seconds since 1970)."""
    crl = os.path.join(home.run, "crl.pem")
    Path(crl).write_text(identity.load(home).members.crl)
    when = () if at is None else ("-attime", str(at))
    return openssl("verify", "-x509_strict", "-CAfile", identity.load(home).authority_certificate, "-crl_check",
                   "-CRLfile", crl, *when, *options, certificate)


TIMES = [1, 86400, int(datetime.datetime(2036, 2, 7, tzinfo=datetime.UTC).timestamp()), 253402300798]


@pytest.mark.parametrize("at", TIMES)
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_believes_a_member_at_any_time_and_on_both_sides(tmp_path: Path, at: int, purpose: str) -> None:
    """1970, as a board without a clock believes at boot; 2036, when NTP's era ends; and the last second of 9999."""
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    path = str(tmp_path / "two.pem")
    Path(path).write_bytes(admit(home, guest, "two").certificate)
    for certificate in (path, identity.load(home).certificate):
        assert checked(home, certificate, "-purpose", purpose, at=at).endswith(": OK\n")


def test_openssl_refuses_the_expelled_the_replaced_and_a_strangers_certificate(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    paths = [str(tmp_path / name) for name in ("old.pem", "new.pem")]
    for path in paths:
        Path(path).write_bytes(admit(home, guest, "two").certificate)
    assert "certificate revoked" in checked(home, paths[0]) and checked(home, paths[1]).endswith(": OK\n")
    authority.expel(home, "two")
    for at in TIMES:
        assert "certificate revoked" in checked(home, paths[1], at=at)
    assert checked(home, identity.load(home).certificate).endswith(": OK\n")
    stranger = make_creator(tmp_path, "three")
    assert "unable to get local issuer" in checked(home, identity.load(stranger).certificate)


def test_a_member_is_no_authority_and_cannot_sign(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    present = identity.load(home)
    text = openssl("x509", "-in", present.certificate, "-noout", "-text").replace("CN = ", "CN=")  # OpenSSL 3.0
    for line in ("CA:FALSE", "Digital Signature", "TLS Web Server Authentication, TLS Web Client Authentication",
                 "Not Before: Jan  1 00:00:00 1970 GMT", "Not After : Dec 31 23:59:59 9999 GMT", "NIST CURVE: P-256",
                 f"Subject: CN={present.id}\n", f"Issuer: CN={present.authority}\n"):
        assert line in text, text
    text = openssl("x509", "-in", present.authority_certificate, "-noout", "-text").replace("CN = ", "CN=")
    for line in ("CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", f"Subject: CN={present.authority}\n"):
        assert line in text, text
    forged = certificates.member_certificate(
        certificates.new_key().public_key(), certificates.load_private(Path(present.key).read_bytes()), "77"
    )
    (tmp_path / "forged.pem").write_bytes(forged)
    chain = str(tmp_path / "forged.pem")
    assert "OK" not in checked(home, chain, "-untrusted", present.certificate, "-partial_chain")


def test_of_two_crls_openssl_takes_the_one_of_the_higher_version(tmp_path: Path) -> None:
    """A broker that reloads keeps the CRL before in its store: the dates, which are the versions, decide."""
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    path, both = str(tmp_path / "two.pem"), str(tmp_path / "both.pem")
    Path(path).write_bytes(admit(home, guest, "two").certificate)
    before = identity.load(home).members.crl
    after = authority.expel(home, "two").crl
    text = openssl("verify", "-CAfile", identity.load(home).authority_certificate, "-crl_check", path)
    assert "unable to get certificate CRL" in text
    for order in ((before, after), (after, before)):
        Path(both).write_text("".join(order))
        ca = identity.load(home).authority_certificate
        assert "certificate revoked" in openssl("verify", "-CAfile", ca, "-crl_check", "-CRLfile", both, path)
    crl = str(tmp_path / "crl.pem")
    Path(crl).write_text(after)
    text = openssl("crl", "-in", crl, "-noout", "-text")
    for line in ("Last Update: Jan  1 00:00:03 1950 GMT", "Next Update: Dec 31 23:59:59 9999 GMT", "X509v3 CRL Number"):
        assert line in text, text
    assert "verify OK" in openssl("crl", "-in", crl, "-noout", "-CAfile", identity.load(home).authority_certificate)


@pytest.mark.parametrize("curve", ["SM2", "brainpoolP256t1", "secp112r1"])
def test_a_strangers_odd_curve_is_a_value_error(tmp_path: Path, curve: str) -> None:
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", key)
    openssl("req", "-x509", "-new", "-key", key, "-subj", "/CN=x", "-outform", "DER", "-out", certificate)
    for read, path in ((certificates.id_of_der, certificate), (certificates.load_private, key)):
        with pytest.raises(ValueError):
            read(Path(path).read_bytes())


def test_a_certificate_of_no_version_is_a_value_error(tmp_path: Path) -> None:
    pem = Path(identity.load(make_creator(tmp_path)).certificate).read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    with pytest.raises(ValueError):
        certificates.id_of_der(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1))
