"""Paths of a node: the system's, and those below IPDC_HOME."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ipdc_edge.home import DirectoryNotMade, Home, SocketPathTooLong


def test_the_systems_node_lies_where_debian_puts_it() -> None:
    for environ in ({}, {"IPDC_HOME": ""}):
        home = Home(environ)
        assert (home.conf, home.state) == ("/etc/ipdc/ipdc.conf", "/var/lib/ipdc")
        assert home.control_socket == "/run/ipdc/control.sock"
        assert home.broker_conf == "/run/ipdc/mosquitto.conf"
        assert home.job("x") == "/var/lib/ipdc/jobs/x"
        assert not home.own


def test_a_home_of_its_own_holds_everything(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path)})
    paths = [
        home.conf,
        home.identity,
        home.current,
        home.blocks,
        home.scratch,
        home.ledger,
        home.jobs,
        home.run,
        home.control_socket,
        home.broker_conf,
    ]
    assert len(set(paths)) == 10
    assert all(path.startswith(f"{tmp_path}/") for path in paths)
    assert home.own


def test_a_relative_home_is_fixed_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home({"IPDC_HOME": "node1"})
    monkeypatch.chdir("/")
    assert home.state == str(tmp_path / "node1")


def test_a_socket_path_that_no_system_binds_is_refused_with_its_length() -> None:
    fits = "/" + "a" * (107 - len("//run/control.sock"))
    assert len(Home({"IPDC_HOME": fits}).control_socket) == 107
    with pytest.raises(SocketPathTooLong, match="108 bytes; the system allows 107"):
        _ = Home({"IPDC_HOME": fits + "a"}).control_socket
    with pytest.raises(SocketPathTooLong):
        _ = Home({"IPDC_HOME": "/" + "ä" * 50}).control_socket


def test_prepare_makes_what_is_missing_and_keeps_the_identity_closed(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path / "a" / "node")})
    home.prepare()
    os.chmod(home.identity, 0o755)
    os.chmod(home.jobs, 0o755)
    home.prepare()
    paths = (home.identity, home.scratch, home.jobs, home.run)
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in paths]
    assert modes == [0o700, 0o700, 0o755, 0o755]


def test_prepare_says_which_directory_it_cannot_make(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryNotMade, match=f"{tmp_path}/file/node: Not a directory"):
        Home({"IPDC_HOME": str(tmp_path / "file" / "node")}).prepare()
