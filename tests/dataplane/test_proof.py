"""Proofs of control frames: Python and C make and take the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.dataplane import lib as wire
from valkyrie.dataplane.control import Ping, Pong

ffi, lib = library("vk_proof.h", "vk_proof.c")
OURS, THEIRS = bytes(range(32)), bytes(range(32, 64))
A = Protection(wire.VK_CIPHER_AES_256_GCM, ours=OURS, theirs=THEIRS)
B = Protection(wire.VK_CIPHER_AES_256_GCM, ours=THEIRS, theirs=OURS)


def proof_of(key: bytes, kind: int, said: bytes) -> bytes:
    to: Any = ffi.new("uint8_t[]", wire.VK_PROOF_SIZE)
    assert lib.vk_proof_make(key, kind, said, len(said), to) == 0
    return bytes(ffi.buffer(to))


@settings(max_examples=100, deadline=None)
@given(token=st.integers(0, 2**64 - 1), bit=st.integers(0, 8 * wire.VK_PROOF_SIZE - 1))
def test_both_languages_make_the_same_proof_and_take_no_other(token: int, bit: int) -> None:
    ping, pong = Ping(token), Pong(token)
    samples: list[tuple[Ping | Pong, Ping | Pong]] = [(ping, A.prove(ping)), (pong, A.prove(pong))]
    for message, proven in samples:
        kind, said = message.type, message.payload()
        assert B.proves(proven)
        assert not A.proves(proven)
        proof = proven.option(wire.VK_OPTION_PROOF)
        assert proof is not None
        assert proof_of(OURS, kind, said) == proof
        assert lib.vk_proof_good(OURS, kind, said, len(said), proof)
        wrong = (int.from_bytes(proof, "big") ^ 1 << bit).to_bytes(len(proof), "big")
        assert not lib.vk_proof_good(OURS, kind, said, len(said), wrong)
        assert not lib.vk_proof_good(THEIRS, kind, said, len(said), proof)
        assert not lib.vk_proof_good(OURS, kind ^ 1, said, len(said), proof)
