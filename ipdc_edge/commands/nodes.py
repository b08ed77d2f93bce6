"""`ipdc-edge nodes`: who is in the domain, how busy they are, and what each of them is and can do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import WIDTH, plain, print_json, size, table
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

HEADING = ("NAME", "ROLE", "STATE", "SLOTS", "IDLE", "SPEED", "MEMORY", "DISK", "TEMP")
LOCAL_INPUT = "input-local:"  # begins a capability that is a directory; daemon/local_inputs.py's word
KUBO = "kubo:"  # begins one that names its Kubo in the domain's private network; daemon/kubo_network.py's word
STORE = "store:"  # begins one that names its block store; daemon/store.py's word
OPERATORS = "tflite-operators="  # begins one that is for programs only; apps/tflite/plan.py's word
WEAK = "user code is held by resource limits only"
LABEL = 12  # columns of a label in the long form
HOT = 80.0  # degrees Celsius; boards slow themselves down from here on

EXAMPLES = """\
examples:
  ipdc-edge nodes                 a line for each node
  ipdc-edge nodes kitchen         all about one node, by its name, or the end or beginning of its id
  ipdc-edge nodes -l              all about every node
  ipdc-edge nodes --json

ROLE: `*` is the node that was asked, `portal` one at which the others find each other.
IDLE: share of the processors that does nothing, and how many there are. MEMORY and DISK: what is free.
SPEED: work per second of one core, measured once at the first start; 1.0 is a core of a server of 2024.
What is wrong with a node, such as a weak power supply or no sandbox, stands below the lines.
"""


class UnknownNode(IpdcError):
    """No node here has the name {name!r}, or an id that begins or ends with it. There are: {known}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "The nodes of the domain that this node sees."
    parser.epilog = EXAMPLES
    parser.add_argument("node", metavar="NODE", nargs="*", help="only these, with all that is known of them")
    parser.add_argument("-l", "--long", action="store_true", help="all that is known of each node")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """0."""
    answer = call(Home(os.environ), "nodes").get("nodes")
    found: list[dict[str, Any]] = [node for node in answer if isinstance(node, dict)] if isinstance(
        answer, list) else []
    found.sort(key=lambda node: (not node.get("self"), str(node.get("name")), str(node.get("id"))))
    if args.node:
        found = chosen(found, args.node)
    if args.json:
        print_json(found)
    elif args.long or args.node:
        print("\n\n".join(details(node) for node in found))
    else:
        print(overview(found))
    return 0


def chosen(nodes: Sequence[dict[str, Any]], wanted: Iterable[str]) -> list[dict[str, Any]]:
    """The nodes that are meant; several where they share a name. Raises UnknownNode."""
    found: dict[str, dict[str, Any]] = {}
    for name in wanted:
        part = name.removeprefix("..")
        meant = [node for node in nodes if node.get("name") == name] or [
            node for node in nodes if part and (str(node.get("id")).startswith(part)
                                                or str(node.get("id")).endswith(part))]
        if not meant:
            raise UnknownNode(name=name, known=", ".join(str(node.get("name")) for node in nodes))
        found.update((str(node.get("id")), node) for node in meant)
    return list(found.values())


def overview(nodes: Sequence[Mapping[str, Any]]) -> str:
    """A line for each node that fits in 80 columns while names are short, and a line for each thing that is wrong."""
    names = [str(node.get("name")) for node in nodes]
    labels = [name if names.count(name) == 1 else f"{name} {_short(node)}" for name, node in zip(names, nodes)]
    lines = [table([HEADING, *(_row(label, node) for label, node in zip(labels, nodes))], right=(3, 4, 5, 6, 7, 8))]
    troubles: dict[str, list[str]] = {}  # what is wrong with several is said once
    for label, node in zip(labels, nodes):
        weak = [f"{WEAK}, which is for jobs of people you trust"] if node.get("sandbox") == "rlimits" else []
        for trouble in (*troubles_of(node), *weak):
            troubles.setdefault(trouble, []).append(label)
    said = [plain(f"{', '.join(those)}: {trouble}") for trouble, those in troubles.items()]
    return "\n".join([*lines, *([""] if said else []), *said])


