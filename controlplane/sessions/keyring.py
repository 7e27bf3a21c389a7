"""Hands the secrets of sessions to the workers, in memory that nobody else maps (vk_secrets)."""

from __future__ import annotations

from typing import Any

from valkyrie.dataplane import ffi, lib


class Keyring:
    """The rows of a node. A peer has two: a session is made anew while the old one is in use."""

    def __init__(self, pointer: Any) -> None:
        self._rows = pointer

    def enter(
        self,
        index: int,
        session: int,
        live: int,
        *,
        seals: bytes,
        opens: bytes,
        proofs: tuple[bytes, bytes] = (bytes(lib.VK_SECRET_SIZE),) * 2,
    ) -> int:
        """Enter what a new session with a peer begins with; return which row: vk_peer.keys.

        ``session`` is the id on the frames that we get, ``live`` that of the session in use, whose
        row stays as it is (0: there is none); ``seals`` and ``opens`` are the secrets of epoch 0,
        32 bytes each, of what we send and what we get; ``proofs`` are the keys of our control
        frames' proofs and of the peer's.
        """
        which = 1 if live and self._rows.keys[0][index].session == live else 0
        row = self._rows.keys[which][index]
        row.session = 0
        for ratchet, secret in ((row.seal, seals), (row.open, opens)):
            assert len(secret) == lib.VK_SECRET_SIZE
            ffi.memmove(ratchet.secrets[0].bytes, secret, len(secret))
            ratchet.secrets[0].epoch = 0
            ratchet.live = 0
            ratchet.began_ns = ratchet.before = 0
        for target, secret in zip(row.proofs, proofs, strict=True):
            assert len(secret) == lib.VK_SECRET_SIZE
            ffi.memmove(target, secret, len(secret))
        row.session = session
        return which

    def _of(self, index: int) -> tuple[Any, Any]:
        return self._rows.keys[0][index], self._rows.keys[1][index]

    def keep(self, index: int, session: int) -> None:
        """Erase what a peer's other sessions had; 0: all."""
        for row in self._of(index):
            if row.session != session or not session:
                ffi.memmove(ffi.addressof(row), bytes(ffi.sizeof(row)), ffi.sizeof(row))

    def proofs(self, index: int, session: int) -> tuple[bytes, bytes] | None:
        """Return the keys of our control frames' proofs and of the peer's, as they were entered."""
        for row in self._of(index):
            if session and row.session == session:
                return bytes(row.proofs[0]), bytes(row.proofs[1])
        return None

    def epochs(self, index: int, session: int) -> tuple[int, int] | None:
        """Return the epochs of what we send and get; None without such a session."""
        for row in self._of(index):
            if session and row.session == session:
                return (
                    int(row.seal.secrets[row.seal.live & 1].epoch),
                    int(row.open.secrets[row.open.live & 1].epoch),
                )
        return None
