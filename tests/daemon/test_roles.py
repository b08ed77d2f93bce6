"""What a role looks at before it begins."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.apps.tensorflow.cluster import planned
from ipdc_edge.apps.tensorflow.role import NotAlone, RoleTask
from ipdc_edge.daemon.tasks import BLAME
from tests.apps.tensorflow.test_cluster import PLAN


def test_a_role_in_the_network_of_its_daemon_begins_nothing(tmp_path: Path) -> None:
    """systemd goes on where a network of its own cannot be had; TensorFlow would listen for everybody."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said: list[str] = []
    io: Any = SimpleNamespace(tunnels=theirs.detach(), directory=str(tmp_path), job="job", status=said.append)
    spec = {"memory": PLAN.memory, "arguments": {"cluster": json.loads(planned(PLAN)), "program": "x.py"}}
    params = {"role": "local:0", "python": "/nowhere/python3", "network": os.readlink("/proc/self/ns/net")}
    role = RoleTask(spec, {"x.py": b""}, params, io)
    try:
        with pytest.raises(NotAlone, match="local:0 has no network of its own"):
            role.run()
        assert not said and not os.listdir(tmp_path)
    finally:
        role.tunnels.close()
        ours.close()


def test_that_it_is_not_alone_is_the_node_s_fault() -> None:
    assert BLAME[NotAlone.__name__] == "node"
