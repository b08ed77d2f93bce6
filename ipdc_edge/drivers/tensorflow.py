"""Which TensorFlow this node has, by what pip left beside it; or why there is none.

Owns where it is looked for, and which machines can have one. Never imports it: that takes seconds and 500 MB. Whether
it works is another question: `prove` asks it in a child, for `doctor` and `tf install`.

Sources: the wheels' names (PEP 427), "Recording installed projects" of the packaging guide (pip writes RECORD last),
and the layout of an environment (the library reference, venv).
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import IpdcError

SYSTEM = "/var/lib/ipdc/tensorflow"  # what `sudo ipdc-edge tf install` makes; Home.tensorflow of the system's node
AUTO, NO = "auto", "no"
DIST_INFO = re.compile(r"tensorflow(?:_cpu|_cpu_aws|_rocm)?-(\d[\w.+]{0,40})\.dist-info", re.ASCII)
LIBRARY = re.compile(r"python3\.\d{1,2}", re.ASCII)
MACHINES = ("x86_64", "aarch64")
CAPABILITY = "tensorflow="  # with the version behind it, in a node's record
PROVED_WITHIN = 120.0  # seconds; a small board takes twenty
# A graph whose two halves meet, run in a session; 238 as in IPDC's own example.
PROOF = """
import json, os, sys
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow
with tensorflow.Graph().as_default():
    x = tensorflow.compat.v1.placeholder(tensorflow.int32, [])
    y = (x + 300) + (x - 66)
    with tensorflow.compat.v1.Session() as session:
        print(json.dumps({"version": tensorflow.__version__, "sum": int(session.run(y, {x: 2}))}))
"""


class DoesNotWork(IpdcError):
    """TensorFlow {version} is installed in {place}, but does not work: {reason}"""


class Found(NamedTuple):
    """A TensorFlow: its version, the Python that imports it, and the directory that it was installed into."""

    version: str
    python: str
    place: str


class Absent(NamedTuple):
    """Why there is none, for people."""

    reason: str


def look(choice: str, own: str, path: Iterable[str] | None = None, machine: str = "",
         pointer: int = struct.calcsize("P")) -> Found | Absent:
    """What this node has. choice: as in ipdc.conf (auto, no, or a virtual environment's directory); own: the
    environment of this home; path: Python's. The other arguments say which machine this is. Costs a few looks into
    directories."""
    if choice == NO:
        return Absent("its owner wants none (`tensorflow = no` in ipdc.conf)")
    if reason := unfit(machine, pointer):
        return Absent(reason)
    if choice != AUTO:
        return environment(choice) or Absent(f"there is none in {choice} (`tensorflow` in ipdc.conf)")
    damaged = None
    for place in dict.fromkeys((own, SYSTEM)):
        found = environment(place)
        if isinstance(found, Found):
            return found
        damaged = damaged or found
    for place in sys.path if path is None else path:
        version = _version(place)
        if version and not isinstance(version, Absent):
            return Found(version, sys.executable, place)
    return damaged or Absent("it is not installed; `sudo ipdc-edge tf install` does that")


def unfit(machine: str = "", pointer: int = struct.calcsize("P")) -> str:
    """Why no TensorFlow can be had for this machine, "" where one can."""
    machine = machine or os.uname().machine
    if pointer < 8:
        return f"there is none for systems of 32 bits ({machine})"
    return "" if machine in MACHINES else f"there is none for this kind of processor ({machine})"


def environment(place: str) -> Found | Absent | None:
    """What a virtual environment has; None where there is neither an environment nor a TensorFlow in it."""
    libraries = os.path.join(place, "lib")
    try:
        names = sorted(filter(LIBRARY.fullmatch, os.listdir(libraries)), key=lambda name: int(name[8:]))
    except OSError:
        return None
    for name in reversed(names):
        version = _version(os.path.join(libraries, name, "site-packages"))
        if version is None:
            continue
        if isinstance(version, Absent):
            return version
        python = os.path.join(place, "bin", "python3")
        real = os.path.basename(os.path.realpath(python))
        if not os.access(python, os.X_OK) or LIBRARY.fullmatch(real) and real != name:
            return Absent(f"that in {place} was made for {name}, which this system has no more; "
                          "`sudo ipdc-edge tf install --again` makes it anew")
        return Found(version, python, place)
    return None


def _version(packages: str) -> str | Absent | None:
    """The version of the one in a directory of packages."""
    try:
        names = os.listdir(packages)
    except OSError:
        return None
    for name in names:
        if found := DIST_INFO.fullmatch(name):
            whole = os.path.isfile(os.path.join(packages, name, "RECORD")) and os.path.isfile(
                os.path.join(packages, "tensorflow", "__init__.py"))
            return found[1] if whole else Absent(f"{found[1]} in {packages} was not installed to its end")
    return None


def described(found: Found | Absent) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a node's record says of it: (capabilities, what it is unable to do and why)."""
    if isinstance(found, Found):
        return (CAPABILITY + found.version,), ()
    reason = "".join(letter if letter.isprintable() else "?" for letter in found.reason)
    return (), (f"tensorflow: {reason}"[:200],)


def prove(found: Found, user: int | None = None, group: int | None = None, seconds: float = PROVED_WITHIN) -> str:
    """Builds a graph and runs it, in a child, as `user` and `group` where told: its version. DoesNotWork."""
    import json
    import subprocess
    import tempfile

    environ = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
               **{name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "LD_LIBRARY"))}}
    options = {} if user is None else {"user": user, "group": group, "extra_groups": ()}
    try:
        with tempfile.TemporaryDirectory() as home:  # Keras makes a directory there, also where there was none
            if user is not None:
                os.chown(home, user, -1 if group is None else group)
            done = subprocess.run([found.python, "-I", "-c", PROOF], env={**environ, "HOME": home}, cwd="/",
                                  stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=seconds, **options)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise DoesNotWork(version=found.version, place=found.place, reason=f"no answer within {seconds:g} s") from None
    except OSError as error:
        raise DoesNotWork(version=found.version, place=found.place, reason=str(error)) from error
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        last = (words or ["without a word"])[-1][:300]
        if done.returncode == -4:
            last = "this processor lacks instructions that it is built with, such as AVX"
        raise DoesNotWork(version=found.version, place=found.place, reason=f"{last} ({ended})")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if answer["sum"] != 238:
            raise ValueError(f"a graph made {answer['sum']} of what is 238")
        return str(answer["version"])[:40]
    except (ValueError, LookupError, TypeError) as error:
        raise DoesNotWork(version=found.version, place=found.place, reason=str(error)[:300]) from error
