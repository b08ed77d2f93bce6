"""Kubo's RPC: blocks, pins and questions to the IPFS daemon of this machine.

Owns the HTTP of it: a few connections that are kept, answers of bounded length, and errors in words. Never retries but
for a kept connection that had ended meanwhile, and holds no content. Blocks for at most `timeout` at each step, so it
is for commands and threads; any number of threads may use one. RPC is never spoken with another machine: it has no
password. Source: https://docs.ipfs.tech/reference/kubo/rpc/
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ipdc_edge.codec.cid import Buffer

TIMEOUT = 20.0  # seconds for each piece that goes or comes
KEPT = 4  # connections
MOST_BLOCK = 2 << 20  # bytes; bigger blocks Kubo does not make, nor passes on
STALLED = 3.0  # seconds in which a pin gets no further before it is looked at, and tried again
LONGEST_PIN = 300.0  # seconds of that: while Kubo collects, no pin gets further
MOST_ANSWER = 1 << 20  # bytes of any other answer, or of one line of a list
_NOT_THERE = ("could not find", "not found", "is not pinned", "not pinned")
_ERROR = 500  # the status with which Kubo says so; another server's "404 page not found" is no word on a block


class NoKubo(IpdcError):
    """No Kubo answers at {address} ({reason}). Start one with `ipfs daemon`, or set kubo_api in ipdc.conf to where its
    RPC is."""

    retry = True


class KuboRefused(IpdcError):
    """Kubo at {address} did not take it: {reason}."""

    status = 0  # of HTTP, where it was the answer


class KuboRpc:
    """The RPC at one address. Every method may raise NoKubo (nobody answers, or not in time) and KuboRefused."""

    def __init__(self, api: tuple[str, int], timeout: float = TIMEOUT) -> None:
        self.address = f"{api[0]}:{api[1]}"
        self._api = api
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    # --- blocks

    def put_block(self, data: Buffer, codec: str = "raw", pin: bool = False) -> str:
        """Store a block: the CID that Kubo gives it (sha2-256). Nothing keeps it from Kubo's garbage collection but a
        pin."""
        said = self.call("block/put", [("cid-codec", codec), ("mhtype", "sha2-256"), ("pin", _word(pin))], part=data)
        return str(self._field(said, "Key"))

    def get_block(self, cid: str, offline: bool = True) -> bytes | None:
        """The block, unchecked; None when it is not in Kubo's store. Without `offline` Kubo looks in its network, for
        as long as the timeout lets it."""
        return self._unless_missing("block/get", [("arg", cid), ("offline", _word(offline))], MOST_BLOCK)

    def block_size(self, cid: str, offline: bool = True) -> int | None:
        """Bytes of the block; None when it is not in Kubo's store."""
        said = self._unless_missing("block/stat", [("arg", cid), ("offline", _word(offline))])
        return None if said is None else int(self._field(said, "Size"))

    def remove_block(self, cid: str) -> None:
        """Remove a block, where no pin keeps it; that its bytes are damaged does not matter."""
        self.call("block/rm", [("arg", cid), ("force", "true")])

    # --- pins

    def pin(self, cid: str, name: str = "", stop: threading.Event | None = None) -> bool:
        """Keep the block and all that it links to, which Kubo reads for that; False when some of it is not here. Kubo
        looks for that in its network, whatever `offline` says, and goes on looking: it is asked where it stands. While
        it collects it only waits, which may take minutes; `stop` ends that with NoKubo."""
        arguments = [("arg", cid), ("name", name), ("progress", "true")]
        until = time.monotonic() + LONGEST_PIN
        while True:
            seen, since = 0, time.monotonic()
            with contextlib.closing(self.lines("pin/add", arguments)) as lines:
                for line in lines:
                    said = json.loads(line)
                    if "Pins" in said:
                        return True
                    if said.get("Progress", 0) > seen:
                        seen, since = said["Progress"], time.monotonic()
                    elif time.monotonic() - since > STALLED:
                        break
            if not self.is_whole(cid):
                return False
            if stop is not None and stop.is_set():
                raise NoKubo(address=self.address, reason=f"it has not pinned {cid} yet, and nobody waits any more")
            if time.monotonic() > until:
                reason = f"it could not pin {cid} in {LONGEST_PIN:g} s, although all of it is there"
                raise KuboRefused(address=self.address, reason=reason)

    def is_whole(self, cid: str) -> bool:
        """Whether the block and all that it links to are in Kubo's store."""
        arguments = [("arg", cid), ("offline", "true"), ("progress", "false")]
        return self._unless_missing("dag/stat", arguments) is not None

    def unpin(self, cid: str) -> bool:
        """Undo `pin`; False where it was not pinned."""
        return self._unless_missing("pin/rm", [("arg", cid), ("offline", "true")]) is not None

    def pins(self, name: str) -> Iterator[tuple[str, str]]:
        """(CID, name) of the recursive pins whose names contain `name`. An answer that breaks off ends the list."""
        arguments = [("type", "recursive"), ("names", "true"), ("name", name), ("stream", "true")]
        for line in self.lines("pin/ls", arguments):
            yield str(self._field(line, "Cid")), str(json.loads(line).get("Name", ""))

    # --- the daemon

    def version(self) -> str:
        """Which Kubo it is, such as "0.43.0"."""
        return str(self._field(self.call("version"), "Version"))

    def identity(self) -> dict[str, Any]:
        """What `ipfs id` says: ID, Addresses and so on."""
        said = self.call("id")
        self._field(said, "ID")
        return dict(json.loads(said))

    def connect(self, address: str) -> None:
        """Have it dial a peer: a multiaddress that ends in /p2p/ and an id. KuboRefused when the peer is not met."""
        self.call("swarm/connect", [("arg", address)])

    def peers(self) -> list[str]:
        """The peer ids to which it has a connection."""
        found = json.loads(self.call("swarm/peers")).get("Peers") or []
        return [str(peer["Peer"]) for peer in found]

    # --- one call

    def call(self, command: str, arguments: Sequence[tuple[str, str]] = (), most: int = MOST_ANSWER,
             part: Buffer | None = None) -> bytes:
        """The whole answer of a command, such as "block/get"; `part` is the file that it wants."""
        boundary = _boundary()
        body = None if part is None else list(_form(boundary, "block", "application/octet-stream", [part]))
        answer, connection = self._ask(command, arguments, body, boundary, sum(map(len, body or [])))
        with _Reading(self, connection) as reading:
            return reading.all(answer, most)

    def lines(self, command: str, arguments: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        """The answer of a command that tells one thing a line, however long."""
        answer, connection = self._ask(command, arguments, None, "", 0)
        with _Reading(self, connection) as reading:
            while line := answer.readline(MOST_ANSWER):
                yield line
            reading.done = True

    def upload(self, command: str, arguments: Sequence[tuple[str, str]], name: str, kind: str,
               parts: Iterable[Buffer]) -> bytes:
        """The answer of a command to which a file of unknown length streams. What `parts` raises goes through."""
        boundary = _boundary()
        answer, connection = self._ask(command, arguments, _form(boundary, name, kind, parts), boundary, None)
        with _Reading(self, connection) as reading:
            return reading.all(answer, MOST_ANSWER)

    def close(self) -> None:
        """Close what is kept. A call that is under way ends by itself."""
        with self._lock:
            self._closed = True
            kept, self._idle = self._idle, []
        for connection in kept:
            connection.close()

    # --- inside

    def _ask(self, command: str, arguments: Sequence[tuple[str, str]], body: Iterable[Buffer] | None,
             boundary: str, length: int | None) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """The answer's head has come, and it is a good one. `length` None: the body is streamed, and goes once."""
        while True:
            connection, kept = self._connection(fresh=length is None)
            try:
                answer = self._exchange(connection, command, arguments, body, boundary, length)
            except BaseException as error:
                connection.close()
                if kept and isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                    continue  # Kubo had hung up, or was started again
                if isinstance(error, TimeoutError):
                    raise NoKubo(address=self.address, reason=f"no answer within {self._timeout:g} s") from None
                if isinstance(error, OSError | http.client.HTTPException):
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise NoKubo(address=self.address, reason=reason) from None
                raise
            if answer.status == 200:
                return answer, connection
            with _Reading(self, connection) as reading:
                said = reading.all(answer, MOST_ANSWER)
            refused = KuboRefused(address=self.address, reason=message(said) or f"it answered {answer.status}")
            refused.status = answer.status
            raise refused

    def _exchange(self, connection: http.client.HTTPConnection, command: str, arguments: Sequence[tuple[str, str]],
                  body: Iterable[Buffer] | None, boundary: str, length: int | None) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
        headers = {}
        if body is not None:
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        if length is None:
            headers["Transfer-Encoding"] = "chunked"
        elif body is not None:
            headers["Content-Length"] = str(length)
        path = f"/api/v0/{command}?{urllib.parse.urlencode(arguments)}"
        broken: ConnectionError | None = None
        try:
            connection.request("POST", path, body, headers, encode_chunked=length is None)
        except (BrokenPipeError, ConnectionResetError) as error:
            broken = error  # it may have said why before it hung up
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise broken or error from None

    def _connection(self, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        """One to use, and whether it was used before."""
        with self._lock:
            if self._idle and not fresh:
                return self._idle.pop(), True
        return http.client.HTTPConnection(*self._api, timeout=self._timeout), False

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def _unless_missing(self, command: str, arguments: list[tuple[str, str]], most: int = MOST_ANSWER) -> bytes | None:
        try:
            return self.call(command, arguments, most)
        except KuboRefused as error:
            if error.status == _ERROR and any(words in str(error.details["reason"]) for words in _NOT_THERE):
                return None
            raise

    def _field(self, said: bytes, name: str) -> Any:
        try:
            return json.loads(said)[name]
        except (ValueError, KeyError, TypeError):
            raise KuboRefused(address=self.address, reason=message(said) or "an answer that nobody can read") from None


class _Reading:
    """The body of one answer; what breaks it off is told as NoKubo, and only a whole one gives its connection back."""

    def __init__(self, rpc: KuboRpc, connection: http.client.HTTPConnection) -> None:
        self._rpc = rpc
        self._connection = connection
        self.done = False

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.done and error is None and self._connection.sock is not None:
            self._rpc.give_back(self._connection)
            return
        self._connection.close()
        if isinstance(error, OSError | http.client.HTTPException):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoKubo(address=self._rpc.address, reason=f"it broke off: {reason}") from None

    def all(self, answer: http.client.HTTPResponse, most: int) -> bytes:
        """All of it, at most `most` bytes."""
        said = answer.read(most)
        if answer.length and len(said) < most:
            raise http.client.IncompleteRead(said, answer.length)
        if answer.read(1):
            raise KuboRefused(address=self._rpc.address, reason=f"its answer is longer than {most} bytes")
        self.done = True
        return said


def message(said: bytes) -> str:
    """What an error of Kubo's says, or the text itself, shortened."""
    text = said.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["Message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]


def _boundary() -> str:
    """What no content can have in it on purpose."""
    return "ipdc-" + os.urandom(16).hex()


def _form(boundary: str, name: str, kind: str, parts: Iterable[Buffer]) -> Iterator[Buffer]:
    yield (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
           f"Content-Type: {kind}\r\n\r\n").encode()
    yield from parts
    yield f"\r\n--{boundary}--\r\n".encode()


def _word(yes: bool) -> str:
    return "true" if yes else "false"
