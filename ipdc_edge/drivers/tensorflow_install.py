"""Making the virtual environment from which this node's TensorFlow roles run: by pip, in pinned versions.

Owns the pins, what must be there before, and that nobody ever finds half of it: it is made beside its place, proven by
a graph, and renamed. Runs pip with the rights of its caller, who must not be root on a node whose daemon is not:
nothing of a package's own runs while it is installed (wheels only), but the directory is the daemon's user's.

Renaming an environment is sound because nothing but `bin/python3` in it is run, which finds its packages by pyvenv.cfg
beside it; the other programs name the old place and are left out.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from ipdc_edge.drivers import tensorflow
from ipdc_edge.drivers.tensorflow import Found
from ipdc_edge.errors import IpdcError

VERSION = "2.21.0"
# What the tests run with. Wheels of all of them are there for Python 3.11 to 3.13 on both kinds of processor.
PINS = (
    "absl-py==2.5.1", "astunparse==1.6.3", "certifi==2026.10.19.post1", "charset-normalizer==3.5.3",
    "flatbuffers==25.12.19", "gast==0.7.0", "google-pasta==0.2.0", "grpcio==1.85.3", "h5py==3.14.0", "idna==3.20",
    "keras==3.15.1", "libclang==18.1.1", "markdown-it-py==4.3.0", "mdurl==0.1.2", "ml_dtypes==0.6.0", "namex==0.1.0",
    "numpy==2.4.6", "opt_einsum==3.4.0", "optree==0.20.0", "packaging==26.4", "protobuf==7.36.2", "Pygments==2.21.0",
    "requests==2.34.2", "rich==15.0.0", "six==1.17.0", "termcolor==3.3.0", "typing_extensions==4.16.0",
    "urllib3==2.8.0", "wheel==0.48.0", "wrapt==2.5.2",
)
ALONE = f"tf_keras=={VERSION}"  # it asks for the package `tensorflow`, which is the larger of two on x86_64
PYTHONS = ((3, 10), (3, 13))  # for which there are wheels, the first and the last
ROOM = 3 << 30  # bytes: 0.4 GB of wheels, 1.5 GB of packages, and some air
QUIET = 5.0  # seconds without a word of pip after which it is told how much has come
COMING = re.compile(r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([\w.]+)-(\d[\w.]*)-\S+(?: \(([^)]+)\))?")
AT_LAST = re.compile(r"Installing collected packages: (.*)")
DONE = re.compile(r"Successfully installed ")
LAST_WORDS = 12  # lines of pip that an error repeats

Say = Callable[[str], None]


class Unfit(IpdcError):
    """TensorFlow cannot be installed here: {reason}."""


class NoRoom(IpdcError):
    """TensorFlow takes {needed} MB of {place} while it is installed, and {free} MB are free there. Free some, or take a
    larger disk."""


class NoVenv(IpdcError):
    """This Python makes no virtual environments: {reason}. Install what that takes: `sudo apt install python3-venv`,
    then ask again."""


class PipFailed(IpdcError):
    """pip ended with {status}. Its last words: {words}"""

    retry = True


class InstallUnderWay(IpdcError):
    """Somebody installs TensorFlow into {place} just now. Wait for it, or end it first."""

    retry = True


def check(place: str, version: tuple[int, ...] = tuple(sys.version_info[:2]), machine: str = "") -> None:
    """Unfit, or NoRoom, where it need not even be tried."""
    if reason := tensorflow.unfit(machine):
        raise Unfit(reason=reason)
    if not PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        first, last = (".".join(map(str, python)) for python in PYTHONS)
        raise Unfit(reason=f"TensorFlow {VERSION} is made for Python {first} to {last}, not "
                           f"{'.'.join(map(str, version[:2]))}")
    disk = os.statvfs(os.path.dirname(place))
    free = disk.f_bavail * disk.f_frsize
    if free < ROOM:
        raise NoRoom(needed=ROOM >> 20, place=os.path.dirname(place), free=free >> 20)


def package(machine: str = "") -> str:
    """The package, by its name for this processor: the one without graphics cards where there is one."""
    return f"tensorflow{'-cpu' if (machine or os.uname().machine) == 'x86_64' else ''}=={VERSION}"


def install(place: str, say: Say, python: str = "/usr/bin/python3") -> Found:
    """Makes the environment at `place`, in the stead of one that is there; what is said is for people. Unfit, NoRoom,
    NoVenv, PipFailed, InstallUnderWay, DoesNotWork, OSError; then all is as before."""
    import fcntl

    check(place)
    part = f"{place}.part"
    lock = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # leaves no file behind
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallUnderWay(place=place) from None
        _remove(part)
        try:
            found = _made(part, say, python)
            say("taking it into use")
            _remove(f"{place}.old")
            if os.path.lexists(place):
                os.rename(place, f"{place}.old")
            os.rename(part, place)
            _remove(f"{place}.old")
        except BaseException:
            _remove(part)
            raise
        return found._replace(place=place, python=os.path.join(place, "bin", "python3"))
    finally:
        os.close(lock)


def _made(part: str, say: Say, python: str) -> Found:
    say("making a virtual environment")
    done = subprocess.run([python, "-m", "venv", part], stdin=subprocess.DEVNULL, capture_output=True, cwd="/")
    if done.returncode:
        words = (done.stdout + done.stderr).decode("utf-8", "replace").split("\n\n")[0]
        raise NoVenv(reason=" ".join(words.split())[:300])
    temporary, pins = os.path.join(part, "tmp"), os.path.join(part, "pins.txt")
    os.mkdir(temporary)
    with open(pins, "w", encoding="ascii") as file:
        file.write("\n".join(PINS) + "\n")
    pip = [os.path.join(part, "bin", "python3"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
           "--progress-bar", "off", "--only-binary", ":all:"]
    if "PIP_CACHE_DIR" not in os.environ:
        pip.append("--no-cache-dir")  # or flash would hold every wheel twice
    environ = {**os.environ, "TMPDIR": temporary, "PYTHONNOUSERSITE": "1", "LANG": "C.UTF-8"}
    environ.pop("PYTHONPATH", None)
    _run([*pip, "--constraint", pins, package()], environ, part, say)
    _run([*pip, "--no-deps", ALONE], environ, part, say)
    shutil.rmtree(temporary)
    for name in os.listdir(os.path.join(part, "bin")):
        if not name.startswith("python"):
            os.unlink(os.path.join(part, "bin", name))
    say("proving that it works, by a graph")
    found = tensorflow.environment(part)
    if not isinstance(found, Found):
        raise PipFailed(status="success", words=found.reason if found else "there is no tensorflow")
    return found._replace(version=tensorflow.prove(found))


def _run(command: list[str], environ: dict[str, str], part: str, say: Say) -> None:
    """pip, with what it does told in short."""
    last: list[str] = []
    with subprocess.Popen(command, env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            for line in _lines(process, part, say):
                last = [*last, line][-LAST_WORDS:]
                if words := short(line):
                    say(words)
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if status:
        raise PipFailed(status=f"signal {-status}" if status < 0 else f"exit status {status}",
                        words="".join(f"\n    {line}" for line in last))


def _lines(process: subprocess.Popen[bytes], part: str, say: Say) -> Iterator[str]:
    """What it prints; while it is quiet, it is told how much the disk has lost to it."""
    assert process.stdout is not None
    before, rest = _free(part), b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(QUIET):
                say(f"  {max(0, before - _free(part)) >> 20} MB are here")
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode("utf-8", "backslashreplace").rstrip() for line in whole)
            if not data:
                return


def short(line: str) -> str:
    """A line of pip's in our words; "" for one that tells nobody anything."""
    if found := COMING.match(line):
        return f"{found[1].replace('_', '-')} {found[2]}" + (f" ({found[3]})" if found[3] else "")
    if found := AT_LAST.match(line):
        return f"unpacking {count} packages" if (count := found[1].count(",") + 1) > 1 else f"unpacking {found[1]}"
    return "unpacked" if DONE.match(line) else ""


def _free(place: str) -> int:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize


def _remove(place: str) -> None:
    """A directory of ours that is in the way; never what a link leads to."""
    if os.path.islink(place):
        os.unlink(place)
    elif os.path.lexists(place):
        shutil.rmtree(place)
