"""Every parser of bytes that another node, a user's program or a stranger on the LAN chooses, with good inputs to start
from. What one parser hands to the next is followed: what was decoded must also be usable."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.apps.tflite import tiny
from ipdc_edge.apps.tflite.plan import TFLite, unknown
from ipdc_edge.codec import (
    answers,
    bundle,
    cid,
    control,
    dag_cbor,
    frames,
    join_messages,
    join_token,
    keys,
    member_list,
    prints,
    records,
    runs,
    sorted_values,
    swarm_key,
    tflite_model,
    unixfs,
)
from ipdc_edge.codec import messages as mqtt
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core import messages as m
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.values import Attempt, Failure, InputRange, Member, MemberList, NodeRecord, Result, Vitals
from ipdc_edge.daemon.job_source import json_of as json_block
from ipdc_edge.daemon.kubo_network import other_of
from ipdc_edge.drivers import discovery
from ipdc_edge.errors import IpdcError
from tests.fuzz.engine import Target
from tests.fuzz.streams import FOLDER, gateway, params, provider

JOB, NODE, OTHER = "20260101-000000-abcd", *(node_id(hashlib.sha256(word).digest()) for word in (b"n", b"o"))
LEAF = cid.raw_cid(b"leaf")
ATTEMPT = Attempt(7, 12)


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# -- messages between nodes: topic, LF, payload

CODEC = mqtt.MessageCodec(MapReduce.commands, MapReduce.reports)
AT, GATEWAY = "10.0.0.1:18830", "10.0.0.1:18831"
RECORD = NodeRecord(NODE, "pi", "ready", AT, GATEWAY, "0.1.0", ("mapreduce", "authority", f"kubo:{'1' * 52}:4101"), 2,
                    "rlimits",
                    Vitals(1 << 30, 1 << 29, 4, 0.5, 1.25, 0.9, 1 << 33, 48.5, True), 3)
MESSAGES: tuple[m.Message, ...] = (
    m.Present(RECORD), m.Lost(), m.Ask(AT, GATEWAY), m.Members(3, LEAF, AT, GATEWAY, "eJwr"), m.Leave(),
    m.Download(JOB, LEAF, "mapreduce", 24 << 20, AT, GATEWAY), m.Refuse(JOB, "busy"),
    m.Accept(JOB, 2, AT, GATEWAY, (InputRange(0, 0, 1 << 20), InputRange(1, 5, 1 << 30))),
    m.Command(JOB, "do-map", "map-00001", ATTEMPT, "buffer", {"inputs": [{"range": {"start": 0}}]}),
    m.Report(JOB, "buffer", "map-00001", ATTEMPT, Result(NODE, LEAF, 1000, {"counters": {"lines": 5}, "log": LEAF})),
    m.Failed(JOB, "map-00001", ATTEMPT, Failure("user", "ValueError: no", "", {"traceback": "File", "offset": 3})),
    m.Failed(JOB, "reduce-00001", ATTEMPT, Failure("fetch", "gone", LEAF)), m.Received(JOB, "map-00001", ATTEMPT),
    m.Renew(JOB, (m.Held("map-00001", ATTEMPT, 77, "said"),)), m.Renewed(JOB, (ATTEMPT,)), m.Cancel(JOB, "why"),
    m.CleanUp(JOB),
)


def message(data: bytes) -> None:
    topic, _, payload = data.partition(b"\n")
    sender, channel = mqtt.parse_topic(topic.decode("utf-8", "replace"), "home")
    birth, decoded = CODEC.decode(channel, payload)
    with contextlib.suppress(mqtt.MessageTooLong):  # what is saved and passed on is encoded again
        CODEC.encode(decoded, birth)
    if isinstance(decoded, m.Present) and (kubo := other_of(decoded.record)) is not None:
        assert kubo.address.count("/") == 6 and kubo.address.isascii() and " " not in kubo.address


def published(sent: m.Message) -> bytes:
    encoded = CODEC.encode(sent, 42)
    return mqtt.topic("home", NODE, encoded.channel).encode() + b"\n" + encoded.payload


def payload_of(data: bytes) -> bytes:
    return data.partition(b"\n")[2]


def publish_again(channels: tuple[str, ...]) -> Callable[[bytes], bytes]:
    """On the channel that the payload's own fields suggest least: any, but always the same for the same bytes."""
    return lambda data: mqtt.topic("home", NODE, channels[zlib.crc32(data) % len(channels)]).encode() + b"\n" + data


