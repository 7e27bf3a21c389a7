"""Keys of tokens that follow each other, and who is told what, against a kernel of two keys."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.bpf.siphash import siphash
from valkyrie.controlplane.security.token import Issuer, Mint, Told
from valkyrie.dataplane import ffi
from valkyrie.dataplane.guard import Address, Master, mapped, tick
from valkyrie.dataplane.wire import Token, parse_extensions

SECOND = 1_000_000_000
ROTATE = 60 * SECOND
HOME = ipaddress.ip_address("10.9.0.1")
AWAY = ipaddress.ip_address("fd09::7")
DATA, SYSTEM = 1 << 4, 1 << 2


def entropy(seed: int = 1) -> Any:
    return random.Random(seed).randbytes


class Kernel:
    """Knows two keys, as vk_guard does, and judges tokens by the text of vk_wire.h."""

    def __init__(self) -> None:
        self.keys: dict[int, Master] = {}

    def enter(self, master: Master) -> None:
        self.keys[master.generation % 2] = master

    def takes(self, token: bytes, session: int, address: Address, now_ns: int) -> bool:
        generation, expiry = token[2:4], token[4:8]
        master = self.keys.get(int.from_bytes(generation, "big") % 2)
        if master is None or master.generation & 0xFFFF != int.from_bytes(generation, "big"):
            return False
        covered = mapped(address) + session.to_bytes(4, "big") + expiry + generation + b"\0\1"
        good = siphash(master.key, covered) == int.from_bytes(token[8:], "big")
        return good and tick(now_ns) < int.from_bytes(expiry, "big")


class Node:
    """A mint, its kernel, and a clock."""

    def __init__(self, start_ns: int = 1000 * SECOND) -> None:
        self.rows = ffi.new("struct vk_mint *")
        self.kernel = Kernel()
        self.now_ns = start_ns
        self.mint = Mint(self.rows, entropy(), ROTATE)
        self.issuer = Issuer(self.mint, DATA)

    def pass_time(self, ns: int) -> None:
        self.now_ns += ns
        if self.mint.due(self.now_ns):
            master = self.mint.following()
            self.kernel.enter(master)
            self.mint.turn(master, self.now_ns)


def test_there_is_no_key_before_the_kernel_has_it() -> None:
    node = Node()
    ready = [node.mint.ready]
    assert node.mint.due(node.now_ns)
    assert not node.issuer.owed(None, HOME, node.now_ns)
    assert node.issuer.grant(5, HOME, node.now_ns).told.classes == 0
    first = node.mint.following()
    ready.append(node.mint.ready)  # the kernel may not have taken it
    node.mint.turn(first, node.now_ns)
    ready.append(node.mint.ready)
    assert ready == [False, False, True]
    assert not node.mint.due(node.now_ns + ROTATE - 1)
    assert node.mint.due(node.now_ns + ROTATE)


def test_a_token_is_good_for_its_session_address_and_time_only() -> None:
    node = Node()
    node.pass_time(0)
    token = node.mint.issue(5, HOME, node.now_ns).pack()
    takes = node.kernel.takes
    assert takes(token, 5, HOME, node.now_ns)
    assert not takes(token, 6, HOME, node.now_ns)
    assert not takes(token, 5, AWAY, node.now_ns)
    assert takes(token, 5, HOME, node.now_ns + ROTATE)
    assert not takes(token, 5, HOME, node.now_ns + ROTATE + 2 * SECOND)


def test_the_next_daemon_goes_on_with_the_key() -> None:
    node = Node()
    node.pass_time(0)
    token = node.mint.issue(5, HOME, node.now_ns)
    follower = Mint(node.rows, entropy(2), ROTATE)
    assert follower.ready
    assert not follower.due(node.now_ns)
    assert follower.issue(5, HOME, node.now_ns) == token


def test_a_daemon_that_dies_between_kernel_and_memory_leaves_the_old_key_in_use() -> None:
    node = Node()
    node.pass_time(0)
    token = node.mint.issue(5, HOME, node.now_ns).pack()
    node.kernel.enter(node.mint.following())  # and it dies here
    follower = Mint(node.rows, entropy(2), ROTATE)
    assert node.kernel.takes(follower.issue(5, HOME, node.now_ns).pack(), 5, HOME, node.now_ns)
    master = follower.following()
    node.kernel.enter(master)
    follower.turn(master, node.now_ns)
    assert node.kernel.takes(token, 5, HOME, node.now_ns)
    assert node.kernel.takes(follower.issue(5, HOME, node.now_ns).pack(), 5, HOME, node.now_ns)


@given(
    steps=st.lists(st.integers(1, ROTATE // 3), min_size=1, max_size=60),
    late=st.integers(0, ROTATE // 4),
)
def test_who_is_told_in_time_never_sends_a_token_that_is_refused(
    steps: list[int], late: int
) -> None:
    node = Node()
    node.pass_time(0)
    had = node.issuer.grant(5, HOME, node.now_ns)
    owed_since: int | None = None
    for step in steps:
        # Looked at as often as a daemon does, at least.
        for _ in range(4):
            node.pass_time(step // 4)
            assert node.kernel.takes(had.told.token, 5, HOME, node.now_ns)
            if node.issuer.owed(had, HOME, node.now_ns) and owed_since is None:
                owed_since = node.now_ns
            if owed_since is not None and node.now_ns >= owed_since + late:
                had, owed_since = node.issuer.grant(5, HOME, node.now_ns), None


def test_a_peer_is_told_what_changes() -> None:
    node = Node()
    node.issuer.classes = 0
    node.pass_time(0)
    assert not node.issuer.owed(None, HOME, node.now_ns)
    node.issuer.classes = DATA
    assert node.issuer.owed(None, HOME, node.now_ns)
    had = node.issuer.grant(5, HOME, node.now_ns)
    assert not node.issuer.owed(had, HOME, node.now_ns)
    assert node.issuer.owed(had, AWAY, node.now_ns), "it has moved"
    assert node.issuer.owed(had, HOME, had.renew_ns), "it gets old"
    node.issuer.classes = DATA | SYSTEM
    assert node.issuer.owed(had, HOME, node.now_ns)
    node.issuer.classes = 0
    assert node.issuer.owed(had, HOME, node.now_ns), "it need not carry it any more"
    had = node.issuer.grant(5, HOME, node.now_ns)
    assert had.told == Told(5, 0, node.now_ns, bytes(16))
    assert not node.issuer.owed(had, HOME, node.now_ns + 100 * ROTATE)


def test_a_grant_is_read_as_it_was_written() -> None:
    node = Node()
    node.pass_time(0)
    grant = node.issuer.grant(5, HOME, node.now_ns)
    assert Told.parse(grant.told.pack()) == grant.told
    (extension,) = parse_extensions(grant.told.token)
    assert isinstance(extension, Token)


def test_what_would_spoil_our_frames_is_not_taken() -> None:
    good = Told(5, DATA, 1, b"\x02\x04" + bytes(14))
    assert Told.parse(good.pack()) == good
    assert Told.parse(good.pack()[:-1]) is None
    assert Told.parse(good.pack() + b"\0") is None
    for head in (b"\0\0", b"\x01\x04", b"\x02\x03"):  # another extension, or none
        assert Told.parse(Told(5, DATA, 1, head + bytes(14)).pack()) is None


def test_a_grant_asks_for_classes_that_there_are() -> None:
    found = Told.parse(Told(5, 0xFFFFFFFF, 1, b"\x02\x04" + bytes(14)).pack())
    assert found is not None
    assert found.classes == 0b111111
