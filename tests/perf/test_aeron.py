"""Aeron, which only its users have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.contestant import MissingError
from perf.peers import aeron


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    aeron._find.cache_clear()
    yield
    aeron._find.cache_clear()


def test_without_a_folder_it_is_missing_and_the_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(aeron.FOLDER, raising=False)
    with pytest.raises(MissingError, match=f"build it and set {aeron.FOLDER}"):
        aeron.CONTESTANTS[0].side()


def test_a_folder_without_it_is_named_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(aeron.FOLDER, str(tmp_path))
    with pytest.raises(MissingError, match=r"no libaeron\.so below"):
        aeron.CONTESTANTS[0].side()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libaeron.so").touch()
    with pytest.raises(MissingError, match="no aeronmd below"):
        aeron.CONTESTANTS[0].side()


@pytest.mark.parametrize(("mtu", "payload"), [(1500, 1472), (9000, 8960)])
def test_its_packets_fill_a_link_as_far_as_frames_are_aligned(mtu: int, payload: int) -> None:
    assert f"-Daeron.mtu.length={payload}" in aeron.settings(mtu)


def test_a_window_is_no_larger_than_the_buffer_that_the_kernel_allows() -> None:
    found = dict(each.removeprefix("-Daeron.").split("=") for each in aeron.settings(1500))
    allowed = int(Path("/proc/sys/net/core/rmem_max").read_text("ascii"))
    assert int(found["rcv.initial.window.length"]) == int(found["socket.so_rcvbuf"])
    assert int(found["socket.so_rcvbuf"]) <= min(allowed, aeron.BUFFER_BYTES)
