"""Two nodes and a wire between them, for tests of the handshake."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.door import Door
from valkyrie.controlplane.security.exchange import token_id
from valkyrie.controlplane.security.handshake import Established, Failed, Handshake, Timing
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Mode, NoisePattern, Policy
from valkyrie.controlplane.security.trust import Peer, Pins, Trust
from valkyrie.dataplane.control import Message
from valkyrie.dataplane.wire import Type

MS = 1_000_000
SOURCE = b"10.0.0.1:9"
SECRET = b"a secret of thirty-two bytes....."


@functools.cache
def identity(name: str) -> Identity:
    return Identity.generate()


def peer(name: str, **more: object) -> Peer:
    """Return a peer that is known in full."""
    values: dict[str, object] = {
        "card": identity(name).card.short(),
        "token_id": token_id(SECRET),
        "certificate_name": name,
    }
    return Peer(name, **(values | more))  # type: ignore[arg-type]


def only(mode: Mode, **more: object) -> Policy:
    return Policy(modes=frozenset({mode}), min_mode=mode, **more)  # type: ignore[arg-type]


def entropy_of(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@dataclass
class Wire:
    """Both sides of one attempt. ``change`` sees every message: to it and instead of it."""

    initiator: Local
    responder: Local
    asked: Peer
    change: Callable[[int, bool, Message], list[Message]] = lambda _n, _there, message: [message]
    timing: Timing = field(default_factory=Timing)
    seed: int = 0
    now_ns: int = 50_000 * MS
    count: int = 0
    seen: list[tuple[bool, Message]] = field(default_factory=list)
    expected: Peer | None = None
    """Who the responder expects; None: anybody whom it knows."""

    def __post_init__(self) -> None:
        entropy = entropy_of(self.seed)
        self.door = Door(
            self.responder,
            entropy,
            answer=lambda *_: b"responder's terms",
            expected=lambda _source: self.expected,
            timing=self.timing,
        )
        self.asking = Handshake.asking(
            self.initiator,
            self.asked,
            entropy,
            self.now_ns,
            terms=b"initiator's terms",
            timing=self.timing,
        )

    def _pass(self, there: bool, message: Message) -> Iterator[Message]:
        self.seen.append((there, message))
        yield from self.change(self.count, there, message)
        self.count += 1

    def step(self) -> bool:
        """Carry what is there; returns whether there was anything."""
        busy = False
        for message in self.asking.to_send(self.now_ns):
            for each in self._pass(True, message):
                self.door.receive(SOURCE, each, self.now_ns)
            busy = True
        for source, message in self.door.to_send(self.now_ns):
            assert source == SOURCE
            for each in self._pass(False, message):
                self.asking.receive(each, self.now_ns)
            busy = True
        return busy

    def run(self) -> tuple[Established | Failed | None, Established | Failed | None]:
        """Run to the end and return what each side came to."""
        for _ in range(200):
            if self.step():
                continue
            if self.asking.over and not self.door.under_way:
                break
            due = [at for at in (self.asking.timer(), self.door.timer()) if at is not None]
            self.now_ns = max(self.now_ns + 1, min(due))
        there = self.asking.next_event()
        assert self.asking.next_event() is None
        events = []
        while (event := self.door.next_event()) is not None:
            events.append(event[2])
        assert len(events) <= 1
        return there, events[0] if events else None


def trust(*names: str, **more: object) -> Trust:
    return Pins({name: peer(name, **more) for name in names})


def wire(
    mode: Mode,
    *,
    pattern: NoisePattern = NoisePattern.XK,
    change: Callable[[int, bool, Message], list[Message]] | None = None,
    asked: Peer | None = None,
    timing: Timing | None = None,
    **policy: object,
) -> Wire:
    """Return two nodes that know each other and agree on one mode."""
    tls: dict[str, object] = {"alice": None, "bob": None}
    if mode is Mode.MTLS:
        from .authority import credentials

        tls = {name: credentials(name) for name in tls}
    locals_ = [
        Local(
            identity(name),
            trust(other),
            only(mode, **policy),
            secrets=(SECRET,),
            tls=tls[name],  # type: ignore[arg-type]
        )
        for name, other in (("alice", "bob"), ("bob", "alice"))
    ]
    known = {"card": None, "fingerprint": identity("bob").card.fingerprint}
    asked = asked or peer("bob", pattern=pattern, **(known if pattern is NoisePattern.XX else {}))
    found = Wire(locals_[0], locals_[1], asked, timing=timing or Timing())
    if change is not None:
        found.change = change
    return found


WAYS = [
    (Mode.PLAINTEXT, NoisePattern.XK),
    (Mode.TOKEN, NoisePattern.XK),
    (Mode.NOISE, NoisePattern.XK),
    (Mode.NOISE, NoisePattern.IK),
    (Mode.NOISE, NoisePattern.XX),
    (Mode.MTLS, NoisePattern.XK),
    (Mode.POST_QUANTUM, NoisePattern.XK),
    (Mode.POST_QUANTUM, NoisePattern.IK),
    (Mode.POST_QUANTUM, NoisePattern.XX),
    (Mode.ZERO_TRUST, NoisePattern.XK),
]
SECURE = [way for way in WAYS if way[0] is not Mode.PLAINTEXT]
FAST = [way for way in SECURE if way[0] in (Mode.TOKEN, Mode.NOISE)]
KINDS = (
    Type.HELLO,
    Type.HELLO_ACK,
    Type.NEGOTIATE,
    Type.KEY_EXCHANGE,
    Type.AUTH_CHALLENGE,
    Type.AUTH_RESPONSE,
    Type.AUTH_SUCCESS,
)
Change = Callable[[int, bool, Message], list[Message]]


def both(found: Wire) -> tuple[Established, Established]:
    there, back = found.run()
    assert isinstance(there, Established), there
    assert isinstance(back, Established), back
    return there, back


def code(event: Established | Failed | None) -> Failure | None:
    assert not isinstance(event, Established)
    return event.code if event is not None else None


DOCUMENTED = {
    None,
    Failure.MALFORMED,
    Failure.VERSION,
    Failure.UNPROVEN,
    Failure.IDENTITY,
    Failure.CREDENTIAL,
    Failure.TIMEOUT,
    Failure.FLOOR,
    Failure.COOKIE,
}
