"""What goes wrong on the first day: every message names the thing, the value and the way out; never a
traceback of ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess

from tests.lab.conftest import ROOT, Lab, eventually, ipdc
from tests.lab.test_jobs import program


def expect_refusal(done, code: int, *words: str) -> None:  # type: ignore[no-untyped-def]
    """The command ended with this code, and its error says all of these words, without a traceback of ours."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "ipdc_edge/" not in done.stderr, "no frame of ours is shown to people"


def test_a_missing_file(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    expect_refusal(
        lab.run(1, "submit", program("words.py"), "--input", str(tmp_path / "nothing.txt"), check=False),
        1,
        "nothing.txt",
        "No such file",
    )
    expect_refusal(
        lab.run(1, "submit", program("wrods.py"), "--input", program("words.py"), check=False),
        1,
        "wrods.py",
        "words.py",
    )


def test_a_syntax_error_is_refused_at_submit_with_its_line(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "Map.py"
    path.write_text("def map(key, line):\n    yield key,, line\n")
    before = len(lab.json(1, "jobs"))
    expect_refusal(
        lab.run(1, "submit", str(path), "--input", str(path), check=False), 1, "Map.py", "line 2", "yield key,, line"
    )
    assert len(lab.json(1, "jobs")) == before, "no job was made"


def test_an_exception_in_map_fails_the_job_and_shows_where(lab: Lab, book: str) -> None:
    done = lab.run(2, "submit", program("fails.py"), "--input", book, "-k", "3", check=False)
    expect_refusal(done, 1, "ValueError", "no beer here")
    job = lab.json(2, "jobs")[-1]
    assert job["state"] == "failed" and "no beer here" in job["error"]
    failure = lab.json(2, "status", job["id"])["failure"]
    with open(book, "rb") as file:
        text = file.read()
    assert failure["input"] == "book.txt"
    line = text[failure["offset"] :].split(b"\n", 1)[0].decode("utf-8", "surrogateescape")
    assert "Zythum" in line and text[failure["offset"] - 1 : failure["offset"]] == b"\n", (
        "the offset is that of the line"
    )
    assert "Zythum" in failure["record"]
    assert 'raise ValueError(f"no beer here' in failure["traceback"] and "fails.py" in failure["traceback"]
    for command in ("status", "logs"):
        shown = lab.run(2, command, job["id"]).stdout
        for word in ("no beer here", "fails.py", "book.txt", str(failure["offset"]), "Zythum"):
            assert word in shown, f"{command}: {shown}"
    assert lab.run(2, "result", job["id"], check=False).returncode == 1
    eventually(lab.idle, "a failed job leaves nothing")


def test_a_failure_with_a_flood_of_strange_text_is_told_and_ends_no_daemon(lab: Lab) -> None:
    done = lab.run(3, "submit", program("shouts.py"), "--input", program("words.py"), "-k", "2", check=False)
    expect_refusal(done, 1, "ValueError")
    for node in (1, 2, 3):
        assert len(lab.json(node, "nodes")) == 3, "every daemon is alive"
    assert all(node["state"] == "ready" for node in lab.json(1, "nodes"))


def test_no_daemon(tmp_path) -> None:  # type: ignore[no-untyped-def]
    home = str(tmp_path / "home")
    expect_refusal(ipdc("jobs", home=home, check=False), 3, "ipdc-edge run", home)


def test_an_unreadable_line_in_the_settings(tmp_path) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path / "home"
    home.mkdir()
    (home / "ipdc.conf").write_text("name = pi\nmqtt_port = eighteen\n")
    expect_refusal(
        ipdc("run", home=str(home), check=False), 1, str(home / "ipdc.conf"), "line 2", "mqtt_port", "eighteen", "65535"
    )
    (home / "ipdc.conf").write_text("mqttport = 1\n")
    expect_refusal(ipdc("run", home=str(home), check=False), 1, "line 1", "mqttport", "mqtt_port")


def test_mosquitto_is_not_installed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Really not there: in a mount namespace of its own, its file is covered. An ordinary user takes a user namespace
    for that, or sudo where the kernel allows none."""
    cover = tmp_path / "empty"
    cover.write_text("")
    ways = (["unshare", "-m"], ["unshare", "-rm"], ["sudo", "-n", "unshare", "-m"])
    way = next(way for way in ways if subprocess.run([*way, "true"], stderr=subprocess.DEVNULL).returncode == 0)
    command = f"env PYTHONPATH={ROOT} IPDC_HOME={tmp_path / 'home'} /usr/bin/python3 -m ipdc_edge broker"
    script = f"mount --bind {cover} /usr/sbin/mosquitto && exec {command}"
    done = subprocess.run([*way, "sh", "-c", script], capture_output=True, text=True)
    expect_refusal(done, 1, "mosquitto", "apt install mosquitto")


def test_a_port_that_is_taken(tmp_path) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (home / "ipdc.conf").write_text(f"mqtt_port = {port}\n")
        expect_refusal(ipdc("broker", home=str(home), check=False), 1, str(port), "mqtt_port", "ipdc.conf")
        (home / "ipdc.conf").write_text(f"gateway_port = {port}\n")
        expect_refusal(ipdc("run", home=str(home), check=False), 1, str(port), "gateway_port")


def test_a_job_that_no_node_can_take_says_why(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Waiting is right (a bigger node may join), but `status` says for each node why it waits."""
    own = Lab(str(tmp_path / "lab"), 1)
    try:
        conf = os.path.join(own.home(1), "ipdc.conf")
        own.down()
        with open(conf, "a") as file:
            file.write("runner_memory = 900G\n")
        own = Lab(str(tmp_path / "lab"), 1)
        job = own.run(1, "submit", program("words.py"), "--input", program("words.py"), "--id-only").stdout.strip()
        view = eventually(lambda: [v for v in [own.json(1, "status", job)] if v["placement"]], "the placement")[0]
        assert view["state"] == "queued"
        assert "memory" in view["placement"][0]["reasons"][0] and not view["placement"][0]["suitable"]
        assert "memory" in own.run(1, "status", job).stdout
        own.run(1, "cancel", job)
        assert own.json(1, "status", job)["state"] == "cancelled"
    finally:
        own.down()


def test_doctor(lab: Lab) -> None:
    checks = {check["check"]: check for check in json.loads(lab.run(1, "doctor", "--json").stdout)}
    assert checks["broker"]["ok"] and checks["store"]["ok"] and checks["daemon"]["ok"]
