"""A token: one short word that finds its own mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.join_token import MOST_TEXT, BadToken, Token, parse, render
from ipdc_edge.codec.node_id import node_id

addresses = st.lists(
    st.tuples(st.from_regex(r"[0-9a-z][0-9a-z.-]{0,20}", fullmatch=True), st.integers(1, 65535)), min_size=1, max_size=4
).map(lambda found: tuple(f"{host}:{port}" for host, port in found))
tokens = st.builds(
    Token, st.binary(min_size=32, max_size=32).map(node_id), st.binary(min_size=16, max_size=16), addresses
)
TOKEN = Token(node_id(bytes(range(32))), bytes(range(16)), ("192.168.1.20:18832", "pi.local:18832"))
TEXT = render(TOKEN)


@given(tokens)
def test_a_token_comes_back_as_it_was(token: Token) -> None:
    text = render(token)
    assert parse(text) == token
    assert len(text) <= MOST_TEXT and text.startswith("ipdc1-") and not set(text) & set(" \n\t'\"$`\\&|;<>()*?![]{}~#")


def test_its_form_stays() -> None:
    """A token of one version must be read by the next."""
    assert TEXT == EXPECTED


EXPECTED = (
    "ipdc1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJCgsMDQ4PMTkyLjE2OC4xLjIw"
    "OjE4ODMyLHBpLmxvY2FsOjE4ODMyaOU-vQ"
)


def test_it_may_have_been_broken_into_lines() -> None:
    assert parse(f"  {TEXT[:40]}\r\n {TEXT[40:]}\n") == TOKEN


@given(st.integers(0, len(TEXT) - 1))
def test_a_cut_token_says_so(length: int) -> None:
    with pytest.raises(BadToken, match="Copy all of it"):
        parse(TEXT[:length])


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_wrong_character_goes_unseen(at: int, other: str) -> None:
    text = TEXT[:at] + other + TEXT[at + 1 :]
    if text != TEXT:
        with pytest.raises(BadToken):
            parse(text)


@pytest.mark.parametrize("token", [TOKEN, Token(TOKEN.authority, TOKEN.secret, ("a.local:18832",))])
def test_the_last_character_counts_in_full(token: Token) -> None:
    """It may have spare bits: 16 or 4 characters would do."""
    text = render(token)
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/.\u00e4":
        if other != text[-1]:
            with pytest.raises(BadToken):
                parse(text[:-1] + other)
        with pytest.raises(BadToken):
            parse(text + other)


@given(st.integers(0, len(TEXT) - 2))
def test_two_swapped_characters_are_seen(at: int) -> None:
    text = TEXT[:at] + TEXT[at + 1] + TEXT[at] + TEXT[at + 2 :]
    if text != TEXT:
        with pytest.raises(BadToken):
            parse(text)


@given(st.text(max_size=600) | st.text(max_size=300).map(lambda text: "ipdc1-" + text))
def test_any_text_is_a_token_or_bad(text: str) -> None:
    with pytest.raises(BadToken):
        parse(text)


@pytest.mark.parametrize("found", [
    (), ("a:1",) * 5, ("a" * 127 + ":1",), ("a,b:1",), ("a",), ("a:0",), ("a:65536",), ("\u00e4:1",),
])  # fmt: skip
def test_what_is_no_address_gets_into_no_token(found: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        render(Token(TOKEN.authority, TOKEN.secret, found))


def test_a_secret_has_128_bits() -> None:
    with pytest.raises(ValueError):
        render(Token(TOKEN.authority, b"short", TOKEN.addresses))
