"""The real TensorFlow in the units of roles, on two nodes with systemd: what tests/booted/test_roles.py asks of plain
servers. It is seen by both containers where `sudo ipdc-edge tf install` would put it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.booted.containers import SHOWN
from tests.booted.node import MEMBER, Node
from tests.tensorflow import installed

pytestmark = [pytest.mark.booted, pytest.mark.tensorflow]
EXAMPLES = Path(__file__).parents[2] / "examples" / "tensorflow"
PLACE = "/var/lib/ipdc/tensorflow"
ROLES = "systemctl list-units --plain --no-legend 'ipdc-runner-role@*.service'"


@pytest.fixture
def pair(another: Callable[..., Node], node: Node) -> tuple[Node, Node]:
    """Two nodes of one domain, both with TensorFlow."""
    version = node.run("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").stdout.strip()
    if version != "{}.{}".format(*sys.version_info):
        pytest.skip(f"does not apply: the environment with TensorFlow is for this machine's Python, not for {version}")
    environment = str(installed.venv())
    first, second = another("tf", 3 << 30, environment), another("tf", 3 << 30, environment)
    for one in first, second:
        one.run(f"install -d -o ipdc -g ipdc {PLACE} && mount --bind {SHOWN} {PLACE} && systemctl restart ipdc-edge")
        one.running()
    first.ipdc("domain", "create", "house", user="root")
    first.running()
    token = first.ipdc("invite", user="root").stdout.strip()
    second.ipdc("join", token, user="root")
    second.running()

    def capable() -> bool:
        return ["tensorflow=2.21.0" in one["capabilities"] for one in first.json("nodes")] == [True, True]

    first.eventually(capable, "both tell of their TensorFlow")
    return first, second


def plan(node: Node, form: str, *examples: str) -> None:
    """A plan over both nodes, and the examples beside it."""
    for example in examples:
        node.run(f"cat > {example}", MEMBER, stdin=(EXAMPLES / example).read_bytes())
    node.run("cat > ClusterSpec.conf", MEMBER, stdin=form.encode())
    node.ipdc("tf", "plan", "--memory", "1G", "--nodes", *(one["name"] for one in node.json("nodes")))


def test_ipdc_s_own_example_in_the_units_of_two_nodes(pair: tuple[Node, Node]) -> None:
    first, second = pair
    plan(first, '{"local": [0, 1]}', "addition.py", "two_layers.py")
    cluster = json.loads(first.ipdc("tf", "up", "--json", "--timeout", "120").stdout)["id"]
    for one in first, second:
        assert one.run(ROLES).stdout.count("ipdc-runner-role@") == 1
    done = first.ipdc("tf", "run", "addition.py")
    assert "y = 238" in done.stdout and "tasks: ['task:0', 'task:1']" in done.stdout, done
    done = first.ipdc("tf", "run", "two_layers.py", "--steps", "100")
    assert "last loss" in done.stdout
    assert int(first.run(f"stat -c %s {done.stderr.strip().rpartition(' ')[2]}").stdout) > 0, "no weights came back"
    first.ipdc("tf", "down", cluster)
    for one in first, second:
        one.eventually(lambda one=one: "ipdc-runner-role@" not in one.run(ROLES).stdout, "its units are gone")
        assert one.failed_units() == ""


def test_a_training_with_semaphores_and_code_that_is_made_while_it_runs(pair: tuple[Node, Node]) -> None:
    """MultiWorkerMirroredStrategy by tf_keras' fit: what the units must leave to TensorFlow."""
    first, _ = pair
    plan(first, '{"worker": [0, 1]}', "mirrored.py")
    words = ("--json", "--timeout", "120", "--program", "mirrored.py", "--args", "fit")
    job = json.loads(first.ipdc("tf", "up", *words).stdout)["id"]
    first.wait(job, seconds=180)
    said = first.ipdc("logs", job).stdout
    assert "worker:0 of 2: accuracy 0.9" in said and "worker:1 of 2: accuracy 0.9" in said, said
