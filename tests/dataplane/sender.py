"""A congestion controller that a test tells what happens to its packets."""

from __future__ import annotations

from typing import Any

from tests.dataplane.native import CONGESTION, library

FIXED, DELAY, CUBIC = range(3)
US = 1000
MS = 1_000_000
SECOND = 1_000_000_000
SIZE = 1200
NEVER = 2**64 - 1


def controllers() -> tuple[Any, Any]:
    """Return (ffi, lib) of the controllers and of the bottleneck."""
    return library("bottleneck.h", "bottleneck.c", *CONGESTION)


class Sender:
    """A congestion controller and the events that happen to it."""

    def __init__(self, kind: int, size: int = SIZE, now: int = SECOND) -> None:
        self.ffi, self.lib = controllers()
        self.it = self.ffi.new("struct vk_congestion *")
        self.now = now
        self.srtt = 0
        self.lib.vk_congestion_init(self.it, kind, size, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)

    def acked(
        self,
        bytes: int = SIZE,  # noqa: A002
        *,
        rtt: int = 10 * MS,
        rate: int = 0,
        app_limited: bool = False,
        sent: int | None = None,
        in_flight: int | None = None,
    ) -> None:
        self.srtt = (7 * self.srtt + rtt) // 8 if self.srtt else rtt
        ack = self.ffi.new(
            "struct vk_congestion_ack *",
            {
                "now_ns": self.now,
                "bytes": bytes,
                "sent_ns": max(0, self.now - rtt) if sent is None else sent,
                "rtt_ns": rtt,
                "rtt_min_ns": rtt,
                "rtt_smoothed_ns": self.srtt,
                "rate": rate,
                "in_flight": self.it.window if in_flight is None else in_flight,
                "app_limited": app_limited,
            },
        )
        self.lib.vk_congestion_acked(self.it, ack)

    def flight(self, rtt: int = 10 * MS, **more: Any) -> None:
        """Let a round pass in which the whole window is acknowledged, a datagram at a time."""
        start, count = self.now, max(1, self.it.window // self.it.datagram_size)
        for index in range(count):
            self.now = start + rtt * (index + 1) // count
            self.acked(self.it.datagram_size, rtt=rtt, **more)

    def lost(
        self,
        bytes: int = SIZE,  # noqa: A002
        *,
        sent: int | None = None,
        persistent: bool = False,
    ) -> None:
        sent = self.now if sent is None else sent
        self.lib.vk_congestion_lost(self.it, bytes, sent, persistent, self.now)

    def marked(self, sent: int | None = None) -> None:
        self.lib.vk_congestion_ce(self.it, self.now if sent is None else sent, self.now)

    def spurious(self) -> None:
        self.lib.vk_congestion_spurious(self.it, self.now)

    def switch(self, kind: int) -> None:
        self.lib.vk_congestion_switch(self.it, kind, self.now)
