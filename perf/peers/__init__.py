"""Every contestant. A module a family; adding one is a module here and a side in ``sides``."""

from perf.contestant import Contestant

from . import sockets, zeromq

CONTESTANTS: tuple[Contestant, ...] = (
    *zeromq.CONTESTANTS,
    *sockets.CONTESTANTS,
)
