"""Says of each capability of kernel, device and privilege what it gives, and what to do without.

Nothing here changes anything.
"""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from valkyrie.controlplane.confinement import landlock
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import attached_to

from . import facts
from .device import XdpFeature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .netlink import Interface

Need = Literal["node", "xdp", "udp", "speed", "safety"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability. ``costs`` and ``how`` are of its absence."""

    name: str
    ok: bool
    need: Need
    """What cannot do without it, or suffers."""
    gives: str
    costs: str
    how: str
    found: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for --json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of a host."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def missing(self) -> list[Finding]:
        """What is not there."""
        return [each for each in self.findings if not each.ok]

    def can(self, need: Need) -> bool:
        """Say whether nothing is missing for that."""
        return all(each.ok for each in self.findings if each.need == need)

    @property
    def ok(self) -> bool:
        """Say whether a node can run here, on one path at least."""
        return self.can("node") and (self.can("xdp") or self.can("udp"))

    def document(self) -> dict[str, Any]:
        """Return it for --json."""
        return {
            "ok": self.ok,
            "xdp": self.can("node") and self.can("xdp"),
            "udp": self.can("node") and self.can("udp"),
            "findings": [each.document() for each in self.findings],
        }


def examine(interfaces: Mapping[str, int] | None = None) -> Report:
    """Examine the host, and interfaces by name and queues to serve (0: all), or all that are up."""
    findings = [*_programs(), *_kernel(), *_paths(), *_rights(), *_safety(), *_faults()]
    findings += _interfaces(interfaces or {})
    return Report(findings)


def _said(number: int) -> str:
    return "yes" if number == 0 else f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"


_PRIVILEGE = "run it as root, or give CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"


def _programs() -> Iterable[Finding]:
    loaded = facts.load_program(facts.PROG_XDP)
    yield Finding(
        "bpf",
        loaded == 0,
        "xdp",
        "programs that classify frames in the kernel",
        "no XDP: only the kernel path",
        _PRIVILEGE if loaded == errno.EPERM else "a kernel with CONFIG_BPF_SYSCALL, 5.10 or later",
        _said(loaded),
    )
    made = facts.create_map(facts.MAP_XSKMAP, 4)
    yield Finding(
        "xskmap",
        made == 0,
        "xdp",
        "the map through which XDP steers to AF_XDP sockets",
        "no XDP path",
        _PRIVILEGE if made == errno.EPERM else "a kernel with CONFIG_XDP_SOCKETS",
        _said(made),
    )
    mapped = facts.create_map(facts.MAP_ARRAY, 8, facts.MAP_FLAG_MMAPABLE)
    yield Finding(
        "mmapable-array",
        mapped == 0,
        "xdp",
        "frame credits that worker and XDP share without system calls",
        "no XDP path: a stalled class could take every frame",
        _PRIVILEGE if mapped == errno.EPERM else "a kernel from 5.5 on",
        _said(mapped),
    )


def _kernel() -> Iterable[Finding]:
    btf = os.path.exists("/sys/kernel/btf/vmlinux")  # noqa: PTH110
    yield Finding(
        "btf",
        btf,
        "speed",
        "programs that fit themselves to the running kernel",
        "no live traces; the data path does not need it",
        "a kernel with CONFIG_DEBUG_INFO_BTF",
        "yes" if btf else "no /sys/kernel/btf/vmlinux",
    )
    jit = facts.text("/proc/sys/net/core/bpf_jit_enable")
    yield Finding(
        "bpf-jit",
        jit != "0",
        "speed",
        "programs as machine code",
        "every packet is interpreted: about ten times the time",
        "sysctl net.core.bpf_jit_enable=1",
        jit or "not visible in this network namespace",
    )
    unprivileged = facts.text("/proc/sys/kernel/unprivileged_bpf_disabled")
    yield Finding(
        "unprivileged-bpf-off",
        unprivileged != "0",
        "safety",
        "nobody but the node loads programs",
        "any user of the host may load some kinds of program",
        "sysctl kernel.unprivileged_bpf_disabled=2",
        unprivileged or "no such setting",
    )
    sealed = facts.sealed_memfd()
    yield Finding(
        "memfd-sealing",
        sealed == 0,
        "node",
        "rings that an application can neither shrink nor write where it must not",
        "no applications",
        "a kernel from 5.1 on",
        _said(sealed),
    )


def _paths() -> Iterable[Finding]:
    xsk = facts.af_xdp()
    yield Finding(
        "af-xdp",
        xsk.error == 0,
        "xdp",
        "frames straight from the driver into the worker's memory",
        "no XDP path",
        "run it as root, or give CAP_NET_RAW"
        if xsk.error == errno.EPERM
        else "a kernel with CONFIG_XDP_SOCKETS",
        _said(xsk.error),
    )
    yield Finding(
        "need-wakeup",
        xsk.need_wakeup,
        "speed",
        "no system call while the driver is awake",
        "a system call for every batch sent and refilled",
        "a kernel from 5.4 on",
        "yes" if xsk.need_wakeup else "no",
    )
    selected = facts.load_program(facts.PROG_SK_REUSEPORT)
    selected = selected or facts.create_map(facts.MAP_REUSEPORT_SOCKARRAY, 8)
    yield Finding(
        "sk-reuseport",
        selected == 0,
        "udp",
        "classification in the kernel on the kernel path too",
        "no kernel path",
        _PRIVILEGE if selected == errno.EPERM else "a kernel from 4.19 on with CONFIG_INET",
        _said(selected),
    )
    for name, number, verb, since in (
        ("udp-segment", facts.udp_segment(), "send", "4.18"),
        ("udp-gro", facts.udp_gro(), "receive", "5.0"),
    ):
        yield Finding(
            name,
            number == 0,
            "udp",
            f"one system call to {verb} up to 64 datagrams",
            f"no kernel path: it could not {verb} fast",
            f"a kernel from {since} on",
            _said(number),
        )


def _rights() -> Iterable[Finding]:
    held = facts.capabilities()
    wanted: tuple[tuple[str, Need, str, str], ...] = (
        ("CAP_NET_ADMIN", "node", "attaching programs, sizing socket buffers", "no node"),
        ("CAP_NET_RAW", "xdp", "AF_XDP sockets", "no XDP path"),
        ("CAP_BPF", "node", "loading programs", "no classification in the kernel, so no node"),
        ("CAP_PERFMON", "node", "programs with pointer arithmetic", "the classifier is refused"),
    )
    for name, need, gives, costs in wanted:
        have = name in held or (name in ("CAP_BPF", "CAP_PERFMON") and "CAP_SYS_ADMIN" in held)
        how = f"run it as root, or give {name} (systemd: AmbientCapabilities)"
        yield Finding(name, have, need, gives, costs, how, "yes" if have else "no")
    limit = facts.memlock_bytes()
    yield Finding(
        "memory-lock",
        "CAP_IPC_LOCK" in held or limit == -1,
        "speed",
        "frame memory of any size",
        f"frames must fit {limit} bytes: smaller rings, or opening a port fails",
        "run it as root, give CAP_IPC_LOCK, or ulimit -l unlimited",
        "CAP_IPC_LOCK" if "CAP_IPC_LOCK" in held else f"RLIMIT_MEMLOCK {limit}",
    )
    cpus = facts.cpu_count()
    yield Finding(
        "cpus",
        cpus > 1,
        "speed",
        "worker and applications side by side",
        "worker, kernel and applications take turns: set worker.spin_us = 0",
        "a second CPU",
        str(cpus),
    )


def _safety() -> Iterable[Finding]:
    secret = facts.secret_memory()
    yield Finding(
        "memfd-secret",
        secret == 0,
        "safety",
        "keys of sessions in memory that the kernel itself does not map",
        "keys are in common memory: what reads any memory through a fault of the kernel reads them",
        "Linux 6.5 or later; from 5.14 on, boot with secretmem.enable=1",
        _said(secret),
    )
    filters = facts.seccomp()
    yield Finding(
        "seccomp",
        filters == 0,
        "safety",
        "worker and daemon make only the system calls that they need",
        "who takes one of them over has every system call of an unprivileged user",
        "a kernel with CONFIG_SECCOMP_FILTER, on x86-64, aarch64 or riscv64",
        _said(filters),
    )
    version = landlock.abi()
    for level in landlock.LEVELS:
        yield Finding(
            f"landlock: {level.refuses}",
            version >= level.abi,
            "safety",
            f"a daemon, and a worker, that is refused {level.refuses}",
            level.costs,
            f"Linux {level.since} or later, with landlock among the LSMs (lsm=landlock,...)",
            f"ABI {version}" if version else "no Landlock",
        )


def _faults() -> Iterable[Finding]:
    version = facts.kernel_version()
    shown = ".".join(map(str, version))
    for fault in facts.FAULTS:
        yield Finding(
            f"without {fault.name}",
            not fault.afflicts(version),
            "safety",
            "a kernel without this known fault",
            fault.harm,
            fault.remedy,
            f"kernel {shown}",
        )


def _interfaces(wanted: Mapping[str, int]) -> Iterable[Finding]:
    from .netlink import Netlink

    with Netlink() as link:
        if not wanted:
            wanted = {each.name: 0 for each in link.interfaces() if each.up and each.name != "lo"}
        for name, queues in wanted.items():
            try:
                found = link.interface(name)
            except DataPlaneError as error:
                yield Finding(
                    f"{name}: present",
                    False,
                    "node",
                    "a place for frames",
                    "no node on it",
                    "correct the name, or make the interface",
                    os.strerror(error.errno or 0),
                )
                continue
            yield from _interface(found, queues)


def _queues(found: Interface, wanted: int) -> Finding:
    most: int = lib.VK_PORTS_MAX
    served = wanted or min(found.rx_queues, most)
    fewer = f"ethtool -L {found.name} combined {served}"
    return Finding(
        f"{found.name}: every queue served",
        found.rx_queues <= served,
        "speed",
        "every frame meets a socket of its queue on the XDP path",
        "frames of the other queues are dropped with reason credit"
        if wanted
        else "no XDP path: the kernel's is taken",
        f"take interface.queues away, or {fewer}" if wanted and found.rx_queues <= most else fewer,
        f"{served} of {found.rx_queues}",
    )


def _interface(found: Interface, queues: int) -> Iterable[Finding]:
    name = found.name
    yield Finding(
        f"{name}: carrier",
        found.up and found.carrier,
        "speed",
        "frames that come and go",
        "nothing arrives",
        "plug in the other end, or switch it on" if found.up else f"ip link set {name} up",
        f"{'up' if found.up else 'down'}, MTU {found.mtu}, driver {found.driver or 'unknown'}",
    )
    native = XdpFeature.BASIC | XdpFeature.REDIRECT
    features = [each for each in XdpFeature if each in found.xdp_features]
    listed = ", ".join((each.name or "").lower().replace("_", "-") for each in features)
    yield Finding(
        f"{name}: native XDP",
        native in found.xdp_features,
        "speed",
        "classification in the driver, before the kernel makes a packet of a frame",
        "generic mode: every frame is copied first",
        'a driver with XDP, or path = "udp"',
        listed or "the driver names no XDP feature (kernels before 6.3 never do)",
    )
    yield Finding(
        f"{name}: zero-copy",
        XdpFeature.ZERO_COPY in found.xdp_features,
        "speed",
        "frames written by the device into the worker's memory",
        "one copy a frame"
        + (": on a virtual link the kernel path is faster in bulk" if found.is_virtual else ""),
        "a device whose driver has it (ice, i40e, ixgbe, mlx5, igc, stmmac ...)",
        "yes" if XdpFeature.ZERO_COPY in found.xdp_features else "no",
    )
    yield _queues(found, queues)
    try:
        attached = attached_to(found.index)
    except DataPlaneError as error:
        yield Finding(
            f"{name}: free for XDP",
            False,
            "speed",
            "a place for the classifier",
            "unknown",
            "look with bpftool net",
            str(error),
        )
        return
    ours = attached.name.startswith("vk_")
    yield Finding(
        f"{name}: free for XDP",
        not attached.program_id or ours,
        "speed",
        "a place for the classifier",
        'the classifier cannot be attached: path = "udp" works',
        "detach the other program",
        f"carries '{attached.name}' (id {attached.program_id})" if attached.program_id else "yes",
    )
