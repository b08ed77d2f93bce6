"""An emulated board: qemu's ARM machine with one processor, 128 MB and Debian 13, on a host network of its own.

Owns the qemu process, the board's cable (a tap device on the bridge of tests/network/hosts.py) and the root shell on
its serial console. What the board writes to its disk is forgotten at its end; the image stays as it was made. Decides
nothing of what is tested. Emulation (TCG) is about twenty times slower than the real thing: times inside mean little,
memory and bytes do.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bare.debian import CannotMakeDebian, Outcome
from tests.board.image import ADDRESS, image
from tests.network.hosts import Network, sh
from tests.waiting import eventually

MEMORY = 128  # MB
BOOT_SECONDS = 1200
TAP = "board0"
# no unit of the system gives up because this machine is busy
PATIENCE = "systemd.default_timeout_start_sec=1800 systemd.default_device_timeout_sec=1800"


class Board:
    """A context manager: one board, booted, and without power at its end. `files` lie in /root/ of it, by name."""

    def __init__(self, network: Network, *files: Path, append: str = "") -> None:
        if not shutil.which("qemu-system-arm"):
            raise CannotMakeDebian("qemu-system-arm is not installed: apt-get install qemu-system-arm")
        self.network, self.files, self.append, self.address = network, files, append, ADDRESS
        self.image = image()
        self.directory = tempfile.mkdtemp(prefix="ipdc-board-", dir="/var/tmp")
        self._numbers = itertools.count(1)
        self._seen = b""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Board:
        bridge, disk = self.network.bridge, os.path.join(self.directory, "disk")
        for words in (("tuntap", "add", TAP, "mode", "tap"), ("link", "set", TAP, "master", "br0", "up")):
            sh("ip", "-n", bridge, *words)
        sh("cp", "--sparse=always", "--reflink=auto", str(self.image.disk), disk)
        # Linux finds this machine's devices in reverse order, and the root has to be /dev/vda
        drives = [(path, "readonly=on") for path in reversed(self.files)] + [(Path(disk), "cache=unsafe")]
        disks = []
        for number, (path, how) in enumerate(drives):
            options = f"if=none,id=d{number},file={path},format=raw,{how}"
            disks += ["-drive", options, "-device", f"virtio-blk-device,drive=d{number}"]
        self._command = [
            "ip", "netns", "exec", bridge, "setpriv", "--pdeathsig", "KILL",
            "qemu-system-arm", "-M", "virt", "-accel", "tcg", "-cpu", "cortex-a7", "-smp", "1", "-m", str(MEMORY),
            "-display", "none", "-nodefaults", "-no-reboot",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd),
            "-append", f"root=/dev/vda rw console=ttyAMA0 quiet {PATIENCE} {self.append}", *disks,
            "-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no", "-device", "virtio-net-device,netdev=n0",
            "-serial", "chardev:c0", "-chardev",
            f"socket,id=c0,path={self.directory}/console,server=on,wait=off,logfile={self.directory}/log"]
        try:
            self._power_on()
            for number, path in enumerate(self.files):  # a disk is a whole number of sectors
                device = f"/dev/vd{'bcdefgh'[number]}"
                self.run(f"head -c {path.stat().st_size} {device} > /root/{path.name}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _power_on(self) -> None:
        self.began = time.monotonic()
        with open(os.path.join(self.directory, "qemu"), "wb") as output:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True)
        self._connect()
        self.wait_shell()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        sh("ip", "-n", self.network.bridge, "link", "del", TAP, check=False)
        shutil.rmtree(self.directory)

    def console(self) -> str:
        """All that the serial console has shown."""
        return Path(self.directory, "log").read_text(errors="replace")

    def emulated(self) -> float:
        """Processor seconds that emulation has taken: what else this machine does does not count."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # -- the console

    def _connect(self) -> None:
        def connected() -> bool:
            if self.process.poll() is not None:
                raise CannotMakeDebian(f"qemu ended: {Path(self.directory, 'qemu').read_text()}")
            try:
                self._socket.connect(os.path.join(self.directory, "console"))
            except OSError:
                return False
            return True

        self._socket = socket.socket(socket.AF_UNIX)
        eventually(connected, "qemu's console is there", 30)
        self._socket.settimeout(1)

    def _read(self) -> bytes:
        """What has come; waits a second for it. Nothing at the end, too."""
        try:
            return self._socket.recv(65536)
        except TimeoutError:
            return b""

    def _receive(self) -> None:
        self._seen += self._read()
        if self.process.poll() is not None:
            raise AssertionError(f"the board has ended:\n{self.console()[-2000:]}")

    def wait_shell(self, seconds: float = BOOT_SECONDS) -> None:
        """Until a root shell answers: after power on and after `reboot`. Nothing is typed before root is logged in: an
        emulated serial line that gets something before its driver listens hears nothing any more."""
        end, mark = time.monotonic() + seconds, next(self._numbers)
        self._seen = b""
        while b"(automatic login)" not in self._seen and time.monotonic() < end:
            self._receive()
        while time.monotonic() < end:  # the answer differs from the question, so its echo is no answer
            self._socket.sendall(b"\necho up%d:$((6*7))\n" % mark)
            asked = time.monotonic()
            while time.monotonic() - asked < 3:
                self._receive()
                if b"up%d:42" % mark in self._seen:
                    return
        raise AssertionError(f"no shell within {seconds:g} s:\n{self.console()[-2000:]}")

    def run(self, script: str, seconds: float = 300, check: bool = True) -> Outcome:
        """Runs a shell script as root, one at a time; standard error is in its output. Raises AssertionError with the
        output unless it ends well or `check` is False."""
        mark = b"end%d" % next(self._numbers)
        self._seen = b""
        # on lines of their own, so that comments do no harm; no input, or the command would eat what follows
        self._socket.sendall(b" {\n" + script.encode() + b"\n} </dev/null 2>&1; echo " + mark + b":$?:\n")
        end = time.monotonic() + seconds
        while not (found := re.search(mark + rb":(\d+):", self._seen)):
            if time.monotonic() >= end:
                raise AssertionError(f"{script!r} did not end within {seconds:g} s:\n{self._seen[-1500:].decode()}")
            self._receive()
        text = self._seen[: found.start()].decode(errors="replace").replace("\r", "")
        outcome = Outcome(int(found[1]), text, "", [])
        if check and outcome.code != 0:
            raise AssertionError(f"{script!r} on the board: {outcome}")
        return outcome

    def write(self, path: str, content: str) -> None:
        """A small file: an emulated serial line drops what comes too fast."""
        assert len(content) < 3000, "give the board big files when it starts"
        self.run(f"cat > {path} <<'EOF-OF-FILE'\n{content}\nEOF-OF-FILE")

    def eventually(self, script: str, what: str, seconds: float = 300) -> Outcome:
        """Waits until a script ends well; the journal's end for a failure."""
        def done() -> Any:
            outcome = self.run(script, check=False)
            return outcome if outcome.code == 0 else None
        try:
            return eventually(done, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.run('journalctl --no-pager -b -n 40', check=False).stdout}") from None

    def reboot(self) -> None:
        """`systemctl reboot`, then a new qemu with the same disk."""
        self._socket.sendall(b" systemctl reboot\n")

        def off() -> bool:
            self._seen += self._read()
            return self.process.poll() is not None

        eventually(off, "the board goes down", BOOT_SECONDS)
        self._socket.close()
        self._power_on()
