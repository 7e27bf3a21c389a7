"""Scenarios drawn by a seed, and many of them in a row.

The same seed draws the same scenario on every machine: integers and IEEE arithmetic only.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, get_args

from valkyrie.dataplane import lib

from .scenario import App, Cipher, Event, Link, Node, Path, Scenario, Traffic
from .trial import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .trial import Outcome

T = TypeVar("T")
R = TypeVar("R", Link, Node, Scenario)

Events = tuple[Event, ...]

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
BYTES_MAX = 400_000
"""Payload of all messages of a short scenario, but for large ones: what keeps it short."""
LARGE_MAX = 3 << 20
"""Bytes of the largest message: it is cut into fragments."""
CLASSES = ("critical", "system", "job", "data", "logs")
MTU_MIN = 1280
"""IPv6 promises it, and the first datagrams of a session fit."""
ATTACH = 0x61747463
"""Makes another seed of a seed, for who attaches: all else that seeds mean is as it was. In none of
the older FOUND of tests/dataplane/test_lab.py does anybody."""
TUNE = 0x74756E65
"""Likewise, for what is tuned meanwhile, and for memory that is scarce."""
AGAIN_MAX = 50
"""What links may carry beyond what messages need, as a share of that: where memory is scarce, or a
path loses much, all goes many times; where nobody gives in it goes for ever."""
HEADS_BYTES = 160
"""Around a message, at most, with its share of acknowledgements."""


class Dice:
    """splitmix64 (vk_random.h says whose): a sequence of draws from a seed."""

    def __init__(self, seed: int) -> None:
        self._state = seed * GOLDEN & MASK

    def draw(self) -> int:
        """Return 64 bits."""
        self._state = (self._state + GOLDEN) & MASK
        value = self._state
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        return value ^ value >> 31

    def below(self, limit: int) -> int:
        """Return a number in [0, limit)."""
        return self.draw() * limit >> 64

    def between(self, low: int, high: int) -> int:
        """Return a number from low to high."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """Say yes in so many of a hundred cases."""
        return self.below(100) < percent

    def magnitude(self, low: int, high: int) -> int:
        """Return a number from low to high, every order of magnitude alike."""
        bits = self.between(low.bit_length(), high.bit_length())
        return min(max(self.below(1 << bits) | 1 << bits >> 1, low), high)

    def choose(self, options: Sequence[T]) -> T:
        """Return one of them."""
        return options[self.below(len(options))]


def _link(dice: Dice) -> Link:
    """Draw a link: from a cable between two machines to a bad line around the world."""
    rate_kbps = dice.magnitude(2_000, 20_000_000)
    delay_us = dice.magnitude(5, 100_000)
    in_flight = rate_kbps * (delay_us + 100) // 4000  # both ways, bytes
    loss_ppm = dice.magnitude(100, 60_000) if dice.chance(50) else 0
    bursts = dice.chance(15)
    reorder = dice.chance(25)
    return Link(
        rate_mbps=rate_kbps / 1000,
        delay_ms=delay_us / 1000,
        jitter_ms=dice.below(delay_us) / 1000 if dice.chance(30) else 0,
        buffer_bytes=max(in_flight * dice.between(1, 40) // 10, 30_000),
        mark_bytes=max(in_flight // 4, 15_000) if dice.chance(15) else 0,
        policer_mbps=rate_kbps / 2000 if dice.chance(5) else 0,
        policer_bytes=max(in_flight, 60_000),
        loss=loss_ppm / 1_000_000,
        bad_enter=dice.magnitude(100, 10_000) / 1_000_000 if bursts else 0,
        bad_leave=dice.magnitude(20_000, 500_000) / 1_000_000,
        bad_loss=dice.between(10, 100) / 100 if bursts else 0,
        reorder=dice.magnitude(1_000, 200_000) / 1_000_000 if reorder else 0,
        reorder_ms=dice.magnitude(5, 2 * delay_us + 10) / 1000,
        duplicate=dice.magnitude(100, 50_000) / 1_000_000 if dice.chance(20) else 0,
        corrupt=dice.magnitude(100, 20_000) / 1_000_000 if dice.chance(10) else 0,
    )


def _size(dice: Dice, most: int, *, large: bool) -> int | tuple[int, int]:
    high = min(dice.magnitude(8, lib.VK_SHARDED_MAX), most)
    if large:
        high = dice.magnitude(lib.VK_SHARDED_MAX + 1, LARGE_MAX)
    return high if dice.chance(30) else (min(dice.magnitude(1, high), high), high)


def _traffic(dice: Dice, ends: tuple[str, str], klass: str, budget: int) -> Traffic:
    """Draw a traffic that sends about budget bytes."""
    large = klass != "logs" and dice.chance(4)
    size = _size(dice, budget, large=large)
    mean = size if isinstance(size, int) else (size[0] + size[1]) // 2
    if large:
        budget = mean * dice.between(1, 4)
    reply = klass != "logs" and dice.chance(35)
    count = max(budget // (mean + HEADS_BYTES) // (2 if reply else 1), 1)
    streams = 1
    if klass != "critical":
        streams = min(count, dice.magnitude(1, 40 if klass != "system" else 15))
    paced = dice.chance(30)
    return Traffic(
        source=ends[0],
        target=ends[1],
        klass=klass,
        streams=streams,
        concurrent=dice.between(1, streams),
        messages=min(max(count // streams, 1), 600),
        size=size,
        sizes="log" if dice.chance(50) else "uniform",
        burst=dice.magnitude(1, 16) if paced else 1,
        interval_us=dice.magnitude(10, 5_000) if paced else 0,
        reply=reply,
        outstanding=dice.magnitude(1, 16) if reply else 0,
        flush=dice.chance(20),
        start_ms=dice.below(50) if dice.chance(30) else 0,
    )


def _bytes_of(scenario: Scenario) -> int:
    """Return how much a scenario sends at most, both ways."""
    return sum(
        2 * each.streams * each.messages * (size if isinstance(size := each.size, int) else size[1])
        for each in scenario.traffic
    )


def _linger_ms(scenario: Scenario) -> float:
    """Return for how long to go on: what nobody waits for has to be out of the rings."""
    sending_ms = _bytes_of(scenario) * 8 / (scenario.link.rate_mbps * 1000)
    return 50 if scenario.reliable else max(2000, 4 * sending_ms)


def _outage(dice: Dice, nodes: tuple[str, str], at_ms: float, for_ms: float, link: Link) -> Events:
    ends = [nodes, nodes[::-1]][: dice.between(1, 2)]
    return tuple(
        Event(at_ms=at, kind="link", source=a, target=b, link=each)
        for a, b in ends
        for at, each in ((at_ms, Link(down=True)), (at_ms + for_ms, link))
    )


def _pause(dice: Dice, app: str, at_ms: float, for_ms: float) -> Events:
    if dice.chance(50):
        return (
            Event(at_ms=at_ms, kind="freeze", app=app),
            Event(at_ms=at_ms + for_ms, kind="thaw", app=app),
        )
    return (
        Event(at_ms=at_ms, kind="hold", app=app),
        Event(at_ms=at_ms + for_ms, kind="take", app=app),
    )


def _events(dice: Dice, nodes: Sequence[str], link: Link) -> Events:
    """Draw what goes wrong, and its end."""
    at_ms = dice.magnitude(100, 200_000) / 1000
    for_ms = dice.magnitude(100, 300_000) / 1000
    source = dice.choose(nodes)
    target = dice.choose([name for name in nodes if name != source])
    away_ms = min(for_ms, 50)
    other = _link(dice)
    kinds: tuple[Events, ...] = (
        _outage(dice, (source, target), at_ms, for_ms, link),
        (Event(at_ms=at_ms, kind="link", source=source, target=target, link=other),),
        _pause(dice, source, at_ms, for_ms),
        (Event(at_ms=at_ms, kind="stop-worker", node=source, for_ms=away_ms),),
        (Event(at_ms=at_ms, kind="rebind", node=source, for_ms=away_ms),),
        (Event(at_ms=at_ms, kind="renew", node=source, for_ms=away_ms),),
        (Event(at_ms=at_ms, kind="restart-node", node=source, for_ms=for_ms),),
        (Event(at_ms=at_ms, kind="kill-worker", node=source, for_ms=away_ms),),
    )
    return dice.choose(kinds)


def _attached(dice: Dice, scenario: Scenario) -> Scenario:
    """Let some applications leave, or die, and others attach where they were, among deaths of
    workers."""
    away = any(each.kind == "restart-node" for each in scenario.events)
    if away or not scenario.reliable or not dice.chance(12):
        return scenario  # a node that is away attaches all when it is back
    events = list(scenario.events)
    at_ms = 0.0
    for _ in range(dice.between(1, 3)):
        app = dice.choose(scenario.apps).name
        at_ms += dice.magnitude(100, 100_000) / 1000
        events.append(Event(at_ms=at_ms, kind=dice.choose(("detach", "leave")), app=app))
        away_ms = dice.magnitude(10, 50_000) / 1000
        for _ in range(dice.below(4)):
            when_ms = at_ms + (dice.below(3000) - 1000) / 1000 * away_ms
            node = dice.choose((app, dice.choose(scenario.nodes).name))
            for_ms = dice.magnitude(100, 50_000) / 1000
            kill = Event(at_ms=max(when_ms, 0), kind="kill-worker", node=node, for_ms=for_ms)
            events.append(kill)
        at_ms += away_ms
        events.append(Event(at_ms=at_ms, kind="attach", app=app))
    return _with(scenario, events=tuple(events))


def _params(dice: Dice) -> dict[str, int]:
    """Draw how a node's worker does its work."""
    return {
        "aggregate": int(dice.chance(90)),
        "controller": dice.below(3),  # fixed, delay or cubic
        "ack_delay_us": dice.magnitude(25, 25_000),
        "window_bytes": dice.magnitude(lib.VK_WINDOW_START, 4_194_304),
    }


