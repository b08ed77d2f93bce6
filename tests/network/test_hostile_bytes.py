"""Hostile bytes of a member: what it says by MQTT, what its gateway gives, what it asks of others' gateways.

Node 4 is malicious: a real member, whose daemon has ended. In its place a raw MQTT 5 client speaks with its
certificate, a gateway lies with it, and its own broker is read to hear what the others answer. Each attempt stands
beside one that is as it must be and succeeds. At the end no daemon's log tells of a bug.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ipdc_edge.codec import unixfs
from ipdc_edge.codec.cid import dag_pb_cid, raw_cid
from ipdc_edge.codec.messages import MOST_BYTES
from ipdc_edge.codec.runs import MAX_BLOCK
from ipdc_edge.drivers import broker_files
from ipdc_edge.home import Home
from tests.drivers.mqtt5 import NOT_AUTHORIZED, SUCCESS, Client, Refused, packet, text
from tests.network import raw
from tests.network.hosts import ROOT, Domain, DomainNode
from tests.waiting import eventually

pytestmark = pytest.mark.network

MOST_GROWTH = 10 << 20  # bytes of PSS that a daemon may take for a flood
PACKETS = 500  # that the flood sends in one piece
WORDCOUNT = [os.path.join(ROOT, "ipdc_edge", "commands", "wordcount", name) for name in ("Map.py", "Reduce.py")]
SLOW = """
import time
def map(key, line):
    time.sleep(0.02)
    for word in line.split():
        yield word, 1
"""
Give = bytes | Callable[[socket.socket], None]
_births = itertools.count(1 << 40)


def head(length: object, kind: str = "application/vnd.ipld.raw", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {length}\r\n\r\n".encode()


class Liar(threading.Thread):
    """A gateway that gives whatever it was told to give for a CID, byte by byte as told."""

    def __init__(self, node: DomainNode) -> None:
        super().__init__(daemon=True)
        own = raw.identity_of(node)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(own.certificate, own.key)
        self.context.load_verify_locations(own.authority_certificate)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.address = f"{node.host.address}:{raw.GATEWAY}"
        self.listening = raw.inside(node.host, lambda: socket.create_server(("", raw.GATEWAY)))
        self.given: dict[str, Give] = {}
        self.asked: list[str] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                arrived, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(arrived,), daemon=True).start()

    def _serve(self, arrived: socket.socket) -> None:
        try:
            with self.context.wrap_socket(arrived, server_side=True) as connection:
                data = b""
                while True:
                    while b"\r\n\r\n" not in data:
                        piece = connection.recv(65536)
                        if not piece:
                            return
                        data += piece
                    request, _, data = data.partition(b"\r\n\r\n")
                    cid = request.split()[1].decode().removeprefix("/ipfs/").partition("?")[0]
                    self.asked.append(cid)
                    given = self.given.get(cid)
                    if callable(given):
                        given(connection)
                        return
                    connection.sendall(head(0, status="404 Not Found") if given is None else head(len(given)) + given)
        except OSError:
            return  # whoever asked has had enough

    def block(self, data: bytes, cid: str = "") -> str:
        """Gives these bytes, by their true CID or another."""
        cid = cid or raw_cid(data)
        self.given[cid] = data
        return cid

    def lie(self, name: str, answer: Callable[[socket.socket], None]) -> str:
        """A CID that is answered by `answer`."""
        cid = raw_cid(name.encode())
        self.given[cid] = answer
        return cid


class Mallory:
    """The malicious member."""

    def __init__(self, domain: Domain) -> None:
        self.domain, self.node = domain, domain.nodes[3]
        self.id, self.host = self.node.id, self.node.host
        self.node.daemon.stop()
        self.identity = raw.identity_of(self.node)
        self.liar = Liar(self.node)
        self.where = {"address": f"{self.host.address}:{raw.MQTT}", "gateway": self.liar.address}
        self.jobs = itertools.count()
        user, password = broker_files.credentials(Home({"IPDC_HOME": self.node.home}))
        self.ear = raw.inside(self.host, lambda: Client(
            socket.create_connection(("127.0.0.1", 18833), 10), "ear", user, password, keepalive=60))
        self.ear.subscribe(f"ipdc/1/{domain.name}/+/+")

    def mouth(self, victim: DomainNode) -> Client:
        return raw.mqtt(self.host, victim.host.address, self.identity)

    def topic(self, channel: str) -> str:
        return f"ipdc/1/{self.domain.name}/{self.id}/{channel}"

    def say(self, mouth: Client, channel: str, **fields: object) -> None:
        payload = json.dumps({"v": 1, "birth": next(_births), **fields}, separators=(",", ":")).encode()
        assert mouth.publish(self.topic(channel), payload) == SUCCESS

    def heard(self, wanted: Callable[[str, str, dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first message (sender, channel, fields) like that which the others have sent to us."""
        def look() -> dict[str, Any] | None:
            for topic, payload in self.ear.settle():
                *_, sender, channel = topic.split("/")
                fields = json.loads(payload or b"{}")
                if wanted(sender, channel, fields):
                    return {**fields, "channel": channel}
            return None

        return eventually(look, what, 30)  # type: ignore[no-any-return]

    def offer(self, mouth: Client, cid: str, memory: int = 24 << 20) -> str:
        number = next(self.jobs)
        job = f"20260101-000000-{''.join(chr(97 + number // 26 ** place % 26) for place in range(4))}"
        self.say(mouth, "download", job=job, cid=cid, app="mapreduce", memory=memory, **self.where)
        return job

    def answered(self, job: str) -> dict[str, Any]:
        """What became of an offer."""
        return self.heard(lambda _, channel, fields: channel in ("accept", "refuse") and fields["job"] == job,
                          f"an answer to {job}")


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    with raw.own_domain(4) as made:
        yield made
        for node in made.nodes:
            log = node.daemon.log()
            assert "Traceback" not in log and not re.search(r"\bbug\b", log), f"{node}:\n{log}"


