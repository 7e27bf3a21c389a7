"""Children of a test that work on its ports in C until they are killed."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.dataplane.native import INCLUDES, find
from valkyrie.dataplane import ffi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dataplane.endpoint import Endpoint
    from valkyrie.dataplane.wire import Class

ROOT = Path(__file__).parents[2]
PATH_SOURCES = sorted(
    path for path in (ROOT / "dataplane" / "path").glob("*.c") if path.name != "vk_udp.c"
)


def build(directory: Path) -> ctypes.CDLL:
    """Compile the loops with the paths and load them; children inherit them by fork."""
    library = directory / "crew.so"
    flags = ["-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wl,-Bsymbolic", *INCLUDES]
    sources = [find("crew.c"), *PATH_SOURCES]
    subprocess.run(["clang-19", *flags, "-o", library, *sources], check=True)
    return ctypes.CDLL(str(library))


def address(cdata: Any) -> ctypes.c_void_p:
    """Return a cffi pointer as one of ctypes."""
    return ctypes.c_void_p(int(ffi.cast("uintptr_t", cdata)))


class Counts(ctypes.Structure):
    """``struct crew_counts``, in memory that parent and children share."""

    _fields_ = [
        (name, ctypes.c_uint64) for name in ("received", "echoed", "recovered", "sent", "failed")
    ]
    received: int
    echoed: int
    recovered: int
    sent: int
    failed: int


class Crew:
    """Forks children that run a loop; the caller's memory is theirs as it is at the fork."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._states = mmap.mmap(-1, mmap.PAGESIZE)
        self.counts = Counts.from_buffer(self._memory)
        self.state: Any = ffi.cast("struct vk_port_state *", ffi.from_buffer(self._states))
        self.children: list[int] = []

    def fork(self, loop: Callable[[], object]) -> int:
        """Run *loop* in a child and return its pid."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads only wait
            pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                loop()
            os._exit(1)
        self.children.append(pid)
        return pid

    def work(self, endpoint: Endpoint, peer: Any) -> int:
        """Start a worker that echoes to *peer*; ``state`` outlives it."""
        arguments = (endpoint.port.struct, self.state, peer)
        counts = ctypes.byref(self.counts)
        return self.fork(lambda: self.library.crew_work(*map(address, arguments), counts))

    def flood(self, endpoint: Endpoint, peer: Any, klass: Class, data: bytes) -> int:
        """Start a sender of one frame, over and over, through the port's UDP sockets."""
        arguments = [address(each) for each in (endpoint.port.struct, endpoint.state, peer)]
        counts = ctypes.byref(self.counts)
        return self.fork(
            lambda: self.library.crew_flood(*arguments, int(klass), data, len(data), counts)
        )

    def kill(self, pid: int) -> None:
        """Kill a child in the middle of whatever it does."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.children.remove(pid)

    def close(self) -> None:
        """Kill who is left."""
        for pid in list(self.children):
            self.kill(pid)


@contextlib.contextmanager
def crew_of(library: ctypes.CDLL) -> Iterator[Crew]:
    """Yield a crew and end it."""
    crew = Crew(library)
    try:
        yield crew
    finally:
        crew.close()
