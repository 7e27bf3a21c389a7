"""What a session is made with, what it is while it is there, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.controlplane.security.handshake import Timing
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Option
from valkyrie.dataplane.units import NS_PER_MS

from .protection import PLAIN, Protection

if TYPE_CHECKING:
    from valkyrie.controlplane.security.handshake import Handshake
    from valkyrie.controlplane.security.token import Told
    from valkyrie.dataplane.control import Limits, SessionTerms

    from .liveness import Patience
    from .protection import Secrets

_ID_SIZE = 4


@dataclass(frozen=True, slots=True)
class Terms:
    """How an attempt is made, and what we set for the peer."""

    limits: Limits
    patience: Patience
    first_ns: int = 100 * NS_PER_MS
    """The first message is repeated after this time, later ones after twice as much each."""
    give_up_ns: int = 3_000 * NS_PER_MS
    again_ns: int = 1_000 * NS_PER_MS
    """After an attempt that found nobody; twice as much each time, up to again_max_ns."""
    again_max_ns: int = 30_000 * NS_PER_MS
    eager: bool = True
    """Try again though nobody wants to send."""

    @property
    def timing(self) -> Timing:
        """What a handshake is to keep to."""
        return Timing(first_ns=self.first_ns, give_up_ns=self.give_up_ns)


@dataclass(slots=True)
class Attempt:
    """Our asking for a session."""

    handshake: Handshake
    offer: SessionTerms
    sent_ns: int
    incarnation: int = 0
    """The peer's, by its own word; 0: it has not answered yet."""


@dataclass(slots=True)
class Link:
    """A session that is there."""

    local: int
    """Id on the frames that we get."""
    remote: int
    """Id on the frames that we send."""
    incarnation: int
    """The peer's."""
    limits: Limits
    """The peer's."""
    since_ns: int
    before: tuple[int, int] = (0, 0)
    """Ids of the session that it continued, on frames that we got and that we sent: the peer may
    have that one yet. 0 = its streams are new."""
    asked: bool = False
    """The peer is known to have it: it has answered, or used it."""
    protection: Protection = PLAIN

    @property
    def ids(self) -> tuple[int, int]:
        """On frames that we get and that we send."""
        return self.local, self.remote

    def continued(self, theirs: SessionTerms) -> tuple[int, int] | None:
        """Return the ids of the session whose streams the peer goes on with; None: it has forgotten
        ours.

        Whose daemon died in a handshake may be one session behind, or ahead: who is ahead knows
        both.
        """
        if self.incarnation != theirs.incarnation or not theirs.continues:
            return None
        if theirs.continues == self.local:
            return self.ids
        before = int.from_bytes(theirs.option(lib.VK_OPTION_BEFORE) or b"", "big")
        if before == self.local:
            return self.ids
        # Or both are: each went on from the same one, in a handshake that the other did not finish.
        return self.before if self.before[0] in (theirs.continues, before or None) else None

    def options(self) -> tuple[Option, ...]:
        """Return what our terms say beyond that we continue the session."""
        _, before = self.before
        return (Option(lib.VK_OPTION_BEFORE, before.to_bytes(_ID_SIZE, "big")),) if before else ()


@dataclass(frozen=True, slots=True)
class Joined:
    """Event: frames may come and go. ``lost``: the peer has forgotten what streams there were."""

    link: Link
    lost: bool
    secrets: Secrets | None = None
    """None: its frames are not sealed."""
    told: Told | None = None
    """What the peer wants on our frames; None: nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Event: the peer wants something else on our frames."""

    told: Told


@dataclass(frozen=True, slots=True)
class Left:
    """Event: the session is over, and its streams; enum vk_code. Or nobody was found to join."""

    code: int
    joined: bool = True
    """There was one."""
    why: str = ""
    """In words, where there is more to say than the code."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Event: somebody where the peer is has asked for a session, and was not let in."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Quiet:
    """Event: the peer is silent. The worker is to ask it within the session: what it acknowledges
    there is a sign of life."""


Event = Joined | Left | Refused | Asked | Quiet
