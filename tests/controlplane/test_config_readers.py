"""What reads files and messages of others takes any bytes: it reads them, or refuses them by the
one exception that its callers expect."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.controlplane.security.parties import identity
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.security.certificates import issue, make_root
from valkyrie.controlplane.security.identity_file import of_pem, to_pem
from valkyrie.controlplane.security.tls_files import parse_chain
from valkyrie.controlplane.security.token_file import parse_secrets, to_word
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.fingerprint import parse_fingerprint

CONFIG = b"""
[node]
name = "n"
[security]
modes = ["noise", "plaintext"]
[[interface]]
name = "eth0"
path = "udp"
[class.data]
rate_packets = 5
[[peer]]
name = "p"
address = "10.0.0.2"
plaintext = true
[[application]]
name = "all"
anybody = true
classes = ["data"]
streams = ["1000-1999"]
[[operator]]
name = "o"
group = "adm"
roles = ["read"]
[[intrusion]]
name = "i"
counter = "daemon.peer_left"
by = "peer"
count = 5
action = "block"
"""


def chain() -> bytes:
    now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    public = Ed25519PrivateKey.generate().public_key()
    certificates = issue(make_root("root", now), "n", public, now)
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


@dataclass(frozen=True)
class Reader:
    """A reader, bytes that it takes, and how it refuses others."""

    read: Callable[[bytes], object]
    good: bytes
    refuses: type[Exception] = ConfigError


def identity_file() -> bytes:
    return to_pem(identity("alice"))


READERS = {
    "identity": Reader(lambda data: of_pem(data, "x"), identity_file()),
    "configuration": Reader(lambda data: config.parse(data.decode(errors="replace")), CONFIG),
    "shared secrets": Reader(lambda data: parse_secrets(data, "x"), to_word(bytes(32)).encode()),
    "certificates": Reader(lambda data: parse_chain(Path("x"), data), chain()),
    "fingerprint": Reader(
        lambda data: parse_fingerprint(data.decode(errors="replace")),
        str(identity("alice").card.fingerprint).encode(),
    ),
    "message of the daemon": Reader(
        Message.parse, Message(Kind.BLOCK, slot=1, first=9, text="10.0.0.1").pack(), ValueError
    ),
}


def edited(good: bytes) -> st.SearchStrategy[bytes]:
    """Return good bytes with a part of them cut out, repeated, or replaced by others."""
    at = st.integers(0, len(good))
    pieces = st.binary(max_size=8) | st.sampled_from([good[i : i + 9] for i in range(len(good))])
    numbers = st.integers().map(lambda number: json.dumps(number).encode())
    return st.builds(
        lambda one, two, middle: good[: min(one, two)] + middle + good[max(one, two) :],
        at,
        at,
        pieces | numbers,
    )


@pytest.mark.parametrize("name", READERS)
def test_what_is_good_is_read(name: str) -> None:
    READERS[name].read(READERS[name].good)


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    reader = READERS[name]
    given_bytes = data.draw(edited(reader.good) | st.binary(max_size=200))
    with contextlib.suppress(reader.refuses):
        reader.read(given_bytes)