# -- content

def content_id(data: bytes) -> None:
    if data[:1] in (b"\x01", b"\x12"):
        taken = cid.cid_from_bytes(data)
        assert cid.parse_cid(cid.cid_from_parts(taken)) == taken
        return
    text = data.decode("utf-8", "replace")
    parsed = cid.parse_cid(text)
    assert cid.parse_cid(cid.canonical(text)) == parsed
    cid.cid_to_bytes(text)
    cid.inlined(text)


def node(data: bytes) -> None:
    parsed = unixfs.parse_node(cid.dag_pb_cid(data), data)
    if parsed.kind == unixfs.FILE:
        for start in (0, parsed.size // 2):
            for _ in parsed.children(start):
                pass


def _tree() -> bytes:
    builder = unixfs.FileBuilder()
    for number in range(3):
        builder.add(cid.raw_cid(b"%d" % number), 1)
    return builder.finish()[2][-1][1]


DIRECTORY = unixfs.directory_block([("Map.py", LEAF, 4), ("Reduce.py", cid.raw_cid(b"r"), 1)])[1]


# -- intermediate data

def record(data: bytes) -> None:
    key, nul, values = data.decode("latin-1").partition("\0")
    if nul:
        records.decode_values(values)
    assert keys.encode_key(keys.decode_key(key)) == key


def sorted_record(data: bytes) -> None:
    """A line of a job that sorts its values: what is taken is spelt as we spell it."""
    value = data.decode("latin-1")
    assert sorted_values.encode_value(sorted_values.decode_value(value)) == value


def run(data: bytes) -> None:
    blocks = [data[at : at + runs.MAX_BLOCK] for at in range(0, len(data), runs.MAX_BLOCK)]
    reader = runs.RunReader(iter([*blocks, None]).__next__)
    for _ in range(4096):  # a bomb goes on for long, and is read in small pieces
        if not reader.lines():
            break


def _run(lines: list[str]) -> bytes:
    blocks: list[bytes] = []
    writer = runs.RunWriter(blocks.append)
    writer.feed(lines)
    writer.finish()
    return b"".join(blocks)


def packed(text: bytes) -> bytes:
    squeeze = zlib.compressobj(1, zlib.DEFLATED, runs.WINDOW_BITS)
    return squeeze.compress(text) + squeeze.flush()


def unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(runs.WINDOW_BITS).decompress(data, 1 << 16)
    except zlib.error:
        return data


LINES = [
    "SA\x001,2", 'Sb\x00"x"', "Sc\x00" + '{"/":{"bytes":"AA"}}', keys.encode_key(("a", (True, -5), None)) + "\x00{}",
    *(keys.encode_key(key) + "\x00null" for key in (12, -(1 << 200), 0.5, b"\0\x01", None, "é\n")),
]
MANIFEST = runs.encode_manifest([{"blocks": [LEAF, LEAF], "bytes": 40000, "records": 9}] * 2)


def manifest(data: bytes) -> None:
    runs.encode_manifest(runs.parse_manifest(data))


# -- jobs

SPEC = dump({
    "version": 1, "app": "mapreduce", "workers": 2, "memory": 24 << 20, "arguments": [],
    "inputs": [{"cid": LEAF, "name": "a.txt", "size": 5 << 20}, {"cid": LEAF, "name": "b.txt", "size": 0}],
    "code": {"Map.py": {"cid": LEAF, "size": 4}, "lib/x.py": {"cid": LEAF, "size": 4}},
    "options": {"steps": [{"map": "Map.py"}]},
})
STEPS = dump({
    "version": 1, "app": "mapreduce", "workers": 2, "memory": 24 << 20, "code": {"Map.py": {"cid": LEAF, "size": 4}},
    "inputs": [{"cid": LEAF, "name": "a.gz", "size": 5 << 20, "compression": "gz", "holders": [NODE]}],
    "options": {"steps": [{"map": "Map.py:first", "reduce": "Map.py", "partition": "Map.py:by"}, {"mapper": ["cat"]}],
                "input_format": "csv", "output_format": "json", "sort_values": True, "skip_bad": 3, "no_queue": True},
})
LOCAL = dump({
    "version": 1, "app": "mapreduce", "workers": 1, "memory": 24 << 20, "inputs": [], "local": {"pattern": "/var/*"},
    "nodes": [NODE], "code": {}, "options": {"steps": [{"mapper": ["awk", "1"], "reducer": ["uniq", "-c"]}]},
})
MODEL = dump({
    "version": 1, "app": "tflite", "workers": 2, "memory": 48 << 20,
    "code": {name: {"cid": LEAF, "size": 4} for name in ("m.tflite", "Pre.py", "Post.py")},
    "inputs": [{"cid": LEAF, "name": "a.png", "size": 5 << 20}, {"cid": LEAF, "name": "b.csv", "size": 9 << 20}],
    "options": {"steps": [{"map": "m.tflite", "pre": "Pre.py:f", "post": "Post.py", "reduce": "Post.py"}],
                "operators": [[9, 12], [32, 1, "FlexErf"]], "images": True, "input_format": "auto"},
})
ABLE = replace(RECORD, capabilities=("tflite", "tflite=ai_edge_litert 2.3.0", "tflite-operators=637e", "pillow=12"))


def job(data: bytes) -> None:
    spec = spec_of(LEAF, json_block(data))
    if spec.app in (MapReduce.name, TFLite.name):
        app = MapReduce() if spec.app == MapReduce.name else TFLite()
        app.check(spec)
        app.unfit(spec, ABLE)
        if spec.workers < 100 and sum(item["size"] for item in spec.body["inputs"]) < 1 << 32:
            tasks = app.plan(spec)
            done = {task.id: Result(NODE, LEAF, 1, {}) for task in tasks}
            for task in tasks[:50]:
                dump(app.params(spec, task, done, NODE))
    bundle.bundle_items(spec.body)


def model(data: bytes) -> None:
    found = tflite_model.operators(data)
    "".join(map(str, found)).encode("ascii")
    unknown(found, "637872951e")


# -- frames: of a runner, and of the control socket

def runner_frames(data: bytes) -> None:
    for kind, payload in frames.Decoder().feed(data):
        if kind == frames.WRITE:
            frames.parse_write(payload)
        elif kind == frames.FAILED:
            str(answers.parse_failed(bytearray(payload)))
        elif kind == frames.DONE:
            dump(answers.parse_done(frames.parse_json(payload), 2))
        elif kind == frames.PROGRESS:
            dump(answers.parse_progress(bytearray(payload)))
        elif kind == frames.ASIDE:
            dump(answers.parse_aside(bytearray(payload)))
        else:
            frames.parse_json(payload)


ASIDE = {"where": "map", "input": "a", "offset": 3, "record": "x", "error": "ValueError: x"}
DONE = {"counters": {"lines": 3}, "user_counters": {"group: bad": -1},
        "streams": [{"records": 1, "bytes": 2}, {"records": 3, "bytes": 4}]}
FAILED = {"where": "map", "type": "ValueError", "message": "no", "traceback": "File", "input": "a", "offset": 3,
          "record": "x"}
FRAMES = (
    frames.encode_json(frames.READY, {}) + frames.encode_json(frames.READ, {"stream": 0}),
    frames.encode_write(1, 3) + b"abc" + frames.encode_json(frames.DONE, DONE),
    frames.encode_json(frames.PROGRESS, {"records": 1, "bytes": 2, "status": "half"}),
    frames.encode_json(frames.ASIDE, ASIDE), frames.encode_json(frames.FAILED, FAILED),
    frames.encode_json(frames.DONE, DONE),
)


def in_frame(kind: int) -> Callable[[bytes], bytes]:
    return lambda inner: frames.encode(kind, inner)


def first_payload(data: bytes) -> bytes:
    return data[frames.HEADER.size :]


def runner_answer(inner: bytes) -> bytes:
    return frames.encode((frames.DONE, frames.FAILED, frames.PROGRESS)[zlib.crc32(inner) % 3], inner)


def control_frames(data: bytes) -> None:
    for kind, payload in frames.Decoder().feed(data):
        if kind == frames.REQUEST:
            control.parse_request(kind, payload)
        elif kind == frames.BLOCK:
            control.parse_block(payload)
        elif kind == frames.ANSWER:
            control.parse_answer(payload)
        else:
            control.parse_object(payload)


def control_answer(inner: bytes) -> bytes:
    return frames.encode((frames.REQUEST, frames.ANSWER)[zlib.crc32(inner) % 2], inner)


ERROR = {"error": {"name": "UnknownJob", "message": "m", "details": {"id": "x", "known": ""}, "exit_code": 1,
                   "retry": False}}
CONTROL = (
    frames.encode_json(frames.REQUEST, {"operation": "nodes"}), frames.encode_json(frames.ANSWER, ERROR),
    frames.encode(frames.BLOCK, control.block_payload(LEAF, b"leaf")), frames.encode_json(frames.EVENT, {"a": 1}),
)


# -- the closed domain

CRL = "-----BEGIN X509 CRL-----\nMIH1MIGbAgEB\n-----END X509 CRL-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\nAAA=\n-----END CERTIFICATE-----\n"
MEMBERS = MemberList("home", OTHER, 5, (Member(NODE, "pi", 1 << 30, False, "1f"), Member(OTHER, "pc", 1, True, "2")),
                     ("ff",), CRL)
LIST = member_list.signed(member_list.payload(MEMBERS), bytes(70))


def members(data: bytes) -> None:
    parsed, text, signature = member_list.parse(data)
    assert member_list.parse(member_list.signed(member_list.payload(parsed), signature))[0] == parsed
    with contextlib.suppress(member_list.UnknownMember, member_list.AmbiguousMember):
        member_list.find_member(parsed, parsed.domain)


def packed_list(data: bytes) -> None:
    inside = member_list.unpack(data.decode("utf-8", "replace"))
    assert len(inside) <= member_list.MOST_BYTES
    members(inside)


def list_unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(base64.b64decode(data), member_list.MOST_BYTES)
    except (ValueError, zlib.error):
        return data


def list_packed(inner: bytes) -> bytes:
    return base64.b64encode(zlib.compress(inner, 1))


def list_inside(data: bytes) -> bytes:
    try:
        return str(json.loads(data)["payload"]).encode()
    except (ValueError, RecursionError, LookupError, TypeError):
        return data


def list_around(inner: bytes) -> bytes:
    return member_list.signed(inner.decode("utf-8", "replace").encode("ascii", "replace"), bytes(70))


TOKEN = join_token.render(join_token.Token(NODE, bytes(range(16)), ("10.0.0.1:18832", "pi.local:18832"))).encode()


def token(data: bytes) -> None:
    parsed = join_token.parse(data.decode("utf-8", "replace"))
    with contextlib.suppress(ValueError):  # too long for one that we would make
        assert join_token.parse(join_token.render(parsed)) == parsed


def token_inside(data: bytes) -> bytes:
    body = data.removeprefix(join_token.PREFIX.encode())
    try:
        return base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))[: -join_token.CHECK]
    except ValueError:
        return body


