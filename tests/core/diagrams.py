"""Writes the state diagrams of PROTOCOL.md from the transition tables: `python3 -m tests.core.diagrams`.

The tables are the truth; a test compares, so that the document cannot lag behind.
"""

from __future__ import annotations

import os
import re

from ipdc_edge.core import life, participant, tasks, worker
from ipdc_edge.core.machine import Transitions

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(life.__file__)), "PROTOCOL.md")
MACHINES: dict[str, Transitions] = {
    "job": life.JOB,
    "participant": participant.PARTICIPANT,
    "task": tasks.TASK,
    "held job": worker.HELD_JOB,
    "attempt": worker.HELD_TASK,
}


def diagram(table: Transitions) -> str:
    """The table as a Mermaid diagram; inputs that lead from one state to the same other one share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, word), after in table.items():
        arrows.setdefault((state, after), []).append(word)
    first = next(iter(table))[0]
    lines = [f"    [*] --> {first}"]
    lines += [f"    {state} --> {after}: {', '.join(words)}" for (state, after), words in arrows.items()]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```"


def rendered(text: str) -> str:
    """The document with every diagram made anew."""
    for name, table in MACHINES.items():
        pattern = re.compile(rf"(<!-- diagram: {name} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"PROTOCOL.md has no place for the diagram of {name}")
        text = pattern.sub(r"\1" + diagram(table), text)
    return text


if __name__ == "__main__":
    with open(DOCUMENT, encoding="utf-8") as file:
        document = file.read()
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(rendered(document))
