"""ipdc.conf: defaults, every setting, and words that help for every line that is wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ipdc_edge import settings as module
from ipdc_edge.errors import IpdcError
from ipdc_edge.settings import (
    TABLE,
    BadSetting,
    ConfLineUnreadable,
    ConfUnreadable,
    Settings,
    SettingTwice,
    UnknownSetting,
    address,
    load,
    parse,
    render,
    size,
    template,
)

TOP = Path(__file__).resolve().parents[1]


def _parse(text: str) -> Settings:
    return parse(text.encode(), "ipdc.conf")


def test_the_delivered_conf_is_the_tables_own() -> None:
    # To make it again: python3 -c 'import ipdc_edge.settings as s; print(s.template(), end="")' > ipdc.conf
    assert (TOP / "ipdc.conf").read_text() == template()


def test_the_delivered_conf_with_its_lines_enabled_means_the_defaults() -> None:
    enabled = re.sub(r"^#(?=\w+ =)", "", template(), flags=re.M)
    assert sum(f"\n{setting.name} =" in enabled for setting in TABLE) == len(TABLE)
    assert _parse(enabled) == _parse("") == _parse(template())


def test_table_and_settings_have_the_same_names_in_the_same_order() -> None:
    assert [setting.name for setting in TABLE] == [field.name for field in dataclasses.fields(Settings)]


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    settings = load(str(tmp_path / "none.conf"))
    assert (settings.listen, settings.address) == (None, None)
    ports = (settings.mqtt_port, settings.gateway_port, settings.join_port, settings.local_port)
    assert ports == (18830, 18831, 18832, 18833)
    assert (settings.portals, settings.runner_memory, settings.store_quota) == ((), None, None)
    assert settings.keepalive == 10
    assert settings.slots >= 1
    assert settings.name


def test_every_setting_can_be_set(tmp_path: Path) -> None:
    conf = tmp_path / "ipdc.conf"
    conf.write_text(
        render(
            {
                "name": "pi-4",
                "listen": "127.0.0.2",
                "address": "pi-4.local",
                "mqtt_port": "1",
                "gateway_port": "65535",
                "join_port": "2",
                "local_port": "3",
                "portals": "127.0.0.1:18830, pi.local",
                "slots": "3",
                "runner_memory": "1.5G",
                "store_quota": "20g",
                "input_cache": "1G",
                "local_inputs": "/var/log/sensors /srv/data",
                "allow_network": "yes",
                "keepalive": "2",
                "stop_grace": "60",
                "sandbox": "bubblewrap",
                "store": "kubo",
                "tensorflow": "/srv/environment/",
                "kubo_api": "127.0.0.1:5002",
                "kubo_swarm_port": "4",
            },
            ["a comment"],
        )
    )
    assert load(str(conf)) == Settings(
        "pi-4",
        "127.0.0.2",
        "pi-4.local",
        1,
        65535,
        2,
        3,
        (("127.0.0.1", 18830), ("pi.local", 18830)),
        3,
        3 << 29,
        20 << 30,
        1 << 30,
        ("/var/log/sensors", "/srv/data"),
        True,
        2,
        60,
        "bubblewrap",
        "kubo",
        "/srv/environment",
        ("127.0.0.1", 5002),
        4,
    )


@pytest.mark.parametrize(
    "line, words",
    [
        ("mqtt_port = 70000", "mqtt_port = '70000' is not allowed. Allowed: 1 to 65535."),
        ("mqtt_port = ٣", "1 to 65535"),
        ("listen = pi.local", "an IPv4 address of this machine, 0.0.0.0 for all, or auto"),
        ("listen = 192.168.1", "an IPv4 address"),
        ("listen = ::1", "an IPv4 address"),
        ("listen =", "an IPv4 address"),
        ("address = a/b", "a host name or IPv4 address, or auto"),
        ("address = 10.0.0.1:18830", "a host name or IPv4 address, or auto"),
        ("address =", "a host name or IPv4 address, or auto"),
        ("name = -x", "letters, digits"),
        ("name =", "letters, digits"),
        ("portals = a:1,a:1", "three different host:port"),
        ("portals = a:1,b:1,c:1,d:1", "three different host:port"),
        ("portals = a:", "host:port"),
        ("portals = a b", "host:port"),
        ("tensorflow = yes", "auto, no, or the absolute directory"),
        ("tensorflow = /srv/../root/x", "the absolute directory"),
        ("slots = 0", "1 to 256, or auto"),
        ("slots = 2 # of four", "a comment stands on a line of its own"),
        ("runner_memory = 64X", "such as 24M"),
        ("runner_memory = 1M", "at least 16M"),
        ("store_quota = -5G", "at least 16M"),
        ("input_cache = some", "such as 500M or 20G, 0, or auto"),
        ("keepalive = 60", "1 to 10 seconds"),
        ("stop_grace = 1m", "0 to 3600 seconds"),
        ("sandbox = docker", "auto, systemd, bubblewrap or rlimits"),
        ("store = s3", "embedded or kubo"),
        ("kubo_api = 5001", "127.0.0.1:port"),
        ("kubo_api = 10.0.0.1:5001", "127.0.0.1:port"),
        ("kubo_api = 127.0.0.1:http", "127.0.0.1:port"),
        ("local_inputs = data", "absolute directories"),
        ("local_inputs = /", "16 absolute directories with spaces between, not /"),
        ("local_inputs = /srv/../etc", "absolute directories"),
        ("allow_network = true", "yes or no"),
        ("gateway_port = 18830", "any port but that of mqtt_port"),
        ("local_port = 18832", "any port but that of join_port"),
    ],
)
def test_a_bad_value_names_file_line_key_value_and_what_is_allowed(line: str, words: str) -> None:
    with pytest.raises(BadSetting) as caught:
        _parse(f"# first\n\n{line}\n")
    key = line.partition(" ")[0]
    assert str(caught.value).startswith(f"ipdc.conf, line 3: {key} = ")
    assert words in str(caught.value)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UnknownSetting, match="line 2: there is no setting 'slot'. Did you mean slots?"):
        _parse("\nslot = 1")
    with pytest.raises(UnknownSetting, match="Did you mean mqtt_port?"):
        _parse("MQTT-Port = 1")
    with pytest.raises(UnknownSetting, match=r"There are: name, listen, .*kubo_swarm_port\."):
        _parse("zzz = 1")


@pytest.mark.parametrize("text", ["slots", "[node]", "= 3", "a b = 3", "\\xff\\xfe = 1"])
def test_an_unreadable_line_says_what_a_line_is(text: str) -> None:
    with pytest.raises(ConfLineUnreadable, match="line 1: cannot read .*Allowed: `name = value`"):
        _parse(text)


def test_bytes_that_are_no_utf8_are_an_unreadable_line() -> None:
    with pytest.raises(BadSetting, match="line 2: name"):
        parse(b"slots = 1\nname = \xff\xfe", "f")


def test_a_setting_stands_once() -> None:
    with pytest.raises(SettingTwice, match="line 3: slots stands in line 1 already"):
        _parse("slots = 1\n\nslots = 1")


def test_a_conf_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfUnreadable, match=f"Cannot read {tmp_path}: Is a directory"):
        load(str(tmp_path))
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(module.CONF_LIMIT + 1)
    with pytest.raises(ConfUnreadable, match="more than"):
        load(str(huge))


def test_every_message_fits_its_details() -> None:
    for kind in IpdcError.__subclasses__():
        if kind.__module__ == module.__name__:
            assert kind.__doc__ and "{file}" in kind.__doc__


def test_sizes() -> None:
    assert [size(text) for text in ("0", "512", "1K", "24M", "1.5g", "2 T")] == [
        0,
        512,
        1024,
        24 << 20,
        3 << 29,
        2 << 40,
    ]
    for text in ("", "M", "1MM", "1e3", "-1", "1,5G", "0x10", "1.G"):
        with pytest.raises(ValueError):
            size(text)


def test_addresses() -> None:
    assert address("h:1") == ("h", 1)
    assert address("10.0.0.1") == ("10.0.0.1", 18830)
    for text in ("", ":1", "h:0", "h:1:2", "h:x", "-h", "h/../x:1", "a" * 300):
        with pytest.raises(ValueError):
            address(text)


def test_a_node_listens_on_loopback_while_it_is_alone_and_as_set_otherwise() -> None:
    assert [_parse("").bind(alone) for alone in (True, False)] == ["127.0.0.1", "0.0.0.0"]
    for own in ("127.0.0.1", "0.0.0.0", "192.168.1.4"):
        assert [_parse(f"listen = {own}").bind(alone) for alone in (True, False)] == [own, own]


def test_a_taken_port_is_the_later_lines_mistake() -> None:
    with pytest.raises(BadSetting, match=r"line 2: join_port = 5 .*any port but that of mqtt_port"):
        _parse("mqtt_port = 5\njoin_port = 5")
    with pytest.raises(BadSetting, match=r"line 1: local_port = 18833"):
        _parse("mqtt_port = 18833")  # the other one is a default, and in no line


def test_quota_is_as_set_or_a_share_of_the_free_disk(tmp_path: Path) -> None:
    assert _parse("store_quota = 20M").quota(str(tmp_path)) == 20 << 20
    auto = _parse("")
    assert auto.cache_limit(1000) == 250 and _parse("input_cache = 0").cache_limit(1000) == 0
    assert _parse("input_cache = 1K").cache_limit(1000) == 1000
    assert auto.quota(str(tmp_path)) > 0
    assert auto.quota(str(tmp_path), held=1 << 60) >= (1 << 60) * 8 // 10
