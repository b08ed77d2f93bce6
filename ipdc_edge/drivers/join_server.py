"""The join port: where a newcomer with a token gets its certificate.

Owns the port and the tokens, as long as one of them is valid: a child of the daemon (authority_child.py) that
ends with its last token, and with it the port. Tokens live in memory only and expire by the monotonic clock. TLS
1.3; the server's certificate is the authority's own, so that the handshake proves to the newcomer whom it speaks
to before it shows its secret. Never knows the daemon's state but what it is told.

    stdin, first   {"listen": host, "port": number, "peers": {id: [mqtt, gateway]}}
    stdin          {"invite": hex, "expires_in": seconds}   {"adopted": version}   {"peers": {...}}
    stdout         {"listening": port} or {"failed": reason}, once
                   {"invited": hex of the token's SHA-256} once it is valid; never, when the port was closing already
                   {"full": hex of the token's SHA-256} instead, when MOST_TOKENS are valid: this one never will be
                   {"joined": {"id", "name", "version"}}, then {"adopted"} is waited for before the newcomer is
                   answered, so that it is let in wherever it turns to next
                   {"refused": {"source", "reason"}}, for the journal, at most one a second and source
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import ssl
import sys
from collections import Counter
from dataclasses import dataclass, field

from ..codec import join_messages as m
from ..errors import IpdcError
from ..home import Home
from . import authority
from . import identity as files

MOST_CONNECTIONS = 32
MOST_OF_A_SOURCE = 4
HANDSHAKE = 5.0  # seconds
REQUEST = 5.0  # seconds until the whole line is there
ADOPTION = 2.0  # seconds that a newcomer is kept waiting for the daemon
FIRST_TOKEN = 10.0  # seconds until the first token is told; without one there is nothing to do
LONGEST_WAIT = 60  # seconds that a source waits after wrong tokens
MOST_SOURCES = 1024  # that are remembered for a wrong token
MOST_TOKENS = 64
MOST_LINE = 1 << 20  # bytes of a line of the daemon's


@dataclass(eq=False, slots=True)
class Connection:
    """One newcomer under way."""

    source: str
    socket: socket.socket
    admitting: bool = False  # its certificate is made: not to be cut any more
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Source:
    """An address from which wrong tokens came: how many in a row, and until when it is not listened to."""

    wrong: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Tokens:
    """The secrets: valid ones with their end on the loop's clock; of used and expired ones a hash, for good answers."""

    valid: dict[bytes, float] = field(default_factory=dict)
    ended: dict[bytes, str] = field(default_factory=dict)

    def add(self, secret: bytes, end: float) -> bool:
        """Whether there was room for it."""
        if len(self.valid) >= MOST_TOKENS:
            return False
        self.valid[secret] = end
        return True

    def find(self, secret: bytes) -> bytes | None:
        """The valid token that this is. Every one is compared, each in constant time."""
        found = None
        for valid in self.valid:
            if hmac.compare_digest(valid, secret):
                found = valid
        return found

    def end(self, secret: bytes, how: str) -> None:
        self.valid.pop(secret, None)
        self.ended[hashlib.sha256(secret).digest()] = how

    def expire(self, now: float) -> None:
        for secret in [secret for secret, end in self.valid.items() if end <= now]:
            self.end(secret, "expired")

    def why_not(self, secret: bytes) -> str:
        return self.ended.get(hashlib.sha256(secret).digest(), "wrong")


def serve(home: Home) -> int:
    """Serves until no token is valid any more or standard input ends; the process's exit code."""
    try:
        return asyncio.run(JoinServer(home).run())
    except BrokenPipeError:  # the daemon is gone, and with it who could adopt a newcomer
        return 1


