"""What mosquitto says, as notes: who was refused at the broker, from where and why; everything usual is left out.

Owns the understanding of mosquitto's lines. It writes an address only together with two lines for every connection that
is welcome, too many for a journal on flash; so it publishes its log on the local listener instead, where the daemon
reads it (broker.log_to_topics), and nothing but refusals and troubles reaches the journal.

The lines: src/net.c, src/handle_connect.c and src/loop.c of mosquitto 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ipdc_edge.drivers.refusals import Refusals

FILTER = "$SYS/broker/log/#"
MOST_PENDING = 64  # connections that have not said who they are; older ones are forgotten
MOST_TEXT = 300

_STAMP = re.compile(r"^[0-9]+: ")
_NEW = re.compile(r"New connection from (\S+) on port")
_WELCOME = re.compile(r"New client connected from (\S+) as ")
_FAILED = re.compile(r"Client connection from (\S+) (?:failed|denied): (.*)")
_TLS = re.compile(r"OpenSSL Error\[\d+\]: (?:error:[0-9A-F]+:[^:]*:[^:]*:)?(.*)")
_STRANGER = re.compile(r"Client <unknown> (?:disconnected|closed|has exceeded)(.*)")
_NOT_AUTHORISED = re.compile(r"Client \S+ disconnected, not authorised")
_USUAL = re.compile(r"Client \S+ (?:disconnected|closed|already connected|has exceeded)|(?:Config|Reloading|Saving)")


class BrokerLog:
    """`note` gets the lines for the journal."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._refusals = Refusals(note)
        self._pending: dict[str, None] = {}  # address:port of connections of which it is not known whose they are
        self._tls = ""  # what was wrong with TLS just now; its line comes before the one that ends a connection

    def heard(self, line: str) -> None:
        """A line of mosquitto's log. Total on any text."""
        line = _STAMP.sub("", line)[:MOST_TEXT]
        if found := _NEW.match(line):
            self._pending[found[1]] = None
            if len(self._pending) > MOST_PENDING:
                del self._pending[next(iter(self._pending))]
        elif found := _WELCOME.match(line):
            self._pending.pop(found[1], None)
        elif found := _FAILED.match(line):
            self._refused(found[1], found[2].rpartition("::")[2])
        elif found := _TLS.match(line):
            self._tls = found[1].rpartition("::")[2]
            return
        elif (found := _STRANGER.match(line)) or (found := _NOT_AUTHORISED.match(line)):
            reason = self._tls or line.rpartition(" disconnected")[2].strip(":, .") or line
            self._refused(self._source(), reason)
        elif not _USUAL.match(line):
            self._refusals.tell(line[:40], f"broker: {line}")
        self._tls = ""

    def _source(self) -> str:
        """Where somebody came from of whom mosquitto says only that he is gone."""
        hosts = {address.rpartition(":")[0] for address in self._pending}
        if len(self._pending) == 1:
            self._pending.clear()
        if not hosts:
            return "an unknown address"
        return hosts.pop() if len(hosts) == 1 else "one of " + ", ".join(sorted(hosts)[:8])

    def _refused(self, source: str, reason: str) -> None:
        self._refusals.tell(source, f"broker: a connection from {source} was refused: {reason.rstrip('.')}")
