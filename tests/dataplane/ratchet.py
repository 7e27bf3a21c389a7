"""A second opinion on the keys of epochs: what vk_keyring.c does, from the rule in vk_aead.h."""

from __future__ import annotations

from dataclasses import dataclass

from valkyrie.controlplane.security.keys import KEY_SIZE, NONCE_SIZE, SECRET_SIZE, expand


@dataclass
class Ratchet:
    """The secrets of one direction, epoch by epoch."""

    secret: bytes
    epoch: int = 0

    @property
    def key(self) -> bytes:
        return expand(self.secret, "key", b"", KEY_SIZE)

    @property
    def nonce_mask(self) -> bytes:
        return expand(self.secret, "nonce", b"", NONCE_SIZE)

    def advance(self) -> None:
        """Go to the next epoch."""
        self.secret = expand(self.secret, "epoch", b"", SECRET_SIZE)
        self.epoch += 1
