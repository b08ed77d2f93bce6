"""The child that may load `cryptography`: `python3 -P -m ipdc_edge.authority_child WORD`, with JSON on standard
input and output.

Owns the words and their JSON. Works on the home that IPDC_HOME names. Never stays: `serve`, the join server, ends
with its last token.

    ensure       {"name"} -> {"id"}                        makes the node's key and its domain of one
    verify       {"list": base64, "authority": PEM} -> {"ok": true} or {"ok": false, "reason"}
    verify-swarm-key, likewise: the key of the Kubo nodes' network
    make-swarm-key -> {}                                   where the domain, of an earlier version, has none
    expel NODE   -> {"version", "id"}
    announce     {"members": {id: "host:port"}, "payload": text} -> {"told": [ids]}      see drivers/announce.py
    serve        lines of JSON, see drivers/join_server.py

An IpdcError is answered as {"error": IpdcError.to_dict()}, with exit code 1.
"""

from __future__ import annotations

import base64
import json
import os
import sys

from ipdc_edge.drivers import identity
from ipdc_edge.errors import IpdcError, WrongUsage
from ipdc_edge.home import Home
from ipdc_edge.settings import memory_total

Answer = dict[str, object]


def main(words: list[str]) -> int:
    """Does what the word says; the process's exit code."""
    home = Home(os.environ)
    if words == ["serve"]:
        from ipdc_edge.drivers.join_server import serve

        return serve(home)
    try:
        answer = _answer(home, words)
    except IpdcError as error:
        answer = {"error": error.to_dict()}
    print(json.dumps(answer))
    return 1 if "error" in answer else 0


def _answer(home: Home, words: list[str]) -> Answer:
    from ipdc_edge.drivers import authority, signatures

    match words:
        case ["ensure"]:
            return {"id": authority.ensure(home, str(_input()["name"]), memory_total())}
        case ["verify" | "verify-swarm-key"]:
            question = _input()
            judge = signatures.verify if words == ["verify"] else signatures.verify_swarm_key
            try:
                data = base64.b64decode(str(question["list"]), validate=True)
                judge(data, str(question["authority"]).encode("ascii", "replace"))
            except (ValueError, IpdcError) as error:
                return {"ok": False, "reason": str(error)}
            return {"ok": True}
        case ["announce"]:
            from ipdc_edge.drivers.announce import announce

            question = _input()
            return {"told": announce(home, dict(question["members"]), str(question["payload"]).encode())}
        case ["make-swarm-key"]:
            authority.make_swarm_key(home)
            return {}
        case ["expel", node]:
            before = identity.load(home).members
            after = authority.expel(home, node)
            gone = {member.id for member in before.members} - {member.id for member in after.members}
            return {"version": after.version, "id": min(gone, default="")}
    raise WrongUsage(reason=f"authority_child does not know {' '.join(words)!r}")


def _input() -> dict[str, object]:
    return dict(json.loads(sys.stdin.buffer.read(identity.MOST_FILE)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
