"""The file of an identity: who may read it, and what a crash leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.identity_file import (
    load_or_make,
    read_private,
    to_pem,
    write_private,
)
from valkyrie.dataplane.errors import ConfigError


def test_the_first_start_makes_an_identity_and_the_next_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    made, new = load_or_make(path)
    assert new
    assert path.stat().st_mode & 0o7777 == 0o600
    found, new = load_or_make(path)
    assert not new
    assert found.card == made.card
    assert to_pem(found) == to_pem(made)
    assert [each.name for each in tmp_path.iterdir()] == ["identity.pem"]


def test_the_mask_of_the_process_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_make(tmp_path / "identity.pem")
    finally:
        os.umask(before)
    assert (tmp_path / "identity.pem").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o700, 0o4600])
def test_a_file_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    load_or_make(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        load_or_make(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    load_or_make(path)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        load_or_make(path)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    load_or_make(tmp_path / "real.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "real.pem")
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_or_make(tmp_path / "link.pem")
    os.mkfifo(tmp_path / "pipe.pem", 0o600)
    with pytest.raises(ConfigError, match="not a plain file"):
        load_or_make(tmp_path / "pipe.pem")
    (tmp_path / "folder.pem").mkdir()
    with pytest.raises(ConfigError, match="not a plain file"):
        load_or_make(tmp_path / "folder.pem")


def test_a_damaged_file_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    good = to_pem(Identity.generate())
    block = good[: good.index(b"-----END") + len(b"-----END PRIVATE KEY-----\n")]
    for bad in (b"", good[:-1], good[:200], block + good, good + b"x", good.replace(b"M", b"!", 5)):
        write_private(path, bad, replace=True)
        with pytest.raises(ConfigError, match=r"identity\.pem: is damaged") as caught:
            load_or_make(path)
        assert bad[30:60].decode() not in str(caught.value) or not bad
        assert path.read_bytes() == bad
    write_private(path, b"x" * 70_000, replace=True)
    with pytest.raises(ConfigError, match="more than"):
        load_or_make(path)


def test_no_write_is_seen_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.pem"
    write_private(path, b"old", replace=True)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new", replace=True)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["identity.pem"]
    with pytest.raises(ConfigError, match="cannot be kept"):
        load_or_make(tmp_path / "another.pem")


def test_two_first_starts_at_once_end_with_one_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    path_written = threading.Event()
    real_generate = Identity.generate
    first = real_generate()

    def generate(**_more: object) -> Identity:
        write_private(path, to_pem(first), replace=False)  # the other one, meanwhile
        path_written.set()
        return real_generate()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Identity, "generate", staticmethod(generate))
        found, new = load_or_make(path)
    assert path_written.is_set()
    assert not new
    assert found.card == first.card


def test_a_file_that_is_there_is_replaced_only_on_purpose(tmp_path: Path) -> None:
    write_private(tmp_path / "x", b"data", replace=False)
    assert read_private(tmp_path / "x") == b"data"
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "x", b"other", replace=False)
