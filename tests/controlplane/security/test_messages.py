"""Handshake messages: parsing trusts nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.messages import (
    OFFER_SIZE_MAX,
    HelloAck,
    Negotiate,
    Piece,
    failure_body,
    parse,
    parse_failure,
    parse_hello,
    whole,
)
from valkyrie.controlplane.security.modes import Cipher, Mode
from valkyrie.controlplane.security.offer import Choice
from valkyrie.controlplane.security.proof import Proof
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

CHOICE = Choice(Mode.NOISE, None, Cipher.AES_256_GCM, ())
PARSERS: list[Callable[[bytes], object]] = [
    HelloAck.parse,
    Negotiate.parse,
    parse_hello,
    parse_failure,
    lambda data: parse(Message(Type.KEY_EXCHANGE, data)),
    lambda data: parse(Message(Type.HELLO, data)),
    lambda data: Proof.parse(data, CHOICE),
]


@settings(deadline=None)
@given(st.sampled_from(range(len(PARSERS))), st.binary(max_size=700))
def test_any_bytes_are_a_message_or_are_refused(index: int, data: bytes) -> None:
    try:
        PARSERS[index](data)
    except SecurityError as error:
        assert error.code in (Failure.MALFORMED, Failure.VERSION)  # noqa: PT017


@settings(deadline=None)
@given(st.binary(max_size=100), st.binary(min_size=21, max_size=200), st.binary(max_size=64))
def test_a_negotiate_comes_back_as_it_was(hello: bytes, answer: bytes, choice: bytes) -> None:
    said = Negotiate(hello, HelloAck.parse(answer), choice)
    assert Negotiate.parse(said.pack()) == said


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=64))
def test_a_whole_message_is_one_piece(attempt: int, body: bytes) -> None:
    found = parse(whole(Type.HELLO, attempt, body))
    assert found == Piece(attempt, 0, len(body), body, bytes(16))
    found = parse(whole(Type.HELLO_ACK, attempt, body, b"the kernel's own"))
    assert found == Piece(attempt, 0, len(body), body, b"the kernel's own")


@pytest.mark.parametrize(("offset", "total"), [(1, 4), (0, 5), (0, 3)])
@pytest.mark.parametrize("kind", ["HELLO", "HELLO_ACK", "NEGOTIATE", "AUTH_FAILURE"])
def test_what_comes_before_the_cookie_is_never_in_pieces(
    kind: str, offset: int, total: int
) -> None:
    payload = Piece(7, offset, total, b"data").pack()
    with pytest.raises(SecurityError, match="must be whole"):
        parse(Message(Type[kind], payload))
    assert parse(Message(Type.AUTH_RESPONSE, payload)).data == b"data"


def test_failures_cross_the_wire_by_number() -> None:
    for failure in Failure:
        assert parse_failure(failure_body(failure)) is failure
    for wrong in (b"", b"\0\0\0\0", b"\0\0\0\xff", failure_body(Failure.COOKIE) + b"x"):
        with pytest.raises(SecurityError, match="no code"):
            parse_failure(wrong)


def test_long_offers_are_refused() -> None:
    with pytest.raises(SecurityError, match="too long"):
        parse_hello(bytes(OFFER_SIZE_MAX + 1))
    with pytest.raises(SecurityError, match="too long"):
        HelloAck.parse(bytes(OFFER_SIZE_MAX + 21))
