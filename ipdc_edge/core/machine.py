"""Following a transition table, and the errors of doing it wrong.

Owns the one rule of every state machine here: transitions are a dict literal `{(state, input): next state}`,
and an absent entry is our own bug: it names state, input and id and changes nothing. A peer that says
something odd is not a bug: the machines look first and drop what is late, doubled or forged.
"""

from __future__ import annotations

from collections.abc import Mapping

Transitions = Mapping[tuple[str, str], str]


class ImpossibleTransition(Exception):
    """Our own bug: a machine was stepped by an input that its state has no entry for."""

    def __init__(self, machine: str, ident: str, state: str, word: str) -> None:
        self.machine, self.ident, self.state, self.word = machine, ident, state, word
        super().__init__(f"{machine} {ident} is {state}: no transition for '{word}'")


class BrokenInvariant(AssertionError):
    """Our own bug: `check()` found a state that must not be."""


def follow(machine: str, table: Transitions, state: str, word: str, ident: str) -> str:
    """The state after `word`; ImpossibleTransition when the table has no entry."""
    try:
        return table[state, word]
    except KeyError:
        raise ImpossibleTransition(machine, ident, state, word) from None


def require(condition: bool, text: str) -> None:
    """State one invariant: raises BrokenInvariant with `text` when it does not hold."""
    if not condition:
        raise BrokenInvariant(text)