def _budgets(dice: Dice) -> dict[str, int]:
    """Draw bounds of memory, which keep senders waiting, or are over again and again."""
    return {
        "memory_kib": dice.magnitude(1024, 8192),
        "reassembly_bytes": dice.magnitude(1 << 18, 1 << 21),
    }


def _tuning(dice: Dice, link: Link) -> dict[str, int]:
    """Draw what differs for all sessions of a node: each of it in half of the cases."""
    stream_min = dice.magnitude(4_096, 262_144)
    drawn = {
        "controller": dice.between(1, 3),
        "ack_delay_us": dice.magnitude(25, 25_000),
        "aggregate": dice.between(1, 2),
        "mtu": dice.between(1_200, 9_000),
        "pacing": dice.between(1, 2),
        "stream_min": stream_min,
        "stream_max": max(dice.magnitude(lib.VK_WINDOW_START, 4_194_304), stream_min),
        "window_min": dice.magnitude(2_400, 100_000),
        "window_max": dice.magnitude(200_000, 1 << 30),
        "rate": round(link.rate_mbps * 125_000) * dice.between(5, 20) // 10,
    }
    return {key: value for key, value in drawn.items() if dice.chance(50)}


def _tuned(dice: Dice, scenario: Scenario) -> Scenario:
    """Let some nodes have little memory, and some be tuned while they send."""
    if dice.chance(15):
        budgets = _budgets(dice)
        nodes = tuple(_with(node, params=node.params | budgets) for node in scenario.nodes)
        scenario = _with(scenario, nodes=nodes)
    if not dice.chance(15):
        return scenario
    events = list(scenario.events)
    for _ in range(dice.between(1, 4)):
        node = dice.choose(scenario.nodes)
        params = _params(dice) | {"budget_frames": dice.magnitude(1, lib.VK_BUDGET_FRAMES_MAX)}
        if dice.chance(40):
            params |= _budgets(dice)
        tuning = _tuning(dice, scenario.link)
        at_ms = dice.magnitude(10, 200_000) / 1000
        event = Event(at_ms=at_ms, kind="tune", node=node.name, params=params, tuning=tuning)
        events.append(event)
    return _with(scenario, events=tuple(events))


