"""Merkle trees over many messages, so that one signature is enough (RFC 9162, section 2.1).

The tree of RFC 6962 and RFC 9162: SHA-256, leaves and nodes hashed with different prefixes so that
none can be taken for the other, and no leaf repeated where their number is no power of two.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HASH_SIZE = 32
_LEAF, _NODE = b"\0", b"\1"


def leaf_hash(salt: bytes, message: bytes | bytearray | memoryview) -> bytes:
    """Return the hash of the leaf ``salt + message``."""
    leaf = hashlib.sha256(_LEAF + salt)
    leaf.update(message)
    return leaf.digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class Tree:
    """The hashes of a tree: levels from leaves to root."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """Over hashes of leaves, at least one."""
        assert leaves
        level = list(leaves)
        self._levels = [level]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            above = [_node_hash(left, right) for left, right in pairs]
            if len(level) % 2:  # goes up as it is: the smaller tree on the right
                above.append(level[-1])
            level = above
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """The hash over all leaves."""
        return self._levels[-1][0]

    def path(self, index: int) -> bytes:
        """Return the hashes that, with the leaf of this index, give the root; lowest first."""
        found = []
        for level in self._levels[:-1]:
            beside = index ^ 1
            if beside < len(level):
                found.append(level[beside])
            index >>= 1
        return b"".join(found)


def path_size(index: int, count: int) -> int:
    """Return the bytes of a leaf's path in a tree of ``count`` leaves."""
    assert 0 <= index < count
    last, steps = count - 1, 0
    while last:
        steps += index % 2 or index < last
        index, last = index >> 1, last >> 1
    return steps * HASH_SIZE


def root_of(leaf: bytes, index: int, count: int, path: bytes) -> bytes:
    """Return the root that a leaf and its path give; ``path`` has the size of ``path_size``."""
    assert len(path) == path_size(index, count)
    last, at = count - 1, 0
    while last:
        if index % 2 or index < last:
            beside = path[at : at + HASH_SIZE]
            leaf = _node_hash(beside, leaf) if index % 2 else _node_hash(leaf, beside)
            at += HASH_SIZE
        index, last = index >> 1, last >> 1
    return leaf
