"""Fresh Debian systems in namespaces, to run this checkout on what a new user has: nothing.

Owns the minimal roots (made once by debootstrap, kept under $IPDC_TEST_CACHE or /var/tmp/ipdc-edge-test) and
guests: an overlay on such a root with a mount and a pid namespace of its own, and this machine's network. A
guest's mounts and processes live in its namespaces only, so that nothing stays when it ends, however it ends.
Never boots an init system: a guest's first process is a shell that runs one command and then tells what that
command left running.

By hand: python3 -m tests.bare.debian bookworm|trixie [--user] COMMAND...     in a copy of this checkout
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # and Python's version there
CHECKOUT = Path(__file__).resolve().parents[2]
USER = "newcomer"

# Runs in the new namespaces, before the chroot. "$debs" keeps what apt downloads, for the next guest.
ENTER = r"""
set -eu
if [ -n "$lower" ]; then
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
else mount --bind "$upper" "$root"; fi
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"; mkdir -m 1777 "$root/run/lock"
mount --bind "$debs" "$root/var/cache/apt/archives"
exec 3>"$left"
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  HOME=/root LANG=C.UTF-8 TERM=dumb /bin/bash -c "$first" first "$@"
"""
# The guest's process 1. Descriptor 3, kept from the command, takes what still runs when that has ended.
FIRST = r"""
"$@" 3>&-; code=$?
for d in /proc/[0-9]*; do
  [ "$d" != /proc/1 ] && read -r line 2>/dev/null <"$d/stat" || continue
  case "${line##*) }" in Z*) continue ;; esac
  tr '\0' ' ' <"$d/cmdline" >&3; echo >&3
done
exit $code
"""


class CannotMakeDebian(AssertionError):
    """What is missing on this machine; a failure and not a skip, since --all asked for these tests."""


@dataclass
class Outcome:
    """How a command in a guest ended: exit code, its output, and the command lines still running after it."""

    code: int
    stdout: str
    stderr: str
    left: list[str]

    def check(self) -> Outcome:
        """Raises AssertionError with all output unless the command exited with 0; returns itself."""
        assert self.code == 0, str(self)
        return self

    def __str__(self) -> str:
        parts = {"stdout": self.stdout, "stderr": self.stderr, "left running": "\n".join(self.left)}
        return f"exit {self.code}\n" + "\n".join(f"--- {name}\n{text}" for name, text in parts.items())


def cache() -> Path:
    return Path(os.environ.get("IPDC_TEST_CACHE") or "/var/tmp/ipdc-edge-test")


def require() -> None:
    """Raises CannotMakeDebian unless this is root with debootstrap and apt."""
    if os.geteuid() != 0:
        raise CannotMakeDebian("fresh Debian systems need root (debootstrap, mount): run the tests as root")
    for tool, package in ("debootstrap", "debootstrap"), ("apt-get", "apt"), ("unshare", "util-linux"):
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            raise CannotMakeDebian(f"{tool} is not installed: apt-get install {package}")


def mirror() -> str:
    """The Debian archive that this machine's apt uses, told from other archives by its label."""
    fields = "$(SITE) $(LABEL) $(COMPONENT) $(CREATED_BY)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("http") and line.split()[1:3] == ["Debian", "main"]:
            return line.split()[0].rstrip("/")
    raise CannotMakeDebian("apt knows no http source of Debian's main: was apt-get update run?")


def apt_proxy() -> str:
    command = ["apt-config", "dump", "--format", "%v", "Acquire::http::Proxy"]
    proxy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "" if proxy == "DIRECT" else proxy


def apt_elsewhere(architecture: str, release: str, state: Path) -> list[str]:
    """Options of apt and apt-cache for a machine of another kind, which has nothing: all that is kept of it is in
    `state`, made here, with the lists fetched; downloads go to `state`/cache/archives."""
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    (state / "status").touch()
    (state / "list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {release} main\n")
    settings = {"APT::Architecture": architecture, "APT::Architectures::": architecture, "APT::Sandbox::User": "root",
                "Acquire::Languages": "none", "Acquire::http::Proxy": apt_proxy() or "DIRECT",
                "Dir::State": str(state), "Dir::State::lists": str(state / "lists"),
                "Dir::State::status": str(state / "status"), "Dir::Cache": str(state / "cache"),
                "Dir::Etc::sourcelist": str(state / "list"), "Dir::Etc::sourceparts": "/dev/null"}
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    return options


def root_of(suite: str) -> Path:
    """The minimal root of a suite; the first call makes it (half a minute). A half-made one is never used."""
    require()
    root = cache() / "roots" / suite
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _bootstrap(suite, root)
    return root


