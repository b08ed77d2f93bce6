"""`ipdc-edge doctor --domain`: whether anything is left over of jobs and members that are no more, on any node.

Owns how that is told and what helps. The daemon asks the members (daemon/leftovers.py); they tell counts, and only this
node's own leftovers have names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import counted, size
from ipdc_edge.commands.doctor.service import restart
from ipdc_edge.home import Home

RESTART = "@"  # stands for what restarts the daemon
SERVICE = "sudo systemctl restart ipdc-edge"
KINDS = {  # what it is, one and many, and what helps
    "blocks": ("job that is no more still owns blocks", "jobs that are no more still own blocks", RESTART),
    "files": ("file in the block store is no block's", "files in the block store are no block's", RESTART),
    "parts": ("job that has ended still has unfinished parts", "jobs that have ended still have unfinished parts",
              "sudo rm -r what is named here"),
    "scratch": ("name in scratch is no runner's", "names in scratch are no runner's",
                RESTART + "; what is there then is not ipdc-edge's: sudo rm -r what is named here"),
    "processes": ("process is a runner's without a task", "processes are a runner's without a task",
                  "sudo kill -9 the number, or for a unit: sudo systemctl kill its name"),
    "retained": ("topic is retained at its broker for nobody", "topics are retained at its broker for nobody",
                 "its broker forgets them with a restart: sudo systemctl restart ipdc-broker"),
    "forgotten": ("job is held whose master has it no more", "jobs are held whose masters have them no more",
                  "it ends by itself within two minutes; then look again"),
}
THERE = "on that machine, which also names them: ipdc-edge doctor --domain; then: "
NAMED = 8  # leftovers that are named


def look(home: Home) -> list[dict[str, Any]]:
    """Asks the daemon: a dict for each thing that is left over, each node that has nothing, and each that was not
    asked: {node, id, check, ok, detail, advice, count, bytes, names}. Raises IpdcError without a daemon."""
    nodes = call(home, "leftovers").get("nodes")
    found: list[dict[str, Any]] = []
    for node in nodes if isinstance(nodes, list) else []:
        found += node_checks(node, restart(home))
    return found


def node_checks(node: Mapping[str, Any], again: str) -> Iterator[dict[str, Any]]:
    """What is told of one node; `again` restarts the daemon here."""
    own = bool(node.get("self"))

    def check(name: str, ok: bool | None, detail: str, advice: str = "", sums: Sequence[int] = (0, 0),
              names: Sequence[str] = ()) -> dict[str, Any]:
        return {"node": node.get("name"), "id": node.get("id"), "check": name, "ok": ok, "detail": detail,
                "advice": advice, "count": sums[0], "bytes": sums[1], "names": list(names)}

    if node.get("why"):
        yield check("leftovers", None, f"not checked: {node['why']}",
                    "is it on, and does ipdc-edge run there? What is left over there, if anything, is not known")
        return
    found = {**node["found"], **({"forgotten": [node["forgotten"], 0]} if node.get("forgotten") else {})}
    for kind, (one, many, helps) in KINDS.items():
        if kind in found:
            count, taken = found[kind]
            names = [str(name) for name in node.get("names", {}).get(kind, ())]
            detail = f"{count} {one if count == 1 else many}"
            detail += f", {size(taken)}" if taken else ""
            detail += ": " + ", ".join(names[:NAMED]) + (", ..." if count > NAMED else "") if names else ""
            advice = helps.replace(RESTART, again if own else SERVICE)
            if not own and kind != "forgotten":
                advice = THERE + advice
            yield check(kind, False, detail, advice, (count, taken), names)
    for kind, why in node["unseen"].items():
        yield check(kind, None, "not checked" + (f": {why}" if why else ""),
                    "ipdc-edge doctor" if own else "on that machine: ipdc-edge doctor")
    if not found and not node["unseen"]:
        yield check("leftovers", True, "nothing is left over")


def text(checks: Sequence[Mapping[str, Any]]) -> str:
    """The checks as people read them, and a verdict."""
    words = {True: "ok", False: "LEFT", None: "note"}
    name_width = max((len(str(check["node"])) for check in checks), default=0)
    width = max((len(str(check["check"])) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{words[check['ok']]:4}  {check['node']:{name_width}}  {check['check']:{width}}  "
                     f"{check['detail']}")
        if check["advice"]:
            lines.append(f"{'':{8 + name_width + width}}  -> {check['advice']}")
    nodes = {check["id"] for check in checks}
    left = {check["id"] for check in checks if check["ok"] is False}
    unknown = {check["id"] for check in checks if check["ok"] is None} - left
    clean = len(nodes - left - unknown)
    verdict = f"{clean} of {counted(len(nodes), 'node')} {'has' if clean == 1 else 'have'} nothing left over"
    verdict += f"; {len(unknown)} could not be checked wholly" if unknown else ""
    return "\n".join([*lines, "", verdict + "."])
