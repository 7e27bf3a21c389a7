"""Shared secrets as people pass them on: words, one a line of a file."""

from __future__ import annotations

import base64
import binascii

from valkyrie.dataplane.errors import ConfigError

WORD_SIZE = 32
"""Bytes of the secrets that we make."""
_PREFIX = "vkts1:"


def to_word(secret: bytes) -> str:
    """Return a secret as one word."""
    assert len(secret) == WORD_SIZE
    return _PREFIX + base64.b32encode(secret).decode().rstrip("=").lower()


def parse_secrets(data: bytes, name: str) -> tuple[bytes, ...]:
    """Return the secrets of a file; ConfigError names the line, never what is on it.

    Blank lines and those that begin with # are skipped.
    """
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith(b"#"):
            continue
        secret = of_word(word)
        if secret is None:
            raise ConfigError(
                f"{name}: line {number} is no secret as `valkyrie key token` prints them: one word"
                f" that begins with {_PREFIX}"
            )
        found.append(secret)
    if not found:
        raise ConfigError(f"{name}: has no secret: put what `valkyrie key token` prints in it")
    return tuple(dict.fromkeys(found))


def of_word(word: bytes) -> bytes | None:
    """Return the secret of a word; None: it is no secret."""
    if not word.startswith(_PREFIX.encode()):
        return None
    letters = word[len(_PREFIX) :].upper()
    try:
        secret = base64.b32decode(letters + b"=" * (-len(letters) % 8))
    except binascii.Error:
        return None
    return secret if len(secret) == WORD_SIZE else None
