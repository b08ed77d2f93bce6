"""lab: processes that are found again and ended for sure, and nothing removed that the lab did not make."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.__main__ import main
from ipdc_edge.commands import change, laboratory, processes
from ipdc_edge.commands.laboratory import Lab, LabNode, NodeDied, OtherLab, OtherSandbox, free_ports
from ipdc_edge.drivers import authority, identity
from ipdc_edge.home import SocketPathTooLong
from tests.waiting import eventually

pytestmark = pytest.mark.outside("a lab is made of processes and ports")


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "it.pid")
    yield path
    processes.end(path, 5.0, "a test's process")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "lab")
    yield path
    lab = Lab(path)
    if lab.nodes:
        lab.down()


def _start(pid_file: str, code: str, log: str = os.devnull) -> int:
    process = processes.start([sys.executable, "-c", code], os.environ, log, pid_file)
    process.returncode = 0  # it is not waited for: it shall look like one that another command started
    return process.pid


def test_a_process_is_found_by_its_pid_file_and_ended(pid_file: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = _start(
        pid_file,
        "import os, signal; print(os.getsid(0) == os.getpid(), os.getcwd(), flush=True)\nsignal.pause()",
        str(log),
    )
    assert processes.running(pid_file) == pid
    eventually(lambda: log.read_text().endswith("\n"), "the process has begun")
    assert log.read_text() == "True /\n"
    assert processes.end(pid_file, 10.0, "it")
    assert not os.path.exists(pid_file)
    assert processes.running(pid_file) is None
    assert not processes.end(pid_file, 10.0, "it")


def test_a_process_that_ignores_sigterm_is_killed(pid_file: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _start(
        pid_file,
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
        "signal.pause()",
        str(log),
    )
    eventually(log.read_text, "the process is deaf")
    assert processes.end(pid_file, 0.05, "it")


def test_another_process_with_the_same_pid_is_left_alone(pid_file: str) -> None:
    Path(pid_file).write_text(f"{os.getpid()} 1\n")
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert processes.running(pid_file) is None
        assert not processes.end(pid_file, 0.0, "ourselves")
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("text", ["", "x y", "1", "0 0", "-1 5", "999999999 5"])
def test_a_broken_pid_file_means_no_process(pid_file: str, text: str) -> None:
    Path(pid_file).write_text(text)
    assert processes.running(pid_file) is None


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports[0]))


def test_free_ports_are_none_of_those_that_an_installed_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laboratory, "LOWEST_PORT", min(settings.DEFAULT_PORTS) - 2)
    monkeypatch.setattr(laboratory, "_first_ephemeral", lambda: max(settings.DEFAULT_PORTS) + 3)
    ports = free_ports(3)
    assert not set(ports) & set(settings.DEFAULT_PORTS)


def test_make_writes_settings_that_keep_the_nodes_on_loopback_and_apart(directory: str) -> None:
    lab = Lab(directory)
    lab.make(5)
    read = [settings.load(node.home.conf) for node in Lab(directory).nodes]
    assert [each.name for each in read] == [f"node{number}" for number in range(1, 6)]
    assert {(each.listen, each.address, each.portals) for each in read} == {("127.0.0.1", "127.0.0.1", ())}
    assert len({getattr(each, port) for each in read for port in settings.PORTS}) == 20
    before = [Path(node.home.conf).read_text() for node in lab.nodes]
    Lab(directory).make(5)
    assert [Path(node.home.conf).read_text() for node in lab.nodes] == before
    with pytest.raises(OtherLab, match="has 5 nodes, not 4"):
        Lab(directory).make(4)


@pytest.mark.parametrize("count, memory, wanted", [
    (4, 2047 << 20, 24 << 20), (4, 2048 << 20, None), (64, 31 << 30, 24 << 20), (1, 2048 << 20, None)])
def test_many_nodes_do_not_each_spare_the_memory_that_they_share(
    directory: str, monkeypatch: pytest.MonkeyPatch, count: int, memory: int, wanted: int | None
) -> None:
    """`runner_memory = auto` gives a runner up to 128 MB: all of them together at most a quarter of the machine's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(settings, "memory_total", lambda: memory)
    lab = Lab(directory)
    lab.make(count)
    assert {settings.load(node.home.conf).runner_memory for node in lab.nodes} == {wanted}


def test_a_lab_that_is_there_has_the_sandbox_that_is_asked_for_or_says_so(directory: str) -> None:
    Lab(directory).make(2, "rlimits")
    for sandbox in ("", "rlimits"):
        Lab(directory).make(2, sandbox)
    with pytest.raises(OtherSandbox, match="`sandbox = rlimits`, not bubblewrap"):
        Lab(directory).make(2, "bubblewrap")


