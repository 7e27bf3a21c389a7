"""Key exchanges by themselves: turns, shapes, and what they leave behind."""

from __future__ import annotations

import pytest

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import MisuseError, SecurityError
from valkyrie.controlplane.security.exchange import (
    NoiseExchange,
    PlainExchange,
    TokenExchange,
    token_id,
)
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Cipher, Mode, NoisePattern
from valkyrie.controlplane.security.offer import Choice
from valkyrie.dataplane.errors import ConfigError

from .parties import identity, trust

SECRET = b"s" * 16
SECRETS = {token_id(SECRET): SECRET}


def tokens(prologues: tuple[bytes, bytes] = (b"p", b"p")) -> tuple[TokenExchange, TokenExchange]:
    return (
        TokenExchange(prologues[0], SECRETS, token_id(SECRET)),
        TokenExchange(prologues[1], SECRETS),
    )


def test_a_token_exchange_ends_with_one_secret() -> None:
    a, b = tokens()
    b.read(a.write())
    a.read(b.write())
    assert a.outcome().secret == b.outcome().secret
    assert a.outcome().binding == b.outcome().binding
    assert a.outcome().name == token_id(SECRET).hex()


def test_a_token_exchange_over_other_offers_fails() -> None:
    a, b = tokens((b"p", b"q"))
    b.read(a.write())
    with pytest.raises(SecurityError, match="shared secret") as caught:
        a.read(b.write())
    assert caught.value.code is Failure.UNPROVEN


def test_every_byte_of_a_token_exchange_counts() -> None:
    for target in (0, 1):
        for at in range(40 if target == 0 else 64):
            a, b = tokens()
            messages = []
            try:
                for number, (writer, reader) in enumerate(((a, b), (b, a))):
                    message = bytearray(writer.write())
                    if number == target:
                        message[at] ^= 0x80
                    messages.append(bytes(message))
                    reader.read(messages[-1])
            except SecurityError as error:
                assert error.code in (Failure.UNPROVEN, Failure.CREDENTIAL)  # noqa: PT017
            else:
                raise AssertionError((target, at))


def test_turns_and_sizes_are_kept() -> None:
    a, b = tokens()
    for wrong in (b.write, a.outcome, lambda: a.read(b"x"), lambda: a.write(b"payload")):
        with pytest.raises(MisuseError):
            wrong()
    for size in (0, 39, 41):
        with pytest.raises(SecurityError, match="not as long"):
            tokens()[1].read(bytes(size))
    low = tokens()[1]
    low.read(token_id(SECRET) + bytes(32))
    with pytest.raises(SecurityError, match="low order"):
        low.write()


def test_a_plain_exchange_has_no_secret_but_a_hash() -> None:
    a, b = PlainExchange(b"p"), PlainExchange(b"p")
    assert b.read(a.write()) == b""
    assert a.read(b.write(b"card")) == b"card"
    assert a.outcome() == b.outcome()
    assert a.outcome().secret is None
    assert PlainExchange(b"q").outcome() != PlainExchange(b"p").outcome()


def test_a_pattern_that_needs_a_card_says_so() -> None:
    choice = Choice(Mode.NOISE, NoisePattern.XK, Cipher.AES_256_GCM, ())
    with pytest.raises(MisuseError, match="peer's card"):
        NoiseExchange(b"", choice, identity("a").exchange, initiator=True, remote_static=None)


def test_a_short_shared_secret_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="at least 16") as caught:
        Local(identity("a"), trust(), secrets=(b"short",))
    assert "short" not in str(caught.value).replace("a shared", "")
