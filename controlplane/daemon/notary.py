"""The node's signature under what applications say: who may have it, how often, and on record.

An application sends the root over a batch of messages and never the messages, so that one signature
is enough for all and the daemon's work does not grow with them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from valkyrie.controlplane.security import policy
from valkyrie.controlplane.security.policy import Refusal
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.appsocket import Reply
from valkyrie.dataplane.signing.fn_dsa import EXTRA
from valkyrie.dataplane.signing.merkle import HASH_SIZE
from valkyrie.dataplane.signing.seal import Attestation
from valkyrie.dataplane.signing.signature import Algorithm
from valkyrie.dataplane.signing.statement import COUNT_MAX, Statement, algorithms

from .appserver import Bucket, refuse

if TYPE_CHECKING:
    from valkyrie.controlplane.security.identity import Identity
    from valkyrie.controlplane.security.policy import Grant
    from valkyrie.dataplane.application.appsocket import Sign

    from .appserver import Connection
    from .auditor import Auditor

_WAIT_S_MAX = 1.0
"""Who would have to wait longer for his turn is refused."""
_USERS_MAX = 4096


class Notary:
    """Signs for applications with the identity of the node. Times are arguments."""

    def __init__(self, node: str, identity: Identity | None, audit: Auditor) -> None:
        """``identity`` None: the node has none that anybody could know it by."""
        self._node = node
        self._identity = identity
        self._audit = audit
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._thread = ThreadPoolExecutor(1, "notary")

    async def sign(
        self, connection: Connection, request: Sign, now_s: float, time_ns: int
    ) -> Reply:
        """Answer a request; ``now_s`` is monotonic, ``time_ns`` CLOCK_REALTIME.

        DataPlaneError: what cannot be put on record is not signed.
        """
        grant = connection.grant
        if grant is None or not connection.attached:
            return Reply(code=lib.VK_CODE_POLICY, message="attach first")
        if refusal := policy.may_sign(grant):
            return refuse(refusal)
        if len(request.root) != HASH_SIZE or not 0 < request.count <= COUNT_MAX:
            message = f"a root has {HASH_SIZE} bytes, and a batch 1 to {COUNT_MAX} messages"
            return Reply(code=lib.VK_CODE_MALFORMED, message=message)
        if cannot := _cannot(self._identity, request):
            return Reply(code=lib.VK_CODE_POLICY, message=cannot)
        assert self._identity is not None
        wait_s = self._turn(grant, connection.who.uid, now_s)
        if isinstance(wait_s, Refusal):
            return refuse(wait_s)
        if wait_s:
            await asyncio.sleep(wait_s)
        return Reply(attested=await self._attest(self._identity, connection, request, time_ns))

    def _turn(self, grant: Grant, uid: int, now_s: float) -> float | Refusal:
        """Return how long to wait until the next signature for a user under a rule."""
        if len(self._buckets) >= _USERS_MAX:
            self._buckets.clear()
        fresh = Bucket(grant.sign, grant.sign, now_s)
        bucket = self._buckets.setdefault((grant.rule, uid), fresh)
        wait_s = bucket.take(now_s)
        if wait_s <= _WAIT_S_MAX:
            return wait_s
        bucket.give_back()
        return Refusal(
            f"rule '{grant.rule}' allows {grant.sign} signatures per second and user: sign more"
            " messages at once, or raise sign",
            lib.VK_CODE_OVERLOAD,
        )

    async def _attest(
        self, identity: Identity, connection: Connection, request: Sign, time_ns: int
    ) -> bytes:
        assert connection.grant is not None
        rule, who = connection.grant.rule, connection.who
        used = algorithms(post_quantum=request.post_quantum, fn_dsa=request.fn_dsa)
        statement = Statement(self._node, rule, who.uid, time_ns, request.count, request.root, used)
        self._audit.require(
            "message.sign",
            uid=who.uid,
            pid=who.pid,
            rule=rule,
            count=request.count,
            root=request.root.hex(),
            time_ns=time_ns,
        )
        if len(used) > 1:  # a millisecond or more: others are served meanwhile
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, attest, identity, statement)
        return attest(identity, statement)


def _cannot(identity: Identity | None, request: Sign) -> str:
    """Say why a node cannot sign so; empty: it can."""
    if identity is None:
        return "a node that is plaintext only has no identity to sign with: see security.modes"
    if not request.fn_dsa or identity.able(Algorithm.FN_DSA_512):
        return ""
    if identity.fn_dsa is None:
        return (
            "the node's identity has no FN-DSA-512 key: make one that has by `valkyrie key new"
            " --fn-dsa --replace`, or sign without it"
        )
    return f"FN-DSA-512 needs a package where the node runs: `pip install '{EXTRA}'` and restart it"


def attest(identity: Identity, statement: Statement) -> bytes:
    """Return the statement with the identity's signatures, packed."""
    card = identity.card
    used = statement.algorithms
    return Attestation(
        statement,
        card.exchange,
        card.ed25519,
        tuple(card.digests.values()),
        tuple(identity.sign(each, statement.signed()) for each in used),
        tuple(card.keys[each] for each in used if each in card.keys),
    ).pack()
