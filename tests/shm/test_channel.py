"""vk_channel: regions are made, checked, mapped and sealed."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from valkyrie.shm import ffi, lib

SIZE = 4096
PAGE = lib.VK_SHM_PAGE
F_ADD_SEALS, F_GET_SEALS = fcntl.F_ADD_SEALS, fcntl.F_GET_SEALS


def capacities(*sizes: int) -> Any:
    return ffi.new("uint32_t[]", [*sizes, *[0] * (lib.VK_RINGS_MAX - len(sizes))])


@pytest.fixture
def region() -> Iterator[int]:
    fd = lib.vk_channel_create(capacities(SIZE), 1, 7)
    assert fd >= 0
    yield fd
    os.close(fd)


def check(fd: int, *, sealed: bool = False) -> int:
    return int(lib.vk_channel_check(fd, sealed, capacities(), ffi.new("uint32_t *")))


def test_a_region_says_what_it_was_made_with(region: int) -> None:
    found, generation = capacities(), ffi.new("uint32_t *")
    assert lib.vk_channel_check(region, 0, found, generation) == 0
    assert list(found) == list(capacities(SIZE))
    assert generation[0] == 7
    assert os.fstat(region).st_size == lib.vk_channel_file_size(found) == PAGE + SIZE
    assert lib.vk_channel_span(found) == PAGE + 2 * SIZE
    assert not os.get_inheritable(region)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((), 1),  # 1: no ring
        ((SIZE - 1,), 1),  # 2: no power of two
        ((SIZE // 2,), 1),  # 3: too small
        ((2 * lib.VK_RING_CAPACITY_MAX,), 1),  # 4: too large
        ((SIZE,), lib.VK_RINGS_MAX + 1),  # 5: more rings than there can be
        ((SIZE, SIZE), 1),  # 6: a ring past the count
    ],
)
def test_impossible_shapes_are_not_made(sizes: tuple[int, ...], count: int) -> None:
    assert lib.vk_channel_create(capacities(*sizes), count, 0) == -errno.EINVAL


FIELDS = [
    (0, "I", 0),  # 1: magic
    (12, "H", 0),  # 3: a ring past the count
    (12, "H", lib.VK_RINGS_MAX + 1),  # 4
    (16, "I", 0),  # 5: no ring
    (16, "I", 2 * SIZE),  # 6: larger than the file
    (16, "I", SIZE + 8),  # 7: no power of two
    (16, "I", 1 << 31),  # 8: too large
]


@pytest.mark.parametrize(("offset", "form", "value"), FIELDS)
def test_a_header_that_is_not_right_is_refused(
    region: int, offset: int, form: str, value: int
) -> None:
    os.pwrite(region, struct.pack(form, value), offset)
    assert check(region) == -errno.EPROTO


def test_a_region_of_other_layouts_is_told_from_one_that_is_broken(region: int) -> None:
    os.pwrite(region, struct.pack("I", lib.VK_REGION_ABI ^ 1), 4)
    assert check(region) == -errno.EPROTONOSUPPORT


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + SIZE - 1, PAGE + SIZE + 1])
def test_a_file_of_another_size_is_refused(region: int, size: int) -> None:
    os.ftruncate(region, size)
    assert check(region) == -errno.EPROTO


def test_what_is_no_memfd_is_refused() -> None:
    with open("/proc/self/status", "rb") as file:
        assert check(file.fileno(), sealed=True) == -errno.EPERM
    reading, writing = os.pipe()
    assert check(reading) == -errno.EPROTO
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW])
def test_a_region_that_can_be_truncated_is_refused(region: int, seals: int) -> None:
    fcntl.fcntl(region, F_ADD_SEALS, seals)
    assert check(region, sealed=True) == -errno.EPERM
    assert check(region) == 0


@pytest.mark.parametrize("future_write", [False, True])
def test_seals_are_for_ever(region: int, future_write: bool) -> None:
    assert lib.vk_channel_seal(region, future_write) == 0
    assert check(region, sealed=True) == 0
    with pytest.raises(PermissionError):
        os.ftruncate(region, PAGE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(region, F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    mapped = lib.vk_channel_map(region, capacities(SIZE), 1, ffi.NULL)
    assert (mapped == ffi.NULL) is future_write
    if future_write:
        assert ffi.errno == errno.EPERM
        mapped = lib.vk_channel_map(region, capacities(SIZE), 0, ffi.NULL)
    lib.vk_channel_unmap(mapped, capacities(SIZE), 0)


def test_every_ring_is_mapped_twice_in_a_row() -> None:
    sizes = capacities(SIZE, 0, 2 * SIZE)
    fd = lib.vk_channel_create(sizes, 3, 0)
    mapped = lib.vk_channel_map(fd, sizes, 1, ffi.NULL)
    for ring, begin in ((0, PAGE), (2, PAGE + SIZE)):
        size = sizes[ring]
        data = ffi.buffer(lib.vk_channel_data(mapped, sizes, ring), 2 * size)
        data[size - 2 : size + 2] = b"abcd"
        assert data[:2] == b"cd"
        assert data[2 * size - 2 : 2 * size] == b"ab"
        assert os.pread(fd, 2, begin) == b"cd"
    lib.vk_channel_unmap(mapped, sizes, 0)
    os.close(fd)


def test_a_region_fits_into_a_reservation_and_leaves_it_reserved(region: int) -> None:
    sizes = capacities(SIZE)
    span = lib.vk_channel_span(sizes)
    at = lib.vk_channel_reserve(span)
    for _ in range(3):
        mapped = lib.vk_channel_map(region, sizes, 1, at)
        assert mapped == at
        mapped.tail[0] += 8
        lib.vk_channel_unmap(mapped, sizes, 1)
    assert os.pread(region, 8, ffi.offsetof("struct vk_region", "tail")) == struct.pack("Q", 24)
    lib.vk_channel_unmap(ffi.cast("struct vk_region *", at), sizes, 0)
