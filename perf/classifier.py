"""What steering a packet costs, against a program that parses it and drops it.

Both run over the same packet by BPF_PROG_TEST_RUN, in turns, so that both meet the same neighbours
on the machine; the figures are medians of this thread's CPU time, which is finer than the whole
nanoseconds that the kernel reports and does not count when others run. The loop around a program
(about 5 ns) is in all figures. Machine and kernel decide the nanoseconds, the ratio is what counts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from dataclasses import replace
from functools import partial
from statistics import median

from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.guard import Guard, Master, tick
from valkyrie.dataplane.loader import Program, open_classifier
from valkyrie.dataplane.wire import Class, Seq, Session, Token, Type, make_frame

from .kernel import compiled
from .rows import Row, make_row

AF_XDP = 44  # linux/socket.h
XDP_DROP, XDP_REDIRECT = 1, 4  # linux/bpf.h
CREDIT = 1 << 62
SESSION = 77
SOURCE = ipaddress.IPv4Address("10.9.0.1")
MASTER = Master(1, bytes(range(16)))
REPEAT = 1_000_000
"""Runs a call: at 200 000 the call itself adds 1 ns to each, which flatters the ratio."""

_row = partial(make_row, "classifier", digits=1)


def _packet(*token: Token) -> bytes:
    """Return the frame that a best-effort message of 64 bytes travels in, over IPv4."""
    frame: bytes = make_frame(
        Type.STREAM_DATA, 2000, bytes(64), Session(SESSION, 1, space=1), *token, Seq(1)
    ).pack()
    udp = lib.VK_PORT.to_bytes(2, "big") * 2 + (8 + len(frame)).to_bytes(2, "big") + bytes(2)
    total = 20 + len(udp) + len(frame)
    ip = b"\x45\0" + total.to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0"
    ip += SOURCE.packed + socket.inet_aton("10.9.0.2")
    whole: bytes = bytes(12) + b"\x08\0" + ip + udp + frame
    return whole


def _prepare(program: Program, steering: socket.socket, *, limited: bool = True) -> None:
    """Give every class a socket, credit and, if limited, buckets that are full all the time."""
    rows = ffi.from_buffer("struct vk_lane[]", program.maps["vk_lanes"].map_memory())
    for klass in Class:
        program.maps["vk_xsks"].update(klass, steering.fileno())
        rows[klass].granted = CREDIT
        if limited:
            program.set_police(klass, 1e9, 1 << 20)


def _tokens() -> dict[str, Token]:
    """Return tokens for the packet, named by what the program makes of them."""
    now = tick(time.monotonic_ns())
    good = MASTER.token(SESSION, now + 10_000, SOURCE)
    return {
        "token good": good,
        "token forged": replace(good, tag=good.tag ^ 1),
        "token expired": replace(good, expiry=now - 1),
        "token of another key": replace(good, generation=good.generation + 1),
    }


def run(quick: bool) -> list[Row]:
    """Return the rows of the classifier's benchmark; ``quick`` takes about a second."""
    rounds, repeat = 7 if quick else 31, REPEAT
    packet = _packet()
    with contextlib.ExitStack() as stack:
        image = compiled("parse_drop")
        baseline = stack.enter_context(Program("parse_drop", image=image))
        steering = stack.enter_context(socket.socket(AF_XDP, socket.SOCK_RAW, 0))
        classifier = stack.enter_context(open_classifier())
        unlimited = stack.enter_context(open_classifier())
        _prepare(unlimited, steering, limited=False)
        by_source = stack.enter_context(open_classifier())
        for each in (classifier, by_source):
            _prepare(each, steering)
        by_source.set_source_police(1e9, 1 << 20)
        by_token = stack.enter_context(open_classifier())
        _prepare(by_token, steering)
        guard = Guard(by_token)
        guard.enter(MASTER)
        guard.demand([Class(Class.DATA)])
        contestants = {
            "parse and drop": (baseline, packet, XDP_DROP),
            "steer": (classifier, packet, XDP_REDIRECT),
            "steer, class without limits": (unlimited, packet, XDP_REDIRECT),
            "steer, sources policed": (by_source, packet, XDP_REDIRECT),
            "token missing": (by_token, packet, XDP_DROP),
        }
        for name, token in _tokens().items():
            result = XDP_REDIRECT if name == "token good" else XDP_DROP
            contestants[name] = (by_token, _packet(token), result)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, (program, data, expected) in contestants.items():
                begin_ns = time.thread_time_ns()
                result = program.test_run(data, repeat=repeat).result
                times[name].append((time.thread_time_ns() - begin_ns) / repeat)
                assert result == expected, f"{name} returned {result}"
    medians = {name: median(values) for name, values in times.items()}
    bare = medians.pop("parse and drop")
    return [
        _row(f"{name}, against parse and drop", ns, "ns/packet", bare, ratio=bare / ns)
        for name, ns in medians.items()
    ]
