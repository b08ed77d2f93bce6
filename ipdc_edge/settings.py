"""A node's settings: one table of name, default, parser and help, read once at start and passed down.

Owns `ipdc.conf`: its format, its defaults and the words for what is wrong in it. Never looked at again
after `load`, and never reads the environment or the clock. The file at the repository's top is
`template()`, a test asserts so.

Format: `name = value`, one a line; a line that begins with `#` is a comment; nothing else. What is not set
has its default.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping

from ipdc_edge.errors import IpdcError
from ipdc_edge.machine_memory import MachineMemory

MQTT_PORT = 18830
GATEWAY_PORT = 18831
JOIN_PORT = 18832
LOCAL_PORT = 18833
KUBO_SWARM_PORT = 4101  # Kubo's own is 4001, and whoever has a public one on this machine keeps it
DEFAULT_PORTS = (MQTT_PORT, GATEWAY_PORT, JOIN_PORT, LOCAL_PORT)
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
CONF_LIMIT = 1 << 20  # bytes of an ipdc.conf; a bigger one is a mistake


class ConfUnreadable(IpdcError):
    """Cannot read {file}: {reason}."""


class ConfLineUnreadable(IpdcError):
    """{file}, line {line}: cannot read {text!r}. Allowed: `name = value`, an empty line, or a line that
    begins with #."""


class UnknownSetting(IpdcError):
    """{file}, line {line}: there is no setting {key!r}. {advice}"""


class SettingTwice(IpdcError):
    """{file}, line {line}: {key} stands in line {first} already. Remove one of the two."""


class BadSetting(IpdcError):
    """{file}, line {line}: {key} = {value!r} is not allowed. Allowed: {allowed}."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ipdc.conf says, parsed. Sizes are bytes, times seconds."""

    name: str
    listen: str | None
    address: str | None
    mqtt_port: int
    gateway_port: int
    join_port: int
    local_port: int
    portals: tuple[tuple[str, int], ...]
    slots: int
    runner_memory: int | None
    store_quota: int | None
    input_cache: int | None
    local_inputs: tuple[str, ...]
    allow_network: bool
    keepalive: int
    stop_grace: int
    sandbox: str
    store: str
    tensorflow: str
    kubo_api: tuple[str, int]
    kubo_swarm_port: int

    def bind(self, alone: bool) -> str:
        """The address to listen on: as set, else loopback while the node is alone and every address in a domain."""
        return self.listen or (LOOPBACK if alone else EVERYWHERE)

    def quota(self, directory: str, held: int = 0) -> int:
        """Bytes that the block store may hold: as set, or 80 % of what `directory`'s disk has free for us. `held`
        bytes that the store holds already count as free, so that the quota does not shrink from start to start."""
        if self.store_quota is not None:
            return self.store_quota
        disk = os.statvfs(directory)
        return (disk.f_bavail * disk.f_frsize + held) * 8 // 10

    def cache_limit(self, quota: int) -> int:
        """Bytes that kept inputs may take of a store of that quota."""
        return quota // 4 if self.input_cache is None else min(self.input_cache, quota)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A line of the table. `parse` takes the text to its value, or raises ValueError for what `allowed` rules out."""

    name: str
    default: str
    parse: Callable[[str], object]
    allowed: str
    help: str


def size(text: str) -> int:
    """Bytes of a size such as 512K, 24M, 1.5G or 1000; K, M, G and T are powers of 1024."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)", text.strip(), re.IGNORECASE | re.ASCII)
    if not found:
        raise ValueError(text)
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def address(text: str, default_port: int = MQTT_PORT) -> tuple[str, int]:
    """(host, port) of "host:port", or of "host" with the default port. The host is not looked up."""
    host, colon, port = text.strip().partition(":")
    return _host(host), _port(port) if colon else default_port


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text, re.ASCII):
        raise ValueError(text)
    return text


def _port(text: str) -> int:
    return _between(text, 1, 65535)


def _between(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def _node_name(text: str) -> str:
    if text == "auto":
        text = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")[:63] or "node"
    return _word(text)


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text, re.ASCII):
        raise ValueError(text)
    return text


def _listen(text: str) -> str | None:
    if text == "auto":
        return None
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError as error:
        raise ValueError(text) from error
    return text


def _own_address(text: str) -> str | None:
    return None if text == "auto" else _host(text)


def _portals(text: str) -> tuple[tuple[str, int], ...]:
    found = tuple(address(part) for part in text.split(",")) if text.strip() else ()
    if len(found) > 3 or len(set(found)) != len(found):
        raise ValueError(text)
    return found


def _local_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host != LOOPBACK:
        raise ValueError(text)
    return host, _port(port)


def _directories(text: str) -> tuple[str, ...]:
    found = tuple(text.split())
    if len(found) > 16 or max(map(len, found), default=0) > 200:  # they stand in the node's record
        raise ValueError(text)
    if not all(path.startswith("/") and ".." not in path.split("/") and path.strip("/") for path in found):
        raise ValueError(text)
    return found


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def memory_total() -> int:
    """Bytes of this machine's memory, or of what a cgroup around this process leaves of it."""
    return MachineMemory().look()[0]


