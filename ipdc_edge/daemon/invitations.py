"""Invitations: tokens, and the join server that is there as long as one is valid.

Owns the child that holds the join port (drivers/join_server.py); the daemon itself listens on no such port. Makes
secrets and nothing else: certificates and lists are the child's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..codec.join_token import SECRET, Token, render
from ..core.admission import AUTHORITY
from ..core.membership import Membership
from ..drivers import identity
from ..errors import BadRequest, IpdcError
from ..home import Home
from ..settings import Settings, address
from .background import Background, note
from .domain import Domain

if TYPE_CHECKING:
    from asyncio.subprocess import Process

LASTS = 600  # seconds that a token is valid
OPENS = 15.0  # seconds in which the join port has to open: on a small board it takes some to load the child
LINE = 64 << 10  # bytes of a line from the child


class NoAuthority(IpdcError):
    """This node cannot invite: the key of domain {domain}'s authority is on {holder}. Run `ipdc-edge invite` there."""


class NobodyToInvite(IpdcError):
    """This node is alone, in no domain. Make one first: `ipdc-edge domain create NAME`."""


class JoinPortClosed(IpdcError):
    """The join port {port} could not be opened: {reason}. Change join_port in {conf}, or end what uses it."""


class TooManyTokens(IpdcError):
    """As many tokens as there may be are valid now. Use them; each ends by itself ten minutes after it was given."""

    retry = True


class Invitations:
    """The tokens of this node. `host()` is where newcomers find it."""

    def __init__(
        self, home: Home, settings: Settings, domain: Domain, membership: Membership, background: Background,
        host: Callable[[], str],
    ) -> None:
        self.home, self.settings, self.domain, self.membership = home, settings, domain, membership
        self.background, self.host = background, host
        self.loop = asyncio.get_running_loop()
        self._child: Process | None = None
        self._opening = asyncio.Lock()
        self._given: dict[str, asyncio.Future[bool]] = {}  # by a token's SHA-256: is there room?

    async def invite(self, wanted: str) -> dict[str, object]:
        """A new token; newcomers find this node at `wanted`: "host", "host:port", or "" for its own address."""
        own = self.domain.identity
        if own.alone:
            raise NobodyToInvite
        if not own.has_authority:
            peers = self.membership.peers.values()
            holders = [peer.record.name for peer in peers if AUTHORITY in peer.record.capabilities]
            raise NoAuthority(domain=own.domain, holder=" or ".join(holders) or "a node that is not here now")
        secret = os.urandom(SECRET)
        try:  # before anybody hears of the secret
            host, port = address(wanted or self.host(), self.settings.join_port)
            token = render(Token(own.authority, secret, (f"{host}:{port}",)))
        except ValueError as error:
            raise BadRequest(reason=f"no address that a token can name: {error}") from None
        async with self._opening:
            if self._child is None or not await self._give(self._child, secret):
                if not await self._give(await self._open(), secret):
                    raise JoinPortClosed(port=port, reason="it takes no token", conf=self.home.conf)
        return {"token": token, "expires_in": LASTS, "addresses": [f"{host}:{port}"], "domain": own.domain}

    async def _give(self, child: Process, secret: bytes) -> bool:
        """Whether the child took the token: one whose port is closing takes none any more. Raises TooManyTokens."""
        name = hashlib.sha256(secret).hexdigest()
        taken = self._given[name] = self.loop.create_future()
        self._tell(child, {"peers": self._peers()})
        self._tell(child, {"invite": secret.hex(), "expires_in": LASTS})
        ended = self.loop.create_task(child.wait())
        await asyncio.wait([taken, ended], timeout=OPENS, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        self._given.pop(name, None)
        if taken.done() and not taken.result():
            raise TooManyTokens
        return taken.done()

    def _peers(self) -> dict[str, tuple[str, str]]:
        """Where the newcomer finds the portals, and the others while they are few."""
        membership = self.membership
        known = {node: at for node, at in membership.addresses.items() if all(at)}
        first = [node for node in membership.portals if node in known]
        return {node: known[node] for node in dict.fromkeys([*first, *known][:32])}

    def _tell(self, child: Process, line: dict[str, object]) -> None:
        if child.stdin is not None:
            child.stdin.write(json.dumps(line).encode() + b"\n")

    async def _open(self) -> Process:
        settings, home = self.settings, self.home
        child = await asyncio.create_subprocess_exec(
            *identity.child_command("serve"), env=identity.child_environment(home), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=LINE)
        host = settings.bind(self.domain.identity.alone)
        self._tell(child, {"listen": host, "port": settings.join_port, "peers": self._peers()})
        answer: dict[str, object] = {"failed": "the child said nothing; see the log"}
        try:
            async with asyncio.timeout(OPENS):
                line = await child.stdout.readline() if child.stdout is not None else b""
            if line:
                answer = json.loads(line)
        except TimeoutError:
            answer = {"failed": f"it took more than {OPENS:g} s"}
        finally:
            if "listening" not in answer and child.returncode is None:
                child.kill()
        if "listening" not in answer:
            await child.wait()
            raise JoinPortClosed(port=settings.join_port, reason=answer.get("failed"), conf=home.conf)
        self._child = child
        note(f"the join port {settings.join_port} is open")
        self.background.start(self._listen(child))
        return child

    async def _listen(self, child: Process) -> None:
        """What the child says, until it ends with its last token."""
        try:
            while child.stdout is not None and (line := await child.stdout.readline()):
                said = json.loads(line)
                answer = next((word for word in ("invited", "full") if word in said), "")
                if answer and said[answer] in self._given:
                    self._given[said[answer]].set_result(answer == "invited")
                elif "joined" in said:
                    await self._joined(child, said["joined"])
                elif "refused" in said:
                    note(f"refused to join from {said['refused']['source']}: {said['refused']['reason']}")
            await child.wait()
            note("the join port is closed")
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            if self._child is child:
                self._child = None

    async def _joined(self, child: Process, newcomer: dict[str, object]) -> None:
        try:
            await self.domain.adopt()
        except (IpdcError, OSError) as error:
            note(f"the list with {newcomer['name']} could not be taken up: {error}")
        note(f"{newcomer['name']} ({newcomer['id']}) joined the domain")
        self._tell(child, {"adopted": newcomer["version"]})
