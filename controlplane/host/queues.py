"""How many receive queues of a device a node serves by XDP, and what becomes of the others.

A device spreads what comes by a hash of addresses and ports: all frames of a peer come by one
queue. Nobody takes in what comes by a queue that is not served.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError

from .device import XdpFeature

if TYPE_CHECKING:
    from valkyrie.controlplane.config.settings import Interface as Wanted

    from .netlink import Interface as Facts


@dataclass(frozen=True, slots=True)
class Queues:
    """The receive queues of a device, if XDP takes in what comes."""

    served: int
    present: int
    obstacle: str = ""
    """Why XDP is not to be had: it could not serve all, and nobody said that fewer will do."""

    @classmethod
    def of(cls, wanted: Wanted, facts: Facts, room: int) -> Queues:
        """Serve as many as are wanted, or all of them if ``room`` ports are enough."""
        present = facts.rx_queues
        if wanted.queues > present:
            have = f"it has {present}: lower interface.queues"
            what = f"serve {wanted.queues} queues of {facts.name}"
            raise DataPlaneError.of(errno.EINVAL, what, have)
        if wanted.queues or present <= room:
            return cls(wanted.queues or present, present)
        return cls(
            room,
            present,
            f"XDP could serve {room} of its {present} receive queues:"
            f" `ethtool -L {facts.name} combined {room}` makes them fewer",
        )

    def warning(self, name: str) -> str:
        """Say what is lost; empty when nothing is."""
        if self.served >= self.present:
            return ""
        return (
            f"{self.served} of {self.present} receive queues are served, and what comes by the"
            f" others is dropped: take interface.queues away, or `ethtool -L {name} combined"
            f" {self.served}`"
        )


def frames_in_driver(facts: Facts) -> int:
    """Return how many frames of a queue a driver can have in hand with zero-copy: its RX ring."""
    told = facts.xdp_features
    return facts.rx_ring if XdpFeature.ZERO_COPY in told or not told else 0
