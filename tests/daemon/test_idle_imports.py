"""Idle memory is a feature: what an idle daemon has loaded is pinned, so that nobody brings a library by accident."""

from __future__ import annotations

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = """
import asyncio, sys
from ipdc_edge import settings as conf
from ipdc_edge.home import Home
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.requests import Requests
from ipdc_edge.drivers.control import ControlServer
import ipdc_edge.daemon.main
home = Home({"IPDC_HOME": sys.argv[1]})
home.prepare()
async def main():
    daemon = Daemon(home, conf.load(home.conf))
    await daemon.gateway.start()
    await ControlServer(home.control_socket, Requests(daemon).handle).start()
    daemon.mqtt.start()
    await daemon.durable()
asyncio.run(main())
print(*sys.modules)
"""
# Libraries that cost an idle daemon megabytes; each belongs into a child that exits, or into the function that uses it.
HEAVY = (
    "argparse", "configparser", "cryptography", "ctypes", "gzip", "importlib.metadata", "lzma.tools", "multiprocessing",
    "numpy", "pathlib", "pickle", "pip", "pkg_resources", "requests", "setuptools", "tensorflow", "tflite_runtime",
    "unittest", "xml", "zipfile",
)
OWN = {
    "apps": "mapreduce mapreduce.plan",
    "codec": "answers bundle cid control frames messages node_id records runs unixfs",
    "core": "architecture events leases machine master membership messages node participant placement tasks timing"
            " values views worker",
    "daemon": "background daemon main requests results streams tasks",
    "drivers": "block_files block_index blocks control fetcher gateway gateway_http identity ledger mqtt prints"
               " provider runner vitals",
}


def test_an_idle_daemon_has_loaded_just_this(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & set(HEAVY), sorted(loaded & set(HEAVY))
    own = {name.removeprefix("ipdc_edge.") for name in loaded if name.startswith("ipdc_edge.")}
    pinned = {"errors", "home", "settings", *OWN}
    pinned |= {f"{package}.{name}" for package, names in OWN.items() for name in names.split()}
    assert own == pinned, f"new: {sorted(own - pinned)}, gone: {sorted(pinned - own)}"