def token_around(body: bytes) -> bytes:
    check = hashlib.sha256(join_token.PREFIX.encode() + body).digest()[: join_token.CHECK]
    return join_token.PREFIX.encode() + base64.urlsafe_b64encode(body + check).rstrip(b"=")


def join_answer(data: bytes) -> None:
    join_messages.encode_answer(join_messages.parse_answer(data))


def join_request(data: bytes) -> None:
    join_messages.encode_request(join_messages.parse_request(data))


SWARM = swarm_key.signed(swarm_key.payload(swarm_key.SwarmKey(NODE, 3, bytes(range(32)))), bytes(70))
JOINED = join_messages.JoinAnswer(CERTIFICATE, CERTIFICATE, LIST, {NODE: (AT, GATEWAY)}, SWARM)


def swarm(data: bytes) -> None:
    key, text, signature = swarm_key.parse(data)
    assert swarm_key.parse(swarm_key.signed(text, signature))[0] == key
    assert swarm_key.kubos_file(key).count(b"\n") == 3


ASKED = join_messages.JoinRequest(bytes(16), CERTIFICATE.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "pi", 1 << 30)
ANNOUNCED = (
    f'=;eth0;IPv4;ipdc-edge\\032on\\032pi;_ipdc._tcp;local;pi.local;10.77.0.1;18830;"id={NODE}" "domain={OTHER}"\n'
).encode()


