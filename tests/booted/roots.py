"""The roots of booted containers: a fresh Debian with systemd and what the package depends on, made once.

Made from the minimal root of tests/bare/debian.py, beside it, so that installing the package needs no network. The list
of packages is debian/control's and EXTRA; a root that was made for another list is made anew.

By hand: python3 -m tests.booted.roots
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.bare.debian import CHECKOUT, SUITES, CannotMakeDebian, cache, root_of

# what makes a system of it, and what the tests type in there
EXTRA = ["systemd", "systemd-sysv", "dbus", "procps", "iproute2", "mosquitto-clients"]

# No service may start while a root is only a directory. "$debs" keeps what apt downloads.
INSTALL = r"""
set -eu
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$debs/partial"; mount --bind "$debs" "$root/var/cache/apt/archives"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"; chmod 755 "$root/usr/sbin/policy-rc.d"
rm -f "$root/etc/resolv.conf"; cat /etc/resolv.conf > "$root/etc/resolv.conf"
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
  DEBIAN_FRONTEND=noninteractive sh -ec '
    apt-get -qq update
    apt-get -y -qq -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/*_* /usr/sbin/policy-rc.d /etc/resolv.conf' install "$@"
: > "$root/etc/machine-id"  # each container draws its own
"""


def packages() -> list[str]:
    """The names of debian/control's Depends, without versions and debhelper's own, and EXTRA."""
    control = (CHECKOUT / "debian/control").read_text()
    depends = re.search(r"^Depends:((?:.*\n)(?:[ \t].*\n)*)", control, re.M)
    assert depends, "debian/control has no Depends"
    named = [re.split(r"[ (|]", item.strip())[0] for item in depends[1].split(",")]
    return [name for name in named if name and not name.startswith("$")] + EXTRA


def booted_root_of(suite: str) -> Path:
    """The root that containers of a suite share, read-only by agreement; the first call makes it (a minute)."""
    minimal = root_of(suite)
    root, wanted = cache() / "roots" / f"{suite}-booted", " ".join(packages())
    stamp = Path(f"{root}.stamp")
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists() and stamp.exists() and stamp.read_text() == wanted:
            return root
        new, log = Path(f"{root}.new"), Path(f"{root}.log")
        stamp.unlink(missing_ok=True)
        for old in root, new:
            shutil.rmtree(old, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", str(minimal), str(new)], check=True)
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                   "bash", "-c", INSTALL, "install", *packages()]
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "root": str(new),
                       "debs": str(cache() / "debs" / f"{suite}-booted")}  # not the guests': apt locks it
        with open(log, "wb") as output:
            code = subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
        if code != 0:
            raise CannotMakeDebian(f"{suite} with systemd could not be made ({code}):\n{log.read_text()[-1500:]}")
        new.rename(root)
        stamp.write_text(wanted)
    return root


if __name__ == "__main__":
    for each in SUITES:
        print(booted_root_of(each))
