"""What a node signs of a batch of messages: the root over them, who asked for it, and when."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .merkle import HASH_SIZE
from .signature import Algorithm

_LABEL = b"valkyrie signed batch 1\0"
"""In front of what is signed: nothing else that identities sign begins so."""
_HEAD = struct.Struct(f">BQII{HASH_SIZE}s")
COUNT_MAX = 1 << 20
"""Messages of a batch."""
ALGORITHMS = (Algorithm.ED25519, Algorithm.ML_DSA_65, Algorithm.FN_DSA_512)
"""Those that a batch can be signed with. The first one always is; not every identity has the last.
"""


def algorithms(*, post_quantum: bool, fn_dsa: bool) -> tuple[Algorithm, ...]:
    """Return what a batch is signed with that is asked for so."""
    wanted = (True, post_quantum, fn_dsa)
    return tuple(each for each, want in zip(ALGORITHMS, wanted, strict=True) if want)


@dataclass(frozen=True, slots=True)
class Statement:
    """Signed by every algorithm of its own list, so that none can be left out afterwards."""

    node: str
    """Name of the node: its own word, the fingerprint is what counts."""
    rule: str
    """Name of the node's ``[[application]]`` rule that let the application sign."""
    uid: int
    """The application's user, as the node's kernel said."""
    time_ns: int
    """CLOCK_REALTIME of the node."""
    count: int
    """Messages of the batch."""
    root: bytes
    algorithms: tuple[Algorithm, ...] = ALGORITHMS[:1]

    def pack(self) -> bytes:
        """Return the statement's bytes."""
        mask = sum(1 << each for each in self.algorithms)
        head = _HEAD.pack(mask, self.time_ns, self.count, self.uid, self.root)
        names = (name.encode() for name in (self.node, self.rule))
        return head + b"".join(bytes([len(name)]) + name for name in names)

    def signed(self) -> bytes:
        """Return what signatures are over."""
        return _LABEL + self.pack()

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Return the statement that fills ``data``; ValueError if it is none."""
        if len(data) < _HEAD.size:
            raise ValueError("it is cut off")
        mask, time_ns, count, uid, root = _HEAD.unpack_from(data)
        algorithms = tuple(each for each in ALGORITHMS if mask >> each & 1)
        if ALGORITHMS[0] not in algorithms or not 0 < count <= COUNT_MAX:
            raise ValueError("its algorithms or its count cannot be")
        names, at = [], _HEAD.size
        for _ in range(2):
            size = data[at] if at < len(data) else 0
            names.append(data[at + 1 : at + 1 + size].decode())
            at += 1 + size
        found = cls(names[0], names[1], uid, time_ns, count, root, algorithms)
        if found.pack() != data:  # another way to write the same, or bytes behind it
            raise ValueError("it is not written as nodes write it")
        return found