def avahi(data: bytes) -> None:
    known = discovery.addresses(data)
    assert len(discovery.parse(data, known)) <= discovery.MOST_FOUND
    assert not any(host.startswith("-") for host in (*known, *discovery.unresolved(data)))


def dag(data: bytes) -> None:
    """A block of dag-cbor, and a path through it behind its last zero byte."""
    block, mark, path = data.rpartition(b"\0/")
    block = block if mark else data
    assert all(cid.canonical(link) == link for link in dag_cbor.links(block))
    with contextlib.suppress(KeyError):
        dag_cbor.follow(block, path.split(b"/"))


DOCUMENT = b"\xa2\x61a\x82\x01\xd8\x2a\x58\x25\x00" + cid.cid_to_bytes(LEAF) + b"\x61b\xfb" + bytes(8)


def printed(data: bytes) -> None:
    found = prints.parse(data)
    assert found is None or prints.parse(prints.encode(found)) == found


PRINTED = tuple(map(prints.encode, (
    prints.Piece("map-00003", Attempt(7 << 20, 2), 4096, 9, "half \ufffd\n"), prints.Lost(1 << 20))))


# -- HTTP

BLOCK = b"leaf"
REQUESTS = (
    f"GET /ipfs/{LEAF}?format=raw HTTP/1.1\r\nHost: a:1\r\nAccept: application/vnd.ipld.raw\r\n\r\n".encode(),
    f'HEAD http://a/ipfs/{LEAF} HTTP/1.1\r\nHost: a\r\nAccept: a/b;q=0, application/vnd.ipld.raw\r\n'
    f'If-None-Match: W/"{LEAF}.raw"\r\nConnection: close\r\n\r\n'.encode(),
    b"POST /ipfs/bafkqaaa?format=car HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Cache-Control: only-if-cached\r\n\r\nabc",
    f"GET /ipfs/{FOLDER}/b%20b?format=car&dag-scope=entity&entity-bytes=1:-1 HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    f"GET /ipfs/{FOLDER} HTTP/1.1\r\nHost: a\r\nAccept: application/vnd.ipld.car; dups=n\r\n\r\n".encode(),
    b"GET / HTTP/1.0\r\n\r\n", b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nleaf",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nle\r\n2;x=y\r\naf\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\ngone\n",
    b"HTTP/1.0 200 OK\r\n\r\nleaf", b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\nlater",
)
HTTP_WORDS = tuple((
    b"\r\n|\r\n\r\n|Content-Length: |Transfer-Encoding: chunked\r\n|Host: a\r\n|HTTP/1.1|HTTP/1.0|%00|,|"
    b"Expect: 100-continue\r\n|Upgrade: h2c\r\n|Connection: |?format=raw|0\r\n\r\n|ffffffff\r\n|CONNECT |"
    b";q=0|/ipfs/|bafkqaaa|?format=car|&dag-scope=all|&entity-bytes=0:*|; dups=n|&car-dups=n|&filename=|-5:-1|"
    b"101 Switching\r\n|99999999999999999999"
).split(b"|"))
PARAMS = (
    dump({"stage": "map", "index": 1,
          "inputs": [{"range": {"cid": LEAF, "name": "a", "size": 9, "start": 0, "end": 9}}],
          "outputs": {"kind": "runs", "count": 2}, "providers": [NODE], "gateways": {NODE: GATEWAY}}),
    dump({"stage": "reduce", "index": 0, "inputs": [{"run": {"manifest": LEAF, "index": 1, "node": NODE}}] * 2,
          "outputs": {"kind": "files", "count": 1}, "providers": [NODE], "gateways": {NODE: GATEWAY}}),
    dump({"stage": "map", "index": 0, "inputs": [{"local": {"pattern": "/usr/share/common-licenses/GPL*"}}],
          "outputs": {"kind": "files", "count": 1}}),
)

