"""Requests to served models as bytes."""

from __future__ import annotations

import pytest

from ipdc_edge.codec import serving as codec

ASKED = codec.Infer(7, "flowers", "predict", "json", "a name", "127.0.0.1:1883", b"{}\n{}")


def test_what_is_asked_and_answered_comes_as_it_went() -> None:
    assert codec.decode_infer(codec.encode_infer(ASKED)) == ASKED
    for state in codec.STATES:
        answer = codec.Answer(1 << 40, state, b"\n\0")
        assert codec.decode_answer(codec.encode_answer(answer)) == answer


@pytest.mark.parametrize("change", [
    {"number": -1}, {"number": True}, {"topic": "a/b"}, {"topic": 1}, {"what": "x"}, {"kind": "x"}, {"name": "x" * 101},
    {"name": "\n"}, {"address": "nowhere"}, {"address": "a b:1"}, {"body": b"x" * (codec.MOST_REQUEST + 1)},
])
def test_what_another_node_may_not_ask(change: dict[str, object]) -> None:
    with pytest.raises(codec.BadInference):
        codec.decode_infer(codec.encode_infer(ASKED._replace(**change)))


@pytest.mark.parametrize("payload", [
    b"", b"{}", b"{}\n", b"[]\n", b'{"v":2}\n', b"{" * 2000 + b"\n", b"[" * 1000 + b"\n", b"\xff\n", b'{"v":1}\n',
    b'{"v":1,"number":1,"state":"fine"}\n', b'{"v":1,"number":"1","state":"ok"}\n', b'{"v":1,"state":"ok"}\n',
])
def test_nonsense_is_refused(payload: bytes) -> None:
    for decode in (codec.decode_infer, codec.decode_answer):
        with pytest.raises(codec.BadInference):
            decode(payload)


def test_a_batch_comes_as_it_went() -> None:
    requests = [("json", "", b"{}"), ("raw", "a", b""), ("image", "b" * 100, bytes(range(256)))]
    assert list(codec.unpack_batch(codec.pack_batch(requests))) == requests
    assert codec.unpack_result(codec.pack_result(3, True, 20, b"{}")) == (3, True, 20, b"{}")
    for data in (b"", b"1234", bytes(6 + codec.MOST_ANSWER)):
        with pytest.raises(codec.BadInference):
            codec.unpack_result(data)


@pytest.mark.parametrize(("text", "found"), [
    ("ipdc/serve/a/request", ("a", "request")), ("ipdc/serve/a.b-1/health", ("a.b-1", "health")),
    ("ipdc/serve/answer/request", None), ("ipdc/serve/a/b/request", None), ("ipdc/serve//request", None),
    ("ipdc/serve/a/other", None), ("ipdc/1/a/request", None), ("ipdc/serve/\u00e9/request", None),
])
def test_where_somebody_asks(text: str, found: object) -> None:
    assert codec.address(text) == found


@pytest.mark.parametrize(("text", "well"), [
    ("ipdc/serve/answer/a/b", True), ("ipdc/serve/answer/", False), ("ipdc/serve/answer/+", False),
    ("ipdc/serve/answer/a/#", False), ("ipdc/serve/a/request", False), ("ipdc/serve/answer/" + "x" * 181, False),
    ("ipdc/serve/answer/a\n", False), ("ipdc/1/domain/node/cancel", False), ("", False),
])
def test_where_answers_may_go(text: str, well: bool) -> None:
    assert (codec.ANSWER_TOPIC.fullmatch(text) is not None) == well


def test_what_a_request_is() -> None:
    assert codec.kind_of("text/csv; charset=utf-8", b"{") == "csv"
    assert [codec.kind_of("", start) for start in (b"{", b"\x93NUMPY", b"\x89PNG", b"\xff\xd8\xff")] == [
        "json", "npy", "image", "image"]
    for content_type, body in (("text/html", b"{"), ("", b""), ("", b"1,2")):
        with pytest.raises(codec.BadInference):
            codec.kind_of(content_type, body)