@pytest.fixture(scope="module")
def mallory(domain: Domain) -> Iterator[Mallory]:
    made = Mallory(domain)
    yield made
    made.liar.listening.close()


@pytest.fixture()
def victim(domain: Domain) -> DomainNode:
    return domain.nodes[1]


def pss(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


def pids(node: DomainNode) -> tuple[int, int]:
    assert node.daemon.process is not None and node.broker.process is not None
    return node.daemon.process.pid, node.broker.process.pid


def count_lines(node: DomainNode, *words: str) -> int:
    return sum(all(word in line for word in words) for line in node.daemon.log().splitlines())


# -- messages

CHANNELS = ("node", "ask", "members", "download", "accept", "refuse", "do-map", "buffer", "failed", "renew", "cancel")
VITALS = {"memory_total": 1 << 33, "memory_available": 1 << 33, "cpu_count": 4, "cpu_idle": 1.0, "load": 0.0,
          "speed": 1.0, "disk_free": 1 << 40, "temperature": None, "throttled": False}


def nonsense() -> dict[str, bytes]:
    """What no channel takes, up to the longest that a broker lets through."""
    made = {
        "nothing": b"", "no JSON": b"\xff\xfe" * 100, "NUL": b"\0" * 5000, "a list": b"[]",
        "UTF-16": '{"v":1}'.encode("utf-16"), "a gigantic number": b'{"v":' + b"9" * 16000 + b"}",
        "long number": b'{"v":1,"birth":' + b"9" * 4000 + b"}", "NaN": b'{"v":1,"birth":NaN}',
        "1e999": b'{"v":1,"birth":1e999}', "lone surrogate": b'{"v":1,"birth":"\\ud800"}',
        "huge string": b'{"v":1,"birth":1,"job":"' + b"x" * 16000 + b'"}',
        "duplicate keys": b'{"v":1,"v":2,"birth":1,"birth":[]}', "true": b'{"v":true,"birth":1}',
        "wrong types": json.dumps({"v": 1, "birth": 1} | dict.fromkeys(
            "id job task attempt held drop result failure params vitals cid packed reason".split(), [[{}]])).encode(),
        "over 16 kB": b'{"v":1,"birth":1,"x":"' + b"x" * MOST_BYTES + b'"}',
    }
    for depth in (500, 900, *range(940, 1000), 2700):
        for opened, closed in ((b"[", b"]"), (b'{"":', b"}")):
            deep = opened * depth + b"0" * (closed == b"}") + closed * depth
            made[f"{depth} {opened.decode()}"] = (
                b'{"v":1,"birth":1,"job":%s,"held":[%s],"id":%s}' % (deep, deep, deep))[:MOST_BYTES]
            made[f"{depth} {opened.decode()} in a field"] = b'{"v":1,"birth":1,"job":%s}' % deep
    return {name: data for name, data in made.items() if len(data) < 30000}


def test_messages_of_no_use(mallory: Mallory, victim: DomainNode) -> None:
    before = pss(pids(victim)[0])
    mouth = mallory.mouth(victim)
    for name, data in nonsense().items():
        for channel in CHANNELS:
            assert mouth.publish(mallory.topic(channel), data) == SUCCESS, name
    for channel in ("no-such", "a/b", "..", "x" * 5000):
        assert mouth.publish(mallory.topic(channel), b"{}") == NOT_AUTHORIZED, channel
    with pytest.raises(OSError):
        mouth.publish(mallory.topic("node\n"), b"{}")
    mouth = mallory.mouth(victim)
    own = victim.id

    def answered() -> bool:
        mallory.say(mouth, "ask", **mallory.where)  # again: a broker drops what is too much for the daemon
        return any(topic.endswith(f"{own}/node") for topic, _ in mallory.ear.settle())

    eventually(answered, "the answer to a good message")
    line = raw.logged(victim, "refused a message", mallory.id)
    assert count_lines(victim, "refused a message", mallory.id) == 1, "once a minute"
    raw.attempt("member", f"{len(nonsense())} kinds of nonsense on {len(CHANNELS)} channels", "mqtt", "refused", line)
    assert mallory.mouth(victim).publish(mallory.topic("ask"), b"x" * MOST_BYTES * 2) == SUCCESS  # the daemon's affair
    for length in (broker_files.PACKET_BYTES + 1, 1 << 20):
        mouth = mallory.mouth(victim)
        with pytest.raises(OSError):
            mouth.publish(mallory.topic("ask"), b"x" * length)
            mouth.publish(mallory.topic("ask"), b"x")
        raw.attempt("member", f"a packet of {length} bytes", "mqtt", "disconnected by the broker")
    assert victim.answers()
    grown = pss(pids(victim)[0]) - before
    print(f"daemon grew by {grown >> 10} kB")
    assert grown < MOST_GROWTH


def test_records_with_more_than_words(mallory: Mallory, victim: DomainNode, domain: Domain) -> None:
    """A record is shown to people: what would act on their terminal is refused; a good one is shown."""
    record = {"id": mallory.id, "name": "node4", "state": "ready", "mqtt": mallory.where["address"],
              "gateway": mallory.where["gateway"], "version": "1", "capabilities": [], "slots": 1, "sandbox": "x",
              "vitals": VITALS, "members": domain.nodes[0].json("domain", "show")["version"]}
    mouth = mallory.mouth(domain.nodes[0])  # a portal
    for hostile in ("\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\nnode9  forged", "\u202egnp", "\0", "x" * 65):
        for field in ("name", "version", "sandbox"):
            mallory.say(mouth, "node", **{**record, field: hostile})
        mallory.say(mouth, "node", **{**record, "capabilities": [hostile]})
    for field, value in (("speed", 1e300), ("cpu_idle", 1e9), ("load", -1), ("cpu_count", 10**9), ("temperature", 1e9)):
        mallory.say(mouth, "node", **{**record, "vitals": {**VITALS, field: value}})
    for field in ("name", "version", "sandbox"):  # the last of each would be seen
        mallory.say(mouth, "node", **{**record, field: "\x1b[2J\nforged"})
        own, known = domain.nodes[0].id, len(mallory.ear.settle())
        mallory.say(mouth, "ask", **mallory.where)
        eventually(lambda known=known, own=own: any(topic.endswith(f"{own}/node")
                                                    for topic, _ in mallory.ear.settle()[known:]), "all was heard")
        shown = domain.nodes[0].ipdc("nodes", "-l").stdout
        assert "".join(shown.splitlines()).isprintable() and "forged" not in shown
    mallory.say(mouth, "node", **{**record, "version": "good-one"})
    eventually(lambda: "good-one" in domain.nodes[0].ipdc("nodes", "-l").stdout, "a good record is shown")
    raw.attempt("member", "records with control characters and odd vitals", "mqtt", "refused",
                raw.logged(domain.nodes[0], "refused a message", mallory.id))
    mallory.say(mouth, "node", **{**record, "state": "gone"})


# -- jobs

GOOD_MAP = b"def map(key, line):\n    yield line, 1\n"


def spec(**changed: object) -> dict[str, object]:
    code = {"Map.py": {"cid": raw_cid(GOOD_MAP), "size": len(GOOD_MAP)}}
    return {"version": 1, "app": "mapreduce", "workers": 1, "memory": 24 << 20, "arguments": [], "code": code,
            "inputs": [{"cid": raw_cid(b"to be\n"), "name": "a", "size": 6}],
            "options": {"steps": [{"map": "Map.py"}]}, **changed}


def tree(children: list[tuple[str, int]]) -> tuple[str, bytes]:
    block = unixfs._file_block([(cid, size, size) for cid, size in children])
    return dag_pb_cid(block), block


def hostile_jobs(liar: Liar) -> dict[str, object]:
    """Descriptions, as JSON or bytes."""
    one = {"cid": raw_cid(GOOD_MAP), "size": len(GOOD_MAP)}
    made: dict[str, object] = {
        f"code named {name!r}": spec(code={**spec()["code"], name: one})  # type: ignore[dict-item]
        for name in ("../x.py", "/etc/x", "a/../x", "a\0", "a\nb", ".", "", "\x1b[2J", "x" * 5000, "é.py", "a//b")}
    for depth in (33, 900, *range(960, 1000), 100_000):
        made[f"{depth} deep"] = json.dumps(spec())[:-1].encode() + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    made["explodes in ASCII"] = json.dumps(spec(arguments="é" * 900_000), ensure_ascii=False).encode()
    made |= {
        "10^5 files": json.dumps(spec(code={f"f{n}": 0 for n in range(100_000)}), separators=(",", ":")).encode(),
        "a block over 2 MiB": b" " * (unixfs.MAX_BLOCK + 1), "no JSON": b"\x93NUMPY", "a list": b"[]",
        "NaN": b'{"version": NaN}', "gigantic number": b'{"version": ' + b"9" * 100_000 + b"}",
        "memory of another size": spec(memory=25 << 20), "gigantic memory": spec(memory=10**4000),
        "gigantic input": spec(inputs=[{"cid": "b", "name": "a", "size": 1 << 50}]),
        "10^6 splits": spec(inputs=[{"cid": "b", "name": "a", "size": (1 << 50) - 1}] * 9),
        "deep input": spec(inputs=[[[[[[[]]]]]]]), "code of wrong types": spec(code={"Map.py": [1, 2]}),
        "no such program": spec(options={"steps": [{"map": "Other.py"}]}), "app of another kind": spec(app="\x1b[2J"),
        "false size told": spec(code={"Map.py": {**one, "size": -1}}),
        "size of 2^80": spec(code={"Map.py": {**one, "size": 1 << 80}}),
        "code that is no CID": spec(code={"Map.py": {"cid": "../../etc", "size": 3}}),
        "code of 257 files": spec(code={f"f{n}": one for n in range(257)}),
    }
    leaf = liar.block(b"x" * 1000)
    cid, block = tree([(leaf, 1001)])
    made["code whose tree lies about its leaf"] = spec(code={"Map.py": {"cid": liar.block(block, cid), "size": 9}})
    wide = [liar.block(block, cid) for cid, block in [tree([(leaf, 1000)] * 8000)]][0]
    made["code of 8 MB told as 9 bytes"] = spec(code={"Map.py": {"cid": wide, "size": 9}})
    deep, size = leaf, 1000
    for _ in range(20):
        cid, block = tree([(deep, size)])
        deep = liar.block(block, cid)
    made["code 20 levels deep"] = spec(code={"Map.py": {"cid": deep, "size": 9}})
    for _ in range(5):
        size *= 1024
        cid, block = tree([(deep, size // 1024)] * 1024)
        deep = liar.block(block, cid)
    made["code of 10^18 bytes in ten blocks"] = spec(code={"Map.py": {"cid": deep, "size": 9}})
    directory_cid, directory = unixfs.directory_block([("Map.py", leaf, 1)])
    made["code that is a directory"] = spec(code={"Map.py": {"cid": liar.block(directory, directory_cid), "size": 9}})
    made["code of one part that is 16 files long"] = spec(code={
        f"f{n}": {"cid": liar.block(bytes([n]) * (1 << 20)), "size": 1} for n in range(16)} | {"Map.py": one})
    return made


def test_descriptions_of_jobs(mallory: Mallory, victim: DomainNode) -> None:
    liar = mallory.liar
    liar.block(GOOD_MAP)
    before = pss(pids(victim)[0])
    mouth = mallory.mouth(victim)
    good = mallory.offer(mouth, liar.block(json.dumps(spec()).encode()))
    assert mallory.answered(good)["channel"] == "accept", "a good offer is taken"
    for name, wanted in hostile_jobs(liar).items():
        data = wanted if isinstance(wanted, bytes) else json.dumps(wanted).encode()
        answer = mallory.answered(mallory.offer(mouth, liar.block(data)))
        assert answer["channel"] == "refuse" and "bug" not in answer["reason"], (name, answer)
        if not name[0].isdigit():
            raw.attempt("member", ascii(name)[:50], "an offer", f"refused: {answer['reason'][:80]}")
    grown = pss(pids(victim)[0]) - before
    line = raw.logged(victim, mallory.id, "gave nothing that can be used")
    print(f"daemon grew by {grown >> 10} kB; log: {line[:160]}")
    assert count_lines(victim, mallory.id, "gave nothing that can be used") <= 2, "once a minute"
    assert grown < MOST_GROWTH
    mallory.say(mouth, "clean-up", job=good)


def test_orders(mallory: Mallory, victim: DomainNode) -> None:
    """Parameters of tasks: in the message, and as content, where two bytes may become six."""
    liar, mouth = mallory.liar, mallory.mouth(victim)
    liar.block(GOOD_MAP)
    text_cid = liar.block(b"to be\n")
    job = mallory.offer(mouth, liar.block(json.dumps(spec(arguments=["orders"])).encode()))
    assert mallory.answered(job)["channel"] == "accept"
    split = {"range": {"cid": text_cid, "name": "a", "size": 6, "start": 0, "end": 6}}
    good = {"stage": "map", "index": 0, "inputs": [split], "outputs": {"kind": "runs", "count": 1},
            "gateways": {mallory.id: liar.address}}
    where = {**split["range"]}
    content: dict[str, Any] = {
        "explodes in ASCII": json.dumps({**good, "x": "é" * 900_000}, ensure_ascii=False).encode(),
        "no JSON": b"\0", "a list": b"[]", "10^5 inputs": {**good, "inputs": [split] * 15_000},
        **{f"{depth} deep": json.dumps(good)[:-1].encode() + b',"x":' + b"[" * depth + b"]" * depth + b"}"
           for depth in (33, *range(960, 1000), 100_000)},
    }
    orders: dict[str, Any] = {
        "nothing": {}, "no content": {"/": raw_cid(b"nowhere")}, "no CID": {"/": "b" * 9}, "a number": {"/": 7},
        "content deep": {"/": [[]]}, "no inputs": {**good, "inputs": None},
        "more than 10^4 outputs": {**good, "outputs": {"kind": "runs", "count": 10_001}},
        "outputs of no kind": {**good, "outputs": {"kind": 1}},
        "a start behind the end": {**good, "inputs": [{"range": {**where, "start": 7}}]},
        "an end of 2^80": {**good, "inputs": [{"range": {**where, "end": 1 << 80}}]},
        "an input that is no CID": {**good, "inputs": [{"range": {**where, "cid": "..\0"}}]},
        "gateways of wrong types": {**good, "gateways": {mallory.id: 7}},
        "gateways with a line break": {**good, "gateways": {mallory.id: "a\nb:1"}},
        "no stage": {**good, "stage": "\x1b[2J"}, "no outputs": {**good, "outputs": 3},
        **{name: {"/": liar.block(data if isinstance(data, bytes) else json.dumps(data).encode())}
           for name, data in content.items()},
    }
    numbers = itertools.count(1)

    def order(params: object) -> dict[str, Any]:
        attempt = [5, next(numbers)]
        mallory.say(mouth, "do-map", job=job, task="map-00000", attempt=attempt, report="buffer", params=params)
        answer = mallory.heard(lambda _, channel, fields: channel in ("buffer", "failed", "fetch-failed")
                               and fields["attempt"] == attempt, "an answer to an order")
        mallory.say(mouth, "received", job=job, task="map-00000", attempt=attempt)
        return answer

    done = order(good)
    assert done["channel"] == "buffer", done
    for name, params in orders.items():
        answer = order(params)
        assert answer["channel"] != "buffer" and "bug" not in answer["failure"]["message"], (name, answer)
        if not name[0].isdigit():
            raw.attempt("member", name, "an order", f"failed: {answer['failure']['message'][:70]}")
    assert order(good)["channel"] == "buffer", "and a good one still is"
    mallory.say(mouth, "clean-up", job=job)


# -- a gateway that lies

def endless(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65536)


def chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\nx\r\n" * 1000)


def answer(data: bytes, then: Callable[[socket.socket], None] | None = None) -> Callable[[socket.socket], None]:
    def give(connection: socket.socket) -> None:
        connection.sendall(data)
        if then is not None:
            then(connection)
    return give


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def test_answers_of_a_lying_gateway(mallory: Mallory, victim: DomainNode) -> None:
    liar = mallory.liar
    liar.block(GOOD_MAP)
    car = b"\x3a\xa2eroots\x80gversion\x01" + b"\x80\x01\x01\x55\x12\x20" + b"\0" * 32 + b"x" * 90
    lies = {
        "wrong bytes": answer(head(5) + b"wrong"), "an endless body": answer(head(1 << 40), endless),
        "an endless body of no length": answer(b"HTTP/1.1 200 OK\r\n\r\n", endless), "single bytes": chunks,
        "endless headers": answer(b"HTTP/1.1 200 OK\r\n", lambda c: endless(c)),
        "a length of 10^30": answer(head("9" * 30) + b"x"), "a negative length": answer(head(-1) + b"x"),
        "two lengths": answer(head(1, more="Content-Length: 2\r\n") + b"xx"),
        "a body that is cut": answer(head(100) + b"x"), "nothing": answer(b""), "silence": silent,
        "a redirect": answer(head(0, status="302 Found", more="Location: https://10.77.0.1:18831/\r\n")),
        "hostile words": answer(head(9, status="500 \x1b[2J") + b"\x1b[2Jowned"),
        "a CAR whose block does not hash": answer(head(len(car), "application/vnd.ipld.car") + car),
        "a gzipped body": answer(head(5, more="Content-Encoding: gzip\r\n") + b"\x1f\x8b\x08\0\0"),
        "no HTTP": answer(b"SSH-2.0-OpenSSH\r\n"), "100 for ever": lambda c: [
            c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100) for _ in iter(int, 1)] and None,
    }
    before = pss(pids(victim)[0])
    mouth = mallory.mouth(victim)
    good = mallory.offer(mouth, liar.block(json.dumps(spec(arguments=["lies"])).encode()))
    assert mallory.answered(good)["channel"] == "accept", "an honest answer is taken"
    for name, lie in lies.items():
        said = mallory.answered(mallory.offer(mouth, liar.lie(name, lie)))
        assert said["channel"] == "refuse" and "could not be had" in said["reason"], (name, said)
        assert said["reason"].isprintable()
        raw.attempt("member's gateway", name, "a fetch", f"refused: {said['reason'][89:170]}")
    grown = pss(pids(victim)[0]) - before
    print(f"daemon grew by {grown >> 10} kB")
    assert grown < MOST_GROWTH
    assert victim.answers()
    mallory.say(mouth, "clean-up", job=good)


# -- a worker that lies

def hostile_manifests(liar: Liar) -> dict[str, str]:
    big = liar.block(b"x" * (MAX_BLOCK + 1))
    small = liar.block(b"small")

    def manifest(*runs: object) -> str:
        return liar.block(json.dumps({"version": 1, "runs": runs}).encode())

    return {
        "no manifest": raw_cid(b"nowhere"), "no JSON": liar.block(b"\0" * 1000),
        "10^5 deep": liar.block(b"[" * 100_000),
        "too few runs": manifest(), "blocks longer than a run's": manifest(
            *[{"blocks": [big], "bytes": MAX_BLOCK, "records": 1}] * 2),
        "false sizes": manifest(*[{"blocks": [small], "bytes": 4, "records": 1 << 60}] * 2),
        "blocks that are no CIDs": manifest(*[{"blocks": ["../../x\0"], "bytes": 9, "records": 1}] * 2),
    }


def test_a_worker_that_lies(mallory: Mallory, domain: Domain) -> None:
    """It says that it is the best node of all, and answers each order of a map with a manifest that cannot be used;
    then it fails, and the job ends right without it."""
    master, mouths = domain.nodes[0], [mallory.mouth(node) for node in domain.nodes[:3]]
    record = {"id": mallory.id, "name": "node4", "state": "ready", "mqtt": mallory.where["address"],
              "gateway": mallory.where["gateway"], "version": "1", "capabilities": ["mapreduce"], "slots": 64,
              "sandbox": "x", "vitals": {**VITALS, "cpu_count": 1000, "speed": 1000.0},
              "members": master.json("domain", "show")["version"]}

    def present(state: str) -> None:
        for mouth in mouths:
            payload = json.dumps({"v": 1, "birth": next(_births), **record, "state": state}).encode()
            assert mouth.publish(mallory.topic("node"), payload, retain=True) == SUCCESS

    lies = list(hostile_manifests(mallory.liar).items())
    inputs, slow = [], os.path.join(domain.directory, "slow.py")
    with open(slow, "w") as file:
        file.write(SLOW)
    for number in range(len(lies) + 3):  # a map each; the other worker may have some before we have accepted
        inputs += ["--input", os.path.join(domain.directory, f"lies-{number}")]
        with open(inputs[-1], "w") as file:
            file.write("to be or not to be\n" * 20)
    present("ready")
    master_id = master.id
    mallory.ear.settle()
    known = len(mallory.ear.messages)
    told: list[str] = []
    failed: set[str] = set()
    jobs: set[str] = set()
    turns = itertools.count(1)
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(master.submit, slow, WORDCOUNT[1], *inputs, "-k", "2")

        def serve() -> bool:
            nonlocal known
            messages = mallory.ear.settle()[known:]
            known += len(messages)
            for topic, payload in messages:
                sender, channel = topic.split("/")[3:]
                fields = json.loads(payload or b"{}")
                if sender != master_id or channel not in ("download", "do-map", "do-reduce"):
                    continue
                named = {name: fields[name] for name in ("job", "task", "attempt") if name in fields}
                if channel == "download":
                    mallory.say(mouths[0], "accept", **named, slots=1, **mallory.where)
                elif channel == "do-map" and lies:
                    name, cid = lies.pop(0)
                    told.append(name)
                    odd = {"counters": {"x": -7}, "outputs": 3, "log": raw_cid(b"nowhere")}
                    result = {"node": mallory.id, "output": cid, "size": 9, "details": odd}
                    mallory.say(mouths[0], "buffer", **named, result=result)
                else:  # an order that fails once goes to others; one that is dropped comes again until they have room
                    kind = "dropped" if fields["task"] in failed else "user"
                    failed.add(fields["task"])
                    failure = {"kind": kind, "message": "\x1b[2J no", "cid": "", "details": None}
                    mallory.say(mouths[0], "failed", **named, failure=failure)
                jobs.add(fields["job"])
            if not next(turns) % 50:
                for job in jobs:  # it stays, or all that it made would be done again before it is read
                    mallory.say(mouths[0], "renew", job=job, held=[])
            return submitted.done()

        eventually(serve, "the job ends", 120)
        job = submitted.result()
    present("gone")
    lines = 20 * (len(inputs) // 2)
    assert master.result(job) == [f"be\t{2 * lines}", f"not\t{lines}", f"or\t{lines}", f"to\t{2 * lines}"]
    assert not lies, f"only {told} were tried"
    named = [line for node in domain.nodes[:3] for line in node.daemon.log().splitlines()
             if mallory.id in line and "gave nothing that can be used" in line and job in line]
    raw.attempt("member as a worker", ", ".join(told), "a job", "done again, the result is right", "".join(named[:1]))
    assert named


# -- requests to a gateway

def test_requests_to_a_gateway(mallory: Mallory, victim: DomainNode) -> None:
    own = raw.identity_of(victim)
    good = f"/ipfs/{raw_cid(own.signed)}?format=raw"

    def ask(data: bytes) -> bytes:
        with raw.tls(mallory.host, victim.host.address, raw.GATEWAY, mallory.identity) as connection:
            answer = b""
            try:
                connection.sendall(data)
                while piece := connection.recv(65536):
                    answer += piece
                    if b"\r\n\r\n" in answer and b"HTTP/1.1 200" not in answer:
                        break
            except OSError:
                pass  # it ended the connection on the way
        return answer

    asked = f"GET {good} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    assert ask(asked).endswith(own.signed), "a good request is answered"
    path = good.encode()
    requests = {
        **{f"{method}": f"{method} {good} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
           for method in ("POST", "PUT", "DELETE", "CONNECT", "TRACE", "OPTIONS", "PATCH", "get", "\x1b[2J")},
        **{f"path {path[:40]!r}": b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n" for path in (
            b"/ipfs/../../etc/passwd?format=raw", b"/ipfs/%2e%2e/x?format=raw", b"/", b"*", b"//ipfs//", b"/ipfs/a\0b",
            b"/ipfs/" + b"b" * 7000 + b"?format=raw", b"/ipfs/bafkqaaa/../x?format=raw", b"http://[::1/x", b"/ipns/x",
            b"/ipfs/" + b"\xff" * 40, b"/" + b"a" * 100_000)},
        "format=tar": asked.replace(b"format=raw", b"format=tar"),
        **{f"format=car{query.decode()[:40]}": asked.replace(b"format=raw", b"format=car" + query) for query in (
            b"&dag-scope=" + b"a" * 1000, b"&entity-bytes=9:1", b"&entity-bytes=" + b"9" * 5000, b"&car-version=2",
            b"&a=%20" * 100)},
        "a path of a CAR": asked.replace(b"?format=raw", b"/" + b"%2e%2e/" * 500 + b"?format=car"),
        "two lengths": b"GET %s HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nGET /" % path,
        "length and chunks": b"GET %s HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
                             b"0\r\n\r\nGET %s HTTP/1.1\r\nHost: h\r\n\r\n" % (path, path),
        "a body": b"GET %s HTTP/1.1\r\nHost: h\r\nContent-Length: 999999\r\n\r\n" % path + b"x" * 50_000,
        "10^4 headers": b"GET %s HTTP/1.1\r\n" % path + b"A: b\r\n" * 10_000 + b"\r\n",
        "a folded header": b"GET %s HTTP/1.1\r\nHost: h\r\n x: y\r\n\tz\r\n\r\n" % b"/x",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
        "no HTTP": b"\0\1\2\r\n\r\n" * 9,
        "a lone LF and CR": b"GET /x\rHTTP/1.1\n\n",
    }
    before = pss(pids(victim)[0])
    for name, data in requests.items():
        answer = ask(data)
        assert b"HTTP/1.1 200" not in answer and answer.count(b"HTTP/1.1 ") <= 1, (name, answer[:300])
        outcome = answer[9:50].decode("latin-1").partition("\r")[0] or "closed"
        raw.attempt("member", ascii(name)[:60], "gateway", outcome)
    assert ask(asked).endswith(own.signed), "and a good one still is"
    grown = pss(pids(victim)[0]) - before
    print(f"daemon grew by {grown >> 10} kB")
    assert grown < MOST_GROWTH


# -- floods

def flood(mallory: Mallory, victim: DomainNode, payloads: list[bytes], level: int, sent: list[int],
          ended: threading.Event) -> None:
    """Publishes as fast as the broker reads, until told to end; counts in `sent`."""
    topic = text(mallory.topic("ask"))
    if level == 0:
        piece = b"".join(packet(0x30, topic + b"\0" + payload) for payload in payloads) * (PACKETS // len(payloads))
    else:  # as many as a broker takes before it has answered
        piece = b"".join(packet(0x32, topic + bytes([0, number]) + b"\0" + payloads[number % len(payloads)])
                         for number in range(1, broker_files.INFLIGHT + 1))
    connection = mallory.mouth(victim).socket
    while not ended.is_set():
        try:
            connection.sendall(piece)
            acknowledged = 0
            while level and acknowledged < broker_files.INFLIGHT * 4:
                got = len(connection.recv(65536))
                if not got:
                    raise ConnectionError("closed")
                acknowledged += got
            sent[0] += PACKETS if level == 0 else broker_files.INFLIGHT
        except OSError:  # thrown out: it comes again
            connection.close()
            with contextlib.suppress(OSError, Refused):
                connection = mallory.mouth(victim).socket


@pytest.mark.alone  # a flood is told by the messages of a second, which a busy machine may not be quick enough for
@pytest.mark.parametrize(("number", "kind", "level"), [(0, "valid", 0), (1, "nonsense", 0), (2, "mixed", 1)])
def test_floods(mallory: Mallory, domain: Domain, number: int, kind: str, level: int) -> None:
    """A job of two others goes on. Each flood is at another node, since a flooder is shut out for a minute."""
    victim = domain.nodes[number]
    path, lines = os.path.join(domain.directory, f"flood-{number}"), 150
    with open(path, "w") as file:
        file.write("to be or not to be\n" * lines)
    with open(path + ".py", "w") as file:
        file.write(SLOW)
    valid = json.dumps({"v": 1, "birth": next(_births), **mallory.where}).encode()
    payloads = {"valid": [valid], "nonsense": [b"{" * 60], "mixed": [valid, b"{" * 60]}[kind]
    daemon, broker = pids(victim)
    before = pss(daemon), pss(broker)
    peak, sent, ended = list(before), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[:] = max(peak[0], pss(daemon)), max(peak[1], pss(broker))

    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(watch)]
        submitted = pool.submit(victim.submit, path + ".py", WORDCOUNT[1], "--input", path, "-k", "2")
        try:
            eventually(lambda: any(job["state"] == "running" for job in victim.json("jobs")), "the job runs")
            began = time.monotonic()
            working.append(pool.submit(flood, mallory, victim, payloads, level, sent, ended))
            line = raw.logged(victim, "floods", mallory.id, seconds=60)
            shut_out, rate = time.monotonic() - began, sent[0] / (time.monotonic() - began)
            job = submitted.result(120)
        finally:
            took = time.monotonic() - began
            ended.set()
        for work in working:
            work.result(30)
    assert victim.result(job) == [f"be\t{2 * lines}", f"not\t{lines}", f"or\t{lines}", f"to\t{2 * lines}"]
    raw.attempt("member", f"{kind} messages at QoS {level}: {rate:.0f}/s until shut out after {shut_out:.1f} s, "
                f"{sent[0] / took:.0f}/s in {took:.1f} s", repr(victim), "the job ended right", line)
    print(f"PSS daemon {before[0] >> 10} -> at most {peak[0] >> 10} kB, broker {before[1] >> 10} -> {peak[1] >> 10} kB")
    assert peak[0] - before[0] < MOST_GROWTH
    assert peak[1] < broker_files.MEMORY_BYTES + MOST_GROWTH
    assert count_lines(victim, "floods", mallory.id) == 1
