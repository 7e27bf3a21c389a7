"""Merkle trees: the vectors of Certificate Transparency, and a model after RFC 9162's text."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkyrie.dataplane.signing.merkle import HASH_SIZE, Tree, leaf_hash, path_size, root_of

ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""Of the reference implementation of RFC 6962 (certificate-transparency, merkle_tree_test)."""
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def model_root(entries: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word: split at the largest power of two below n."""
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + model_root(entries[:k]) + model_root(entries[k:])).digest()


def model_path(m: int, entries: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*model_path(m, entries[:k]), model_root(entries[k:])]
    return [*model_path(m - k, entries[k:]), model_root(entries[:k])]


def tree(entries: list[bytes]) -> Tree:
    return Tree([leaf_hash(b"", entry) for entry in entries])


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    assert tree(ENTRIES[:count]).root.hex() == ROOTS[count - 1]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=70), st.data())
def test_roots_and_paths_are_those_of_the_specification(
    entries: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    made = tree(entries)
    assert made.root == model_root(entries)
    path = made.path(index)
    assert path == b"".join(model_path(index, entries))
    assert len(path) == path_size(index, len(entries))
    assert root_of(leaf_hash(b"", entries[index]), index, len(entries), path) == made.root


@given(
    st.lists(st.binary(max_size=8), min_size=2, max_size=40, unique=True),
    st.data(),
)
def test_no_other_place_and_no_changed_path_gives_the_root(
    entries: list[bytes], data: st.DataObject
) -> None:
    count = len(entries)
    index = data.draw(st.integers(0, count - 1))
    made = tree(entries)
    leaf, path = leaf_hash(b"", entries[index]), made.path(index)
    for other in range(count):
        if other != index and path_size(other, count) == len(path):
            assert root_of(leaf, other, count, path) != made.root
    bit = data.draw(st.integers(0, len(path) * 8 - 1))
    changed = bytearray(path)
    changed[bit // 8] ^= 1 << bit % 8
    assert root_of(leaf, index, count, bytes(changed)) != made.root


def test_a_node_is_no_leaf() -> None:
    left, right = (leaf_hash(b"", entry) for entry in ENTRIES[1:3])
    assert tree(ENTRIES[1:3]).root != leaf_hash(b"", left + right)
    assert tree(ENTRIES[1:3]).root != leaf_hash(b"\1", left + right)


def test_a_leaf_is_not_repeated_where_there_is_none_beside_it() -> None:
    three = tree(ENTRIES[:3])
    four = tree([*ENTRIES[:3], ENTRIES[2]])
    assert three.root != four.root  # as Bitcoin's would be (CVE-2012-2459)
    assert len(three.path(2)) == HASH_SIZE
