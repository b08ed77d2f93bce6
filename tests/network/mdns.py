"""Real Avahi daemons on hosts of a test network: each with a bus, a /run and an /etc/avahi of its own.

Owns the private mount namespaces in which they run; this machine's own Avahi and bus are not touched. Enter with
`Avahi.run`: it sees the host's Avahi, and the rest of the file system as it is.
"""

from __future__ import annotations

import subprocess
from typing import Any

from tests.network.hosts import Host
from tests.waiting import eventually

SETUP = r"""
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/dbus /run/avahi-daemon
mount -t tmpfs none /etc/avahi
mkdir /etc/avahi/services
printf '[server]\nhost-name=%s\nuse-ipv4=yes\nuse-ipv6=yes\nallow-interfaces=eth0\n' "$1" > /etc/avahi/avahi-daemon.conf
cat > /run/bus.conf <<END
<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
END
dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile &
while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
avahi-daemon --no-drop-root --no-chroot --no-rlimits
exec sleep infinity
"""


class Avahi:
    """The Avahi daemon of one host, running until `stop` or the network's end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = host.start("unshare", "-m", "sh", "-c", SETUP, "sh", host.name, **quiet)
        check = ("avahi-browse", "--all", "--parsable", "--terminate", "--no-db-lookup")
        eventually(lambda: self.run(*check, check=False).returncode == 0, f"Avahi answers on {host.name}")

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that is to see this Avahi; for `wrap` of a DomainNode too."""
        return ("nsenter", "-t", str(self.process.pid), "-m")

    @property
    def services(self) -> str:
        """The directory of its service files, as seen from outside."""
        return f"/proc/{self.process.pid}/root/etc/avahi/services"

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command inside, on the host."""
        return self.host.run(*self.inside, *words, **{"timeout": 60, **options})

    def stop(self) -> None:
        """Ends Avahi, which says goodbye; what is inside stays, and the bus."""
        self.run("avahi-daemon", "--kill")
