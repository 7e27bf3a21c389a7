"""The truth table: packets numbered, each with the verdict the format gives it; and damage."""

from __future__ import annotations

import random

from tests.bpf.rig import ethernet, extension, frame, ip4, ip6

SESSION, SEQ, SHARD, TIME = (
    extension(1, 4, 0x0140),
    extension(3, 2),
    extension(4, 3),
    extension(6, 3),
)
UNKNOWN = extension(200, 5)

TABLE: list[tuple[int, bytes, str, str]] = [
    # steered, by class
    (1, ethernet(ip4(frame(0x00, 0))), "control", "steer"),
    (2, ethernet(ip4(frame(0x15, 20000))), "control", "steer"),
    (3, ethernet(ip4(frame(0x02, 20000, b"", SESSION))), "logs", "steer"),
    (4, ethernet(ip4(frame(0x31, 0, b"x"))), "critical", "steer"),
    (5, ethernet(ip4(frame(0x31, 1))), "system", "steer"),
    (6, ethernet(ip4(frame(0x31, 99))), "system", "steer"),
    (7, ethernet(ip4(frame(0x31, 100))), "job", "steer"),
    (8, ethernet(ip4(frame(0x31, 999))), "job", "steer"),
    (9, ethernet(ip4(frame(0x31, 1000))), "data", "steer"),
    (10, ethernet(ip4(frame(0x31, 9999))), "data", "steer"),
    (11, ethernet(ip4(frame(0x31, 10000))), "logs", "steer"),
    (12, ethernet(ip4(frame(0x31, 0xFFFFFFFF))), "logs", "steer"),
    (13, ethernet(ip6(frame(0x31, 5, b"payload", SESSION + SEQ))), "system", "steer"),
    (14, ethernet(ip4(frame(0x31, 5, b"payload")), 0x8100), "system", "steer"),
    (15, ethernet(ip6(frame(0x31, 500, b"payload")), 0x88A8, 0x8100), "job", "steer"),
    (
        16,
        ethernet(ip4(frame(0x31, 2000, b"p" * 40, SESSION + SEQ + SHARD + TIME + UNKNOWN))),
        "data",
        "steer",
    ),
    (17, ethernet(ip4(frame(0x31, 2000, b"sealed", SESSION, flags=8))), "data", "steer"),
    (18, ethernet(ip4(frame(0x31, 2000, b"p" * 80, flags=0x80, correlation=3))), "data", "steer"),
    (
        19,
        ethernet(ip4(frame(0x31, 2000, b"p" * 80, flags=0x80, correlation=1 << 31))),
        "data",
        "steer",
    ),
    (20, ethernet(ip4(frame(0x31, 2000))) + bytes(18), "data", "steer"),  # Ethernet padding
    (21, ethernet(ip4(frame(0x31, 2000), total=60) + bytes(8)), "data", "steer"),  # IP padding
    (22, ethernet(ip4(frame(0x31, 2000, b"", extension(3, 2) * 16))), "data", "steer"),
    (23, ethernet(ip4(frame(0x31, 2000, b"", extension(99, 255)))), "data", "steer"),
    (24, ethernet(ip4(frame(0x45, 7, fragment=0), fragment=0x4000)), "system", "steer"),  # DF
    (25, ethernet(ip4(frame(0x31, 20000, b"part", SESSION + SHARD))), "logs", "steer"),
    (26, ethernet(ip4(frame(0x02, 2000, b"", SESSION))), "data", "steer"),
    (27, ethernet(ip4(frame(0x31, 2000, b"", SEQ + SESSION))), "data", "steer"),
    # passed
    (30, ethernet(b"\x45" + bytes(18), ethertype=0x0800), "control", "pass_short"),
    (31, ethernet(b"\x60" + bytes(38), ethertype=0x86DD), "control", "pass_short"),
    (32, ethernet(b"\0", ethertype=0x8100), "control", "pass_short"),
    (33, ethernet(ip4(b"")[:27]), "control", "pass_short"),
    (34, ethernet(ip4(frame(), total=27)), "control", "pass_short"),
    (35, ethernet(ip6(frame(), size=7)), "control", "pass_short"),
    (36, ethernet(bytes(28), ethertype=0x0806), "control", "pass_not_ip"),
    (37, ethernet(ip4(frame()), 0x88A8, 0x8100, 0x8100), "control", "pass_not_ip"),
    (38, ethernet(ip4(frame(), first=0x55), ethertype=0x0800), "control", "pass_not_ip"),
    (39, ethernet(ip4(frame(), first=0x44), ethertype=0x0800), "control", "pass_not_ip"),
    (40, ethernet(ip6(frame(), first=0x40), ethertype=0x86DD), "control", "pass_not_ip"),
    (41, ethernet(ip4(frame(), first=0x46)), "control", "pass_options"),
    (42, ethernet(ip4(frame(), fragment=0x2000)), "control", "pass_fragment"),
    (43, ethernet(ip4(frame(), fragment=0x0001)), "control", "pass_fragment"),
    (44, ethernet(ip4(frame(), protocol=6)), "control", "pass_not_udp"),
    (45, ethernet(ip6(frame(), protocol=0)), "control", "pass_not_udp"),  # hop by hop
    (46, ethernet(ip6(frame(), protocol=44)), "control", "pass_not_udp"),  # fragment
    (47, ethernet(ip4(frame(), port=21060)), "control", "pass_port"),
    (48, ethernet(ip6(b"", port=53)), "control", "pass_port"),
    # dropped
    (60, ethernet(ip4(b"")), "control", "drop_truncated"),
    (61, ethernet(ip4(frame()[:23])), "control", "drop_truncated"),
    (62, ethernet(ip4(frame(ext=1))), "control", "drop_truncated"),
    (63, ethernet(ip4(frame(magic=0x4352))), "control", "drop_magic"),
    (64, ethernet(ip4(frame(version=1))), "control", "drop_version"),
    (65, ethernet(ip4(frame(0x08))), "control", "drop_type"),
    (66, ethernet(ip4(frame(0x46))), "control", "drop_type"),
    (67, ethernet(ip4(frame(0xFF))), "control", "drop_type"),
    (68, ethernet(ip4(frame(chain=extension(99, 1)[:1] + b"\0" * 3))), "control", "drop_extension"),
    (69, ethernet(ip4(frame(chain=extension(99, 3)[:8]))), "control", "drop_extension"),
    (70, ethernet(ip4(frame(chain=extension(1, 3)))), "control", "drop_extension"),
    (71, ethernet(ip4(frame(chain=extension(3, 2) * 17))), "control", "drop_extension"),
    (72, ethernet(ip4(frame(chain=SESSION + extension(6, 4)))), "control", "drop_extension"),
    (73, ethernet(ip4(frame(payload=b"12345", length=4))), "control", "drop_length"),
    (74, ethernet(ip4(frame(payload=b"12345", length=6))), "control", "drop_length"),
    (75, ethernet(ip4(frame(payload=b"12345", length=0xFFFFFFFF))), "control", "drop_length"),
    (76, ethernet(ip4(frame(flags=8)[:-16])), "control", "drop_length"),
    (77, ethernet(ip4(frame(), udp_size=7)), "control", "drop_length"),
    (78, ethernet(ip4(frame(), udp_size=33)), "control", "drop_length"),
    (79, ethernet(ip4(frame(payload=b"1234"))[:-1]), "control", "drop_length"),
    (80, ethernet(ip6(frame(), size=0xFFFF)), "control", "drop_length"),
]
"""Number, packet, class it is counted under, verdict."""

ONE_PER_VERDICT = [3, 13, 16, 25, 30, 36, 41, 42, 45, 47, 62, 63, 64, 65, 72, 76, 80]
"""Numbers of the packets that the sweep takes apart, at least one for every verdict."""


def damaged(packet: bytes, rng: random.Random) -> bytes:
    """Return the packet with up to three bytes changed, and sometimes cut."""
    changed = bytearray(packet)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(12, len(changed))
        changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1 << rng.randrange(8)))
    if rng.random() < 0.1:
        del changed[rng.randrange(14, len(changed)) :]
    return bytes(changed)
