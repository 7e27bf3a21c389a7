"""The floor: what a node's own policy allows."""

from __future__ import annotations

import pytest

from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.dataplane.errors import ConfigError

EVERY = frozenset(Mode)
M = Mode


@pytest.mark.parametrize(
    ("number", "modes", "min_mode", "require_pq", "expected"),
    [
        (1, EVERY, M.PLAINTEXT, False, sorted(EVERY, reverse=True)),
        (2, EVERY, M.NOISE, False, [M.ZERO_TRUST, M.POST_QUANTUM, M.MTLS, M.NOISE]),
        (3, EVERY, M.PLAINTEXT, True, [M.ZERO_TRUST, M.POST_QUANTUM, M.MTLS]),
        (4, EVERY, M.ZERO_TRUST, False, [M.ZERO_TRUST]),
        (5, {M.NOISE}, M.NOISE, False, [M.NOISE]),
        (6, {M.NOISE}, M.MTLS, False, None),
        (7, {M.NOISE, M.TOKEN}, M.PLAINTEXT, True, None),
        (8, set(), M.PLAINTEXT, False, None),
    ],
)
def test_a_mode_is_allowed_at_or_above_the_floor(
    number: int, modes: set[Mode], min_mode: Mode, require_pq: bool, expected: list[Mode] | None
) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="no mode is left"):
            Policy(modes=frozenset(modes), min_mode=min_mode, require_pq=require_pq)
        return
    policy = Policy(modes=frozenset(modes), min_mode=min_mode, require_pq=require_pq)
    assert list(policy.allowed()) == expected


def test_by_default_nothing_is_in_the_clear() -> None:
    assert Policy().allowed() == (Mode.POST_QUANTUM, Mode.NOISE)


def test_a_peer_can_only_tighten() -> None:
    policy = Policy(modes=EVERY, min_mode=Mode.MTLS)
    assert policy.tightened(Mode.TOKEN, require_pq=False).min_mode is Mode.MTLS
    assert policy.tightened(Mode.ZERO_TRUST, require_pq=False).allowed() == (Mode.ZERO_TRUST,)
    assert policy.tightened(None, require_pq=True).require_pq
    assert Policy(require_pq=True).tightened(None, require_pq=False).require_pq


def test_a_policy_without_ciphers_or_patterns_is_refused() -> None:
    with pytest.raises(ConfigError, match="cipher"):
        Policy(ciphers=())
    with pytest.raises(ConfigError, match="pattern"):
        Policy(patterns=())
