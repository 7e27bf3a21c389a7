"""FN-DSA-512 (Falcon; FIPS 206 is not final), by the optional package ``py-fn-dsa``."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

EXTRA = "valkyrie[fn-dsa]"
_DEGREE = 9
"""Of the ring: 2 to this power."""
PRIVATE_SIZE = 1345
PUBLIC_SIZE = 897
SIGNATURE_SIZE = 666


@functools.cache
def library() -> ModuleType | None:
    """Return the package; None: it is not installed."""
    try:
        import py_fn_dsa
    except ImportError:
        return None
    found: ModuleType = py_fn_dsa
    return found


def _library() -> ModuleType:
    found = library()
    if found is None:
        raise ConfigError(f"FN-DSA-512 needs the package py-fn-dsa: `pip install '{EXTRA}'`")
    return found


@dataclass(frozen=True, slots=True)
class FnDsaKey:
    """A private key, with its public half, which does not follow from it in this encoding."""

    secret: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls) -> FnDsaKey:
        """Return a new key; ConfigError without the package."""
        public, secret = _library().keygen(_DEGREE)
        return cls(secret.key_data, public.key_data)

    @classmethod
    def parse(cls, data: bytes) -> FnDsaKey:
        """Return the key of what ``pack`` returned; ValueError if it is none.

        Whether the halves belong together is seen only with the package.
        """
        if len(data) != PRIVATE_SIZE + PUBLIC_SIZE:
            raise ValueError("another size")
        found = cls(data[:PRIVATE_SIZE], data[PRIVATE_SIZE:])
        if library() is not None and not holds(found.public, found.sign(b"", b""), b"", b""):
            raise ValueError("the halves of a key do not belong together")
        return found

    def pack(self) -> bytes:
        """Return both halves."""
        return self.secret + self.public

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return a signature; ValueError for a key that makes none."""
        fn_dsa = _library()
        key = fn_dsa.SigningKey(_DEGREE, self.secret)
        try:
            signature: bytes = fn_dsa.sign(key, message, context)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        return signature


def holds(public: bytes, signature: bytes, message: bytes, context: bytes) -> bool:
    """Say whether a signature is of a public key's owner; ConfigError without the package."""
    fn_dsa = _library()
    # Sizes first: no other parameters of the scheme are taken.
    if (len(public), len(signature)) != (PUBLIC_SIZE, SIGNATURE_SIZE):
        return False
    try:
        right: bool = fn_dsa.verify(fn_dsa.VerifyKey(_DEGREE, public), signature, message, context)
    except ValueError:
        return False
    return right
