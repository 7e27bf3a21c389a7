"""The tables ``[[intrusion]]``: which counters are watched, and what is done when they run."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from msgspec import Meta

from valkyrie.dataplane.wire import Class, Counter, Verdict

from .settings_base import Settings, WrongKeyError

By = Literal["node", "class", "application", "peer", "source"]
Action = Literal["log", "limit", "kill", "detach", "rotate", "block"]

_BAD = ("drop_", "refused_")


def _names(prefix: str, members: type[Counter | Verdict]) -> list[str]:
    names = (each.name.lower() for each in members)
    return [prefix + name for name in names if name.startswith(_BAD)]


COUNTERS: dict[str, frozenset[By]] = {
    **{name: frozenset({"node", "class"}) for name in _names("kernel.", Verdict)},
    **{name: frozenset({"node", "class"}) for name in _names("worker.", Counter)},
    "application.dropped": frozenset({"node", "application"}),
    "application.refused": frozenset({"node", "application"}),
    "daemon.policy_refused": frozenset({"node", "application"}),
    "daemon.violation": frozenset({"node", "application"}),
    "daemon.peer_refused": frozenset({"node", "peer"}),
    "daemon.peer_left": frozenset({"node", "peer"}),
    "daemon.control_refused": frozenset({"node", "source"}),
    **{f"session.{name}": frozenset({"peer"}) for name in ("lost", "spurious", "timeouts")},
}
"""All that can be watched, and by whom it is counted."""
ACTIONS: dict[Action, frozenset[By]] = {
    "log": frozenset({"node", "class", "application", "peer", "source"}),
    "limit": frozenset({"class", "source"}),
    "kill": frozenset({"peer"}),
    "detach": frozenset({"application"}),
    "rotate": frozenset({"peer"}),
    "block": frozenset({"peer"}),
}
"""To whom each can be done."""
CLASSES = tuple(klass.name.lower() for klass in Class)


class Intrusion(Settings, frozen=True, kw_only=True):
    """A rule: a counter that grows so much in so long says that something is wrong. It raises an
    alarm, which is put on record and logged, and acts once; the alarm is over when the counter has
    grown less than half as much for a window, and not before `hold_s`. Kernel counters are those of
    `valkyrie stat`; sources can be forged, so nothing that is done by source is done to one
    alone, and only a peer that has proven its address is blocked.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
            description="What the log calls it.",
        ),
    ]
    counter: Annotated[
        str,
        Meta(
            description="`kernel.` and a verdict, as `kernel.drop_class_rate`; `worker.` and a"
            " counter, as `worker.drop_frame_tag`; `application.dropped`, `application.refused`;"
            " `session.lost`, `session.spurious`, `session.timeouts`;"
            " `daemon.` and policy_refused, violation, peer_refused, peer_left or control_refused."
        ),
    ]
    by: Annotated[
        By,
        Meta(
            description="What is counted apart: kernel and worker by `node` or `class`;"
            " application, policy_refused and violation by `application`; session,"
            " peer_refused and peer_left by `peer`; control_refused by `source`; all by `node`."
        ),
    ] = "node"
    count: Annotated[
        int, Meta(ge=1, le=1_000_000_000_000, description="How much growth raises the alarm.")
    ]
    window_s: Annotated[int, Meta(ge=1, le=3600, description="In how long.")] = 10
    hold_s: Annotated[
        int, Meta(ge=1, le=86_400, description="How long an alarm lasts at least.")
    ] = 60
    action: Annotated[
        Action,
        Meta(
            description="`log` no more than that. `limit`, by class or source: let in only"
            " `rate_packets` while the alarm lasts, of the class, or of every source. `kill`, by"
            " peer: end the session. `rotate`, by peer: make it anew, with new keys."
            " `detach`, by application: cut it off. `block`, by peer: end the session, and have"
            " the kernel drop all that comes from its address while the alarm lasts, if it has"
            " proven that it is there."
        ),
    ] = "log"
    rate_packets: Annotated[
        int, Meta(ge=0, le=1_000_000_000, description="For `limit`: packets per second.")
    ] = 0


def check(rule: Intrusion, where: str) -> None:
    """Raise WrongKeyError for what no type could say is wrong with a rule."""
    if rule.counter not in COUNTERS:
        near = difflib.get_close_matches(rule.counter, COUNTERS, 1, 0.3)
        hint = f"did you mean '{near[0]}'?" if near else "see the table of [[intrusion]]"
        raise WrongKeyError(f"{where}.counter", f"'{rule.counter}' is none: {hint}")
    if rule.by not in COUNTERS[rule.counter]:
        known = " or ".join(sorted(COUNTERS[rule.counter]))
        what = f"'{rule.counter}' is counted by {known}, not by {rule.by}"
        raise WrongKeyError(f"{where}.by", what)
    if rule.by not in ACTIONS[rule.action]:
        known = " or ".join(sorted(ACTIONS[rule.action]))
        what = f"'{rule.action}' is done by {known}, not by {rule.by}"
        raise WrongKeyError(f"{where}.action", what)
    if (rule.action == "limit") != (rule.rate_packets > 0):
        what = "goes with action 'limit', and must be above 0 there"
        raise WrongKeyError(f"{where}.rate_packets", what)


DEFAULTS = [
    Intrusion(name="forged-frames", counter="worker.drop_frame_tag", count=1_000),
    Intrusion(name="forged-tokens", counter="kernel.drop_token_forged", count=1_000),
    Intrusion(name="no-frames", counter="worker.drop_frame_invalid", count=1_000),
    Intrusion(name="class-flood", counter="kernel.drop_class_rate", by="class", count=100_000),
    Intrusion(name="handshake-flood", counter="daemon.control_refused", count=10_000),
    Intrusion(
        name="refused-peer", counter="daemon.peer_refused", by="peer", count=10, window_s=600
    ),
    Intrusion(
        name="prying-application",
        counter="daemon.policy_refused",
        by="application",
        count=100,
        window_s=60,
    ),
    Intrusion(name="broken-rings", counter="daemon.violation", count=3, window_s=3600),
]
"""What is watched where nobody says otherwise. All of it only tells: to act is for who runs it."""
