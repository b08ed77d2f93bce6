"""A program that asks served models by MQTT as it likes: with any topic, any properties, any bytes, and many at once.

Owns a client of the own broker of a lab's node, by the password of its programs or by TLS with the node's certificate.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import time
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ipdc_edge.commands.client import call
from ipdc_edge.home import Home
from ipdc_edge.settings import load

ANSWERS = "ipdc/serve/answer/"


class Program:
    """One connection; `answers` holds what came by correlation data, in their order."""

    def __init__(self, home: str, name: str = "test", certificate: bool = False) -> None:
        found = Home({"IPDC_HOME": home})
        self.to, self.numbers = f"{ANSWERS}{name}", itertools.count(1)
        self.answers: dict[bytes, list[dict[str, Any]]] = {}
        self.subscribed = False
        arguments: dict[str, Any] = {"protocol": paho.MQTTv5}
        if hasattr(paho, "CallbackAPIVersion"):
            arguments["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        self.client = paho.Client(**arguments)
        port = load(found.conf).mqtt_port
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(f"{found.current}/authority.pem")
            context.load_cert_chain(f"{found.current}/node.pem", f"{found.identity}/key.pem")
            self.client.tls_set_context(context)
        else:
            told = call(found, "mqtt_client")
            port = int(told["port"])  # type: ignore[call-overload]
            self.client.username_pw_set(str(told["user"]), str(told["password"]))
        self.client.on_message = self._came
        self.client.on_subscribe = lambda *told: setattr(self, "subscribed", True)
        self.client.on_connect = lambda *told: self.client.subscribe([(self.to, 1), (f"{ANSWERS}none", 1)])
        self.client.connect("127.0.0.1", port)
        self.client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.max_inflight_messages_set(1000)
        self.until(lambda: self.subscribed)

    def _came(self, client: Any, userdata: Any, message: Any) -> None:
        key = bytes(getattr(message.properties, "CorrelationData", b""))
        self.answers.setdefault(key, []).append(json.loads(message.payload))

    def until(self, condition: Any, seconds: float = 60.0) -> Any:
        """Does MQTT until it is so."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"nothing came within {seconds} s; answers: {str(self.answers)[:500]}"
            assert self.client.loop(0.05) == 0, "the broker closed the connection"
        return found

    def publish(self, topic: str, body: bytes, word: str = "request", to: str | None = "", **more: Any) -> bytes:
        """One request; its correlation data. to: the response topic, None for none; more: MQTT's properties."""
        properties = Properties(PacketTypes.PUBLISH)
        correlation: bytes = more.pop("CorrelationData", next(self.numbers).to_bytes(4, "big"))
        if to is not None:
            properties.ResponseTopic = to or self.to
        properties.CorrelationData = correlation
        for name, value in more.items():
            setattr(properties, name, value)
        self.client.publish(f"ipdc/serve/{topic}/{word}", body, 1, properties=properties)
        return correlation

    def answer(self, correlation: bytes) -> dict[str, Any]:
        """The answer to it."""
        return dict(self.until(lambda: self.answers.get(correlation))[0])

    def ask(self, topic: str, body: bytes, **more: Any) -> dict[str, Any]:
        """A request and its answer."""
        return self.answer(self.publish(topic, body, **more))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop(0.1)
