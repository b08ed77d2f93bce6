"""Many connections to one port that hold it open and say as little as possible: run inside a stranger's host.

    python3 -m tests.network.crowd silent|half|drip|asking ADDRESS PORT COUNT [CERTIFICATE KEY]

    silent    connects and says nothing
    half      says the first message of a TLS handshake, and nothing more
    drip      says that message a byte a second
    asking    with a member's certificate: begins a request, a byte a second

Who is cut comes again a second later. Each second a line of JSON tells how many are open, and how many were ever made.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

REQUEST = b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: h\r\n\r\n"


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def hello() -> bytes:
    """What a TLS client says first."""
    out = ssl.MemoryBIO()
    try:
        context().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Crowd:
    def __init__(self, mode: str, address: str, port: int, shown: list[str]) -> None:
        self.mode, self.address, self.port = mode, address, port
        self.open = self.made = 0
        self.first = REQUEST if mode == "asking" else hello()
        self.tls = context() if mode == "asking" else None
        if self.tls is not None:
            self.tls.load_cert_chain(*shown)

    async def one(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self.address, self.port, ssl=self.tls)
            except OSError:
                await asyncio.sleep(1)
                continue
            self.open, self.made = self.open + 1, self.made + 1
            try:
                await self.speak(reader, writer)
            except OSError:
                pass  # cut in the middle
            self.open -= 1
            writer.transport.abort()
            await asyncio.sleep(1)

    async def speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the other side has had enough."""
        ended = asyncio.ensure_future(reader.read())
        if self.mode == "half":
            writer.write(self.first)
        elif self.mode != "silent":
            for byte in self.first:
                writer.write(bytes([byte]))
                if (await asyncio.wait([ended], timeout=1))[0]:
                    break
        await ended


async def main(mode: str, address: str, port: str, count: str, *shown: str) -> None:
    crowd = Crowd(mode, address, int(port), list(shown))
    members = [asyncio.ensure_future(crowd.one()) for _ in range(int(count))]
    while members:
        await asyncio.sleep(1)
        print(json.dumps({"open": crowd.open, "made": crowd.made}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
