"""A node that holds a domain's authority and lets others in: its files and the real join server, without a daemon.

Owns what the daemon does for that server: tokens, and saying that a new list is adopted.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any

from ipdc_edge.codec import join_token
from ipdc_edge.drivers import authority, identity
from ipdc_edge.home import Home


class Inviter:
    """Its `home` is in the domain "one". A context manager; the server begins with the first token."""

    def __init__(self, directory: str) -> None:
        self.home = Home({"IPDC_HOME": directory})
        self.home.prepare()
        authority.create_domain(self.home, "one", node_name="inviter", memory=1 << 30)
        self.authority = identity.load(self.home).authority
        self.joined: list[dict[str, Any]] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Inviter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            assert self._server.stdin is not None and self._server.stdout is not None
            self._server.stdin.close()
            self._server.wait(10)
            self._reader.join(10)
            self._server.stdout.close()

    def token(self) -> join_token.Token:
        """A new token that is valid now."""
        if self._server is None:
            self._server = subprocess.Popen(identity.child_command("serve"), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, env=identity.child_environment(self.home))
            self._say({"listen": "127.0.0.1", "port": 0, "peers": {}})
            assert self._server.stdout is not None
            self._port = json.loads(self._server.stdout.readline())["listening"]
            self._reader = threading.Thread(target=self._adopt)
            self._reader.start()
        secret = os.urandom(16)
        self._say({"invite": secret.hex(), "expires_in": 600})
        return join_token.Token(self.authority, secret, (f"127.0.0.1:{self._port}",))

    def _adopt(self) -> None:
        assert self._server is not None and self._server.stdout is not None
        for line in self._server.stdout:
            said = json.loads(line)
            if "joined" in said:
                self.joined.append(said["joined"])
                self._say({"adopted": said["joined"]["version"]})

    def _say(self, value: dict[str, Any]) -> None:
        assert self._server is not None and self._server.stdin is not None
        self._server.stdin.write(json.dumps(value).encode() + b"\n")
        self._server.stdin.flush()