def troubles_of(node: Mapping[str, Any]) -> list[str]:
    """What is wrong with a board and shows in its vitals."""
    found = []
    for what, slow in (("undervoltage", "its power supply or cable is too weak"), ("throttled", "it is slowed down")):
        if node.get(what) is True:
            found.append(f"{what} now: {slow}")
        elif node.get(f"{what}_before") is True:
            found.append(f"{what} some time since it started")
    temperature = node.get("temperature")
    if isinstance(temperature, int | float) and temperature >= HOT:
        found.append(f"{temperature:.0f} °C: it slows down, cool it")
    return found


def details(node: Mapping[str, Any]) -> str:
    """All that is known of one node, a line for each thing."""
    can = [str(word) for word in node.get("capabilities") or ()]
    directories = [word.removeprefix(LOCAL_INPUT) for word in can if word.startswith(LOCAL_INPUT)]
    cpus, sandbox = node.get("cpu_count"), str(node.get("sandbox") or "")
    role = [word for word, flag in (("this node", "self"), ("portal", "portal")) if node.get(flag)]
    lines = [
        ("node", str(node.get("name"))), ("id", str(node.get("id"))), ("role", ", ".join(role)),
        ("state", str(node.get("state"))), ("address", str(node.get("address") or "")),
        ("gateway", str(node.get("gateway") or "")), ("version", str(node.get("version") or "")),
        ("machine", str(node.get("architecture") or "")),
        ("processor", f"{cpus or '-'} at speed {_number(node.get('speed'), '{:.2f}')}, "
                      f"{_number(node.get('cpu_idle'), '{:.0%}')} idle, load {_number(node.get('load'), '{:.2f}')}"),
        ("memory", f"{size(node.get('memory_available'))} available of {size(node.get('memory_total'))}"),
        ("disk", f"{size(node.get('disk_free'))} free"), ("temperature", _degrees(node, " °C")),
        ("power", "; ".join(troubles_of({**node, "temperature": None})) or "no trouble is told"),
        ("slots", str(node.get("slots"))),
        ("sandbox", f"{sandbox}: {WEAK}" if sandbox == "rlimits" else sandbox),
        ("store", str(node.get("store") or "")),
        ("kubo", " ".join(word.removeprefix(KUBO).partition(":")[0] for word in can if word.startswith(KUBO))),
        ("can do", ", ".join(word for word in can if not word.startswith((LOCAL_INPUT, STORE, KUBO, OPERATORS)))),
        *(("cannot do", str(word)) for word in node.get("unable") or ()),
        ("local inputs", " ".join(directories)),
    ]
    return "\n".join(plain(line) for label, text in lines if text for line in _wrapped(label, text))


def _wrapped(label: str, text: str) -> list[str]:
    import textwrap

    lines = textwrap.wrap(text, WIDTH - LABEL - 1, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{label if number == 0 else '':{LABEL}} {line}" for number, line in enumerate(lines)]


def _row(name: str, node: Mapping[str, Any]) -> list[object]:
    role = " ".join(word for word, flag in (("*", "self"), ("portal", "portal")) if node.get(flag))
    cpus = node.get("cpu_count")
    return [name, role or "-", node.get("state"), node.get("slots"),
            _number(node.get("cpu_idle"), "{:.0%}") + (f"/{cpus}" if cpus else ""),
            _number(node.get("speed"), "{:.2f}"), size(node.get("memory_available")), size(node.get("disk_free")),
            _degrees(node, "°C")]


def _short(node: Mapping[str, Any]) -> str:
    identity = str(node.get("id") or "-")
    return identity if len(identity) <= 8 else f"..{identity[-6:]}"  # ids of one kind begin alike


def _degrees(node: Mapping[str, Any], unit: str) -> str:
    return _number(node.get("temperature"), "{:.0f}" + unit)


def _number(value: object, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"
