"""Files are there whole, or as they were, whoever dies while writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from valkyrie.controlplane import wholefile


def test_a_file_takes_the_place_of_another_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    wholefile.write(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_without_leave_nothing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        wholefile.write(path, b"new", 0o640, replace=False)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("replace", [True, False])
def test_what_one_left_that_died_with_our_number_is_in_nobodys_way(
    tmp_path: Path, replace: bool
) -> None:
    path = tmp_path / "file"
    (tmp_path / f".file.{os.getpid()}").write_bytes(b"ne")  # in a container numbers come again
    wholefile.write(path, b"new", 0o600, replace=replace)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