MESSAGE_FILES = ("codec/messages.py",)
TARGETS: tuple[Target, ...] = (
    Target("messages", message, (mqtt.BadMessage,), tuple(published(each) for each in MESSAGES), MESSAGE_FILES,
           unpack=payload_of, pack=publish_again(CODEC.channels)),
    Target("cid", content_id, (cid.BadCid,), (LEAF.encode(), NODE.encode(), b"bafkqaaa", cid.cid_to_bytes(LEAF)),
           ("codec/cid.py",), (b"b", b"Qm", b"\x01\x55\x12\x20", b"\x01\x70\x00")),
    Target("dag-cbor", dag, (ValueError, cid.BadCid), (DOCUMENT, DOCUMENT + b"\0/a/1"), ("codec/dag_cbor.py",),
           (b"\xd8\x2a", b"\x58\x25\x00", b"\x9b", b"\xbb", b"\xff" * 8, b"\0/")),
    Target("unixfs", node, (unixfs.BadNode,), (_tree(), DIRECTORY, b"\x0a\x04\x08\x02\x18\x00"),
           ("codec/unixfs.py", "codec/cid.py"),
           (b"\x12\x2c\x0a\x24\x01\x55\x12\x20", b"\x0a\x02\x08\x01", b"\x18\x01")),
    Target("records", record, (keys.BadRecord,), tuple(line.encode("latin-1") for line in LINES),
           ("codec/records.py", "codec/keys.py"),
           (b"\x00", b"\x01", b"\x02", b"\x03", b"Z", b"p00000020", b'{"/":{"bytes":"')),
    Target("sorted-values", sorted_record, (keys.BadRecord,),
           tuple(sorted_values.encode_value(value).encode("latin-1")
                 for value in (None, -0.0, 12, ["a", [True, b"\0"], ()], "\udc80\n", 2.5)),
           ("codec/sorted_values.py", "codec/keys.py"), (b"\x01", b"\x02", b"\x03", b"Z", b"p00000020")),
    Target("runs", run, (runs.BadRun,), (_run(LINES[:4]), _run([f"S{n:06d}\x001" for n in range(3000)])),
           ("codec/runs.py",), unpack=unpacked, pack=packed),
    Target("manifest", manifest, (runs.BadRun,), (MANIFEST,), ("codec/runs.py",)),
    Target("job", job, (BadSpec,), (SPEC, STEPS, LOCAL, MODEL),
           ("core/architecture.py", "apps/mapreduce/plan.py", "apps/mapreduce/spec.py", "apps/tflite/plan.py",
            "codec/bundle.py")),
    Target("tflite-model", model, (tflite_model.BadModel,), (tiny.model(9, 12), tiny.model(32, 1, "FlexErf")),
           ("codec/tflite_model.py",), (b"TFL3",)),
    Target("params", params, (IpdcError, cid.BadCid), PARAMS, ("daemon/streams.py", "daemon/local_inputs.py")),
    Target("runner", runner_frames, (frames.BadFrame, answers.RunnerBroken), FRAMES,
           ("codec/frames.py", "codec/answers.py"), unpack=first_payload, pack=runner_answer),
    Target("control", control_frames, (IpdcError, frames.BadFrame), CONTROL,
           ("codec/frames.py", "codec/control.py", "errors.py"), unpack=first_payload, pack=control_answer),
    Target("members", members, (member_list.BadMemberList,), (LIST,), ("codec/member_list.py", *MESSAGE_FILES),
           unpack=list_inside, pack=list_around),
    Target("packed-list", packed_list, (member_list.BadMemberList,),
           (member_list.pack(LIST).encode(), list_packed(LIST)), ("codec/member_list.py", *MESSAGE_FILES),
           (b"=", b"eJ", b"+/"), unpack=list_unpacked, pack=list_packed),
    Target("token", token, (join_token.BadToken,), (TOKEN,), ("codec/join_token.py",),
           (b",", b":18832", b":0", b"[::1]"), token_inside, token_around),
    Target("join-request", join_request, (join_messages.BadJoinMessage,), (join_messages.encode_request(ASKED),),
           ("codec/join_messages.py", *MESSAGE_FILES)),
    Target("join-answer", join_answer, (join_messages.BadJoinMessage, join_messages.JoinRefused),
           (join_messages.encode_answer(JOINED), join_messages.encode_refusal("wait", "", 7)),
           ("codec/join_messages.py", "codec/swarm_key.py", *MESSAGE_FILES)),
    Target("swarm-key", swarm, (swarm_key.BadSwarmKey,), (SWARM,), ("codec/swarm_key.py", *MESSAGE_FILES),
           unpack=list_inside, pack=list_around),
    Target("avahi", avahi, (), (ANNOUNCED, ANNOUNCED.replace(b"=;", b"+;", 1) + ANNOUNCED,
                              ANNOUNCED.replace(b"10.77.0.1", b"fe80::1"), b"pi.local\t10.77.0.1\n"),
           ("drivers/discovery.py",),
           (b";", b"=;", b'"id=', b'"domain=', b"_ipdc._tcp", b"\n", b"0.0.0.0", NODE.encode())),
    Target("gateway", gateway, (), REQUESTS, ("drivers/gateway.py", "drivers/gateway_http.py",
           "drivers/gateway_content.py", "drivers/gateway_car.py", "drivers/car_walk.py"), HTTP_WORDS),
    Target("prints", printed, (prints.BadPrint,), PRINTED, ("codec/prints.py", *MESSAGE_FILES)),
    Target("provider", provider, (), RESPONSES, ("drivers/provider.py", "drivers/stream.py"), HTTP_WORDS),
)