class JoinServer:
    """One life of the join port. `run` is all that is called from outside."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.tokens = Tokens()
        self.sources: dict[str, Source] = {}
        self.noted: dict[str, float] = {}
        self.connections: list[Connection] = []
        self.peers: dict[str, tuple[str, str]] = {}
        self.adopted = 0
        self.ended = False  # standard input is
        self.closing = False
        self.changed = asyncio.Condition()

    async def run(self) -> int:
        """Serves until no token is valid any more, or standard input ends."""
        self.loop = asyncio.get_running_loop()
        told = asyncio.StreamReader(MOST_LINE)
        await self.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
        try:
            first = json.loads(await told.readline())
            self.peers = m.parse_peers(first.get("peers", {}))
            self.context = _context(self.home)
            listener = _listener(first["listen"], first["port"])
        except (OSError, ValueError, LookupError, IpdcError) as error:
            _tell({"failed": error.strerror if isinstance(error, OSError) and error.strerror else str(error)})
            return 1
        _tell({"listening": listener.getsockname()[1]})
        accepting, listening = self.loop.create_task(self._accept(listener)), self.loop.create_task(self._listen(told))
        try:
            await self._until_the_last_token()
        finally:
            self.closing = True
            accepting.cancel()
            listener.close()
            await self._finish()
            listening.cancel()  # only now: it hears of adoptions
        return 0

    async def _until_the_last_token(self) -> None:
        idle_until = self.loop.time() + FIRST_TOKEN
        async with self.changed:
            while not self.ended:
                now = self.loop.time()
                self.tokens.expire(now)
                if self.tokens.valid:
                    end = min(self.tokens.valid.values())
                elif self.tokens.ended or now >= idle_until:
                    return
                else:
                    end = idle_until
                await self._change(end - now)

    async def _change(self, seconds: float) -> None:
        """Returns at the next change, or after so many seconds. The caller holds the condition."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            pass  # the caller looks at the clock

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _finish(self) -> None:
        """Lets those who have their certificate get it, and cuts the others."""
        for connection in self.connections:
            if not connection.admitting and connection.task:
                connection.task.cancel()
        left = [connection.task for connection in self.connections if connection.task]
        if left:
            await asyncio.wait(left, timeout=ADOPTION + REQUEST)

    async def _listen(self, told: asyncio.StreamReader) -> None:
        """What the daemon says."""
        try:
            while line := await told.readline():
                said = json.loads(line)
                if "invite" in said and not self.closing:
                    secret = bytes.fromhex(said["invite"])
                    self.tokens.expire(self.loop.time())
                    taken = self.tokens.add(secret, self.loop.time() + said["expires_in"])
                    _tell({"invited" if taken else "full": hashlib.sha256(secret).hexdigest()})
                if "adopted" in said:
                    self.adopted = max(self.adopted, said["adopted"])
                if "peers" in said:
                    self.peers = m.parse_peers(said["peers"])
                await self._notify()
        finally:  # also after a line that is none, whose traceback is for the journal
            self.ended = True
            await self._notify()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, address = await self.loop.sock_accept(listener)
            except OSError:  # it went away again, or there are no descriptors: those under way end within seconds
                await asyncio.sleep(0.1)
                continue
            connection = Connection(address[0], accepted)
            if not self._has_place(connection.source):
                accepted.close()
                self._note(connection.source, "too many connections")
                continue
            self.connections.append(connection)
            connection.task = self.loop.create_task(self._serve(connection))

    def _has_place(self, source: str) -> bool:
        """Whether a connection more may come from there. When all places are taken, the oldest one of whoever has most
        is cut: who holds places open keeps nobody out."""
        held = Counter(connection.source for connection in self.connections)
        if held[source] >= MOST_OF_A_SOURCE:
            return False
        if len(self.connections) < MOST_CONNECTIONS:
            return True
        idle = [connection for connection in self.connections if not connection.admitting]
        if not idle:
            return False
        cut = max(idle, key=lambda connection: held[connection.source])  # of equals the first, which is the oldest
        self.connections.remove(cut)
        if cut.task:
            cut.task.cancel()
        self._note(cut.source, "cut: all places were taken")
        return True

    async def _serve(self, connection: Connection) -> None:
        transport: asyncio.Transport | None = None
        try:
            reader = asyncio.StreamReader(m.MOST_REQUEST)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self.loop.connect_accepted_socket(
                lambda: protocol, connection.socket, ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=REQUEST,
            )
            async with asyncio.timeout(REQUEST):
                line = await reader.readline()
            transport.write(await self._reply(connection, line))
            async with asyncio.timeout(REQUEST):
                await reader.read(1)  # the newcomer closes when it has read all
        except (OSError, ValueError) as error:  # TimeoutError and SSLError too; ValueError: the line is too long
            self._note(connection.source, f"broken off: {str(error)[:200] or type(error).__name__}")
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
            if transport is not None:
                transport.close()
            else:
                connection.socket.close()

    async def _reply(self, connection: Connection, line: bytes) -> bytes:
        """The line that answers a newcomer's."""
        source = self.sources.get(connection.source)
        now = self.loop.time()
        if source is not None and source.until > now:
            return m.encode_refusal("wait", seconds=int(source.until - now) + 1)
        try:
            request = m.parse_request(line)
        except m.BadJoinMessage as error:
            return self._refuse(connection.source, "refused", str(error))
        self.tokens.expire(now)
        secret = self.tokens.find(request.secret)
        if secret is None:
            kind = self.tokens.why_not(request.secret)
            if kind == "wrong":
                self._slow_down(connection.source)
            return self._refuse(connection.source, kind, f"{kind} token")
        try:
            pem = request.request.encode("ascii")
            admitted = authority.admit(self.home, pem, request.name, request.memory, from_afar=True)
        except (IpdcError, OSError) as error:  # nothing was given out: the token stays valid
            return self._refuse(connection.source, "refused", str(error))
        connection.admitting = True
        self.tokens.end(secret, "used")
        self.sources.pop(connection.source, None)
        version = admitted.members.version
        try:
            _tell({"joined": {"id": admitted.member.id, "name": admitted.member.name, "version": version}})
        except BrokenPipeError:  # the daemon is gone: it reads the list when it starts again
            self.ended = True
        await self._adoption(version)
        return m.encode_answer(m.JoinAnswer(
            admitted.certificate.decode("ascii"), admitted.authority.decode("ascii"), admitted.signed, self.peers,
            admitted.swarm,
        ))

    async def _adoption(self, version: int) -> None:
        """Returns when the daemon has adopted this version, or has had time enough."""
        end = self.loop.time() + ADOPTION
        async with self.changed:
            self.changed.notify_all()  # a token less
            while self.adopted < version and not self.ended and self.loop.time() < end:
                await self._change(end - self.loop.time())

    def _refuse(self, source: str, kind: str, reason: str) -> bytes:
        self._note(source, reason)
        return m.encode_refusal(kind, reason)

    def _slow_down(self, name: str) -> None:
        """After 1, 2, 3 ... wrong tokens a source waits 1, 2, 4 ... seconds. Others do not."""
        if len(self.sources) >= MOST_SOURCES and name not in self.sources:
            self.sources.pop(min(self.sources, key=lambda known: self.sources[known].until))
        source = self.sources.setdefault(name, Source())
        source.wrong += 1
        source.until = self.loop.time() + min(LONGEST_WAIT, 1 << min(source.wrong - 1, 10))

    def _note(self, source: str, reason: str) -> None:
        """Tells the daemon, for the journal, once a second and source."""
        now = self.loop.time()
        if len(self.noted) >= MOST_SOURCES:
            self.noted = {known: at for known, at in self.noted.items() if now - at < 1}
        if len(self.noted) < MOST_SOURCES and now - self.noted.get(source, now - 1) >= 1:
            self.noted[source] = now
            try:
                _tell({"refused": {"source": source, "reason": reason}})
            except BrokenPipeError:
                self.ended = True


def _context(home: Home) -> ssl.SSLContext:
    """The authority's own certificate, TLS 1.3. Raises NotTheAuthority, StillAlone."""
    present = files.load(home)
    if not present.has_authority:
        raise authority.NotTheAuthority(domain=present.domain)
    if present.alone:
        raise authority.StillAlone
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    key = os.path.join(os.path.dirname(present.authority_certificate), files.AUTHORITY_KEY)
    context.load_cert_chain(present.authority_certificate, key)
    return context


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=MOST_CONNECTIONS)
    listener.setblocking(False)
    return listener


def _tell(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
