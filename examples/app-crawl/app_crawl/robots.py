"""robots.txt, as RFC 9309 has it: which paths a crawler of our name may ask for, and how fast.

Owns the reading of the file. Python's own `urllib.robotparser` takes the first rule that fits instead of the longest
and knows neither * nor $, so it would let us in where the owner says no. A file that is not there allows everything;
one that cannot be had for now (5xx, 429, no answer) forbids everything, and so do 401 and 403.
"""

from __future__ import annotations

import re

from app_crawl.urls import spelled

MOST_BYTES = 512 * 1024  # of a robots.txt; the RFC wants 500 KiB read
MOST_RULES = 20_000
_TOKEN = re.compile(r"[a-z_-]+|\*")


class Rules:
    """What one origin's robots.txt says to us."""

    def __init__(self, everything: bool | None = None) -> None:
        """everything: True forbids all, False allows all."""
        self._rules: list[tuple[int, bool, list[str], bool]] = []  # length, allowed, pieces between *, ends with $
        self.delay = 0.0  # seconds that it asks for between two requests
        if everything:
            self._add("/", False)

    def _add(self, path: str, allowed: bool) -> None:
        if path and len(self._rules) < MOST_RULES:
            anchored = path.endswith("$")
            pieces = [spelled(piece) for piece in path.removesuffix("$").split("*")]
            self._rules.append((len(path), allowed, pieces, anchored))

    def allows(self, target: str) -> bool:
        """Whether path and query `target` may be asked for: the longest rule that fits decides, on a tie for us."""
        if target == "/robots.txt":
            return True
        target = spelled(target)
        fitting = [rule[:2] for rule in self._rules if _fits(target, rule[2], rule[3])]
        return max(fitting)[1] if fitting else True


def _fits(target: str, pieces: list[str], anchored: bool) -> bool:
    """Whether a path begins with the pieces in their order, with anything between them. Linear, whatever they are."""
    if not target.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    for piece in pieces[1:-1]:
        at = target.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    if len(pieces) == 1:
        return not anchored or at == len(target)
    if anchored:
        return len(target) - len(pieces[-1]) >= at and target.endswith(pieces[-1])
    return target.find(pieces[-1], at) >= 0


def read(status: int, data: bytes, agent: str) -> Rules:
    """The rules that an answer to /robots.txt means for `agent`."""
    if 200 <= status < 300:
        return parse(data, agent)
    if 400 <= status < 500 and status not in (401, 403, 429):
        return Rules(everything=False)
    return Rules(everything=True)


def parse(data: bytes, agent: str) -> Rules:
    """The groups of our name together; those of * when there is none."""
    ours: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    named = False  # whether any group is ours
    mine = anyone = False  # whom the present group speaks to
    heading = False  # within the user-agent lines of a group
    for line in data[:MOST_BYTES].decode("utf-8-sig", "replace").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name not in ("user-agent", "allow", "disallow", "crawl-delay"):
            continue
        if name == "user-agent":
            if not heading:
                mine = anyone = False
            token = _TOKEN.match(value.lower())
            mine = mine or (token is not None and token[0] == agent.lower())
            anyone = anyone or value.startswith("*")
            named, heading = named or mine, True
            continue
        heading = False
        if mine:
            ours.append((name, value))
        if anyone:
            others.append((name, value))
    rules = Rules()
    for name, value in ours if named else others:
        if name == "crawl-delay":
            rules.delay = max(rules.delay, _seconds(value))
        else:
            rules._add(value, name == "allow")
    return rules


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else 0.0
