"""A network between two hosts of a lab whose conditions can be changed while it runs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cffi import FFI

from perf.contestant import ROOT
from tests.lab import Host, Lab, Link, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = ROOT / "perf" / "relay"
LINK = ROOT / "dataplane" / "lab"
SOURCES = (HERE / "relay.c", HERE / "tap.c", LINK / "vk_link.c")
INCLUDE = (f"-I{HERE}", f"-I{LINK}", f"-I{ROOT / 'dataplane' / 'recovery'}")
STOP_S = 5.0


@dataclass(frozen=True)
class Conditions:
    """What one direction does to frames. Chances are shares of one."""

    rate_bps: float = 0
    """Bits a second, Ethernet with its gap and preamble counted; 0 = at once."""
    delay_s: float = 0
    """One way, besides what waiting for the rate takes."""
    jitter_s: float = 0
    """Up to so much more, in order."""
    buffer_bytes: int = 0
    """What may wait for the rate, more is dropped; 0 = no limit."""
    mark_bytes: int = 0
    """From so much waiting on, ECN-capable packets are marked CE; 0 = never."""
    loss: float = 0
    """In the good state of Gilbert and Elliott's model, which is the only one by default."""
    bad_enter: float = 0
    """Chance of the bad state, drawn once a packet."""
    bad_leave: float = 0
    bad_loss: float = 0
    reorder: float = 0
    """Chance that a frame is held back by ``reorder_s`` and overtaken."""
    reorder_s: float = 0
    duplicate: float = 0
    corrupt: float = 0
    """Chance that one bit behind the Ethernet header is flipped."""
    mtu: int = 0
    """Larger IP packets are dropped without a word; 0 = the interface's."""
    down: bool = False
    """Nothing comes through."""


@dataclass(frozen=True)
class Count:
    """What became of the frames of one direction; see struct vk_link_count, vk_relay_count."""

    packets: int
    arrived: int
    """Copies that the conditions let through."""
    lost: int
    policed: int
    overflowed: int
    oversized: int
    duplicated: int
    reordered: int
    corrupted: int
    marked: int
    sent: int
    late: int
    late_s_max: float
    late_s_mean: float
    """How long after it was due a frame left: the relay's own error, in rate and delay."""
    under_way: int
    faults: int
    """Frames that the relay itself dropped, or that came with work left to the device."""


