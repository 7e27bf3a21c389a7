"""What a session is made with, what it is while it is there, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .protection import PLAIN, Protection
from .security.handshake import Timing

if TYPE_CHECKING:
    from valkyrie.dataplane.control import Limits

    from .liveness import Patience
    from .protection import Secrets
    from .security.token import Told

_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How an attempt is made, and what we set for the peer."""

    limits: Limits
    patience: Patience
    first_ns: int = 100 * _MS
    """The first message is repeated after this time, later ones after twice as much each."""
    give_up_ns: int = 3_000 * _MS
    again_ns: int = 1_000 * _MS
    """After an attempt that found nobody; twice as much each time, up to again_max_ns."""
    again_max_ns: int = 30_000 * _MS
    eager: bool = True
    """Try again though nobody wants to send."""

    @property
    def timing(self) -> Timing:
        """What a handshake is to keep to."""
        return Timing(first_ns=self.first_ns, give_up_ns=self.give_up_ns)


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
    continued: int = 0
    """The session id before it, on frames that we sent; 0 = its streams are new."""
    asked: bool = False
    """The peer is known to have it: it has answered, or used it."""
    protection: Protection = PLAIN


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


Event = Joined | Left | Refused | Asked
