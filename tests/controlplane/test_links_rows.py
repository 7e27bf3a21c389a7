"""What the sessions of a node write for its workers: rows, keys, and nothing that is over."""

from __future__ import annotations

import random
import time
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from tests.controlplane.security.parties import identity
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.daemon import credentials
from valkyrie.controlplane.daemon import peers as daemon_peers
from valkyrie.controlplane.daemon.links import Links
from valkyrie.controlplane.daemon.state import State
from valkyrie.controlplane.sessions.keyring import Keyring
from valkyrie.controlplane.sessions.link import Joined, Terms
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.protection import Secrets
from valkyrie.controlplane.sessions.table import Place, Sessions
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.control import Limits

HERE, THERE = ip_address("10.9.0.1"), ip_address("10.9.0.2")
PEER = 0


class Peers:
    """Where a peer is: behind the only interface."""

    on_way = None

    def way_to(self, _index: int) -> tuple[object, int]:
        return HERE, 1

    def limit(self, _index: int, _payload_max: int) -> None:
        pass


class Node:
    """A node's links without its processes, and the sessions of its peer."""

    ifindex = 1

    def __init__(self, knows: str = "bob") -> None:
        pin = identity(knows).card.fingerprint
        text = f'[[interface]]\nname = "vk0"\n[[peer]]\nname = "bob"\naddress = "{THERE}"\n'
        settings = config.parse(f'{text}fingerprint = "{pin}"\n[session]\neager = false\n')
        self.rows, self.keys = ffi.new("struct vk_state *"), ffi.new("struct vk_secrets *")
        self.state, self.keyring = State(self.rows), Keyring(self.keys)
        self.state.set_peer(PEER, str(THERE), lib.VK_PORT)
        self.seen = SimpleNamespace(heard_ns=0, streams=0, flying=0)
        self.work = SimpleNamespace(packets=[self.seen], heartbeat_ns=time.monotonic_ns())
        self.sent: list[bytes] = []
        self.links = Links(
            settings,
            self.state,
            self.work,
            SimpleNamespace(daemon_frames=0),
            Peers(),  # type: ignore[arg-type]
            keyring=self.keyring,
            credentials=credentials.assemble(settings, identity("alice")),
            voices=[self],  # type: ignore[list-item]
            payload_max=1472,
        )
        theirs = config.parse(
            f'[[interface]]\nname = "vk0"\n[[peer]]\nname = "alice"\naddress = "{HERE}"\n'
            f'fingerprint = "{identity("alice").card.fingerprint}"\n'
        )
        other = credentials.assemble(theirs, identity("bob"))
        self.other = Sessions(7, other.local, random.Random(1).randbytes)
        (known,) = other.peers
        assert known is not None
        place = Place(HERE, lib.VK_PORT)
        terms = Terms(Limits(), Patience(10**9), eager=False)
        self.other.add(PEER, place, known, terms, time.monotonic_ns())
        self.secrets: Secrets | None = None

    def send(self, _source: object, _address: object, _port: int, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def talk(self) -> None:
        """Carry what both have to say until nobody says anything."""
        while self.sent:
            data = self.sent.pop(0)
            self.other.receive(Place(HERE, lib.VK_PORT), data, time.monotonic_ns())
            for _, _, answer in self.other.take_messages():
                self.links.sessions.receive(Place(THERE, lib.VK_PORT), answer, time.monotonic_ns())
            self.links._settle()
            for _, event in self.other.take_events():
                if isinstance(event, Joined):
                    self.secrets = event.secrets

    @property
    def row(self) -> Any:
        return self.rows.peers[PEER]

    def check_keys(self) -> None:
        """Check that the workers of both have the same keys, and a while later only those."""
        assert self.secrets is not None
        self.links._erase(time.monotonic_ns() + 2 * 10**9)
        keys, others = (self.keys.keys[i][PEER] for i in (self.row.keys, 1 - self.row.keys))
        assert keys.session == self.row.session_local
        assert bytes(keys.seal.secrets[0].bytes) == self.secrets.opens
        assert bytes(keys.open.secrets[0].bytes) == self.secrets.seals
        assert not any(bytes(ffi.buffer(ffi.addressof(others))))


@pytest.fixture(name="node")
def _node() -> Node:
    node = Node()
    node.links.want(PEER)
    node.talk()
    return node


def test_workers_have_the_keys_of_a_session_that_may_be_used(node: Node) -> None:
    assert node.row.joined
    assert node.row.cipher == lib.VK_CIPHER_AES_256_GCM
    node.check_keys()
    link = node.links.sessions[PEER].link
    assert link is not None
    proofs = link.protection.ours, link.protection.theirs
    assert node.keyring.proofs(PEER, link.local) == proofs


@pytest.mark.parametrize("why", ["epochs", "spent"])
def test_a_session_whose_keys_run_out_is_made_anew_with_others(node: Node, why: str) -> None:
    before = node.row.session_local, node.row.generation, node.secrets
    if why == "epochs":
        keys = node.keys.keys[node.row.keys][PEER]
        keys.open.secrets[0].epoch = 239
        node.links._look(time.monotonic_ns())
        node.links._settle()
        assert not node.sent
        keys.open.secrets[0].epoch = 240
        node.links._look(time.monotonic_ns())
        node.links._settle()
    else:
        head = {"kind": lib.VK_CONTROL_SPENT, "peer": PEER}
        node.links.receive(bytes(ffi.buffer(ffi.new("struct vk_control_frame *", head))))
    node.talk()
    assert node.row.session_local != before[0]
    assert node.row.generation == before[1], "its streams go on"
    assert node.secrets != before[2]
    node.check_keys()


def test_nothing_secret_is_left_when_a_session_is_over(node: Node) -> None:
    node.links.close(PEER, lib.VK_CODE_SESSION_CLOSED)
    assert not node.row.joined
    assert not any(bytes(ffi.buffer(node.keys)))


def test_an_id_that_comes_again_is_no_longer_denied(node: Node) -> None:
    said: list[tuple[str, int]] = []
    node.links.denied = lambda session: said.append(("denied", session))
    node.links.allowed = lambda session: said.append(("allowed", session))
    ended = node.row.session_local
    node.links.close(PEER, lib.VK_CODE_SESSION_CLOSED)
    for _ in range(2):
        node.links.sessions[PEER]._ids._turn += lib.VK_SEAT_TURNS - 1
        node.links.want(PEER)
        node.talk()
        assert node.row.joined
        assert node.row.session_local == ended
        node.links.sessions.close(PEER, lib.VK_CODE_SESSION_CLOSED, time.monotonic_ns())
        node.links._settle()
    assert said == [("denied", ended), ("allowed", ended)]


def test_the_ids_of_a_nodes_sessions_name_the_peers_row(node: Node) -> None:
    keys = list(node.rows.seat_keys)
    assert all(keys)
    seats = node.state.seats(random.Random(2).randbytes)
    assert list(node.rows.seat_keys) == keys, "they last as long as the incarnation"
    ids = {seats.name(PEER, turn) for turn in range(lib.VK_SEAT_TURNS)}
    assert len(ids) == lib.VK_SEAT_TURNS
    assert node.row.session_local in ids


def test_streams_are_refused_with_the_reason_of_a_failed_handshake() -> None:
    node = Node(knows="carol")
    node.links.want(PEER)
    node.talk()
    assert not node.row.joined
    assert node.row.refuse == lib.VK_CODE_IDENTITY
    (row,) = node.links.describe()
    assert (row["state"], row["reason"]) == ("down", "identity")


def test_the_next_daemon_goes_on_with_a_session_and_makes_it_anew(node: Node) -> None:
    session, cipher = node.row.session_local, node.row.cipher
    link = node.state.link(PEER)
    assert link is not None
    adopted = node.links._adopted(PEER, link)
    current = node.links.sessions[PEER].link
    assert current is not None
    assert adopted.protection.able
    assert (adopted.local, adopted.protection.cipher) == (session, cipher)
    assert adopted.protection.ours == current.protection.ours
    node.links.sessions.restore(PEER, adopted, time.monotonic_ns())
    node.links.sessions.advance(time.monotonic_ns())
    node.links._settle()
    node.talk()
    assert node.row.session_local != session
    node.check_keys()


def test_a_peer_is_not_taken_for_dead_while_the_own_worker_listens_to_nobody(node: Node) -> None:
    node.seen.streams = 1
    now_ns = time.monotonic_ns()

    def pass_time(*, beats: bool) -> None:
        nonlocal now_ns
        for _ in range(40):
            now_ns += 50_000_000
            if beats:
                node.work.heartbeat_ns = now_ns
            node.links._look(now_ns)
            node.links.sessions.advance(now_ns)
            node.links._settle()

    pass_time(beats=False)
    assert node.row.joined
    pass_time(beats=True)
    assert not node.row.joined
    assert node.row.end_code == lib.VK_CODE_UNREACHABLE


def test_a_daemon_shows_that_it_goes_on_while_it_takes_many_peers_in() -> None:
    many, beats = 2500, [0, 0, 0]
    peers = "".join(
        f'[[peer]]\nname = "p{each}"\naddress = "{THERE + each}"\n' for each in range(many)
    )
    security = '[security]\nmodes = ["plaintext"]\n'
    settings = config.parse(f'[[interface]]\nname = "vk0"\n{peers}{security}')

    def beat(what: int) -> None:
        beats[what] += 1

    known = credentials.assemble(settings, identity("alice"), beat=lambda: beat(0))
    state = State(ffi.new("struct vk_state *"))
    taken = daemon_peers.Peers(state, settings.peers, [], lib.VK_PORT, lambda: beat(1))
    Links(
        settings,
        state,
        SimpleNamespace(packets=[], heartbeat_ns=0),
        SimpleNamespace(daemon_frames=0),
        taken,
        keyring=Keyring(ffi.new("struct vk_secrets *")),
        credentials=known,
        voices=[],
        payload_max=1472,
        beat=lambda: beat(2),
    )
    assert min(beats) >= many // 1000