@functools.cache
def _interface() -> FFI:
    """Return the C headers' view of the shared memory."""
    text = subprocess.run(
        ["cc", "-E", "-P", "-DVK_CDEF", *INCLUDE, HERE / "relay.h"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    ffi = FFI()
    ffi.cdef(text)
    return ffi


def _constant(enum: str, name: str) -> int:
    return int(_interface().typeof(f"enum {enum}").relements[name])


@functools.cache
def compiled() -> Path:
    """Return the relay's program, built on first use."""
    binary = ROOT / "build" / "perf" / "relay"
    binary.parent.mkdir(parents=True, exist_ok=True)
    flags = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11")
    # Another process may run the program that stands there: replace it, do not write into it.
    fresh = binary.with_name(f"relay.{os.getpid()}")
    subprocess.run(["cc", *flags, *INCLUDE, "-o", fresh, *SOURCES], check=True)
    fresh.replace(binary)
    return binary


def _write(conditions: Conditions, config: Any) -> None:
    """Write conditions into a struct vk_link_config."""
    shares, second = _constant("vk_random_const", "VK_PPB"), 1_000_000_000
    config.rate_bps = round(conditions.rate_bps)
    config.overhead = _constant("vk_link_const", "VK_LINK_OVERHEAD") if conditions.rate_bps else 0
    config.delay_ns = round(conditions.delay_s * second)
    config.jitter_ns = round(conditions.jitter_s * second)
    config.reorder_ns = round(conditions.reorder_s * second)
    config.buffer_bytes = conditions.buffer_bytes
    config.mark_bytes = conditions.mark_bytes
    for name in ("loss", "bad_enter", "bad_leave", "bad_loss", "reorder", "duplicate", "corrupt"):
        setattr(config, f"{name}_ppb", round(getattr(conditions, name) * shares))
    config.mtu = conditions.mtu
    config.down = conditions.down


class Relay:
    """Carries frames between hosts; ``there`` holds from a to b, ``back`` from b to a."""

    def __init__(
        self,
        lab: Lab,
        pairs: Sequence[tuple[Host, Host]],
        there: Conditions,
        back: Conditions | None = None,
        *,
        seed: int = 1,
        cpu: int | None = None,
        **wire: Any,
    ) -> None:
        """Join the two hosts of each pair and start to carry; all pairs share one link each way.

        ``seed``: of all chances. ``cpu``: the one it keeps to. *wire*: as Lab.wire's.
        """
        self._ffi = _interface()
        self._host: Host = lab.host(f"relay{len(lab.hosts)}")
        names = [(f"a{number}", f"b{number}") for number in range(len(pairs))]
        self.wires: list[tuple[Link, Link]] = [
            lab.wire(*pair, middle=self._host, middle_names=name, **wire)
            for pair, name in zip(pairs, names, strict=True)
        ]
        fd = os.memfd_create("relay")
        try:
            os.ftruncate(fd, self._ffi.sizeof("struct vk_relay_shared"))
            self._memory = mmap.mmap(fd, 0)
            self._shared: Any = self._ffi.from_buffer("struct vk_relay_shared *", self._memory)
            self.there, self.back = there, back or there
            self._publish()
            self._process = self._host.popen(
                [compiled(), str(fd), str(seed), *itertools.chain(*names)],
                stderr=subprocess.PIPE,
                pass_fds=(fd,),
            )
            if cpu is not None:
                os.sched_setaffinity(self._process.pid, {cpu})
        finally:
            os.close(fd)
        self._wait()

    def _publish(self) -> None:
        shared = self._shared
        shared.version += 1  # odd: the relay keeps what it has
        for config, conditions in zip(shared.config, (self.there, self.back), strict=True):
            _write(conditions, self._ffi.addressof(config))
        shared.version += 1

    def _wait(self) -> None:
        def applied() -> bool:
            if self._process.poll() is not None and self._process.stderr is not None:
                raise RuntimeError(f"the relay ended: {self._process.stderr.read().decode()}")
            return bool(self._shared.applied == self._shared.version)

        wait_until(applied, what="the relay's new conditions")

    def change(self, there: Conditions, back: Conditions | None = None) -> None:
        """Change the conditions for what comes from now on; returns once they hold."""
        self.there, self.back = there, back or there
        self._publish()
        self._wait()

    @contextlib.contextmanager
    def worse(self, **conditions: Any) -> Iterator[None]:
        """Change some conditions of both directions for a while."""
        before = self.there, self.back
        self.change(replace(self.there, **conditions), replace(self.back, **conditions))
        try:
            yield
        finally:
            self.change(*before)

    def counts(self) -> tuple[Count, Count]:
        """Return the counts there and back, as of the relay's last turn."""
        there, back = (self._count(direction) for direction in (0, 1))
        return there, back

    def _count(self, direction: int) -> Count:
        link, own = self._shared.link[direction], self._shared.own[direction]
        return Count(
            packets=link.packets,
            arrived=link.arrived,
            lost=link.lost,
            policed=link.policed,
            overflowed=link.overflowed,
            oversized=link.oversized,
            duplicated=link.duplicated,
            reordered=link.reordered,
            corrupted=link.corrupted,
            marked=link.marked,
            sent=own.sent,
            late=own.late,
            late_s_max=own.late_ns_max / 1e9,
            late_s_mean=own.late_ns_sum / 1e9 / max(own.sent + own.refused, 1),
            under_way=link.arrived - own.sent - own.refused - own.memory,
            faults=own.ring_full + own.refused + own.truncated + own.unsummed + own.memory,
        )

    def turns(self) -> int:
        """Return how often the relay has looked for frames."""
        return int(self._shared.turns)

    def close(self) -> None:
        """Stop carrying; the wire stays, cut."""
        self._shared.stop = 1
        if self._process.poll() is None:
            self._process.wait(STOP_S)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._shared = None
        self._memory.close()
