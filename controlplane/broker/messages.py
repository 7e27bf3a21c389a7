"""The fixed messages between broker and daemon, on a SEQPACKET socket pair.

Every request of the daemon (kinds below ``Kind.VIOLATION``) gets one answer with the same kind and
token; the other kinds are news from the broker. Descriptors travel beside the bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum

from valkyrie.dataplane import lib

_HEAD = struct.Struct(f"<IIIIi{lib.VK_RINGS_MAX}IQQ")
SIZE_MAX = 65_536
"""Bytes of the largest message."""
_DESCRIPTORS_MAX = 8


class Kind(IntEnum):
    """What a message asks or tells."""

    ATTACH = 1
    """Make a slot's rings. With the application's connection, which the broker keeps so that a
    next daemon can go on with it. Answer: region D, region A, the application's bell,
    the worker's."""
    DETACH = 2
    """Take a slot back, and let go of its connection."""
    POLICE = 3
    """Set the token bucket of class ``slot`` (``SOURCE`` = every source address): ``first``
    packets per second and interface, 0 = no limit, burst ``second``."""
    TUNED = 4
    """Keep ``text`` for the next daemon: the values tuned so far."""
    COUNT = 5
    """Copy the kernel's counters into the counters page now. Answer: ``text`` is JSON, the fill of
    every application's rings."""
    CENSUS = 6
    """Count the frames of every port by owner. Answer: ``text`` is JSON."""
    RENEW = 7
    """Start the worker and the programs that are installed now. The answer's ``text`` says what
    was done, or what went wrong and what runs instead."""
    STOP = 8
    """Stop the node; the answer comes before."""
    READY = 9
    """The daemon serves."""
    PROCESSES = 10
    """Look what keeps broker, worker and daemon in. Answer: ``text`` is JSON, ``sandbox.describe``
    of each."""
    DEMAND = 11
    """Let frames of the classes in ``first`` (bit enum vk_class) in with a token only, and of all
    others without."""
    MASTER = 12
    """Enter a key of tokens, ``generation``; its 16 bytes are ``first`` and ``second``."""
    DENY = 13
    """Drop all frames of session ``first`` from now on; ``slot`` 0: take that back."""
    BLOCK = 14
    """Drop all frames from address ``text`` until tick ``first``; ``slot`` 0: take that back."""
    AUDIT_NEXT = 15
    """Make the empty file that the audit log is to go on in; the one that is full begins with
    record ``first``. Answer: that file; ``first``: the record that the log will begin with when
    old files are gone, 0 = none goes."""
    AUDIT_MOVE = 16
    """Put that file in the place of the audit log, which begins with record ``first``, and remove
    what is too old."""
    LISTED = 17
    """Remember which signed lists of revoked certificates there were: ``text``, JSON of
    ``daemon/listed.py``."""
    KNOW = 18
    """Take the peers named in ``text``, a list in JSON, from their files, in this order: the next
    daemon is to have them in their places."""
    FORGET = 19
    """Let no next daemon know the peer of the name ``text``."""
    REVOKED = 20
    """Start no next daemon without `revoked.toml`: it was there."""
    VIOLATION = 21
    """A slot broke the rules of its rings and was cut off."""
    WORKER = 22
    """A worker started: its process is ``first``, ``second`` have died so far."""
    STOPPING = 23
    """Say good-bye to the applications and leave."""


SOURCE = 0xFFFFFFFF
"""In place of a class: the policer of every source address."""


@dataclass(slots=True)
class Message:
    """One message; what a kind does not use stays 0."""

    kind: Kind
    token: int = 0
    slot: int = 0
    generation: int = 0
    result: int = 0
    """Of an answer: 0 or -errno."""
    capacity: tuple[int, ...] = (0,) * lib.VK_RINGS_MAX
    first: int = 0
    second: int = 0
    text: str = ""
    descriptors: list[int] = field(default_factory=list)
    """Received ones belong to the receiver, sent ones stay the sender's."""

    def pack(self) -> bytes:
        """Return the bytes of the message."""
        head = _HEAD.pack(
            self.kind,
            self.token,
            self.slot,
            self.generation,
            self.result,
            *self.capacity,
            self.first,
            self.second,
        )
        return head + self.text.encode()[: SIZE_MAX - len(head)]

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Return the message in bytes; ValueError when there is none."""
        if len(data) < _HEAD.size:
            raise ValueError("a message is cut short")
        kind, token, slot, generation, result, *capacity, first, second = _HEAD.unpack_from(data)
        return cls(
            kind=Kind(kind),
            token=token,
            slot=slot,
            generation=generation,
            result=result,
            capacity=tuple(capacity),
            first=first,
            second=second,
            text=data[_HEAD.size :].decode(errors="replace"),
        )


def send(link: socket.socket, message: Message) -> None:
    """Send a message; BlockingIOError when a non-blocking socket has no room."""
    socket.send_fds(link, [message.pack()], message.descriptors)


def receive(link: socket.socket) -> Message | None:
    """Return the next message, None when the other side is gone; BlockingIOError if none is there.

    ValueError is a fault of the other side; its descriptors have been closed.
    """
    data, descriptors, _, _ = socket.recv_fds(
        link, SIZE_MAX, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        return None
    try:
        message = Message.parse(data)
    except ValueError:
        close_all(descriptors)
        raise
    message.descriptors = list(descriptors)
    return message


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
