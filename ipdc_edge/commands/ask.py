"""`ipdc-edge ask`: asks a served model, by MQTT at this node's own broker.

Owns the requests that files become, how many of them are under way at once, and what is printed. It is a client like
any other program's: what it does by MQTT stands in core/PROTOCOL.md. Where a node says busy it waits and asks again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ipdc_edge.apps.tflite.formats import AUTO, FORMATS, STARTS, format_by_start, format_of
from ipdc_edge.codec.serving import ANSWERS, CONTENT_TYPES, MOST_REQUEST, ROOT, TOPIC
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import plain, print_json, table
from ipdc_edge.commands.program import unreadable
from ipdc_edge.errors import IpdcError, WrongUsage
from ipdc_edge.home import Home
from ipdc_edge.settings import LOOPBACK

HELP = "ask a served model"
WINDOW = 8  # requests under way at once
TIMEOUT = 60.0  # seconds
MOST_NAME = 100
LOOKED_AT = 4096  # bytes of a file that may say what it is
PAUSE = 0.2  # seconds before a request that met busy nodes is made again
JSON_FORMAT = "json"
EXAMPLES = """\
examples:
  ipdc-edge ask flowers --input photo.jpg
  ipdc-edge ask flowers --input images/*.png --json
  ipdc-edge ask numbers --input rows.csv              (a row is an input; also .npy, and a batch of several)
  echo '{"instances": [[1, 2, 3]]}' | ipdc-edge ask numbers --input -
  ipdc-edge ask flowers --health

Each file is a request, and may hold several inputs. Prints for each its name, a tab, and the predictions as JSON; with
--json an object a line: {"input", "predictions"} or {"input", "error"}.
Exit codes: 0 all are answered, 1 some are not, 2 a wrong use, or a file that no request may be, 3 this node's daemon or
broker cannot be spoken with, 4 nobody serves the topic.
"""


class NoAnswer(IpdcError):
    """{count} of {total} requests got no prediction; the first: {first}"""


class NobodyServes(IpdcError):
    """No node of the domain serves {topic}. `ipdc-edge serve MODEL --topic {topic}` begins it"""

    exit_code = 4


class BrokerGone(IpdcError):
    """This node's broker at {address} cannot be spoken with: {reason}. `ipdc-edge doctor` says more"""

    exit_code = 3
    retry = True


class Asks(NamedTuple):
    """One request. Files are looked at before anything is asked, and read when their turn comes: many are more than a
    board's memory."""

    name: str
    content_type: str
    held: bytes | None  # of what cannot be read twice

    def body(self) -> bytes:
        """FileUnreadable, WrongUsage."""
        if self.held is not None:
            return self.held
        try:
            with open(self.name, "rb") as file:
                return _bounded(self.name, file.read(MOST_REQUEST + 1))
        except OSError as error:
            raise unreadable(self.name, error) from error


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Ask a model that `ipdc-edge serve` keeps loaded somewhere in the domain."
    parser.epilog = EXAMPLES
    parser.add_argument("topic", metavar="TOPIC", help="what the model is served as")
    parser.add_argument("--input", metavar="FILE", nargs="+", action="extend", default=[],
                        help="files, each a request of at most 128 kB; - is standard input")
    parser.add_argument("--input-format", metavar="FORMAT", choices=(*FORMATS, JSON_FORMAT), default=AUTO,
                        help=f"what they are: {', '.join((*FORMATS, JSON_FORMAT))} (default: by name, or beginning)")
    parser.add_argument("--health", action="store_true", help="which nodes serve it, their queues, p50 and p99")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=TIMEOUT,
                        help="give a request up after so long (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when all are answered."""
    home = Home(os.environ)
    if not TOPIC.fullmatch(args.topic):
        raise WrongUsage(reason=f"{args.topic!r} is no topic: up to 64 letters, digits, - _ and .")
    if bool(args.input) == args.health:
        raise WrongUsage(reason="what shall it be asked? Give --input FILE..., or --health.")
    if not 0 < args.timeout <= 86400:
        raise WrongUsage(reason=f"--timeout {args.timeout:g}: give a number of seconds.")
    if args.health:
        return _health(home, args)
    requests = [_request(path, args.input_format) for path in args.input]
    failed: list[str] = []
    with Asker(home, args.topic, args.timeout) as asker:
        for asked, answer in asker.ask(requests):
            if "predictions" not in answer:
                failed.append(f"{asked.name}: {answer.get('error')}")
            if args.json:
                print_json({"input": asked.name, **answer}, line=True)
            elif "predictions" in answer:
                print(plain(f"{asked.name}\t{json.dumps(answer['predictions'])}"), flush=True)
            else:
                print(plain(f"ipdc-edge: {failed[-1]}"), file=sys.stderr)
    if failed and all(f"no node serves {args.topic}" in line for line in failed):
        raise NobodyServes(topic=args.topic)
    if failed:
        raise NoAnswer(count=len(failed), total=len(requests), first=failed[0])
    return 0


def _request(path: str, wanted: str) -> Asks:
    """A file as a request. FileUnreadable, WrongUsage."""
    held: bytes | None = None
    try:
        if path == "-":
            start = held = sys.stdin.buffer.read(MOST_REQUEST + 1)
            name, size = "standard input", len(held)
        else:
            with open(path, "rb") as file:
                name, found = path, os.fstat(file.fileno())
                if stat.S_ISREG(found.st_mode):
                    start, size = file.read(LOOKED_AT), found.st_size
                else:
                    start = held = file.read(MOST_REQUEST + 1)
                    size = len(held)
    except OSError as error:
        raise unreadable(path, error) from error
    _bounded(name, start, size)
    kind = wanted
    if kind == AUTO:
        kind = JSON_FORMAT if name.endswith(".json") or start.lstrip()[:1] == b"{" else format_of(name)
    if kind == AUTO:
        kind = format_by_start(start[: max(map(len, STARTS))])
    if kind == AUTO:
        raise WrongUsage(reason=f"{name}: neither its name nor its first bytes say what it is. Say it: --input-format "
                         f"{', '.join(FORMATS[1:])} or {JSON_FORMAT}")
    return Asks(name, next(known for known, one in CONTENT_TYPES.items() if one == kind), held)


def _bounded(name: str, body: bytes, size: int = 0) -> bytes:
    if max(size, len(body)) > MOST_REQUEST:
        raise WrongUsage(reason=f"{name} has more than {MOST_REQUEST} bytes, which no request may have. For many "
                         "inputs: ipdc-edge submit --model")
    return body


def _health(home: Home, args: argparse.Namespace) -> int:
    with Asker(home, args.topic, args.timeout) as asker:
        found = asker.health()
    if args.json:
        print_json(found)
        return 0 if found.get("nodes") else NobodyServes.exit_code
    nodes = [node for node in found.get("nodes") or () if isinstance(node, dict)]
    if not nodes:
        raise NobodyServes(topic=args.topic)
    rows = [("NODE", "QUEUE", "ANSWERED", "ERRORS", "BUSY", "P50 ms", "P99 ms", "MODEL")]
    rows += [(str(node.get("name")), f"{node.get('queue')}/{node.get('most_queue')}", str(node.get("answered")),
              str(node.get("errors")), str(node.get("busy")), _number(node.get("p50_ms")), _number(node.get("p99_ms")),
              str(node.get("model"))) for node in nodes]
    print(plain(table(rows, right=(1, 2, 3, 4, 5, 6))))
    for name in found.get("silent") or ():
        print(plain(f"{name} does not answer"))
    return 0


def _number(value: object) -> str:
    return "-" if value is None else str(value)


class Asker:
    """A connection to the own broker, on which requests are made and answers come."""

    def __init__(self, home: Home, topic: str, timeout: float) -> None:
        from paho.mqtt import client as paho

        told = call(home, "mqtt_client")
        self.topic, self.timeout = topic, timeout
        self.address = f"{LOOPBACK}:{told['port']}"
        self.answers = f"{ANSWERS}{os.urandom(12).hex()}"
        if hasattr(paho, "CallbackAPIVersion"):  # paho 2.x
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        else:
            client = paho.Client(protocol=paho.MQTTv5)
        client.username_pw_set(str(told["user"]), str(told["password"]))
        client.on_message = self._came
        client.on_subscribe = lambda *told: setattr(self, "ready", True)
        self.client, self.ready = client, False
        self.came: dict[bytes, dict[str, Any]] = {}
        try:
            client.connect(LOOPBACK, int(told["port"]))  # type: ignore[call-overload]
        except OSError as error:
            raise BrokerGone(address=self.address, reason=error) from error
        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = lambda *told: client.subscribe(self.answers, 1)
        until = time.monotonic() + 10.0
        while not self.ready:
            self._loop(until)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.disconnect()

    def _loop(self, until: float) -> None:
        """A moment of MQTT. BrokerGone."""
        if self.client.loop(0.1) != 0 or time.monotonic() > until:
            raise BrokerGone(address=self.address, reason="it does not answer" if time.monotonic() > until
                             else "it closed the connection")

    def _came(self, client: Any, userdata: Any, message: Any) -> None:
        try:
            answer = json.loads(message.payload)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            answer = {"error": "the answer is no object of JSON"}
        self.came[bytes(getattr(message.properties, "CorrelationData", b""))] = answer

    def _publish(self, word: str, number: int, asked: Asks | None) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = self.answers, number.to_bytes(4, "big")
        if asked is not None:
            properties.ContentType = asked.content_type
            name = "".join(letter if " " <= letter <= "~" else "?" for letter in asked.name)[-MOST_NAME:]
            properties.UserProperty = ("name", name)
        body = asked.body() if asked is not None else b""
        self.client.publish(f"{ROOT}{self.topic}/{word}", body, qos=1, properties=properties)

    def health(self) -> dict[str, Any]:
        """What the health topic says. BrokerGone."""
        self._publish("health", 0, None)
        until = time.monotonic() + self.timeout
        while not self.came:
            self._loop(until)
        return self.came.popitem()[1]

    def ask(self, requests: list[Asks]) -> Iterator[tuple[Asks, dict[str, Any]]]:
        """Each with its answer, in their order. BrokerGone."""
        answers: dict[int, dict[str, Any]] = {}
        open_: dict[int, float] = {}  # number -> until when
        again: dict[int, float] = {}  # busy ones: when to ask again
        begun = shown = 0
        while shown < len(requests):
            now = time.monotonic()
            while begun < len(requests) and len(open_) < WINDOW and not again:
                open_[begun] = now + self.timeout
                self._publish("request", begun, requests[begun])
                begun += 1
            for number in [number for number, at in again.items() if at <= now]:
                del again[number]
                self._publish("request", number, requests[number])
            self._loop(now + self.timeout + 10)
            for correlation, answer in list(self.came.items()):
                del self.came[correlation]
                number = int.from_bytes(correlation, "big")
                if number not in open_ or number in again:
                    continue
                if answer.get("busy") is True and time.monotonic() < open_[number]:
                    again[number] = time.monotonic() + PAUSE * random.uniform(0.5, 1.5)
                else:
                    del open_[number]
                    answers[number] = answer
            for number in [number for number, until in open_.items() if time.monotonic() > until]:
                del open_[number]
                again.pop(number, None)
                answers[number] = {"error": f"no answer within {self.timeout:g} s"}
            while shown in answers:
                yield requests[shown], answers.pop(shown)
                shown += 1
