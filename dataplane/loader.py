"""Loads the eBPF programs, hangs them on interfaces, and reaches their maps.

A program is replaced atomically: load the new one on the live maps (``reuse``), then
``Link.replace``. Closing a link's last descriptor detaches the program, so nothing is left behind
by a process that dies. Loading and attaching need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; maps and
links that are open already need nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from valkyrie import bpf

from . import ffi, lib
from .errors import ConfigError, DataPlaneError
from .wire import Class, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CAPABILITIES = "run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
VARIABLE = ".data."
"""What libbpf and the kernel put in front of the name of a map that is a program's variable."""
_LOG_SIZE = 2000
"""Characters of libbpf's log that an error quotes: its end says what was refused."""


class XdpMode(IntEnum):
    """Where XDP runs: in the driver, or on the packets the kernel has already taken in."""

    NATIVE = lib.VK_XDP_NATIVE
    GENERIC = lib.VK_XDP_GENERIC


def _fail(result: int, what: str, hint: str = "") -> DataPlaneError:
    log = ffi.string(lib.vk_bpf_log()).decode(errors="replace").strip()[-_LOG_SIZE:]
    if not hint and abs(result) in (errno.EPERM, errno.EACCES):
        hint = CAPABILITIES
    parts = [hint] if hint else []
    if log:
        parts.append(f"libbpf says: {log}")
    return DataPlaneError.of(result, what, ". ".join(parts))


def _check(result: int, what: str, hint: str = "") -> int:
    if result < 0:
        raise _fail(result, what, hint)
    return result


@dataclass(frozen=True, slots=True)
class MapShape:
    """What two programs must agree on to share a map."""

    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int

    @classmethod
    def of(cls, info: Any) -> MapShape:
        """Return the shape in a ``struct vk_bpf_map``."""
        return cls(info.type, info.key_size, info.value_size, info.entries, info.flags)