def test_the_first_node_makes_the_domain_once(directory: str) -> None:
    lab = Lab(directory)
    lab.make(2)
    first, second = lab.nodes
    authority.ensure(first.home, "node1", 1 << 30)  # alone, as a node that was started before it was in a domain
    assert change.present(second.home) is None
    members = first.found()
    assert first.found() == members == Lab(directory).nodes[0].found()
    assert first.belongs(members) and not second.belongs(members)
    request = authority.signing_request(second.home)
    members = authority.admit(first.home, request, "node2", 1 << 30).members
    assert not second.belongs(members)  # it is expected, and does not know yet
    authority.create_domain(second.home, "other", node_name="node2", memory=1)
    assert not second.belongs(members)  # a member, who went elsewhere
    assert not first.belongs(replace(members, members=()))  # as one that was expelled
    assert identity.load(first.home).domain == "lab"


def test_purge_removes_what_was_made_and_nothing_else(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Lab(directory).make(2)
    mine = Path(directory, "node3")
    mine.mkdir()
    assert main(["lab", "down", "--dir", directory, "--purge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": directory, "ended": 0, "purged": True}
    assert os.listdir(directory) == ["node3"]
    mine.rmdir()
    Lab(directory).make(1)
    assert main(["lab", "down", "--dir", directory, "--purge"]) == 0
    assert not os.path.exists(directory)


def test_mistakes_are_usage_and_change_nothing(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(directory, "node2").mkdir(parents=True)
    assert main(["lab", "up", "--nodes", "2", "--dir", directory]) == 2
    assert f"{directory}/node2 exists already and is no part of a lab" in capsys.readouterr().err
    assert os.listdir(directory) == ["node2"]
    assert main(["lab", "up", "--nodes", "0", "--dir", directory]) == 2
    assert "a lab has 1 to 64 nodes" in capsys.readouterr().err
    assert main(["lab", "down", "--dir", directory]) == 2
    assert "There is no lab in" in capsys.readouterr().err
    with pytest.raises(SocketPathTooLong):
        Lab(f"{directory}/{'x' * 100}").make(1)
    assert os.listdir(directory) == ["node2"]


def test_a_taken_port_is_named_and_nothing_keeps_running(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(directory)
    lab.make(1)
    read = settings.load(lab.nodes[0].home.conf)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", read.gateway_port))
        listener.listen()
        assert main(["lab", "up", "--nodes", "1", "--dir", directory]) == 1
    assert f"Port {read.gateway_port} of 127.0.0.1 is taken by" in capsys.readouterr().err
    assert lab.down() == 0


def test_a_node_that_dies_is_shown_with_its_log_and_nothing_keeps_running(directory: str) -> None:
    lab = Lab(directory)
    lab.make(1)
    os.mkdir(lab.nodes[0].home.ledger)  # a daemon cannot open it
    with pytest.raises(NodeDied) as caught:
        lab.up(lambda text: None)
    text = str(caught.value)
    assert "The daemon of node1 ended" in text and "daemon.log:\n  " in text
    assert lab.down() == 0


def test_up_is_idempotent_and_down_ends_everything(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def pids() -> list[int | None]:
        return [
            processes.running(LabNode(directory, name).pid_file(part))
            for name in ("node1", "node2")
            for part in ("broker", "daemon")
        ]

    assert main(["lab", "up", "--nodes", "2", "--dir", directory]) == 0
    out = capsys.readouterr().out
    assert "node1 is ready\nnode2 is ready\n" in out and f"export IPDC_HOME={directory}/node1" in out
    first = pids()
    assert None not in first
    assert first[1] is not None
    os.kill(first[1], signal.SIGKILL)
    os.waitpid(first[1], 0)
    assert main(["lab", "up", "--nodes", "2", "--dir", directory, "--json"]) == 0
    assert [node["name"] for node in json.loads(capsys.readouterr().out)["nodes"]] == ["node1", "node2"]
    again = pids()
    assert [again[0], *again[2:]] == [first[0], *first[2:]] and again[1] not in (None, first[1])
    assert main(["lab", "down", "--dir", directory]) == 0
    assert capsys.readouterr().out.startswith("2 nodes ended.")
    assert pids() == [None] * 4


def test_the_nodes_are_in_one_domain_and_a_half_made_lab_is_completed(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def versions() -> list[tuple[str, int, int]]:
        found = [identity.load(node.home) for node in Lab(directory).nodes]
        return [(now.authority, now.members.version, len(now.members.members)) for now in found]

    words = ["lab", "up", "--nodes", "3", "--dir", directory]
    assert main(words) == 0
    assert len({authority for authority, _, _ in versions()}) == 1
    assert versions()[0][1:] == (3, 3)
    key = Path(directory, "node2", "identity", "key.pem").read_bytes()
    assert main(["lab", "down", "--dir", directory]) == 0
    shutil.rmtree(Path(directory, "node3", "identity"))  # as if the lab had been interrupted before node3 joined
    assert main(words) == 0
    assert versions()[0][1:] == (4, 4) and versions()[2] == versions()[0]
    assert Path(directory, "node2", "identity", "key.pem").read_bytes() == key
    assert main(words) == 0
    assert versions()[0][1:] == (4, 4)


def test_a_lab_of_ten_nodes_comes_up(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "up", "--nodes", "10", "--timeout", "300", "--dir", directory, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["nodes"]) == 10
    assert len({identity.load(node.home).authority for node in Lab(directory).nodes}) == 1
    assert main(["lab", "down", "--dir", directory, "--purge"]) == 0
