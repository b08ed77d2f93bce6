"""Idle memory is a feature: what an idle daemon has loaded is pinned, so that nobody brings a library by accident."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.drivers.bubblewrap import needs_bubblewrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = """
import asyncio, sys
from ipdc_edge import settings as conf
from ipdc_edge.home import Home
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.requests import Requests
from ipdc_edge.drivers.control import ControlServer
from ipdc_edge.drivers import identity
import ipdc_edge.daemon.main
home = Home({"IPDC_HOME": sys.argv[1]})
home.prepare()
async def main():
    daemon = Daemon(home, conf.load(home.conf), identity.ensure(home, "node"))
    await daemon.gateway.start()
    await ControlServer(home.control_socket, Requests(daemon).handle).start()
    daemon.mqtt.start()
    await daemon.durable()
asyncio.run(main())
print(*sys.modules)
"""
# Libraries that cost an idle daemon megabytes; each belongs into a child that exits, or into the function that uses it.
HEAVY = (
    "argparse", "configparser", "cryptography", "ctypes", "email", "gzip", "http.client", "importlib.metadata",
    "ipaddress", "lzma.tools", "multiprocessing", "numpy", "pathlib", "pickle", "pip", "pkg_resources", "psutil",
    "requests", "setuptools", "tensorflow", "ai_edge_litert", "tflite_runtime", "unittest",
    "urllib.parse", "urllib.request", "xml", "zipfile",
)
OWN = {
    "apps": "mapreduce mapreduce.choices mapreduce.plan mapreduce.spec tensorflow tensorflow.cluster tensorflow.plan"
            " tflite tflite.formats tflite.plan tflite.serve_plan",
    "codec": "answers bundle cid compression control dag_pb frames hamt join_token keys member_list messages node_id"
             " open_file records runs serving tflite_model unixfs",
    "core": "admission architecture bounds counters effects events failures leases life locality machine master"
            " membership messages node orders pace participant parts placement queue saved story tasks timing turns"
            " values views waiting worker",
    "daemon": "attempt_words background commits daemon domain input_sizes invitations job_source local_inputs main"
              " offer request_fields requests results service store streams submissions tasks whereabouts",
    "drivers": "addresses architectures block_disk block_files block_index block_owners block_places block_questions"
               " block_reading block_rows blocks broker broker_client broker_files broker_log control durable fetcher"
               " flash gateway gateway_content gateway_door gateway_http identity input_cache lean_paho ledger mqtt"
               " mqtt_link prints provider refusals runner runner_child runner_socket sandbox scratch sessions"
               " sqlite_disk story tensorflow tflite_capability tls vitals",
}


# Beside these, where the sandbox is another than the least.
OF_SANDBOX = {"rlimits": set(), "bubblewrap": {"drivers.runner_bubblewrap", "drivers.system_calls"}}


@pytest.mark.parametrize("sandbox", OF_SANDBOX)
def test_an_idle_daemon_has_loaded_just_this(tmp_path, sandbox: str) -> None:  # type: ignore[no-untyped-def]
    if sandbox == "bubblewrap":
        needs_bubblewrap()
    (tmp_path / "ipdc.conf").write_text(f"sandbox = {sandbox}\n")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & set(HEAVY), sorted(loaded & set(HEAVY))
    own = {name.removeprefix("ipdc_edge.") for name in loaded if name.startswith("ipdc_edge.")}
    pinned = {"errors", "home", "machine_memory", "settings", *OWN}
    pinned |= {f"{package}.{name}" for package, names in OWN.items() for name in names.split()}
    pinned |= OF_SANDBOX[sandbox]
    assert own == pinned, f"new: {sorted(own - pinned)}, gone: {sorted(pinned - own)}"
