"""Parsers of the control class: every byte ends in a message or in ControlError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    HANDSHAKE_TYPES,
    Close,
    Control,
    ControlError,
    Error,
    Message,
    Option,
    Ping,
    Pong,
    SessionTerms,
    parse_control,
)
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Code, Type, make_frame

PROOF = Option(lib.VK_OPTION_PROOF, bytes(lib.VK_PROOF_SIZE))
SAMPLES: list[Control] = [
    *(Message(kind, b"whatever") for kind in sorted(HANDSHAKE_TYPES)),
    Error(Code.SESSION_UNKNOWN, 7, options=(Option(5, b"abc"),)),
    Close(Code.SESSION_CLOSED, 9, options=(PROOF,)),
    Ping(2**64 - 1),
    Ping(3, options=(PROOF,)),
    Pong(0, options=(PROOF,)),
]
TERMS = SessionTerms(2**64 - 1, 2**63, 3, 4, session_window=2**40, options=(Option(5, b"abc"),))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: Type(message.type).name)
def test_a_message_is_parsed_as_it_was_packed(message: Control) -> None:
    assert parse_control(message.pack()) == message
    assert type(parse_control(message.pack())) is type(message)


@pytest.mark.parametrize("message", SAMPLES[-5:], ids=lambda message: type(message).__name__)
def test_every_truncation_and_every_changed_byte_ends_in_a_message_or_a_control_error(
    message: Control,
) -> None:
    data = message.pack()
    changed = [data[:size] for size in range(len(data))]
    changed += [
        data[:at] + bytes([value]) + data[at + 1 :]
        for at in range(len(data))
        for value in range(256)
    ]
    for each in changed:
        with contextlib.suppress(ControlError):
            parse_control(each)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.integers(0, 0x20),
    flags=st.sampled_from([0, 1, 0x80]),
    payload=st.binary(max_size=200),
)
def test_any_payload_ends_in_a_message_or_a_control_error(
    kind: int, flags: int, payload: bytes
) -> None:
    data = make_frame(kind, 0, payload, flags=flags).pack()
    try:
        message = parse_control(data)
    except ControlError:
        return
    assert message.type == kind


def test_terms_are_parsed_as_they_were_packed_and_never_otherwise_than_with_an_error() -> None:
    data = TERMS.payload()
    assert SessionTerms.parse(data) == TERMS
    for size in range(len(data)):
        with contextlib.suppress(ControlError):
            assert SessionTerms.parse(data[:size]) != TERMS


def test_an_option_that_is_required_and_unknown_refuses_the_message() -> None:
    known = Ping(1, options=(Option(0x7001, b"?"),)).pack()
    assert isinstance(parse_control(known), Ping)
    with pytest.raises(ControlError) as caught:
        parse_control(Ping(1, options=(Option(0xF001, b"?"),)).pack())
    assert caught.value.code == Code.VERSION


def test_an_option_has_a_largest_size() -> None:
    Option(5, bytes(lib.VK_OPTION_SIZE_MAX)).pack()
    with pytest.raises(LocalProtocolError):
        Option(5, bytes(lib.VK_OPTION_SIZE_MAX + 1)).pack()


@pytest.mark.parametrize("kind", [Type.CERT_REQUEST, Type.UPGRADE])
def test_messages_of_another_version_are_refused_as_a_matter_of_version(kind: int) -> None:
    with pytest.raises(ControlError) as caught:
        parse_control(make_frame(kind).pack())
    assert caught.value.code == Code.VERSION
