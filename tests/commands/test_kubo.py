"""`ipdc-edge kubo` before there is a Kubo: what it refuses, and what it makes of Kubo's configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.__main__ import main
from ipdc_edge.codec import swarm_key
from ipdc_edge.drivers import authority, identity, kubo_node
from ipdc_edge.home import Home

KUBOS_OWN = {  # the parts of Kubo 0.43's own configuration that would leave the domain
    "Identity": {"PeerID": "12D3KooWHTM5Yxj5VrFx8A3XZeLhVdTRNzvyFHLSJQmjBeuNY5kd", "PrivKey": "secret"},
    "Addresses": {"Swarm": ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"], "API": "/ip4/0.0.0.0/tcp/5001",
                  "Gateway": "/ip4/127.0.0.1/tcp/8080", "Announce": ["/ip4/1.2.3.4/tcp/1"]},
    "Bootstrap": ["auto"], "Discovery": {"MDNS": {"Enabled": True}}, "Routing": {"DelegatedRouters": ["auto"]},
    "Ipns": {"DelegatedPublishers": ["auto"], "ResolveCacheSize": 128}, "DNS": {"Resolvers": {".": "auto"}},
    "Peering": {"Peers": None}, "AutoConf": {}, "Plugins": {"Plugins": None}, "Internal": {},
    "Swarm": {"Transports": {"Network": {}}, "RelayClient": {}, "ConnMgr": {"HighWater": 7}},
    "Datastore": {"StorageMax": "3GB"},
}


@pytest.fixture()
def member(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A node in a domain, on a machine without Kubo."""
    authority.ensure(home, "one", 1 << 30)
    authority.create_domain(home, "home", node_name="one", memory=1 << 30)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return home


def test_without_kubo_it_says_where_there_is_one(member: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kubo"]) == 1
    said = capsys.readouterr().err
    assert "no `ipfs` (Kubo) on PATH" in said and "https://docs.ipfs.tech/install" in said
    assert not os.path.exists(member.kubo)


def test_a_node_that_is_alone_has_no_network(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    authority.ensure(home, "one", 1 << 30)
    for words in (["kubo"], ["kubo", "--write-only"]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "alone, in no domain" in said and "domain create" in said and "join" in said
    assert not os.path.exists(home.kubo)


@pytest.mark.outside("it asks whether a daemon runs that could get the key")
def test_who_joined_before_there_was_a_key_is_told_what_helps(
    member: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = os.path.join(identity.domains(member), identity.load(member).authority)
    os.unlink(os.path.join(directory, identity.SWARM))
    os.unlink(os.path.join(directory, identity.AUTHORITY_KEY))
    assert main(["kubo"]) == 1
    said = capsys.readouterr().err
    assert "joined before there was one" in said and "ipdc-edge leave" in said


def test_the_authoritys_node_makes_the_key_that_a_domain_of_an_earlier_version_lacks(member: Home) -> None:
    own = identity.load(member)
    os.unlink(os.path.join(identity.domains(member), own.authority, identity.SWARM))
    made = kubo_node.key_of(member, own)
    assert swarm_key.parse(identity.swarm_key(member, own.authority))[0] == made == kubo_node.key_of(member, own)


def test_a_configuration_keeps_kubo_in_the_domain_and_what_else_its_owner_set(tmp_path: Path) -> None:
    conf = tmp_path / "ipdc.conf"
    conf.write_text("kubo_api = 127.0.0.1:5007\nkubo_swarm_port = 4107\nlisten = 10.0.0.7\n")
    found = kubo_node.configured(json.loads(json.dumps(KUBOS_OWN)), settings.load(str(conf)))
    text = json.dumps(found)
    assert '"auto"' not in text and "4001" not in text
    assert found["Addresses"] == {"API": "/ip4/127.0.0.1/tcp/5007", "Gateway": [], "Announce": [],
                                  "Swarm": ["/ip4/10.0.0.7/tcp/4107"]}
    assert found["Bootstrap"] == [] and found["Routing"]["Type"] == "none" and found["Peering"]["Peers"] == []
    for name in ("Discovery.MDNS", "AutoConf", "AutoTLS", "Provide", "Swarm.RelayClient", "Swarm.RelayService",
                 "HTTPRetrieval"):
        place = found
        for part in name.split("."):
            place = place[part]
        assert place["Enabled"] is False, name
    assert [kind for kind, on in found["Swarm"]["Transports"]["Network"].items() if on] == ["TCP"]
    assert found["Plugins"]["Plugins"]["telemetry"] == {"Disabled": True}
    assert found["Identity"] == KUBOS_OWN["Identity"] and found["Datastore"] == {"StorageMax": "3GB"}
    assert found["Swarm"]["ConnMgr"] == {"HighWater": 7} and found["Ipns"]["ResolveCacheSize"] == 128
    assert kubo_node.configured(json.loads(text), settings.load(str(conf))) == found


@pytest.mark.parametrize("mark", [
    "", "{", "[]", "null", "{}", '{"pid": "x", "peer": "p", "port": 1}', '{"pid": 1, "peer": "p", "port": 4101}',
    '{"pid": 999999999, "peer": "12D3KooWHTM5Yxj5VrFx8A3XZeLhVdTRNzvyFHLSJQmjBeuNY5kd", "port": 4101}',
])  # fmt: skip
def test_a_mark_that_names_no_kubo_is_none(home: Home, mark: str) -> None:
    Path(home.kubo_mark).write_text(mark)
    assert kubo_node.running(home) is None and not kubo_node.restart(home)


def test_another_process_of_that_number_is_not_kubo_and_lives(home: Home) -> None:
    peer = KUBOS_OWN["Identity"]["PeerID"]  # type: ignore[index]
    Path(home.kubo_mark).write_text(json.dumps({"pid": os.getpid(), "peer": peer, "port": 4101}))
    assert kubo_node.running(home) is None and not kubo_node.restart(home)
