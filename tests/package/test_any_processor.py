"""The package has nothing of one processor, so that ARMv6 (Pi 1, Zero) can have it too.

Raspberry Pi OS for those boards has Debian's packages of armhf under the same names, built for ARMv6. So what counts is
that the package brings no machine code and no byte code, asks for no instruction set, and for nothing but packages that
Debian has for armhf; that those install and work there is seen on the emulated board (tests/board), which is ARMv7: no
archive of Debian's has a root for ARMv6.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.bare.debian import apt_elsewhere

pytestmark = pytest.mark.package
PROGRAMS = {b"/bin/sh", b"/usr/bin/python3"}  # what #! lines may name
RELEASES = ("bookworm", "trixie")


def field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--field", str(deb), name], capture_output=True, text=True, check=True).stdout


def test_it_is_all_text(deb: Path) -> None:
    assert field(deb, "Architecture").strip() == "all"
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True).stdout
    names, programs = [], set()
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        for member in filter(tarfile.TarInfo.isfile, files):
            names.append(member.name)
            content = files.extractfile(member)
            assert content is not None
            start = content.read(200)
            assert not start.startswith((b"\x7fELF", b"!<arch>")), f"{member.name} is machine code"
            if start.startswith(b"#!"):
                programs.add(start[2:].split()[0])
    assert any(name.endswith("ipdc_edge/daemon/daemon.py") for name in names), "the package was not looked at"
    assert [name for name in names if name.endswith((".pyc", ".so", ".o", ".a"))] == []
    assert programs <= PROGRAMS, programs


def test_no_maintainer_script_is_machine_code(deb: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--control", str(deb), str(tmp_path / "control")], check=True)
    scripts = [path for path in (tmp_path / "control").iterdir() if path.stat().st_mode & 0o111]
    assert scripts
    for path in scripts:
        assert path.read_bytes().startswith(b"#!/bin/sh"), path.name


def test_what_it_depends_on_is_there_for_armhf(deb: Path, tmp_path: Path) -> None:
    """By the archive's own lists, one a release; nothing is installed."""
    names = {re.split(r"[ (:]", item.split("|")[0].strip())[0] for item in field(deb, "Depends").split(",")}
    assert {"mosquitto", "python3"} <= names
    for release in RELEASES:
        options = apt_elsewhere("armhf", release, tmp_path / release)
        policy = subprocess.run(["apt-cache", *options, "policy", *sorted(names)], capture_output=True, text=True,
                                check=True).stdout
        found = set(re.findall(r"^(\S+):\n +Installed: .*\n +Candidate: \d", policy, re.M))
        assert {name.partition(":")[0] for name in found} == names, policy
