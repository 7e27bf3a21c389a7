"""The application socket's messages: JSON, one a SEQPACKET packet, descriptors beside them.

An application connects to the node's socket (``/run/valkyrie/<node>.sock``), asks with one of the
requests below and gets exactly one reply to each, in order. The connection is the lease: when it
closes, its streams end and its slot is freed. Requests marked with a role
are for who has it: uid 0, the daemon's, and ``[[operator]]`` rules.
"""

from __future__ import annotations

import msgspec

from valkyrie.dataplane.errors import LocalProtocolError

PACKET_SIZE_MAX = 262_144
"""Bytes of the largest request or reply."""

SOCKET_DIRECTORY = "/run/valkyrie"


class Request(msgspec.Struct, tag_field="op", tag=str.lower, forbid_unknown_fields=True):
    """Base of all requests."""


class Attach(Request):
    """Ask for rings. Descriptors of the reply: region D, region A, our bell, the
    worker's (rings.py)."""

    name: str = ""
    ring_size: int = 0
    """Bytes of each class's ring and direction, a power of two; 0 = the policy's default."""


class Connect(Request):
    """Ask for the index of a configured peer, by address or by its name in the configuration.

    Who is attached may open streams to it from now on; to others the worker refuses them.
    """

    peer: str


class Listen(Request):
    """Register a service name; streams that peers open on it come to this application."""

    service: str


class Unlisten(Request):
    """Take a service name back."""

    service: str


class Sign(Request):
    """Ask for the node's signature under a batch of messages (``dataplane/signing``)."""

    root: bytes
    """Of the Merkle tree over them."""
    count: int
    post_quantum: bool = False
    """Sign by ML-DSA-65 too."""
    fn_dsa: bool = False
    """Sign by FN-DSA-512 too."""


class Status(Request):
    """*read*: ask for the node's status document."""


class Tune(Request):
    """*tune*: change live parameters, ``{"class.logs.rate": 1000000, "spin_ns": 0}``."""

    values: dict[str, int | str]
    session: str = ""
    """Only the session with this peer; its keys are those of controlplane/sessions/tuning.py."""


class Kill(Request):
    """*administer*: end the session with a peer, and its streams."""

    session: str


class Rotate(Request):
    """*administer*: make the session with a peer anew, with new keys; its streams go on."""

    session: str


class AddPeer(Request):
    """*administer*: know one more peer from now on; ``table`` is its [[peer]] table, as TOML.

    The reply comes when sessions with it can be. Until the node stops, unless the file of peers
    has it too.
    """

    table: str


class RemovePeer(Request):
    """*administer*: know a peer no more: its session ends, and no other is made.

    The reply says whether the worker has let go of it. Until the node stops, unless no file of
    peers has it either.
    """

    peer: str


class Upgrade(Request):
    """*load*: start a new worker and program under traffic."""


class Stop(Request):
    """*administer*: stop the node."""


AnyRequest = (
    Attach
    | Connect
    | Listen
    | Unlisten
    | Sign
    | Status
    | Tune
    | Kill
    | Rotate
    | AddPeer
    | RemovePeer
    | Upgrade
    | Stop
)


class Reply(msgspec.Struct, omit_defaults=True):
    """Every reply. ``code`` 0 is success, else one of ``enum vk_code`` and ``message`` says why."""

    code: int = 0
    message: str = ""
    slot: int = 0
    generation: int = 0
    capacity: list[int] = []
    """Bytes of ring r, both directions, by class; 0 = the policy does not allow the class."""
    peer: int = 0
    family: int = 0
    """4 or 6, of the connected peer's address."""
    attested: bytes = b""
    """Of Sign: a packed ``Attestation``."""
    document: dict[str, object] = {}
    """Of requests with a role: what was asked for, or what was done."""


_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_replies = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Return the packet for a request or reply."""
    return msgspec.json.encode(message)


def encode_request(request: Request) -> bytes:
    """Return the packet for a request that the node can read.

    It would end the connection, and all that the application has, for one that it cannot. Raises
    TypeError for arguments of wrong types, LocalProtocolError where they are too long.
    """
    packet = encode(request)
    what = type(request).__name__.lower()
    try:
        _requests.decode(packet)
    except msgspec.ValidationError as error:
        raise TypeError(f"{what}: {error}") from None
    if len(packet) > PACKET_SIZE_MAX:
        raise LocalProtocolError(f"{what}: {len(packet)} bytes, at most {PACKET_SIZE_MAX} go")
    return packet


def decode_request(packet: bytes) -> AnyRequest:
    """Return the request in a packet; raises msgspec.ValidationError or DecodeError."""
    return _requests.decode(packet)


def decode_reply(packet: bytes) -> Reply:
    """Return the reply in a packet; raises msgspec.ValidationError or DecodeError."""
    return _replies.decode(packet)