def _limit_s(scenario: Scenario, bytes_all: int) -> float:
    """Say by when everything has to be over.

    The links' times, many times over, because a lossy link with a small window is slow; behind the
    end of everything that goes wrong, and what is paced.
    """
    links = (scenario.link, *scenario.paths, *(e.link for e in scenario.events if e.link))
    rates = [each.rate_mbps for each in links if each.rate_mbps]
    rates += [each.policer_mbps for each in links if each.policer_mbps]
    rates += [each.consume_mbps for each in scenario.apps if each.consume_mbps]
    trip_ms = max(2 * (each.delay_ms + each.jitter_ms + each.reorder_ms) + 1 for each in links)
    paced_ms = max(
        t.start_ms + t.streams * t.messages * t.interval_us / 1000 / t.burst
        for t in scenario.traffic
    )
    opened = max(t.streams / t.concurrent for t in scenario.traffic)
    asked = max(t.streams * t.messages if t.reply else 0 for t in scenario.traffic)
    last_ms = max((e.at_ms + e.for_ms for e in scenario.events), default=0)
    sending_ms = bytes_all * 8 / (min(rates, default=1000) * 1000)
    # A link leaves its bad state by packets, and a silent sender probes twice in two seconds, and
    # hears of it over such a link: as often as it enters it, which is by packets, too.
    bad_ms = max(
        (10_000 + bytes_all / MTU_MIN * each.bad_enter * 500) / each.bad_leave
        if each.bad_enter
        else 0
        for each in links
    )
    # What is lost by chance keeps windows small: RFC 9438 has 1.2 / sqrt(loss) segments a trip.
    loss = max(each.loss for each in links)
    sending_ms += 2 * bytes_all / MTU_MIN * math.sqrt(loss) * trip_ms
    trips = 50 + 10 * opened + 4 * asked
    if any(each.jitter_ms * 4 > each.delay_ms for each in links):
        trips += bytes_all / (8 * MTU_MIN)  # `delay` takes jitter for a queue: small windows
    limit_s = (last_ms * 4 + paced_ms * 2 + sending_ms * 20 + trips * trip_ms + bad_ms) / 1000 + 30
    return limit_s * (1 + sum(e.kind == "attach" for e in scenario.events))  # all begins anew


