"""Tokens from hand to hand: by the terms of sessions and by PING, over wires of all kinds."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from tests.controlplane.meeting import MS, PEER, SECOND, Meeting
from tests.controlplane.security.test_token import DATA, ROTATE, SYSTEM, Node
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.token import Told
from valkyrie.controlplane.sessions.handing import Handing
from valkyrie.controlplane.sessions.link import Asked, Joined
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Option, Ping

STEP = 50 * MS
MODES = (Mode.PLAINTEXT, Mode.NOISE)


class Market(Meeting):
    """Two nodes that want tokens, each with a kernel that looks at them."""

    def __init__(self, mode: Mode, seed: int = 0, loss: int = 0) -> None:
        super().__init__(seed, self._lossy if loss else lambda: [MS // 2], mode, eager=True)
        self._loss = loss
        self.nodes = {name: Node(self.now_ns) for name in self.sides}
        for name, side in self.sides.items():
            self.nodes[name].pass_time(0)
            side.sessions.issuer = self.nodes[name].issuer

    def _lossy(self) -> list[int]:
        if self.random.randrange(100) < self._loss:
            return []
        return [self.random.randrange(1, 40) * MS] * self.random.choice((1, 1, 2))

    def told(self, name: str) -> Told | None:
        """Return what a node puts on its frames: what its row says."""
        link, found = self.sides[name].sessions[PEER].link, None
        for event in self.sides[name].events:
            if isinstance(event, Joined | Asked):
                found = event.told
        return found if link is not None and found and found.session == link.remote else None

    def gets_in(self, name: str) -> bool:
        """Say whether the frames that a node sends now get past the other's kernel."""
        other = self.other(name)
        wanted = self.nodes[other.name].issuer.classes
        told, link = self.told(name), other.sessions[PEER].link
        if not wanted:
            return True
        if told is None or link is None or wanted & ~told.classes:
            return False
        place = self.sides[name].place
        return self.nodes[other.name].kernel.takes(
            told.token, link.local, place.address, self.now_ns
        )

    def agreed(self) -> bool:
        """Say whether both are in the same session."""
        a, b = (side.sessions[PEER].link for side in (self.a, self.b))
        return a is not None and b is not None and (a.local, a.remote) == (b.remote, b.local)

    def pass_time(self, ns: int) -> None:
        for _ in range(ns // STEP):
            self.run(STEP)
            for name, node in self.nodes.items():
                node.pass_time(self.now_ns - node.now_ns)
                self.sides[name].sessions.advance(self.now_ns)
                self._collect(name)

    def meet(self) -> None:
        while not (self.a.up and self.b.up):
            self.pass_time(STEP)


@pytest.mark.parametrize("mode", MODES)
def test_the_terms_bring_tokens_so_that_the_first_frame_gets_in(mode: Mode) -> None:
    market = Market(mode)
    market.want("a")
    market.meet()
    for name, side in market.sides.items():
        assert market.gets_in(name)
        assert not any(isinstance(event, Asked) for event in side.events)
        assert not side.sessions.owing(market.now_ns)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_without_a_good_token_while_keys_follow_each_other(mode: Mode, seed: int) -> None:
    market = Market(mode, seed, loss=20)
    market.want("a")
    market.meet()
    first, seen = market.nodes["a"].mint.generation, 0
    for _ in range(4 * ROTATE // SECOND):
        market.pass_time(SECOND)
        if market.agreed():
            seen += 1
            assert market.gets_in("a")
            assert market.gets_in("b")
    assert seen > 3 * ROTATE // SECOND
    assert market.nodes["a"].mint.generation >= first + 3


@pytest.mark.parametrize("mode", MODES)
def test_classes_that_change_are_told_to_a_peer_that_is_there(mode: Mode) -> None:
    market = Market(mode)
    market.nodes["b"].issuer.classes = 0
    market.want("a")
    market.meet()
    assert market.told("a") is None, "b wants no tokens"
    for classes in (DATA, DATA | SYSTEM, 0, SYSTEM):
        market.nodes["b"].issuer.classes = classes
        assert market.b.sessions.owing(market.now_ns)
        market.pass_time(4 * STEP)
        assert not market.b.sessions.owing(market.now_ns)
        told = market.told("a")
        assert told is not None
        assert told.classes == classes
        assert market.gets_in("a")


@pytest.mark.parametrize("mode", MODES)
def test_a_peer_that_has_moved_gets_a_token_for_its_new_address(mode: Mode) -> None:
    market = Market(mode)
    market.want("a")
    market.meet()
    market.a.place = Place(ip_address("10.0.0.77"), lib.VK_PORT)
    assert not market.gets_in("a")
    market.send_data("a")  # in a class that needs none
    market.pass_time(10 * STEP)
    assert market.b.sessions.place(PEER) == market.a.place
    assert market.gets_in("a")


@pytest.mark.parametrize("mode", MODES)
def test_a_session_that_is_made_anew_brings_its_own_token(mode: Mode) -> None:
    market = Market(mode)
    market.want("a")
    market.meet()
    before = market.told("a")
    market.a.sessions.renew(PEER, market.now_ns)
    market.pass_time(10 * STEP)
    after = market.told("a")
    assert before
    assert after
    assert after.session != before.session
    assert market.gets_in("a")
    assert market.gets_in("b")


def test_what_comes_late_again_or_for_another_session_is_not_taken() -> None:
    def body(session: int, number: int) -> bytes:
        return Told(session, DATA, number, b"\x02\x04" + bytes(14)).pack()

    handing = Handing()
    rows = [  # number, body, taken
        (1, body(7, 5), True),
        (2, body(7, 5), False),
        (3, body(7, 4), False),
        (4, body(8, 9), False),
        (5, body(7, 6), True),
        (6, b"", False),
        (7, body(7, 7)[:-1], False),
        (8, body(7, 1 << 63), True),
        (9, body(7, 8), False),
    ]
    for number, each, taken in rows:
        assert (handing.take(each, 7) is not None) == taken, number


def test_a_forged_ping_changes_no_token_of_a_session_with_keys() -> None:
    market = Market(Mode.NOISE)
    market.want("a")
    market.meet()
    before, link = market.told("a"), market.a.sessions[PEER].link
    assert link is not None
    told = Told(link.remote, DATA, 1 << 62, b"\x02\x04" + random.Random(0).randbytes(14))
    forged = Ping(5, (Option(lib.VK_OPTION_TOKEN, told.pack()),))
    market.a.sessions.receive(market.b.place, forged.pack(), market.now_ns)
    market.pass_time(STEP)
    assert market.told("a") == before
    assert market.a.sessions.refused["unproven ping"] == 1