def _bootstrap(suite: str, root: Path) -> None:
    new, log, site, proxy = Path(f"{root}.new"), Path(f"{root}.log"), mirror(), apt_proxy()
    shutil.rmtree(new, ignore_errors=True)
    # debootstrap downloads with wget, which knows nothing of apt's proxy
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    if proxy:
        environment.update(http_proxy=proxy, https_proxy=proxy)
    with open(log, "wb") as output:
        command = ["debootstrap", "--variant=minbase", suite, str(new), site]
        code = subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
    if code != 0:
        raise CannotMakeDebian(f"debootstrap {suite} ended with {code}:\n{log.read_text()[-1500:]}")
    (new / "etc/apt/sources.list").write_text(f"deb {site} {suite} main\n")
    configuration = 'Acquire::Languages "none";\n' + (f'Acquire::http::Proxy "{proxy}";\n' if proxy else "")
    (new / "etc/apt/apt.conf.d/90ipdc-test").write_text(configuration)
    # a new user has run no apt-get update, and debootstrap's lists and downloads are not his
    for rest in *new.glob("var/lib/apt/lists/*_*"), *new.glob("var/cache/apt/archives/*.deb"):
        rest.unlink()
    new.rename(root)


class Guest:
    """One fresh Debian system; its files last until `close`, its processes until `run` returns."""

    def __init__(self, suite: str) -> None:
        self.suite, self.lower = suite, root_of(suite)
        (cache() / "guests").mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{suite}-", dir=cache() / "guests"))
        for name in "upper", "work", "root":
            (self.directory / name).mkdir(mode=0o755)
        self.debs = cache() / "debs" / suite
        (self.debs / "partial").mkdir(parents=True, exist_ok=True)
        self.overlay = True
        probe = self.run("true")
        if probe.code != 0:  # no overlay on this file system, perhaps itself one: a copy does
            self.overlay = False
            shutil.rmtree(self.directory / "upper")
            copy = ["cp", "-a", "--reflink=auto", str(self.lower), str(self.directory / "upper")]
            subprocess.run(copy, check=True)
            probe = self.run("true")
        if probe.code != 0:
            raise CannotMakeDebian(f"no namespaces or mounts here: {probe}")
        resolver = Path("/etc/resolv.conf").read_bytes()
        names = f"127.0.0.1 localhost {os.uname().nodename}"  # sudo looks its own host up
        script = f"rm -f /etc/resolv.conf; cat > /etc/resolv.conf; echo {names} > /etc/hosts"
        self.run(script, stdin=resolver).check()

    def run(self, script: str, user: str = "root", stdin: bytes = b"", seconds: float = 900) -> Outcome:
        """Runs a shell script as `user`; raises TimeoutExpired, and then too nothing is left."""
        left = self.directory / "left"
        left.write_bytes(b"")
        environment = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "lower": str(self.lower) if self.overlay else "",
            "upper": str(self.directory / "upper"),
            "work": str(self.directory / "work"),
            "root": str(self.directory / "root"),
            "debs": str(self.debs),
            "left": str(left),
            "first": FIRST,
        }
        as_user = [] if user == "root" else ["runuser", "-u", user, "--", "env", f"HOME=/home/{user}"]
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        command += ["bash", "-c", ENTER, "enter", *as_user, "bash", "-c", script]
        ended = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=seconds)
        text = (ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
        return Outcome(ended.returncode, *text, left.read_text(errors="replace").splitlines())

    def add_user(self) -> None:
        """An ordinary user who may use sudo without a password."""
        self.run(f"""set -e
            apt-get -qq update
            DEBIAN_FRONTEND=noninteractive apt-get -y -qq install --no-install-recommends sudo
            rm -rf /var/lib/apt/lists/*_*
            useradd -m -s /bin/bash {USER}
            echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}""").check()

    def add_checkout(self, user: str = "root") -> str:
        """Copies this checkout's files, committed or not but not the ignored ones; returns where to."""
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
        listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout.split(b"\0")
        top = os.fsencode(CHECKOUT)
        names = [name for name in listed if name and os.path.lexists(os.path.join(top, name))]
        pack = ["tar", "--null", "--no-recursion", "-T", "-", "-cf", "-"]
        packed = subprocess.run(pack, cwd=CHECKOUT, input=b"\0".join(names), capture_output=True, check=True)
        place = f"{'/root' if user == 'root' else '/home/' + user}/ipdc-edge"
        self.run(f"mkdir {place} && tar --no-same-owner -C {place} -xf -", user, packed.stdout).check()
        return place

    def trust_this_machines_certificates(self) -> str:
        """For pip in a guest behind a proxy with a certificate of its own; returns shell assignments."""
        bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
        if not bundle:
            return ""
        self.run("cat > /usr/local/etc/ca.pem", stdin=Path(bundle).read_bytes()).check()
        return "PIP_CERT=/usr/local/etc/ca.pem"

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SUITES:
        sys.exit((__doc__ or "").splitlines()[-1])
    suite, *command = arguments
    user = "root"
    with Guest(suite) as guest:
        if command[:1] == ["--user"]:
            user, command = USER, command[1:]
            guest.add_user()
        place = guest.add_checkout(user)
        trust = guest.trust_this_machines_certificates()
        outcome = guest.run(f"cd {place} && {trust} {' '.join(command)}", user)
    print(outcome)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
