"""The rows of vk_secrets, as the daemon writes them."""

from __future__ import annotations

import pytest

from valkyrie.controlplane.sessions.keyring import Keyring
from valkyrie.dataplane import ffi, lib

OURS, THEIRS = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture(name="rows")
def _rows() -> object:
    return ffi.new("struct vk_secrets *")


def test_a_first_session_takes_a_row_and_begins_with_epoch_0(rows: object) -> None:
    keyring = Keyring(rows)
    assert keyring.enter(3, 77, 0, seals=OURS, opens=THEIRS) == 0
    row = rows.keys[0][3]  # type: ignore[attr-defined]
    assert row.session == 77
    assert bytes(row.seal.secrets[row.seal.live].bytes) == OURS
    assert bytes(row.open.secrets[row.open.live].bytes) == THEIRS
    assert keyring.epochs(3, 77) == (0, 0)
    assert keyring.epochs(3, 78) is None
    assert keyring.epochs(4, 77) is None


def test_the_next_daemon_finds_what_control_frames_are_proven_by(rows: object) -> None:
    proofs = b"o" * 32, b"t" * 32
    Keyring(rows).enter(3, 77, 0, seals=OURS, opens=THEIRS, proofs=proofs)
    Keyring(rows).enter(3, 78, 77, seals=OURS, opens=THEIRS)
    assert Keyring(rows).proofs(3, 77) == proofs
    assert Keyring(rows).proofs(3, 78) not in (None, proofs)
    assert Keyring(rows).proofs(3, 79) is None


def test_a_new_session_leaves_the_row_of_the_one_in_use_alone(rows: object) -> None:
    keyring = Keyring(rows)
    live, session = 0, 100
    for _ in range(5):
        which = keyring.enter(0, session, live, seals=OURS, opens=THEIRS)
        if live:
            assert keyring.epochs(0, live) == (0, 0)
        assert rows.keys[which][0].session == session  # type: ignore[attr-defined]
        live, session = session, session + 1


def test_an_attempt_that_came_to_nothing_gives_its_row_to_the_next(rows: object) -> None:
    keyring = Keyring(rows)
    keyring.enter(0, 1, 0, seals=OURS, opens=THEIRS)
    assert keyring.enter(0, 2, 1, seals=OURS, opens=THEIRS) == 1
    assert keyring.enter(0, 3, 1, seals=OURS, opens=THEIRS) == 1
    assert keyring.epochs(0, 1) == (0, 0)


def test_what_is_no_longer_used_is_erased(rows: object) -> None:
    keyring = Keyring(rows)
    keyring.enter(0, 1, 0, seals=OURS, opens=THEIRS)
    keyring.enter(0, 2, 1, seals=OURS, opens=THEIRS)
    keyring.keep(0, 2)
    whole = bytes(ffi.buffer(rows))
    assert whole.count(OURS) == whole.count(THEIRS) == 1
    keyring.keep(0, 0)
    assert not any(bytes(ffi.buffer(rows)))
    assert len(OURS) == lib.VK_SECRET_SIZE
