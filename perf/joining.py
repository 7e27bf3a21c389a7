"""What one handshake costs, by mode: processor time of both sides together, without a network.

Both sides are the daemon's own, from the first HELLO to the keys; messages are handed over in
memory. Beside it stands TLS 1.3 with certificates on both sides, by OpenSSL through memory in the
same process: what two programs do that meet by TLS. Rounds take turns; the figures are medians.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.controlplane.security.parties import Wire, both, only, peer, wire
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Mode, NoisePattern
from valkyrie.controlplane.security.trust import Pins
from valkyrie.dataplane.signing import fn_dsa
from valkyrie.dataplane.signing.signature import Algorithm

from .rows import Row, make_row

_row = partial(make_row, "joining", digits=3)
RECORD = 65_536


def _context() -> SSL.Context:
    """Return a party of TLS: a key, a certificate, and the demand of one from the other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "perf")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=2100)
    )
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate(builder.sign(key, hashes.SHA256()))
    context.use_privatekey(key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return context


def _tls(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    """Join two parties by TLS."""
    sides = [SSL.Connection(context, None) for context in contexts]
    sides[0].set_connect_state()
    sides[1].set_accept_state()
    waiting = set(sides)
    while waiting:
        for side, other in (sides, sides[::-1]):
            with contextlib.suppress(SSL.WantReadError):
                side.do_handshake()
                waiting.discard(side)
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(side.bio_read(RECORD))


def _by_fn_dsa() -> Callable[[], Wire]:
    """Return what makes two nodes that sign with FN-DSA-512 and Ed25519."""
    policy = only(Mode.POST_QUANTUM, signatures=(Algorithm.FN_DSA_512,))
    sides = {name: Identity.generate(with_fn_dsa=True) for name in ("alice", "bob")}
    cards = {name: peer(name, card=each.card.short()) for name, each in sides.items()}
    alice = Local(sides["alice"], Pins({"bob": cards["bob"]}), policy)
    bob = Local(sides["bob"], Pins({"alice": cards["alice"]}), policy)
    return lambda: Wire(alice, bob, cards["bob"])


def _ways() -> dict[str, Callable[[], Wire]]:
    ways: dict[str, Callable[[], Wire]] = {
        "noise, XK": lambda: wire(Mode.NOISE),
        "noise, IK": lambda: wire(Mode.NOISE, pattern=NoisePattern.IK),
        "mtls": lambda: wire(Mode.MTLS),
        "post_quantum, ML-DSA-65": lambda: wire(Mode.POST_QUANTUM),
    }
    if fn_dsa.library() is not None:
        ways["post_quantum, FN-DSA-512"] = _by_fn_dsa()
    return ways


def _join(make: Callable[[], Wire]) -> None:
    both(make())


def _cost_ms(work: Callable[[], object], count: int) -> float:
    begin = time.process_time_ns()
    for _ in range(count):
        work()
    return (time.process_time_ns() - begin) / 1e6 / count


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows: milliseconds of processor time of both sides, a handshake."""
    rounds, count = (3, 20) if quick else (7, 50)
    contexts = _context(), _context()
    works: dict[str, Callable[[], object]] = {"": lambda: _tls(contexts)}
    works |= {name: partial(_join, make) for name, make in _ways().items()}
    costs: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            costs[name].append(_cost_ms(work, count))
    base = median(costs.pop(""))
    return [
        _row(f"one handshake, both sides, {name}", median(each), "ms", base)
        for name, each in costs.items()
    ]