class Map:
    """An eBPF map, by descriptor. ``owned`` descriptors are closed with it."""

    def __init__(self, fd: int, name: str, *, owned: bool = False) -> None:
        self.fd = fd
        self.name = name
        self._owned = owned
        info = ffi.new("struct vk_bpf_map *")
        _check(lib.vk_bpf_map_info(fd, info), f"read the shape of map {name}")
        self.shape = MapShape.of(info)

    def _key(self, key: int | bytes) -> Any:
        data = key.to_bytes(self.shape.key_size, "little") if isinstance(key, int) else key
        assert len(data) == self.shape.key_size, f"a key of {self.name} has another size"
        return ffi.from_buffer(data)

    def update(self, key: int | bytes, value: int | bytes, flags: int = 0) -> None:
        """Write an element; a plain number is taken as the index or descriptor it is."""
        size = self.shape.value_size
        data = value.to_bytes(size, "little") if isinstance(value, int) else value
        assert len(data) == size, f"a value of {self.name} has another size"
        result = lib.vk_bpf_update(self.fd, self._key(key), ffi.from_buffer(data), flags)
        _check(result, f"update map {self.name}")

    def lookup(self, key: int | bytes) -> bytes | None:
        """Return an element (of a per-CPU map: all values in a row), or None."""
        per_cpu = self.shape.type in _PER_CPU_TYPES
        size = -(-self.shape.value_size // 8) * 8 * cpus() if per_cpu else self.shape.value_size
        value = ffi.new("uint8_t[]", size)
        result = lib.vk_bpf_lookup(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        _check(result, f"look up in map {self.name}")
        return bytes(ffi.buffer(value))

    def delete(self, key: int | bytes) -> bool:
        """Remove an element; False when there was none."""
        result = lib.vk_bpf_delete(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        _check(result, f"remove an element of map {self.name}")
        return True

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys; of a map that changes meanwhile, some may be missed."""
        previous = ffi.NULL
        for _ in range(self.shape.entries + 1):
            following = ffi.new("uint8_t[]", self.shape.key_size)
            if lib.vk_bpf_next(self.fd, previous, following) < 0:
                return
            yield bytes(ffi.buffer(following))
            previous = following

    def map_memory(self, *, writable: bool = True) -> mmap.mmap:
        """Map an array's elements into this process, shared with the kernel."""
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(self.fd, self.shape.entries * self.shape.value_size, prot=access)

    def duplicate(self) -> Map:
        """Return the same map on a descriptor of its own, which the caller closes."""
        return Map(os.dup(self.fd), self.name, owned=True)

    def close(self) -> None:
        """Close an owned descriptor."""
        if self._owned and self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def cpus() -> int:
    """Return how many values an element of a per-CPU map has."""
    return _check(lib.vk_bpf_cpus(), "count the possible CPUs")


# linux/bpf.h, enum bpf_map_type: PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
_PER_CPU_TYPES = (5, 6, 10)


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted of a class and verdict."""

    packets: int
    bytes: int
    messages: int


def read_counts(counts: Map) -> dict[tuple[Class, Verdict], Count]:
    """Return the rows of ``vk_counts`` that are not zero, summed over the CPUs."""
    entries, numbers = counts.shape.entries, counts.shape.value_size // 8
    sums = ffi.new("uint64_t[]", entries * numbers)
    result = lib.vk_bpf_sums(counts.fd, entries, numbers, sums)
    _check(result, "read the verdict counters")
    found = memoryview(ffi.buffer(sums)).cast("Q").tolist()
    rows: dict[tuple[Class, Verdict], Count] = {}
    for key, packets in enumerate(found[::numbers]):
        if packets:
            size, more = found[key * numbers + 1 : (key + 1) * numbers]
            klass, verdict = divmod(key, lib.VK_VERDICT_COUNT)
            messages = (packets + more) % (1 << 64) if verdict == Verdict.STEER else 0
            rows[Class(klass), Verdict(verdict)] = Count(packets, size, messages)
    return rows


def police(packets_per_second: float, burst: int) -> bytes:
    """Return a ``vk_police`` of at least 1 packet/s; 0 packets/s is no limit."""
    per_ns = packets_per_second * (1 << lib.VK_TOKEN_SHIFT) / 1e9
    rate = max(1, round(per_ns)) if packets_per_second else 0
    limit = 1 << lib.VK_POLICE_BITS
    if not (0 <= rate < limit and 0 <= burst < limit):
        raise ConfigError(f"a rate of {packets_per_second}/s with a burst of {burst} is too large")
    return bytes(ffi.buffer(ffi.new("struct vk_police *", {"rate": rate, "burst": burst})))


@dataclass(frozen=True, slots=True)
class Run:
    """What a program made of a packet."""

    result: int
    """XDP_ABORTED 0, XDP_DROP 1, XDP_PASS 2, XDP_TX 3, XDP_REDIRECT 4."""
    packet: bytes
    meta: bytes
    duration_ns: int
    """Average over the repeats."""


class Program:
    """A loaded eBPF program and its maps."""

    def __init__(
        self,
        name: str,
        *,
        variables: Mapping[str, int] | None = None,
        reuse: Mapping[str, Map] | None = None,
        image: bytes | None = None,
    ) -> None:
        """Load ``<name>.bpf.o`` (or ``image``), whose program is ``vk_<name>``.

        ``variables`` sets its configuration; ``reuse`` are live maps, by name, to run on instead
        of new ones: DataPlaneError EPROTO when their shape is not what the program expects.
        """
        self.name = name
        self._object = ffi.NULL
        self._maps: dict[str, Map] = {}
        lib.vk_bpf_log_clear()
        data = bpf.load(name) if image is None else image
        error = ffi.new("int *")
        self._object = lib.vk_bpf_open(data, len(data), name.encode(), error)
        if self._object == ffi.NULL:
            raise _fail(error[0], f"open the eBPF object {name}", "reinstall the package")
        try:
            self._configure(variables or {}, reuse or {})
            _check(lib.vk_bpf_load(self._object), f"load the eBPF program {name}")
            self.fd: int = _check(
                lib.vk_bpf_program(self._object, f"vk_{name}".encode()),
                f"find the program vk_{name}",
            )
            for map_name in self._declared():
                fd = lib.vk_bpf_map_fd(self._object, map_name.encode())
                name = map_name.removeprefix(VARIABLE)
                self._maps[name] = Map(fd, name)
        except BaseException:
            self.close()
            raise

    def _declared(self) -> list[str]:
        names: list[str] = []
        while (name := lib.vk_bpf_map_name(self._object, len(names))) != ffi.NULL:
            names.append(ffi.string(name).decode())
        # .rodata and the like are not ours
        return [name for name in names if "." not in name.removeprefix(VARIABLE)]

    def _configure(self, variables: Mapping[str, int], reuse: Mapping[str, Map]) -> None:
        for variable, value in variables.items():
            result = lib.vk_bpf_set(self._object, variable.encode(), value)
            _check(result, f"set {variable} = {value} in the eBPF program {self.name}")
        declared = {name.removeprefix(VARIABLE): name for name in self._declared()}
        for name, live in reuse.items():
            info = ffi.new("struct vk_bpf_map *")
            what = f"run {self.name} on the live map {name}"
            own = declared.get(name, name).encode()
            _check(lib.vk_bpf_declared(self._object, own, info), what)
            wanted = MapShape.of(info)
            if wanted != live.shape:
                hint = f"it is {live.shape}, wanted is {wanted}: stop and start the node instead"
                raise _fail(errno.EPROTO, what, hint)
            _check(lib.vk_bpf_reuse(self._object, own, live.fd), what)

    @property
    def maps(self) -> Mapping[str, Map]:
        """The maps by name; they are closed with the program, ``duplicate`` what shall stay."""
        return self._maps

    def set_police(self, klass: Class, packets_per_second: float, burst: int) -> None:
        """Change a class's token bucket on every queue, live; 0 packets/s is no limit."""
        value = ffi.from_buffer("struct vk_police *", police(packets_per_second, burst))
        with self._maps["vk_lanes"].map_memory() as memory:
            lanes = ffi.from_buffer("struct vk_lane[]", memory)
            for queue in range(lib.VK_QUEUES_MAX):
                lanes[queue * lib.VK_CLASS_COUNT + klass].police = value[0]
            ffi.release(lanes)

    def set_source_police(self, packets_per_second: float, burst: int) -> None:
        """Change every source address's token bucket, live; 0 packets/s is no limit."""
        self._maps["vk_source"].update(0, police(packets_per_second, burst))

    def counts(self) -> dict[tuple[Class, Verdict], Count]:
        """Return the verdict counters that are not zero."""
        return read_counts(self._maps["vk_counts"])

    def attach(
        self, ifindex: int, modes: Sequence[XdpMode] = (XdpMode.NATIVE, XdpMode.GENERIC)
    ) -> Link:
        """Hang the program on an interface of this network namespace, in the first mode that works.

        DataPlaneError EBUSY when the interface carries a program already.
        """
        lib.vk_bpf_log_clear()
        attached = attached_to(ifindex)
        if attached.program_id:
            raise _occupied(ifindex, attached)
        refused: list[str] = []
        result = -errno.EINVAL
        for mode in modes:
            result = lib.vk_bpf_attach(self.fd, ifindex, mode)
            if result >= 0:
                return Link(result, ifindex, mode, "; ".join(refused))
            refused.append(f"{mode.name.lower()}: {os.strerror(-result)}")
            if result in (-errno.EBUSY, -errno.EEXIST):
                raise _occupied(ifindex, attached_to(ifindex))
        what = f"attach {self.name} to interface {ifindex} ({'; '.join(refused)})"
        hint = "its MTU may be above what XDP takes here (about 3500 bytes)"
        raise _fail(result, what, hint if result in (-errno.ERANGE, -errno.EINVAL) else "")

    def test_run(self, packet: bytes, *, ifindex: int = 0, queue: int = 0, repeat: int = 1) -> Run:
        """Run an XDP program over a packet (at least 14 bytes); nothing is sent.

        ``queue`` must exist on the interface; without one it is the loopback device's queue 0.
        """
        size = len(packet) + 256  # room for metadata in front
        run = ffi.new("struct vk_bpf_run *")
        run.repeat, run.ifindex, run.queue, run.size = repeat, ifindex, queue, size
        after = ffi.new("uint8_t[]", size)
        result = lib.vk_bpf_test_run(self.fd, packet, len(packet), after, run)
        _check(result, f"run {self.name} over a packet of {len(packet)} bytes")
        data = bytes(ffi.buffer(after, run.size))
        return Run(run.result, data[run.meta_size :], data[: run.meta_size], run.duration_ns)

    def pin(self, directory: str | Path) -> None:
        """Pin the program and its maps as files of a directory on a bpf file system."""
        for name, fd in {f"vk_{self.name}": self.fd, **{m.name: m.fd for m in self}}.items():
            path = Path(directory) / name
            _check(lib.vk_bpf_pin(fd, str(path).encode()), f"pin {path}")

    def __iter__(self) -> Iterator[Map]:
        """Iterate over the maps."""
        return iter(self._maps.values())

    def close(self) -> None:
        """Close the descriptors of program and maps; what links, pins or others hold goes on."""
        for each in self._maps.values():
            each.close()
        self._maps.clear()
        if self._object != ffi.NULL:
            lib.vk_bpf_close(self._object)
        self._object = ffi.NULL
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Attached:
    """The XDP program an interface carries; ``program_id`` 0 = none."""

    program_id: int
    name: str
    mode: XdpMode | None


def attached_to(ifindex: int) -> Attached:
    """Return what an interface of this network namespace carries."""
    info = ffi.new("struct vk_bpf_attached *")
    _check(lib.vk_bpf_attached(ifindex, info), f"ask interface {ifindex} for its XDP program")
    name = bytes(info.name).split(b"\0")[0].decode(errors="replace")
    return Attached(info.program_id, name, XdpMode(info.mode) if info.mode else None)


def _occupied(ifindex: int, attached: Attached) -> DataPlaneError:
    mode = attached.mode.name.lower() if attached.mode else "some"
    return _fail(
        errno.EBUSY,
        f"attach to interface {ifindex}, which carries XDP program"
        f" '{attached.name or 'unnamed'}' (id {attached.program_id}, {mode} mode)",
        'Detach that program, or set path = "udp" for the interface',
    )


class Link:
    """A program's hold on an interface; lasts as long as its descriptor (or a pin of it)."""

    def __init__(self, fd: int, ifindex: int, mode: XdpMode, reason: str = "") -> None:
        self.fd = fd
        self.ifindex = ifindex
        self.mode = mode
        self.reason = reason
        """Why a mode tried before was refused; empty when the first one worked."""

    def replace(self, program: Program) -> None:
        """Swap the program; every packet meets either the old one or the new."""
        lib.vk_bpf_log_clear()
        what = f"replace the program on interface {self.ifindex}"
        _check(lib.vk_bpf_replace(self.fd, program.fd), what)

    def close(self) -> None:
        """Detach, unless another process or a pin holds the link."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def open_pinned_map(path: str | Path) -> Map:
    """Open a pinned map; close it after use."""
    lib.vk_bpf_log_clear()
    fd = _check(lib.vk_bpf_get(str(path).encode()), f"open the pinned map {path}")
    return Map(fd, Path(path).name, owned=True)


def open_classifier(
    udp_port: int = lib.VK_PORT,
    *,
    sample_shift: int = lib.VK_SAMPLE_NEVER,
    reuse: Mapping[str, Map] | None = None,
) -> Program:
    """Load the XDP classifier; one frame of ``2 ** sample_shift`` gets a time stamp."""
    variables = {"vk_udp_port": udp_port, "vk_sample_shift": sample_shift}
    return Program("classify", variables=variables, reuse=reuse)


def open_selector(*, reuse: Mapping[str, Map] | None = None) -> Program:
    """Load the reuseport program of the kernel path; attach it with SO_ATTACH_REUSEPORT_EBPF."""
    return Program("select", reuse=reuse)
