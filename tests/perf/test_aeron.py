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
