"""Domain, certificates and permissions: each broken in the files of a real node, and its line expected."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ipdc_edge.commands.doctor import identity
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers import authority
from ipdc_edge.drivers import identity as files
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, current, make_creator, make_node


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node that made a domain, with another that is a member; keys take time, so every test has a copy."""
    directory = tmp_path_factory.mktemp("made")
    creator = make_creator(directory, "a")
    admit(creator, make_node(directory, "b"), "b")
    return directory


@pytest.fixture
def node(made: Path, tmp_path: Path) -> Home:
    """The one that made the domain."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Home({"IPDC_HOME": str(tmp_path / "a")})


def _domain(home: Home) -> Check:
    (check,) = identity.domain(home)
    return check


def _certificate(home: Home) -> Check:
    (check,) = identity.certificate(home)
    return check


def _permissions(home: Home) -> Check:
    (check,) = identity.permissions(home)
    return check


def test_all_is_well(node: Home) -> None:
    assert _certificate(node) == Check(
        "certificate", True, "key, certificate, authority and member list belong together", _certificate(node).advice)
    assert _permissions(node).ok
    Path(node.current, "last-backup").write_text("2\n")
    assert _domain(node) == Check("domain", True, "home, version 2 of its member list")


def test_before_the_first_start_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path / "none")})
    assert not list(identity.certificate(home)) and not list(identity.permissions(home))
    assert _domain(home).ok is None


def test_a_key_of_another_node(node: Home, tmp_path: Path) -> None:
    other = make_node(tmp_path, "other")
    shutil.copy(os.path.join(other.identity, files.KEY), os.path.join(node.identity, files.KEY))
    assert _certificate(node).ok is False and "different keys" in _certificate(node).detail
    assert f"sudo rm -r {node.identity}" in _certificate(node).advice


def test_a_certificate_of_another_node_and_of_another_authority(node: Home, tmp_path: Path) -> None:
    other = make_creator(tmp_path, "other")
    path = os.path.join(current(node), files.CERTIFICATE)
    shutil.copy(os.path.join(current(other), files.CERTIFICATE), path)
    assert _certificate(node).ok is False and "is not of this node's key" in _certificate(node).detail
    foreign = admit(other, node, "a")
    Path(path).write_bytes(foreign.certificate)
    assert _certificate(node).ok is False
    assert "was not signed by the domain's authority" in _certificate(node).detail
    shutil.copy(os.path.join(current(other), files.AUTHORITY), os.path.join(current(node), files.AUTHORITY))
    assert "is of another authority" in _certificate(node).detail


@pytest.mark.parametrize("name", [files.CERTIFICATE, files.AUTHORITY, files.KEY])
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_damaged_files(node: Home, name: str, damage: bytes) -> None:
    path = os.path.join(node.identity if name == files.KEY else current(node), name)
    Path(path).write_bytes(damage)
    check = _certificate(node)
    assert check.ok is False and f"{name} is damaged" in check.detail


@pytest.mark.parametrize("name", [files.MEMBERS, files.CERTIFICATE, files.AUTHORITY])
def test_missing_files_are_the_domains_line(node: Home, name: str) -> None:
    os.unlink(os.path.join(current(node), name))
    check = _domain(node)
    if name == files.MEMBERS:  # written last: a domain without it is none
        assert check.ok is None and "alone" in check.detail
    else:
        assert check.ok is False and name in check.detail and "be a new node" in check.advice


def test_a_damaged_member_list(node: Home) -> None:
    path = os.path.join(current(node), files.MEMBERS)
    signed = Path(path).read_bytes()
    Path(path).write_bytes(signed[: len(signed) // 2])
    assert _domain(node).ok is False and "members.json" in _domain(node).detail
    assert not list(identity.certificate(node))
    Path(path).write_bytes(signed.replace(rb'\"b\"', rb'\"c\"'))
    assert _certificate(node).ok is False and "was not signed by the domain's authority" in _certificate(node).detail


def _member(tmp_path: Path, node: Home) -> Home:
    """b, as joining leaves it."""
    home = Home({"IPDC_HOME": str(tmp_path / "b")})
    admitted = admit(node, home, "b")
    own = files.load(node)
    with files.locked(home):
        directory = authority.make_directory(home, own.authority)
        for name, data in ((files.AUTHORITY, admitted.authority), (files.CERTIFICATE, admitted.certificate),
                           (files.MEMBERS, admitted.signed)):
            files.write_file(os.path.join(directory, name), data)
        files.switch(home, own.authority)
    return home


def test_a_node_that_was_expelled(node: Home, tmp_path: Path) -> None:
    home = _member(tmp_path, node)
    assert _domain(home).ok and _certificate(home).ok
    authority.expel(node, files.own_id(home))
    Path(current(home), files.MEMBERS).write_bytes(files.load(node).signed)
    check = _domain(home)
    assert check.ok is False and "it was expelled" in check.detail and "ipdc-edge leave" in check.advice
    assert _certificate(home).ok is False and "was revoked" in _certificate(home).detail
    authority.leave(home, "b", 1)  # as its daemon does at once
    check = _domain(home)
    assert check.ok is None and check.detail.endswith("it left home, or was expelled from it")
    assert "ipdc-edge join TOKEN" in check.advice


def test_a_key_that_others_can_read(node: Home) -> None:
    assert _permissions(node).ok
    os.chmod(node.identity, 0o755)
    check = _permissions(node)
    assert check.ok is False and check.advice == f"sudo chmod -R go= {node.identity}"


def test_files_of_another_user(node: Home) -> None:
    if os.geteuid() != 0:
        pytest.skip("does not apply: only root can give files away")
    os.chown(os.path.join(node.identity, files.KEY), 12345, 12345)
    check = _permissions(node)
    assert check.ok is False and "key.pem belongs to 12345, not to root" in check.detail
    assert check.advice == f"sudo chown -R root:root {node.identity}"
