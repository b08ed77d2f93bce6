"""The disk of an emulated board: Debian 13 for armhf with what the package depends on, made once.

Owns the root (debootstrap, its second stage under qemu-user), Debian's own kernel with the modules that a board without
hardware can use, an initramfs that mounts the disk, and the ext4 image; all under the cache of tests/bare/debian.py,
made anew when the list of packages or this file changes. Mounts nothing of the image, and registers no binary format
outside a namespace of its own. Never boots anything: machine.py does.

By hand: python3 -m tests.board.image
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bare.debian import CannotMakeDebian, apt_proxy, cache, mirror, require
from tests.booted.roots import packages

SUITE, ARCHITECTURE, KERNEL = "trixie", "armhf", "linux-image-armmp"
TOOLS = {"qemu-arm-static": "qemu-user-static", "mke2fs": "e2fsprogs", "debootstrap": "debootstrap"}
DISK = 1500 << 20
ADDRESS = "10.77.0.77"  # of tests/network/hosts.py's net; every board has a network of its own
# debootstrap does not see what a package merely provides: python3-cryptography's cffi must be named
EXTRA = ["udev", "kmod", "python3-cffi-backend"]
# below kernel/ of the modules: file systems, virtio, and what units and networks of a board ask for
MODULES = """fs/autofs fs/binfmt_misc fs/ext4 fs/jbd2 fs/mbcache fs/overlayfs fs/fuse lib/crc* lib/libcrc* crypto
    arch/arm/crypto mm drivers/virtio drivers/char/hw_random drivers/block/virtio_blk drivers/net/virtio_net
    drivers/net/net_failover drivers/net/dummy drivers/net/tun net/core/failover net/ipv6 net/unix net/packet""".split()
FIRST = ("virtio_mmio", "virtio_blk", "crc32c_generic", "ext4")  # what the initramfs loads, with what they need

# debootstrap's own second stage reads the package lists with perl under qemu-user and takes 10 minutes; to unpack
# everything and configure it once takes 2.
INSIDE = """set -e
cd /var/cache/apt/archives
dpkg --force-depends --force-unsafe-io --unpack *.deb
dpkg --force-unsafe-io --force-confold --configure -a
rm -rf /debootstrap ./*.deb /second-stage
depmod "$1"
"""
# binfmt_misc mounted in a user namespace is private to it (Linux 6.7). The map of ids is written from outside, so that
# dpkg may change owners; no device can be made in there, hence the bind mounts.
SECOND = r"""
set -eu
read -r _
mkdir -p "$work/binfmt"; mount -t binfmt_misc none "$work/binfmt"
magic='\x7f\x45\x4c\x46\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
echo ":board:M::$magic:$mask:$qemu:F" > "$work/binfmt/register"
mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/dev"; mkdir "$root/dev/pts"
mount -t devpts -o ptmxmode=666,newinstance devpts "$root/dev/pts"; ln -s pts/ptmx "$root/dev/ptmx"
for d in null zero full random urandom tty; do : > "$root/dev/$d"; mount --bind "/dev/$d" "$root/dev/$d"; done
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  DEBIAN_FRONTEND=noninteractive sh /second-stage "$version"
"""
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs d /dev; $b mount -t proc p /proc; $b mount -t sysfs s /sys
for m in /m/*; do $b insmod $m; done
until [ -b /dev/vda ]; do $b sleep 0.1; done
$b mount -t ext4 -o rw,noatime /dev/vda /root || $b poweroff -f
$b mount --move /dev /root/dev; $b umount /proc /sys
exec $b switch_root /root /sbin/init
"""
# a root shell on the serial console, a fixed address, a journal in memory as on a card that is to last
FILES = {
    "etc/systemd/system/serial-getty@ttyAMA0.service.d/auto.conf":
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %I 115200 dumb\n",
    "etc/systemd/network/10.network":
        f"[Match]\nName=en* eth*\n[Network]\nAddress={ADDRESS}/24\nGateway=10.77.0.254\nLinkLocalAddressing=no\n",
    "etc/systemd/journald.conf.d/small.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=4M\n",
    "etc/hostname": "board\n",
    "etc/hosts": "127.0.0.1 localhost board\n",
    "etc/fstab": "/dev/vda / ext4 rw,noatime 0 1\n",
    "etc/machine-id": "",
    # no echo, no prompt: what machine.py reads is what the commands print
    "root/.profile": 'export TERM=dumb; bind "set enable-bracketed-paste off" 2>/dev/null; stty -echo; PS1= PS2=\n',
}


@dataclass(frozen=True)
class Image:
    """What qemu boots."""

    kernel: Path
    initrd: Path
    disk: Path


def wanted() -> list[str]:
    """The packages beside Debian's minimal system."""
    return [*packages(), *EXTRA]


def image() -> Image:
    """The image; the first call makes it, in about three minutes. A half-made one is never used."""
    require()
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for tool, package in TOOLS.items():
        if not shutil.which(tool, path=path):
            raise CannotMakeDebian(f"{tool} is not installed: apt-get install {package}")
    top = cache() / "board"
    top.mkdir(parents=True, exist_ok=True)
    made = Image(top / "kernel", top / "initrd", top / "disk")
    stamp = " ".join(wanted()) + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    with open(top / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (top / "stamp").exists() or (top / "stamp").read_text() != stamp:
            (top / "stamp").unlink(missing_ok=True)
            _make(top / "work", made)
            shutil.rmtree(top / "work")
            (top / "stamp").write_text(stamp)
    return made


def _make(work: Path, made: Image) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    root, kernel, log = work / "root", work / "kernel", work.parent / "log"
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    if proxy := apt_proxy():  # debootstrap downloads with wget, which knows nothing of apt's
        environment.update(http_proxy=proxy, https_proxy=proxy)
    with open(log, "wb") as output:
        def step(name: str, command: list[str], **options: object) -> None:
            began = time.monotonic()
            code = subprocess.run(command, stdout=output, stderr=output, env=environment, **options).returncode
            output.write(f"== {name}: {time.monotonic() - began:.0f} s\n".encode())
            output.flush()
            if code != 0:
                end = log.read_text(errors="replace")[-1500:]
                raise CannotMakeDebian(f"the board's image: {name} ended with {code}:\n{end}")

        debs = cache() / "debs" / f"{SUITE}-{ARCHITECTURE}"
        debs.mkdir(parents=True, exist_ok=True)
        step("first stage", ["debootstrap", "--foreign", f"--arch={ARCHITECTURE}", "--variant=minbase",
                             f"--cache-dir={debs}", f"--include={','.join(wanted())}", SUITE, str(root), mirror()])
        step("kernel", ["bash", "-euc", _private_apt(work / "apt", kernel)])
        version = _modules(kernel, root)
        (root / "second-stage").write_text(INSIDE)
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        began = time.monotonic()
        code = _second_stage(environment, work, root, version, output)
        output.write(f"== second stage: {time.monotonic() - began:.0f} s\n".encode())
        output.flush()
        if code != 0:
            raise CannotMakeDebian(f"the board's image: second stage ended with {code}:\n{log.read_text()[-1500:]}")
        _settings(root)
        shutil.copy(kernel / f"boot/vmlinuz-{version}", made.kernel)
        made.initrd.write_bytes(gzip.compress(_initramfs(kernel, root, version), 6))
        made.disk.unlink(missing_ok=True)
        with open(made.disk, "wb") as disk:
            disk.truncate(DISK)
        step("disk", ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(made.disk)])


def _private_apt(state: Path, kernel: Path) -> str:
    """Downloads the kernel and a static busybox for the board by an apt of its own and takes them apart."""
    options = " ".join(f"-o {option}" for option in (
        f"APT::Architecture={ARCHITECTURE}", f"APT::Architectures::={ARCHITECTURE}", "APT::Sandbox::User=root",
        f"Dir::State={state}", f"Dir::State::lists={state}/lists", f"Dir::State::status={state}/status",
        f"Dir::Cache={state}/cache", f"Dir::Etc::sourcelist={state}/list", "Dir::Etc::sourceparts=/dev/null"))
    source = f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror()} {SUITE} main"
    return f"""
        mkdir -p {state}/lists/partial {state}/cache/archives/partial {kernel}; : > {state}/status
        echo '{source}' > {state}/list
        apt() {{ command="$1"; shift; "apt-$command" -qq {options} "$@"; }}
        apt get update
        image=$(apt cache show {KERNEL} | sed -nE 's/^Depends: (linux-image-[^ ,]+).*/\\1/p' | sed -n 1p)
        cd {state}; apt get download "$image" busybox-static
        for deb in ./*.deb; do dpkg-deb -x "$deb" {kernel}; done"""


def _modules_of(top: Path) -> Path:
    return next(path for path in (top / "usr/lib/modules", top / "lib/modules") if path.is_dir())


def _modules(kernel: Path, root: Path) -> str:
    """Copies MODULES into the root; the kernel's version."""
    (source,) = _modules_of(kernel).iterdir()
    target = root / "usr/lib/modules" / source.name
    for path in [*source.glob("modules.builtin*"), source / "modules.order"]:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in MODULES:
        for found in {*source.glob(f"kernel/{name}"), *source.glob(f"kernel/{name}.ko*")}:
            place = target / found.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(found, place) if found.is_dir() else shutil.copy(found, place)
    return source.name


def _second_stage(environment: dict[str, str], work: Path, root: Path, version: str, output: object) -> int:
    path = f"{environment['PATH']}"
    variables = {**environment, "root": str(root), "work": str(work), "version": version,
                 "qemu": shutil.which("qemu-arm-static", path=path) or ""}
    command = ["unshare", "--user", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
               "bash", "-c", SECOND]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=variables)  # type: ignore[call-overload]
    own = os.readlink("/proc/self/ns/user")
    while os.readlink(f"/proc/{process.pid}/ns/user") == own:
        if process.poll() is not None:
            return process.returncode
        time.sleep(0.01)
    for kind in "uid_map", "gid_map":
        Path(f"/proc/{process.pid}/{kind}").write_text("0 0 4294967295")
    process.communicate(b"go\n")
    return process.returncode


def _settings(root: Path) -> None:
    (root / "usr/sbin/policy-rc.d").unlink()
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for link, target in ((wants / "systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service"),
                         (wants.parent / "systemd-networkd-wait-online.service", "/dev/null"),
                         (wants.parent / "mosquitto.service", "/dev/null")):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    shadow = root / "etc/shadow"
    shadow.write_text(re.sub(r"^root:[^:]*:", "root::", shadow.read_text(), flags=re.M))
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "etc/apt/sources.list").write_text(f"deb {mirror()} {SUITE} main\n")


def _initramfs(kernel: Path, root: Path, version: str) -> bytes:
    """A cpio archive (newc): busybox, FIRST with what they depend on, in that order, and INIT."""
    modules = root / "usr/lib/modules" / version
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[name] = others.split()  # the last one has to be loaded first
    builtin = (modules / "modules.builtin").read_text()
    order: list[str] = []
    for name in FIRST:
        file = next((path for path in needs if re.fullmatch(rf".*/{name}\.ko(\..*)?", path)), None)
        if file is None:
            if f"/{name}.ko" not in builtin:
                raise CannotMakeDebian(f"the board's kernel {version} has no {name}")
            continue
        order += [path for path in [*reversed(needs[file]), file] if path not in order]
    busybox = next(path for path in (kernel / "usr/bin/busybox", kernel / "bin/busybox") if path.exists())
    files = [(name, 0o40755, b"") for name in ("bin", "m", "proc", "sys", "dev", "root")]
    files += [("init", 0o100755, INIT.encode()), ("bin/busybox", 0o100755, busybox.read_bytes())]
    for number, path in enumerate(order):
        data = (modules / path).read_bytes()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        files.append((f"m/{number:02}-{Path(path).name.removesuffix('.xz')}", 0o100644, data))
    return b"".join(_newc(number, *file) for number, file in enumerate([*files, ("TRAILER!!!", 0, b"")], 1))


def _newc(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One entry, as cpio(5) of FreeBSD describes "New ASCII Format"."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


if __name__ == "__main__":
    print(image())