def _narrowed(dice: Dice, scenario: Scenario) -> Scenario:
    """Let some links carry less than the interfaces on their ends, from the beginning or later."""
    most = scenario.nodes[0].mtu
    if most <= MTU_MIN or not dice.chance(20):
        return scenario
    narrow = _with(scenario.link, mtu=dice.between(MTU_MIN, most - 1))
    if scenario.events or dice.chance(50):
        return _with(scenario, link=narrow)
    at_ms = dice.magnitude(100, 100_000) / 1000
    a, b = scenario.nodes[0].name, scenario.nodes[1].name
    ends = [(a, b), (b, a)][: dice.between(1, 2)]
    events = tuple(
        Event(at_ms=at_ms, kind="link", source=x, target=y, link=narrow) for x, y in ends
    )
    return _with(scenario, events=events)


def _sealed(dice: Dice, scenario: Scenario) -> Scenario:
    """Let some scenarios seal their frames, with keys that are used for a short time only."""
    if not dice.chance(50):
        return scenario
    rotate = {"rotate_packets": dice.magnitude(1, 10_000), "rotate_ms": dice.magnitude(1, 1_000)}
    nodes = tuple(_with(node, params=node.params | rotate) for node in scenario.nodes)
    return _with(scenario, nodes=nodes, cipher=dice.choose(get_args(Cipher)[1:]))


