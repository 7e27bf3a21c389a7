"""The lab: whole engines under virtual time, from a scenario and a seed to what happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from valkyrie.dataplane._lab import ffi, lib
from valkyrie.dataplane.errors import ConfigError, DataPlaneError
from valkyrie.dataplane.units import NS_PER_MS

from .scenario import fill

if TYPE_CHECKING:
    from typing import Self

    from .scenario import Scenario

SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class TrafficOutcome:
    """What became of a traffic, both directions."""

    source: str
    target: str
    klass: str
    sent: int
    sent_bytes: int
    arrived: int
    arrived_bytes: int
    repeated: int
    streams: int
    finished: int
    broken: int
    finished_ms: float
    goodput_mbps: float
    delay_mean_ms: float
    delay_max_ms: float


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """What a link did; counts of packets."""

    packets: int
    bytes: int
    arrived: int
    lost: int
    policed: int
    overflowed: int
    oversized: int
    duplicated: int
    reordered: int
    corrupted: int
    marked: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment: what arrived since the one before, and the first node's session with the second."""

    at_ms: float
    goodput_mbps: float
    packets: int
    lost: int
    srtt_ms: float
    window_bytes: int
    flight_bytes: int
    queue_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    digest: str
    """Over everything that happened: equal for equal seed and scenario on every machine."""
    finished: bool
    failures: tuple[str, ...]
    virtual_ms: float
    packets: int
    delivered: int
    socket_drops: int
    checksum_drops: int
    replayed: int
    refused: int
    """Packets that nodes took for no part of their sessions."""
    rotations: int
    turns: int
    events: int
    held_bytes: int
    traffic: tuple[TrafficOutcome, ...]
    links: tuple[LinkOutcome, ...]
    samples: tuple[Sample, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


class Lab:
    """Runs scenarios, one at a time. The call into C holds no lock: use a lab per thread."""

    def __init__(self) -> None:
        self._lab = lib.vk_lab_new()
        if not self._lab:
            raise MemoryError
        self._raw = ffi.new("struct vk_lab_scenario *")

    def close(self) -> None:
        """Give the memory back."""
        if self._lab:
            lib.vk_lab_free(self._lab)
            self._lab = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, scenario: Scenario, seed: int | None = None) -> Outcome:
        """Run a scenario to its end; its own seed unless another is given."""
        raw = self._raw
        ffi.memmove(raw, bytes(ffi.sizeof(raw[0])), ffi.sizeof(raw[0]))
        fill(raw, scenario, seed)
        error = lib.vk_lab_load(self._lab, raw)
        if error == -22:  # EINVAL
            raise ConfigError("the scenario is out of bounds: see vk_lab.h")
        if error:
            raise DataPlaneError.of(
                error, "the lab cannot begin", "Fewer --threads map less memory"
            )
        lib.vk_lab_run(self._lab, 2**64 - 1)
        return self._outcome(scenario)

    def counters(self, node: int) -> Any:
        """Return the struct vk_counters of a node, valid until the next run."""
        return lib.vk_lab_counters(self._lab, node)

    def _outcome(self, scenario: Scenario) -> Outcome:
        report = lib.vk_lab_report_of(self._lab)
        text = ffi.string(lib.vk_lab_failures(self._lab)).decode()
        return Outcome(
            seed=self._raw.seed,
            digest=f"{report.digest:016x}",
            finished=bool(report.finished),
            failures=tuple(text.splitlines()),
            virtual_ms=report.now_ns / NS_PER_MS,
            packets=report.packets,
            delivered=report.delivered,
            socket_drops=report.socket_drops,
            checksum_drops=report.checksum_drops,
            replayed=report.replayed,
            refused=report.refused,
            rotations=report.rotations,
            turns=report.turns,
            events=report.events,
            held_bytes=report.held_max,
            traffic=tuple(
                _traffic(report.traffics[number], traffic, number, self._raw)
                for number, traffic in enumerate(scenario.traffic)
            ),
            links=tuple(
                LinkOutcome(
                    **{name: getattr(report.links[number], name) for name in LinkOutcome.__slots__}
                )
                for number in range(self._raw.link_count)
            ),
            samples=self._samples(scenario) if scenario.sample_ms else (),
        )

    def _samples(self, scenario: Scenario) -> tuple[Sample, ...]:
        rows = ffi.new(f"struct vk_lab_sample[{SAMPLES}]")
        found: list[Sample] = []
        while count := lib.vk_lab_samples(self._lab, len(found), rows, SAMPLES):
            found += (
                Sample(
                    at_ms=row.at_ns / NS_PER_MS,
                    goodput_mbps=row.arrived_bytes * 8 / scenario.sample_ms / 1000,
                    packets=row.packets,
                    lost=row.lost,
                    srtt_ms=row.srtt_ns / NS_PER_MS,
                    window_bytes=row.window_bytes,
                    flight_bytes=row.flight_bytes,
                    queue_ms=row.link_waiting_ns / NS_PER_MS,
                )
                for row in rows[0:count]
            )
        return tuple(found)


def _traffic(row: Any, traffic: Any, number: int, raw: Any) -> TrafficOutcome:
    started_ns = raw.traffics[number].start_ns
    took_ns = max(row.finished_ns - started_ns, 1)
    return TrafficOutcome(
        source=traffic.source,
        target=traffic.target,
        klass=traffic.klass,
        sent=row.sent,
        sent_bytes=row.sent_bytes,
        arrived=row.arrived,
        arrived_bytes=row.arrived_bytes,
        repeated=row.repeated,
        streams=row.streams,
        finished=row.finished,
        broken=row.broken,
        finished_ms=row.finished_ns / NS_PER_MS,
        goodput_mbps=row.arrived_bytes * 8000 / took_ns,
        delay_mean_ms=row.delay_sum_ns / max(row.timed, 1) / NS_PER_MS,
        delay_max_ms=row.delay_max_ns / NS_PER_MS,
    )
