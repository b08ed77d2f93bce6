"""Kubo's RPC: hands content over to an IPFS daemon of this machine.

Owns the HTTP of it. Never holds content: a CAR goes through piece by piece. Blocks, so it is for commands.
Source: https://docs.ipfs.tech/reference/kubo/rpc/ (dag/import, version)
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Iterator

from ipdc_edge.errors import IpdcError

PATIENCE = 60.0  # seconds for each piece that goes or comes
MOST_ANSWER = 1 << 20  # bytes
_BOUNDARY = "ipdc-edge-car"
_HEAD = (f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="content.car"\r\n'
         "Content-Type: application/vnd.ipld.car\r\n\r\n").encode()
_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


class NoKubo(IpdcError):
    """No Kubo answers at {address} ({reason}). Start one with `ipfs daemon`, or set kubo_api in ipdc.conf to where its
    RPC is."""


class KuboRefused(IpdcError):
    """Kubo at {address} did not take it: {reason}."""


def import_car(api: tuple[str, int], root: str, parts: Iterable[bytes]) -> None:
    """Have Kubo keep the blocks of a CAR, and pin its root. What `parts` raises goes through. NoKubo, KuboRefused."""
    address = f"{api[0]}:{api[1]}"
    connection = http.client.HTTPConnection(*api, timeout=PATIENCE)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise NoKubo(address=address, reason=error.strerror or error) from None
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Transfer-Encoding": "chunked"}
        broken: OSError | None = None
        try:
            connection.request("POST", "/api/v0/dag/import?pin-roots=true", _form(parts), headers, encode_chunked=True)
        except (BrokenPipeError, ConnectionResetError) as error:
            broken = error  # it may have said why before it hung up
        try:
            answer = connection.getresponse()
            said = answer.read(MOST_ANSWER).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise KuboRefused(address=address, reason=broken or error) from None
        if answer.status != 200:
            raise KuboRefused(address=address, reason=_message(said) or f"it answered {answer.status}")
        _check_pinned(address, root, said)
    finally:
        connection.close()


def _form(parts: Iterable[bytes]) -> Iterator[bytes]:
    yield _HEAD
    yield from parts
    yield _TAIL


def _check_pinned(address: str, root: str, said: str) -> None:
    """A line for each root says whether it was pinned; errors in the middle come with status 200 too."""
    for line in said.splitlines():
        try:
            found = json.loads(line)["Root"]
            if found["Cid"]["/"] == root and not found["PinErrorMsg"]:
                return
            reason = found["PinErrorMsg"] or f"it pinned {found['Cid']['/']}"
        except (ValueError, KeyError, TypeError):
            reason = _message(line) or line[:200]
        raise KuboRefused(address=address, reason=reason)
    raise KuboRefused(address=address, reason="it did not say that the root is pinned")


def _message(said: str) -> str:
    try:
        return str(json.loads(said)["Message"])[:500]
    except (ValueError, KeyError, TypeError):
        return said.strip()[:200]
