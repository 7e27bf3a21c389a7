"""Bulk over each path, against the same packets on the same path with nothing around them.

Messages of 64 KiB, reliable, in the clear, in full packets. Beside them stand packets of that size
that carry nothing but their payload and lose what is lost, sent and received by the same means:
kernel UDP by GSO and GRO, for AF_XDP the smallest receiver that a socket allows, with a sender by
kernel UDP and GSO where ours sends so, else with the smallest AF_XDP sender. Kernel TCP is there
for what a stream costs the kernel. All take turns between two hosts of a core each. Frames of
AF_XDP hold 2 KiB, so larger packets than those of 1500 bytes are not offered there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from .arena import Arena
from .contestant import Contestant
from .match import RunError, play
from .peers import CONTESTANTS
from .receive import headed, ready
from .rows import Row, make_row
from .scenario import Profile, Scenario

_row = partial(make_row, "bare")
MESSAGE = 65_000
HEADERS = 28
"""Of IPv4 and UDP."""
GIGA = 1e9
BY_NAME = {one.name: one for one in CONTESTANTS}
MTUS = (1500, 9000)
XDP_PACKET = b"raw!"
"""In place of a Valkyrie header: nobody looks at it."""


def arena_of(stack: ExitStack, one: Contestant, mtu: int = MTUS[0]) -> Arena:
    """Return hosts for one contestant, with what it runs on them, until *stack* ends."""
    arena = Arena(one.place, mtu=mtu)
    stack.callback(arena.close)
    one.side()
    one.prepare(arena)
    arena.join()
    return arena


def _gigabits(arena: Arena, one: Contestant, size: int, profile: Profile, turn: int) -> float:
    """Return the payload that arrives, in Gbit/s."""
    scenario = Scenario("bare", "Bulk", "network", "stream", size)
    run = play(arena, one, scenario, profile, turn)
    if run.error:
        raise RunError(f"{one.title}: {run.error}")
    return run.rate * size * 8 / GIGA


def _kernel(mtu: int, profile: Profile) -> Iterator[Row]:
    """Yield the rows of the kernel path."""
    sizes = {"valkyrie-c-udp": MESSAGE, "udp-gso-c": mtu - HEADERS, "tcp-buffered-c": MESSAGE}
    found: dict[str, list[float]] = {name: [] for name in sizes}
    with ExitStack() as stack:
        arenas = {name: arena_of(stack, BY_NAME[name], mtu) for name in sizes}
        for turn in range(profile.repetitions):
            for name, size in sizes.items():
                found[name].append(_gigabits(arenas[name], BY_NAME[name], size, profile, turn))
    ours, datagrams, tcp = (median(found[name]) for name in sizes)
    yield _row(f"udp, MTU {mtu}, against datagrams of the kernel", ours, "Gbit/s", datagrams)
    yield _row(f"udp at MTU {mtu} against TCP, writes of 64 KiB", ours, "Gbit/s", tcp)


def _xdp(profile: Profile) -> Iterator[Row]:
    """Yield the rows of AF_XDP, at an MTU of 1500, by each way of sending."""
    payload = XDP_PACKET.ljust(MTUS[0] - HEADERS, b".")
    span_ns = round(profile.run_s * 1e9)
    with ExitStack() as stack:
        bench = stack.enter_context(ready())
        packet = headed(bench.source, bench.target, payload)
        pairs: dict[str, tuple[str, Callable[[], float]]] = {
            f"xdp in, udp out, MTU {MTUS[0]}, against datagrams of the kernel into a socket": (
                "valkyrie-c-xdp",
                lambda: bench.caught(payload, span_ns),
            ),
            f"xdp both ways, MTU {MTUS[0]}, against packets of two sockets": (
                "valkyrie-c-xdp-tx",
                lambda: bench.carried(packet, span_ns),
            ),
        }
        for metric, (name, carry) in pairs.items():
            one, ours, bare = BY_NAME[name], [], []
            with ExitStack() as inner:
                arena = arena_of(inner, one)
                for turn in range(profile.repetitions):
                    ours.append(_gigabits(arena, one, MESSAGE, profile, turn))
                    bare.append(carry() * len(payload) * 8 / GIGA)
            yield _row(metric, median(ours), "Gbit/s", median(bare))


def run(quick: bool) -> list[Row]:  # every scenario is called run(quick)
    """Return the rows of all paths."""
    profile = Profile("bare", 0.5, 0.4 if quick else 1.0, 3 if quick else 7, ())
    kernel = [row for mtu in MTUS for row in _kernel(mtu, profile)]
    return [*kernel, *_xdp(profile)]
