"""What a newcomer and the join port say to each other: one line of JSON each way. Pure.

Owns the two lines, their bounds, and the ways in which a newcomer is refused, each an error with its way out.
Both sides are strangers to each other when they read: nothing is taken on trust. Never connects, never decides.

    -> {"v": 1, "secret": hex, "request": PEM, "name": text, "memory": bytes}
    <- {"v": 1, "certificate": PEM, "authority": PEM, "members": base64, "peers": {id: [mqtt, gateway]},
        "swarm": base64, missing where the authority is of an older version}
    <- {"v": 1, "refused": kind, "reason": text, "seconds": number}
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import IpdcError
from . import member_list, swarm_key
from .join_token import SECRET
from .messages import ADDRESS, NAME, BadMessage, Fields
from .node_id import NODE_ID

VERSION = 1
MOST_REQUEST = 8 << 10  # bytes of a line
MOST_ANSWER = 256 << 10
MOST_PEM = 4 << 10
MOST_REASON = 500
PEM = re.compile(r"-----BEGIN ([A-Z ]{1,30})-----\n([A-Za-z0-9+/=]{1,64}\n)+-----END \1-----\n")
HEX_SECRET = re.compile(rf"[0-9a-f]{{{2 * SECRET}}}")


class BadJoinMessage(IpdcError):
    """What came over the connection to join is not as the protocol says: {reason}. Are both nodes of one version of
    ipdc-edge?"""


class JoinRefused(IpdcError):
    """The domain's authority refused this node: {reason}"""


class WrongSecret(JoinRefused):
    """The domain's authority does not know this token. It is valid for ten minutes, once, and as long as the daemon
    there runs. Ask for another: `ipdc-edge invite`."""


class TokenUsed(JoinRefused):
    """This token was used already; each lets one node in. Ask for another: `ipdc-edge invite`."""


class TokenExpired(JoinRefused):
    """This token is older than ten minutes, and so valid no more. Ask for another: `ipdc-edge invite`."""


class MustWait(JoinRefused):
    """The domain's authority listens to this address again in {seconds} seconds: a wrong token came from it. Then try
    again."""

    retry = True


KINDS: dict[str, type[JoinRefused]] = {
    "wrong": WrongSecret, "used": TokenUsed, "expired": TokenExpired, "wait": MustWait, "refused": JoinRefused,
}


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a newcomer asks with: the token's secret, a signing request of its key (PEM), its name, its memory."""

    secret: bytes
    request: str
    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """What it gets: its certificate, the authority's (PEM), the signed list, addresses (mqtt, gateway) by id, and the
    signed key of the private network of the domain's Kubo nodes (b"": the authority told none)."""

    certificate: str
    authority: str
    members: bytes
    peers: Mapping[str, tuple[str, str]]
    swarm: bytes = field(default=b"", repr=False)


def encode_request(request: JoinRequest) -> bytes:
    """The newcomer's line."""
    return _line({"secret": request.secret.hex(), "request": request.request, "name": request.name,
                  "memory": request.memory})


def parse_request(line: bytes) -> JoinRequest:
    """Raises BadJoinMessage."""
    with _Reading(line, MOST_REQUEST) as fields:
        return JoinRequest(
            bytes.fromhex(fields.text("secret", form=HEX_SECRET)), fields.text("request", MOST_PEM, PEM),
            fields.text("name", form=NAME), fields.number("memory"),
        )


def encode_answer(answer: JoinAnswer) -> bytes:
    """The authority's line for one who is admitted."""
    members = base64.b64encode(answer.members).decode("ascii")
    peers = {node: list(addresses) for node, addresses in answer.peers.items()}
    swarm = {"swarm": base64.b64encode(answer.swarm).decode("ascii")} if answer.swarm else {}
    return _line({"certificate": answer.certificate, "authority": answer.authority, "members": members, "peers": peers,
                  **swarm})


def encode_refusal(kind: str, reason: str = "", seconds: int = 0) -> bytes:
    """The authority's line for one who is not; `kind` is one of KINDS."""
    return _line({"refused": kind, "reason": reason[:MOST_REASON], "seconds": seconds})


def parse_answer(line: bytes) -> JoinAnswer:
    """Raises the JoinRefused that the line tells, or BadJoinMessage."""
    with _Reading(line, MOST_ANSWER) as fields:
        if "refused" in fields.value:
            kind = KINDS.get(fields.text("refused", 32), JoinRefused)
            reason = "".join(c if c.isprintable() else "?" for c in fields.text("reason", MOST_REASON))
            raise kind(reason=reason, seconds=fields.number("seconds", 3600))
        return JoinAnswer(
            fields.text("certificate", MOST_PEM, PEM), fields.text("authority", MOST_PEM, PEM),
            base64.b64decode(fields.text("members", 2 * member_list.MOST_BYTES), validate=True),
            parse_peers(fields.object("peers")), _swarm(fields),
        )


def _swarm(fields: Fields) -> bytes:
    """The signed key, of which nothing that is wrong is shown: it may be one."""
    if "swarm" not in fields.value:
        return b""
    text = fields.value["swarm"]
    try:
        if not isinstance(text, str) or not 0 < len(text) <= 2 * swarm_key.MOST_BYTES:
            raise BadMessage(reason="swarm is no text of a key's length")
        data = base64.b64decode(text, validate=True)
        swarm_key.parse(data)
    except (ValueError, swarm_key.BadSwarmKey):
        raise BadMessage(reason="swarm is no signed key") from None
    return data


def parse_peers(value: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Addresses by node id; BadMessage for anything else."""
    found = {}
    for node, pair in value.items():
        if not NODE_ID.fullmatch(node) or not isinstance(pair, list) or len(pair) != 2:
            raise BadMessage(reason="peers: not an id and two addresses")
        if not all(isinstance(address, str) and ADDRESS.fullmatch(address) for address in pair):
            raise BadMessage(reason="peers: an address that is none")
        found[node] = (pair[0], pair[1])
    if len(found) > member_list.MOST_MEMBERS:
        raise BadMessage(reason="peers: too many")
    return found


class _Reading:
    """Takes a line to its fields, and what is wrong in them to BadJoinMessage."""

    def __init__(self, line: bytes, most: int) -> None:
        self.line, self.most = line, most

    def __enter__(self) -> Fields:
        if len(self.line) > self.most:
            raise BadJoinMessage(reason=f"a line of more than {self.most} bytes")
        try:
            fields = Fields(json.loads(self.line), "the line")
            if fields.number("v") != VERSION:
                raise BadJoinMessage(reason="it is of another version")
        except (ValueError, RecursionError, BadMessage) as error:
            raise BadJoinMessage(reason=_reason(error)) from None
        return fields

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | BadMessage):
            raise BadJoinMessage(reason=_reason(error)) from None


def _reason(error: BaseException) -> str:
    return str(error.details["reason"] if isinstance(error, BadMessage) else error)[:200]


def _line(value: dict[str, object]) -> bytes:
    return json.dumps({"v": VERSION, **value}, separators=(",", ":")).encode("ascii") + b"\n"
