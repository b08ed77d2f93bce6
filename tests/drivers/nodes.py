"""Nodes for tests of identity and authority: a home of its own each, no daemon."""

from __future__ import annotations

import os
from pathlib import Path

from ipdc_edge.drivers import authority, identity
from ipdc_edge.home import Home


def make_home(directory: Path, name: str) -> Home:
    """An empty home."""
    home = Home({"IPDC_HOME": str(directory / name)})
    home.prepare()
    return home


def make_node(directory: Path, name: str, memory: int = 1 << 30) -> Home:
    """A home with a key and its domain of one."""
    home = make_home(directory, name)
    authority.ensure(home, name, memory)
    return home


def make_creator(directory: Path, name: str = "one", domain: str = "home") -> Home:
    """A node that made a domain."""
    home = make_node(directory, name)
    authority.create_domain(home, domain, node_name=name, memory=1 << 30)
    return home


def admit(creator: Home, node: Home, name: str, memory: int = 1 << 30) -> authority.Admitted:
    """Admits a node at its authority; the node itself is not told."""
    return authority.admit(creator, authority.signing_request(node), name, memory)


def tree(home: Home) -> dict[str, bytes]:
    """Every file below identity/, and where `current` points."""
    found = {"current": os.fsencode(os.readlink(home.current))} if os.path.lexists(home.current) else {}
    for directory, _, names in os.walk(home.identity):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                found[os.path.relpath(path, home.identity)] = Path(path).read_bytes()
    return found


def current(home: Home) -> str:
    """The current domain's directory."""
    return os.path.join(identity.domains(home), identity.load(home).authority)
