"""Every contestant. A module a family; adding one is a module here and a side in ``sides``."""

from perf.contestant import Contestant

from . import aeron, brokers, iceoryx, libraries, sockets, valkyrie, zeromq

CONTESTANTS: tuple[Contestant, ...] = (
    *valkyrie.CONTESTANTS,
    *zeromq.CONTESTANTS,
    *sockets.CONTESTANTS,
    *libraries.CONTESTANTS,
    *iceoryx.CONTESTANTS,
    *brokers.CONTESTANTS,
    *aeron.CONTESTANTS,
)
