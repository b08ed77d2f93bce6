"""Attempts to read what is not the job's, and to write where something could be left."""

from __future__ import annotations

import glob
import os

from attempts import Refused, Targets, attempt

READ = {  # what: patterns of files that the test has seen to be there
    "the node's private key": "/var/lib/ipdc/identity/key.pem",
    "the domain's private key": "/var/lib/ipdc/identity/domains/*/*.pem",
    "the broker's password": "/run/ipdc/mosquitto.secret",
    "blocks of content": "/var/lib/ipdc/blocks/*/*",
    "the ledger": "/var/lib/ipdc/ledger.db",
    "another job's result": "/var/lib/ipdc/jobs/*/part-*",
    "the node's settings": "/etc/ipdc/ipdc.conf",
    "the passwords of users": "/etc/shadow",
    "the old passwords of users": "/etc/shadow-",
    "a user's open file": "/home/owner/letter",
    "root's file": "/root/letter",
    "a file in /tmp": "/tmp/letter",
    "a file in /var/tmp": "/var/tmp/letter",
    "a file in /dev/shm": "/dev/shm/letter",
    "a file in /srv": "/srv/letter",
    "a file in /opt": "/opt/letter",
    "a file in /media": "/media/letter",
    "a file in /boot": "/boot/letter",
    "a file in /run": "/run/letter",
    "a file in /var/log": "/var/log/letter",
    "the devices in /sys": "/sys/class/net/lo/address",
    "the memory of this machine": "/proc/meminfo",
    "the kernel's command line": "/proc/cmdline",
    "the connections of this machine": "/proc/net/unix",
    "the cgroups' tree": "/sys/fs/cgroup/*/system.slice/cgroup.procs",
    "programs and libraries": "/usr/bin/python3",
    "the names of users": "/etc/passwd",
}
WRITE = ["/", "/etc", "/usr", "/usr/local/bin", "/tmp", "/var", "/var/tmp", "/var/lib/ipdc", "/var/lib/ipdc/venv",
         "/run", "/run/ipdc", "/run/lock", "/run/systemd", "/dev", "/dev/shm", "/dev/hugepages", "/dev/mqueue", "/home",
         "/home/owner", "/root", "/srv", "/opt", "/media", "/boot"]
LEFT = "left-by-a-job"  # the name of whatever is left somewhere: the test looks for it afterwards


def _reader(pattern: str) -> object:
    def read(_targets: Targets) -> str:
        found = sorted(glob.glob(pattern))
        with open(found[0] if found else pattern, "rb") as file:
            return f"{len(file.read(4096))} bytes of {file.name}"
    return read


def _writer(place: str) -> object:
    def write(_targets: Targets) -> str:
        path = os.path.join(place, LEFT)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        if os.getuid() == 0:  # not in the sandbox: this machine is to stay as it is
            os.unlink(path)
        return path
    return write


for _what, _pattern in READ.items():
    attempt(f"reads {_what}")(_reader(_pattern))  # type: ignore[arg-type]
for _place in WRITE:
    attempt(f"makes a file in {_place}")(_writer(_place))  # type: ignore[arg-type]


@attempt("has something mounted for writing, beside its own directory")
def mounts(_targets: Targets) -> str:
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    found = [row[4] for row in rows if "rw" in row[5].split(",") and row[4] not in ("/mnt", "/proc", "/dev/pts")]
    if not found:
        raise Refused("none")
    return " ".join(found)


@attempt("makes a file in its own directory")
def own(_targets: Targets) -> str:
    os.makedirs("own", exist_ok=True)
    with open("own/" + LEFT, "w") as file:
        file.write("x")
    return os.path.abspath("own")


@attempt("changes a program of the system")
def program(_targets: Targets) -> str:
    os.close(os.open("/usr/bin/true", os.O_RDWR))
    return "open for writing"


@attempt("changes the access of a file in /etc")
def access(_targets: Targets) -> str:
    os.chmod("/etc/passwd", 0o644)
    return "chmod"


@attempt("writes a setting of the kernel")
def setting(_targets: Targets) -> str:
    with open("/proc/sys/net/ipv4/ip_default_ttl", "r+") as file:
        file.write(file.read())
    return "the same value"


@attempt("makes a cgroup")
def cgroup(_targets: Targets) -> str:
    where = "/sys/fs/cgroup" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "/sys/fs/cgroup/pids"
    os.mkdir(f"{where}/{LEFT}")
    os.rmdir(f"{where}/{LEFT}")
    return "made and removed"


@attempt("makes a file with the set-user-id bit")
def set_user_id(_targets: Targets) -> str:
    with open("own-" + LEFT, "w"):
        pass
    os.chmod("own-" + LEFT, 0o4755)
    return oct(os.stat("own-" + LEFT).st_mode)


@attempt("fills the disk from its own directory: 64 MB")
def disk(_targets: Targets) -> str:
    try:
        with open("fill-" + LEFT, "wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    finally:
        os.unlink("fill-" + LEFT)
    return "64 MB"


@attempt("fills the disk by its spills: 2 GB each")
def spills(_targets: Targets) -> str:
    files = [int(name) for name in os.listdir("/proc/self/fd") if "scratch/" in _link(name)]
    files = files or [os.open("spill-" + LEFT, os.O_RDWR | os.O_CREAT)]
    for file in files:
        try:
            os.pwrite(file, b"x", 2 << 30)
        finally:
            os.ftruncate(file, 0)
            if os.path.exists("spill-" + LEFT):
                os.unlink("spill-" + LEFT)
    return f"{len(files)} files"


@attempt("takes 10000 names in its own directory")
def names(_targets: Targets) -> str:
    os.mkdir("many")
    try:
        for number in range(10_000):
            os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
    finally:
        for entry in os.listdir("many"):
            os.unlink("many/" + entry)
        os.rmdir("many")
    return "10000 files"


@attempt("opens another's disk")
def block_device(_targets: Targets) -> str:
    os.close(os.open("/dev/disk-of-the-node", os.O_RDONLY))
    return "open"


@attempt("opens the kernel's log")
def kernel_log(_targets: Targets) -> str:
    os.close(os.open("/dev/kmsg", os.O_RDWR))
    return "open"


@attempt("opens the memory of the machine, /dev/mem")
def memory(_targets: Targets) -> str:
    os.close(os.open("/dev/mem", os.O_RDONLY))
    return "open"


def _link(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""  # that of the listing itself
