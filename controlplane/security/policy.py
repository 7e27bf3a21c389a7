"""Who may do what on a node: pure decisions over the rules of the configuration.

Default deny: the first rule that matches an application's credentials decides, and without one it
is refused. Nothing here reads a file, a clock or the user database; the rules come with numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ALL = frozenset(Class) - {Class.CONTROL}
STREAM_MAX = 0xFFFFFFFF
"""Largest stream id: the header has 32 bits for it."""


@dataclass(frozen=True, slots=True)
class StreamRange:
    """Stream ids, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, stream: int) -> bool:
        return self.first <= stream <= self.last


@dataclass(frozen=True, slots=True)
class Grant:
    """What an application may do. Rates are per second and 0 is no limit."""

    rule: str
    """Name of the rule, for messages."""
    classes: frozenset[Class]
    streams: tuple[StreamRange, ...]
    """At most VK_RANGES_MAX, ascending and apart."""
    listen: tuple[str, ...]
    peers: tuple[str, ...]
    rate_messages: int
    rate_bytes: int
    weight: int
    ring_bytes: int
    """Of each class's ring and direction, where the application does not ask for a size."""
    memory_bytes_max: int
    """Of all rings of one attachment."""
    attachments_max: int
    """At a time, of one user."""
    sign: int = 0
    """Batches that the node signs for one user; 0 is none."""

    @property
    def class_mask(self) -> int:
        """The classes as bits ``1 << enum vk_class``."""
        return sum(1 << klass for klass in self.classes)


@dataclass(frozen=True, slots=True)
class Rights:
    """What the applications of a peer may open here."""

    services: tuple[str, ...] = ("*",)
    classes: frozenset[Class] = _ALL

    @property
    def refused_mask(self) -> int:
        """The other classes as bits ``1 << enum vk_class``."""
        return sum(1 << klass for klass in _ALL - self.classes)


class Role(Enum):
    """What somebody may ask of a node. Attaching is granted in detail, by a Grant."""

    READ = "read"
    TUNE = "tune"
    LOAD = "load"
    ATTACH = "attach"
    ADMINISTER = "administer"
    """The rest, and all of the others but attaching."""


@dataclass(frozen=True, slots=True)
class Whom:
    """Any of the users, or members of any of the groups."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    anybody: bool = False

    def matches(self, uid: int, gids: Iterable[int]) -> bool:
        """Say whether these credentials are among them."""
        return self.anybody or uid in self.uids or not self.gids.isdisjoint(gids)


@dataclass(frozen=True, slots=True)
class Rule:
    """A grant and whom it is for."""

    grant: Grant
    whom: Whom


@dataclass(frozen=True, slots=True)
class Operator:
    """Roles and whom they are for."""

    roles: frozenset[Role]
    whom: Whom


@dataclass(frozen=True, slots=True)
class Refusal:
    """A no: ``code`` of enum vk_code, and one sentence that says what would have to change."""

    reason: str
    code: int = lib.VK_CODE_POLICY


def decide(rules: Sequence[Rule], uid: int, gids: Iterable[int]) -> Grant | Refusal:
    """Return the grant of the first rule that matches, or the refusal of the rest."""
    gids = frozenset(gids)
    for rule in rules:
        if rule.whom.matches(uid, gids):
            return rule.grant
    return Refusal(f"no [[application]] rule matches uid {uid}: add one to the configuration")


def roles(
    operators: Iterable[Operator],
    rules: Sequence[Rule],
    uid: int,
    gids: Iterable[int],
    owners: Iterable[int],
) -> frozenset[Role]:
    """Return the roles of all operator rules that match; ``owners`` are users that have them all.

    Who may attach, or has any role, may read.
    """
    gids = frozenset(gids)
    found: set[Role] = set()
    for operator in operators:
        if operator.whom.matches(uid, gids):
            found |= operator.roles
    if uid in owners:
        found.add(Role.ADMINISTER)
    if Role.ADMINISTER in found:
        found |= set(Role) - {Role.ATTACH}
    if isinstance(decide(rules, uid, gids), Grant):
        found.add(Role.ATTACH)
    return frozenset(found | {Role.READ} if found else found)


def rings(grant: Grant, attached: int, ring_bytes: int = 0) -> tuple[int, ...] | Refusal:
    """Return the ring capacities by class of one more attachment, or its refusal.

    ``attached`` counts the user's attachments under this rule; ``ring_bytes`` is what the
    application asks for, 0 = the rule's own. Classes that are not granted get capacity 0; ring 0
    carries reports for all of them.
    """
    if attached >= grant.attachments_max:
        return Refusal(
            f"rule '{grant.rule}' allows {grant.attachments_max} attachments at a time:"
            " close one, or raise attachments_max"
        )
    size = ring_bytes or grant.ring_bytes
    smallest, largest = lib.VK_RING_CAPACITY_MIN, lib.VK_RING_CAPACITY_MAX
    if not smallest <= size <= largest or size & (size - 1):
        return Refusal(f"a ring of {size} bytes: ask for a power of two, {smallest} to {largest}")
    needed = memory_bytes(len(grant.classes), size)
    if needed > grant.memory_bytes_max:
        return Refusal(
            f"rings of {size} bytes need {needed} bytes, rule '{grant.rule}' allows"
            f" {grant.memory_bytes_max}: ask for smaller rings, or raise memory_bytes_max"
        )
    messages = (size if klass in grant.classes else 0 for klass in Class if klass != Class.CONTROL)
    return (lib.VK_CONTROL_RING, *messages)


def memory_bytes(class_count: int, ring_bytes: int) -> int:
    """Return the bytes of an attachment's two regions."""
    always: int = lib.VK_SHM_PAGE + lib.VK_CONTROL_RING
    return 2 * (always + class_count * ring_bytes)


def may_listen(grant: Grant, service: str) -> Refusal | None:
    """Decide whether the application may offer a service."""
    limit = lib.VK_SERVICE_NAME_MAX
    if not service or len(service.encode()) > limit or not service.isprintable():
        return Refusal(f"a service name is 1 to {limit} bytes of printable text")
    if _any_matches(grant.listen, service):
        return None
    return Refusal(f"rule '{grant.rule}' does not allow listening on '{service}': see its listen")


def may_sign(grant: Grant) -> Refusal | None:
    """Decide whether the application may have messages signed in the name of the node."""
    if grant.sign:
        return None
    return Refusal(
        f"rule '{grant.rule}' does not allow signing: set `sign` in that [[application]]"
    )


def may_be_opened(rights: Rights, service: str) -> bool:
    """Decide whether a peer's applications may open streams to a service."""
    return _any_matches(rights.services, service)


def may_reach(grant: Grant, peer: str, address: str) -> Refusal | None:
    """Decide whether the application may talk to a peer, known by name and by address."""
    if _any_matches(grant.peers, peer) or _any_matches(grant.peers, address):
        return None
    return Refusal(f"rule '{grant.rule}' does not allow peer '{peer}' ({address}): see its peers")


def _any_matches(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
