"""A session's data while somebody offers handshakes without end: round trips against calm.

A third host that the node knows as a peer offers a thousand handshakes a second from many ports. It
asks, answers with the cookie that it is given, sends a first key, and begins the next: all that who
has not the peer's key can have a node spend. It takes a share of the cores that it should not: on
two of them a third host that talks to nobody moves p99 by a tenth.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

from tests.lab import Host, laboratory
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.messages import HelloAck, Negotiate, Piece, parse, whole
from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.controlplane.security.offer import Offer, choose
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.node import SyncNode, SyncService
from valkyrie.dataplane.control import Message, parse_control
from valkyrie.dataplane.wire import PORT, Type

from . import blast, pair
from .network import Network
from .rows import Row, make_row

NAME = "handshakes"
SIZE = 64
RATE = 1_000
"""Handshakes a second."""
BATCH_S = 0.01
PORTS = 64
THIRD = "10.9.1.1"
"""Of host c, as tests.lab numbers wires."""
KEY_SIZE = 32
"""Bytes of the first message of Noise XX: a key of X25519, any bytes are one."""
DEADLINE_NS = 60_000_000_000
STREAM = 1_000
SLICE_NS = 10_000_000
"""Of the program that offers: whoever wakes takes the core from it."""
MARK = b"HANDSHAK"
"""Stands where an attempt's number is to be."""
_row = partial(make_row, "handshakes")
KNOWN = """
[[peer]]
name = "c"
address = "{address}"
fingerprint = "{fingerprint}"
"""


class Asker:
    """Offers handshakes; runs in a process of its own on the third host."""

    def __init__(self, host: Host, address: str, identity: Identity) -> None:
        policy = Policy(modes=frozenset({Mode.NOISE}), min_mode=Mode.NOISE)
        self._offer = Local(identity, Pins({}), policy).offer(Peer("b"), os.urandom, bytes(8))
        self._hello = self._offer.pack()
        self._first = whole(Type.HELLO, int.from_bytes(MARK, "big"), self._hello).pack()
        self._to = (address, PORT)
        self._sockets = [host.socket() for _ in range(PORTS)]
        for each in self._sockets:
            each.setblocking(False)
        self._size = 0
        self._known: list[tuple[int, bytes]] = []
        self._replies: list[bytes] = []

    def run(self) -> None:
        """Offer for ever."""
        begin, sent = time.monotonic(), 0
        while True:
            while sent < (time.monotonic() - begin) * RATE:
                hello = self._first.replace(MARK, os.urandom(8))
                self._sockets[sent % PORTS].sendto(hello, self._to)
                sent += 1
            time.sleep(BATCH_S)  # one core is all hosts': it is not to be taken for each message
            for each in self._sockets:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        for data in self._follow(each.recv(2048)):
                            each.sendto(data, self._to)

    def _follow(self, data: bytes) -> list[bytes]:
        """Return what follows what came: the first time as a node, later by what differs."""
        if not self._replies:
            self._learn(data)
        if len(data) != self._size:
            return []
        replies = self._replies
        for at, known in self._known:
            now = data[at : at + len(known)]
            replies = [each.replace(known, now) for each in replies]
        return replies

    def _learn(self, data: bytes) -> None:
        came = parse_control(data)
        if not isinstance(came, Message) or came.type != Type.HELLO_ACK:
            return
        piece = parse(came)
        answer = HelloAck.parse(piece.data)
        choice = choose(self._offer, Offer.parse(answer.offer)).pack()
        body = Negotiate(self._hello, answer, choice).pack()
        keys = Piece(piece.attempt, 0, KEY_SIZE, os.urandom(KEY_SIZE), piece.cookie).pack()
        differ = (piece.attempt.to_bytes(8, "big"), piece.cookie, answer.cookie)
        self._size = len(data)
        self._known = [(data.index(each), each) for each in differ if any(each)]
        self._replies = [
            whole(Type.NEGOTIATE, piece.attempt, body, piece.cookie).pack(),
            Message(Type.KEY_EXCHANGE, keys).pack(),
        ]


@contextlib.contextmanager
def offered(host: Host, address: str, identity: Identity) -> Iterator[None]:
    """Have handshakes offered meanwhile."""
    asker = Asker(host, address, identity)
    pid = os.fork()
    if pid == 0:
        try:
            # It stands for another host, whose cores are not ours.
            os.nice(5)
            lib.vk_slice_set(SLICE_NS)
            asker.run()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _data(name: str, count: int) -> list[int]:
    def echo(service: SyncService) -> None:
        blast.accept(service).echo(count, deadline_ns=DEADLINE_NS)

    def ping(node: SyncNode) -> list[int]:
        stream = node.connect("b").open(pair.SERVICE, stream=STREAM)
        return blast.begin(stream).ping(SIZE, count, deadline_ns=DEADLINE_NS)

    _, times = pair.run(name, echo, ping)
    return list(times)


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows: round trips of an encrypted session's data, against calm; and losses."""
    count, rounds = (30_000, 3) if quick else (100_000, 5)
    calm: list[int] = []
    loaded: list[int] = []
    identity = Identity.generate()
    with laboratory() as lab:
        known = KNOWN.format(address=THIRD, fingerprint=identity.card.fingerprint)
        network = Network(lab, "udp", name=NAME, modes=("noise",), extra={"b": known})
        network.start()
        third, here = network.stranger
        try:
            _data(NAME, count)
            before = network.nodes["b"].status()["control_frames"]
            for _ in range(rounds):
                calm += _data(NAME, count)
                with offered(third.host, str(here.v4.ip), identity):
                    loaded += _data(NAME, count)
            after = network.nodes["b"].status()["control_frames"]
        finally:
            network.stop()
    asked = {name: after.get(name, 0) - before.get(name, 0) for name in after}
    rows = []
    for label, share in (("p50", 0.50), ("p99", 0.99)):
        value, base = (sorted(times)[int(len(times) * share)] / 1e3 for times in (loaded, calm))
        rows.append(_row(f"encrypted round trip {label} under handshakes", value, "µs", base))
    lost, followed = count * rounds - len(loaded), asked.get("negotiate", 0)
    return [
        *rows,
        _row("messages lost under handshakes", lost, "msg", 0),
        _row("handshakes that the node's daemon followed", followed, "msg", 0),
    ]