def short(seed: int, *, reliable: bool = True) -> Scenario:
    """Draw a scenario that takes a few milliseconds to run."""
    dice = Dice(seed)
    count = 2 if dice.chance(85) else dice.between(3, 4)
    names = [f"n{number}" for number in range(count)]
    link = _link(dice)
    clean = Path(source=names[1], target=names[0], delay_ms=link.delay_ms, rate_mbps=link.rate_mbps)
    mtu = dice.choose((1500, 1500, 1500, 1280, 9000))
    nodes = tuple(
        Node(
            name=name,
            mtu=mtu,
            socket_frames=dice.magnitude(64, 4096),
            turn_us=dice.magnitude(200, 20_000) / 1000,
            wake_us=dice.magnitude(500, 50_000) / 1000,
            ready_bytes=dice.magnitude(3_000, 300_000) if dice.chance(20) else 0,
            params=_params(dice),
        )
        for name in names
    )
    ring_bytes = 1 << dice.between(17, 19)
    slow = dice.chance(15)
    apps = tuple(
        App(
            name=name,
            node=name,
            ring_bytes=ring_bytes,
            wake_us=dice.magnitude(500, 200_000) / 1000,
            consume_mbps=dice.magnitude(10, 1_000) if slow else 0,
        )
        for name in names
    )
    kinds = dice.between(1, 4)
    ends = [(names[0], names[1])] + [
        (names[a], names[(a + 1 + dice.below(count - 1)) % count])
        for a in (dice.below(count) for _ in range(kinds - 1))
    ]
    share = dice.magnitude(500, BYTES_MAX) // kinds
    classes = [dice.choose(CLASSES) for _ in ends]
    pairs = [(min(each), max(each)) for each in ends]
    for number, klass in enumerate(classes):
        # There is one critical stream between two nodes.
        taken = [p for p, c in zip(pairs[:number], classes, strict=False) if c == "critical"]
        if klass == "critical" and pairs[number] in taken:
            classes[number] = "data"
    traffic = tuple(
        _traffic(dice, each, klass, share) for each, klass in zip(ends, classes, strict=True)
    )
    scenario = Scenario(
        name=f"short {seed}",
        seed=seed,
        reliable=reliable,
        link=link,
        nodes=nodes,
        apps=apps,
        paths=(clean,) if dice.chance(30) else (),
        traffic=traffic,
    )
    if reliable and dice.chance(40):
        events = _events(dice, names, link)
        scenario = _with(scenario, events=events)
    scenario = _attached(Dice(seed ^ ATTACH), _sealed(dice, _narrowed(dice, scenario)))
    scenario = _tuned(Dice(seed ^ TUNE), scenario)
    return _judged(scenario, share * kinds * 2)


def _judged(scenario: Scenario, bytes_all: int) -> Scenario:
    """Say what has to hold of a scenario that sends so many bytes, about."""
    link = scenario.link
    steady = not (scenario.events or link.jitter_ms or link.reorder or link.duplicate)
    slow = any(each.consume_mbps for each in scenario.apps)
    return _with(
        scenario,
        limit_s=_limit_s(scenario, max(bytes_all, _bytes_of(scenario))),
        spurious=0.01 if steady and not slow else 0,
        again=AGAIN_MAX,
        held_bytes=_held_bytes(scenario),
        linger_ms=_linger_ms(scenario),
    )


def _held_bytes(scenario: Scenario) -> int:
    """Return what a library holds of one stream at most, if all streams have windows; 0: no limit.

    A window may be as large as the receiving node says, now or once.
    """
    if {each.klass for each in scenario.traffic} & {"critical", "logs"}:
        return 0
    windows = [each.params["window_bytes"] for each in scenario.nodes]
    for event in scenario.events:
        windows.append(event.params.get("window_bytes", 0))
        windows.append(event.tuning.get("stream_max", 0))
        windows.append(event.tuning.get("stream_min", 0))
    most: int = max(windows) + lib.VK_WINDOW_START
    return most


def _with(row: R, **changes: object) -> R:
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return type(row)(**(fields | changes))


@dataclass(frozen=True, slots=True)
class Failure:
    """A scenario that did not end as it has to."""

    seed: int
    failures: tuple[str, ...]


_labs = threading.local()


def _run(seed: int, draw: Callable[[int], Scenario]) -> Outcome:
    lab = getattr(_labs, "lab", None)
    if lab is None:
        lab = _labs.lab = Lab()
    outcome: Outcome = lab.run(draw(seed))
    return outcome


def run(
    seeds: Sequence[int], draw: Callable[[int], Scenario] = short, threads: int = 2
) -> Iterator[Failure]:
    """Run the scenario of every seed; yield those that fail."""
    with ThreadPoolExecutor(threads) as pool:
        for seed, outcome in zip(seeds, pool.map(lambda s: _run(s, draw), seeds), strict=True):
            if not outcome.ok:
                yield Failure(seed, outcome.failures)
