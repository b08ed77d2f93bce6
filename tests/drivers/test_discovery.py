"""What strangers on the LAN announce becomes whole hints or nothing, whatever they write, and never takes long."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.node_id import node_id
from ipdc_edge.drivers import discovery
from ipdc_edge.drivers.discovery import Found
from ipdc_edge.settings import load

NODE, DOMAIN = (node_id(hashlib.sha256(word).digest()) for word in (b"node", b"domain"))
FOUND = Found(NODE, "10.77.0.1", 18830, DOMAIN)


def line(address: str = "10.77.0.1", port: str = "18830", text: str = f'"id={NODE}" "domain={DOMAIN}"') -> str:
    """As avahi-browse 0.8 prints it."""
    name = r"ipdc-edge\032on\032pi"
    return f"=;eth0;IPv4;{name};_ipdc._tcp;local;pi.local;{address};{port};{text}\n"


def parse(text: str) -> list[Found]:
    return discovery.parse(text.encode("utf-8", "surrogateescape"))


def test_an_answer_is_a_hint() -> None:
    begun = r"+;eth0;IPv4;ipdc-edge\032on\032pi;_ipdc._tcp;local" + "\n"
    assert parse(begun + line()) == [FOUND]


def test_the_order_of_texts_and_more_of_them_do_not_matter() -> None:
    assert parse(line(text=f'"x=a;b\\"c" "domain={DOMAIN}" "y" "id={NODE}"')) == [FOUND]


def test_one_announcement_on_two_interfaces_is_one() -> None:
    assert parse(line() + line().replace("eth0", "wlan0")) == [FOUND]


@pytest.mark.parametrize("bad", [
    line(address="fe80::1"), line(address="127.0.0.1"), line(address="224.0.0.251"), line(address="0.0.0.0"),
    line(address="255.255.255.255"), line(address="pi.local"), line(address="10.77.0.1; rm"), line(port="0"),
    line(port="65536"), line(port="-1"), line(port="١٨"), line(port=""), line(text=""), line(text=f'"id={NODE}"'),
    line(text=f'"id=Qm" "domain={DOMAIN}"'), line(text=f'"id={NODE}x" "domain={DOMAIN}"'),
    line(text=f'"id={NODE}" "domain={DOMAIN}" "z={"a" * 5000}"'), line().replace("_ipdc._tcp", "_http._tcp"),
    line().replace("=;", "+;", 1), line()[:60], "\n;;;;;;;;;;;;;\n", "\0",
])
def test_what_is_no_whole_answer_is_passed_over(bad: str) -> None:
    assert parse(bad + "\n" + line(port="1884")) == [FOUND._replace(port=1884)]


@given(st.one_of(st.binary(max_size=300), st.text("=;\n\"\\IPv4._ipdctcp01", max_size=300).map(str.encode)))
def test_any_output_is_read(output: bytes) -> None:
    assert isinstance(discovery.parse(output), list)


def test_hints_are_bounded() -> None:
    assert len(parse("".join(line(port=str(port)) for port in range(1, 500)))) == discovery.MOST_FOUND


def test_a_host_whose_ipv6_address_came_first_is_looked_up() -> None:
    output = (line(address="fe80::1") + line(address="fe80::1", port="1884") + line(port="1885")).encode()
    assert discovery.unresolved(output) == ("pi.local",)
    known = discovery.addresses(b"pi.local\t10.77.0.9\n")
    assert discovery.parse(output, known) == [
        FOUND._replace(address="10.77.0.9"), FOUND._replace(address="10.77.0.9", port=1884), FOUND._replace(port=1885)]


@pytest.mark.parametrize("host", [
    "--help", "-4.local", "pi.local\t", "pi", "a b.local", "pi.local.evil", "é.local", "",
])
def test_no_name_that_is_none_reaches_a_command(host: str) -> None:
    assert discovery.unresolved(line(address="fe80::1").replace("pi.local", host).encode()) == ()
    assert discovery.addresses(f"{host}\t10.77.0.9\n".encode()) == {}


def test_names_to_look_up_are_bounded() -> None:
    many = "".join(line(address="fe80::1").replace("pi.local", f"pi{number}.local") for number in range(500))
    assert len(discovery.unresolved(many.encode())) == discovery.MOST_FOUND


@pytest.mark.parametrize("output", [
    b"pi.local\tfe80::1\n", b"pi.local 10.77.0.9\n", b"pi.local\t127.0.0.1\n", b"\t\n", b"\xff",
])
def test_an_address_that_is_none_is_passed_over(output: bytes) -> None:
    assert discovery.addresses(output) == {}


def program(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str, name: str = "avahi-browse") -> None:
    """A tool of Avahi's that does this."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_the_tool_is_told_to_end_and_its_answer_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(line())
    program(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/words; cat {tmp_path}/answer')
    assert discovery.browse() == [FOUND]
    words = (tmp_path / "words").read_text().split()
    assert words[-1] == "_ipdc._tcp" and {"--parsable", "--resolve", "--terminate", "--no-db-lookup"} == set(words[:-1])


def test_the_ipv4_address_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(line(address="fe80::1"))
    program(monkeypatch, tmp_path, f"cat {tmp_path}/answer")
    program(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/words; printf "pi.local\\t10.77.0.1\\n"', "avahi-resolve")
    assert discovery.browse() == [FOUND]
    assert (tmp_path / "words").read_text().split() == ["-4", "--name", "pi.local"]
    program(monkeypatch, tmp_path, "exit 1", "avahi-resolve")
    assert discovery.browse() == []


def test_without_the_tool_or_its_daemon_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(monkeypatch, tmp_path, "echo Failed to create client object: Daemon not running >&2; exit 1")
    assert discovery.browse() == []
    (tmp_path / "avahi-browse").write_bytes(b"\x7fELF, but not really")
    assert discovery.browse() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert discovery.browse() == []


def test_what_came_in_time_counts_and_the_tool_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(line())
    program(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; cat {tmp_path}/answer; exec sleep 20")
    begun = time.monotonic()
    assert discovery.browse(0.5) == [FOUND]
    assert time.monotonic() - begun < 5
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_flood_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(monkeypatch, tmp_path, f"yes '{line().strip()}'")
    begun = time.monotonic()
    assert discovery.browse(60) == [FOUND]
    assert time.monotonic() - begun < 30, "the bound on bytes ended it"


def own(tmp_path: Path, alone: bool = False, **change: str) -> tuple[SimpleNamespace, object]:
    """(identity, settings) of a node."""
    conf = tmp_path / "ipdc.conf"
    conf.write_text("".join(f"{key} = {value}\n" for key, value in change.items()))
    return SimpleNamespace(id=NODE, authority=DOMAIN, alone=alone), load(str(conf))


def test_the_service_file_says_who_and_where(tmp_path: Path) -> None:
    identity, settings = own(tmp_path, mqtt_port="1884")
    assert discovery.publish(identity, settings, str(tmp_path))
    path = tmp_path / "ipdc-edge.service"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [name for name in os.listdir(tmp_path) if "service" in name] == ["ipdc-edge.service"]
    group = ElementTree.parse(path).getroot()
    assert group.find("name").get("replace-wildcards") == "yes"
    service = group.find("service")
    assert service.get("protocol") == "ipv4"
    assert (service.find("type").text, service.find("port").text) == ("_ipdc._tcp", "1884")
    assert [record.text for record in service.findall("txt-record")] == [f"id={NODE}", f"domain={DOMAIN}"]


def test_ids_that_are_none_never_reach_the_file(tmp_path: Path) -> None:
    identity, settings = own(tmp_path)
    identity.authority = "<evil/>"
    with pytest.raises(ValueError):
        discovery.service_file(identity, settings)


def test_a_node_that_nobody_reaches_is_not_announced(tmp_path: Path) -> None:
    assert discovery.publish(*own(tmp_path), str(tmp_path))
    assert not discovery.publish(*own(tmp_path, alone=True), str(tmp_path))
    assert not (tmp_path / "ipdc-edge.service").exists()
    assert not discovery.publish(*own(tmp_path, listen="127.0.0.1"), str(tmp_path))


def test_without_avahi_nothing_is_announced_and_nothing_fails(tmp_path: Path) -> None:
    assert not discovery.publish(*own(tmp_path), str(tmp_path / "nothing"))
    assert not discovery.withdraw(str(tmp_path / "nothing"))
    assert discovery.publish(*own(tmp_path), str(tmp_path))
    assert discovery.withdraw(str(tmp_path)) and not discovery.withdraw(str(tmp_path))