def _slots(text: str) -> int:
    if text != "auto":
        return _between(text, 1, 256)
    return max(1, min(len(os.sched_getaffinity(0)), memory_total() // 4 // size("24M")))


def _sandbox(text: str) -> str:
    if text not in SANDBOXES:
        raise ValueError(text)
    return text


def _store(text: str) -> str:
    if text not in STORES:
        raise ValueError(text)
    return text


def _environment(text: str) -> str:
    if text in ("auto", "no"):
        return text
    if not text.startswith("/") or ".." in text.split("/") or len(text) > 200:
        raise ValueError(text)
    return text.rstrip("/")


def _runner_memory(text: str) -> int | None:
    if text == "auto":
        return None
    found = size(text)
    if not 16 << 20 <= found <= 1 << 40:
        raise ValueError(text)
    return found


def _quota(text: str) -> int | None:
    if text == "auto":
        return None
    found = size(text)
    if not 16 << 20 <= found <= 1 << 60:
        raise ValueError(text)
    return found


def _cache(text: str) -> int | None:
    return None if text == "auto" else min(size(text), 1 << 60)


SANDBOXES = ("auto", "systemd", "bubblewrap", "rlimits")
STORES = ("embedded", "kubo")
PORTS = ("mqtt_port", "gateway_port", "join_port", "local_port")
DISTINCT = (*PORTS, "kubo_swarm_port")  # a node whose owner has no Kubo listens on none of these
WORD = "up to 63 letters, digits, - _ or . (first a letter or digit)"

TABLE = (
    Setting("name", "auto", _node_name, WORD + ", or auto",
            "What people call this node. auto: the host's name."),
    Setting("listen", "auto", _listen, "an IPv4 address of this machine, 0.0.0.0 for all, or auto",
            "Address that the broker and the gateway listen on.\n"
            "auto: loopback only while this node is alone, all addresses once it is in a domain."),
    Setting("address", "auto", _own_address, "a host name or IPv4 address, or auto",
            "Where the other nodes find this one. auto: the address of its way to them, also when that changes."),
    Setting("mqtt_port", str(MQTT_PORT), _port, "1 to 65535", "TCP port of this node's own broker."),
    Setting("gateway_port", str(GATEWAY_PORT), _port, "1 to 65535",
            "TCP port of the gateway that other nodes take blocks from."),
    Setting("join_port", str(JOIN_PORT), _port, "1 to 65535",
            "TCP port where new nodes join; open only while a token of `ipdc-edge invite` is valid."),
    Setting("local_port", str(LOCAL_PORT), _port, "1 to 65535",
            "TCP port of 127.0.0.1 where this node's daemon speaks to its own broker, with a password."),
    Setting("portals", "", _portals,
            f"at most three different host:port, with commas between (port {MQTT_PORT} may be left out)",
            "More addresses where brokers of the domain may be found, beside those that are known from the others."),
    Setting("slots", "auto", _slots, "1 to 256, or auto",
            "Tasks that run here at the same time, one runner each.\n"
            "auto: one a processor, as long as runners of 24M fit into a quarter of the memory."),
    Setting("runner_memory", "auto", _runner_memory, "a size of at least 16M, such as 24M or 1G, or auto",
            "Memory of one runner, the user's code and its interpreter together, of jobs from here without --memory.\n"
            "auto: 24M to 128M, what every node that is there spares: an eighth of its memory for all its slots, and\n"
            "half at most of what is available. Of members that are away, and may come later, an eighth of the memory\n"
            "that they joined with. With more memory maps sort with fewer spills, or none."),
    Setting("store_quota", "auto", _quota, "a size of at least 16M, such as 500M or 20G, or auto",
            "How much content this node keeps. auto: 80 % of what the disk has free at start."),
    Setting("input_cache", "auto", _cache, "a size such as 500M or 20G, 0, or auto",
            "How much of other nodes' inputs this node keeps for the next job over the same ones. They go first when\n"
            "room is wanted. Each byte kept is written once: 0 spares flash. auto: a quarter of store_quota."),
    Setting("local_inputs", "", _directories, "at most 16 absolute directories with spaces between, not /",
            "Directories whose files jobs of the domain may map here, by `ipdc-edge submit --input-local`."),
    Setting("allow_network", "no", _yes, "yes or no",
            "Whether jobs that need a network, such as a crawl, may run here."),
    Setting("keepalive", "10", lambda text: _between(text, 1, 10), "1 to 10 seconds",
            "Seconds of silence after which a connection between nodes is asked for a sign of life.\n"
            "A node that died without a word is noticed within twice that."),
    Setting("stop_grace", "20", lambda text: _between(text, 0, 3600), "0 to 3600 seconds",
            "Seconds that running tasks get to end when this node is stopped; then others do them.\n"
            "More than 40 takes a longer TimeoutStopSec= of ipdc-edge.service too."),
    Setting("sandbox", "auto", _sandbox, "auto, systemd, bubblewrap or rlimits",
            "What holds the user's code. auto: systemd's units where they are, else bubblewrap where it works,\n"
            "else resource limits (rlimits), which hide nothing from the code: for jobs of people you trust.\n"
            "systemd, bubblewrap: the daemon does not start where that is not to be had."),
    Setting("store", "embedded", _store, "embedded or kubo",
            "Where this node keeps content. embedded: in its own files. kubo: in the IPFS daemon of this machine\n"
            "(see kubo_api), which takes some hundred MB of memory. What is kept already stays where it is."),
    Setting("tensorflow", "auto", _environment, "auto, no, or the absolute directory of a virtual environment",
            "The TensorFlow with which this node takes part in clusters.\n"
            "auto: what `ipdc-edge tf install` made, else what Debian's Python finds; no: none.\n"
            "Under systemd, roles see only what is below /usr, /var/lib/ipdc/tensorflow or /var/lib/ipdc/venv."),
    Setting("kubo_api", "127.0.0.1:5001", _local_address, "127.0.0.1:port",
            "The RPC of an IPFS daemon (Kubo) on this machine, for `store = kubo`, `--to-kubo` of add and result, and\n"
            "content that no node of the domain has. It asks for no password, so it is never on another machine."),
    Setting("kubo_swarm_port", str(KUBO_SWARM_PORT), _port, "1 to 65535",
            "TCP port on which this node's own Kubo (`ipdc-edge kubo`) meets those of the domain's other nodes."),
)


def load(path: str) -> Settings:
    """Reads ipdc.conf. A file that is not there means the defaults. Raises ConfUnreadable, ConfLineUnreadable,
    UnknownSetting, SettingTwice or BadSetting, each with file, line and what is allowed."""
    try:
        with open(path, "rb") as file:
            content = file.read(CONF_LIMIT + 1)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise ConfUnreadable(file=path, reason=error.strerror or str(error)) from error
    if len(content) > CONF_LIMIT:
        raise ConfUnreadable(file=path, reason=f"it has more than {CONF_LIMIT} bytes")
    return parse(content, path)


def parse(content: bytes, file: str) -> Settings:
    """As load, from bytes; `file` is for the messages."""
    lines: dict[str, int] = {}
    values = {setting.name: setting.default for setting in TABLE}
    for number, raw in enumerate(content.split(b"\n"), 1):
        text = raw.decode("utf-8", "backslashreplace").strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]+", key):
            raise ConfLineUnreadable(file=file, line=number, text=text[:200])
        if key not in values:
            raise UnknownSetting(file=file, line=number, key=key[:100], advice=_nearest(key))
        if key in lines:
            raise SettingTwice(file=file, line=number, key=key, first=lines[key])
        lines[key] = number
        values[key] = value
    return _settings(values, lines, file)


def _settings(values: Mapping[str, str], lines: Mapping[str, int], file: str) -> Settings:
    parsed: dict[str, object] = {}
    for setting in TABLE:
        value = values[setting.name]
        try:
            parsed[setting.name] = setting.parse(value)
        except ValueError as error:
            allowed = setting.allowed
            if " #" in value:
                allowed += "; a comment stands on a line of its own"
            where = {"file": file, "line": lines.get(setting.name, 0)}
            raise BadSetting(**where, key=setting.name, value=value[:200], allowed=allowed) from error
    settings = Settings(**parsed)  # type: ignore[arg-type]
    ports: dict[int, str] = {}
    for name in DISTINCT:
        port = getattr(settings, name)
        if port in ports:
            raise BadSetting(file=file, line=lines.get(name) or lines.get(ports[port], 0), key=name, value=port,
                             allowed=f"any port but that of {ports[port]}")
        ports[port] = name
    return settings


def _nearest(key: str) -> str:
    import difflib

    names = [setting.name for setting in TABLE]
    near = difflib.get_close_matches(key.lower().replace("-", "_"), names, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."


def render(values: Mapping[str, str], comment: Iterable[str] = ()) -> str:
    """The text of an ipdc.conf that sets `values` (name -> text) and has `comment` lines at its top."""
    lines = [f"# {line}" for line in comment]
    return "\n".join(lines + [f"{name} = {value}" for name, value in values.items()]) + "\n"


def template() -> str:
    """The ipdc.conf that is delivered: every setting with its help, what is allowed and its default, all
    commented out."""
    parts = ["# Settings of ipdc-edge. Each line shows a default; remove the # to change it, then:\n"
             "#     sudo systemctl reload ipdc-edge; ipdc-edge doctor\n"
             "# The doctor finds mistakes; journalctl -u ipdc-edge says which changes wait for a restart:\n"
             "#     sudo systemctl restart ipdc-broker ipdc-edge\n"
             "# Sizes are bytes; K, M, G and T are powers of 1024. A comment stands on a line of its own.\n"]
    for setting in TABLE:
        text = "".join(f"# {line}\n" for line in setting.help.split("\n"))
        text += f"# Allowed: {setting.allowed}.\n#{setting.name} = {setting.default}"
        parts.append(text.rstrip() + "\n")
    return "\n".join(parts)
