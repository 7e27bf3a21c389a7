"""A relay between two hosts that behaves like a network: rate, delay, loss and the rest.

The same model of a link (``vk_link``) that the simulation runs in virtual time, here in real time
between two namespaces: what the simulation promises can be looked at with real sockets.
"""

from .calibration import run
from .path import Conditions, Count, Relay

__all__ = ["Conditions", "Count", "Relay", "run"]
