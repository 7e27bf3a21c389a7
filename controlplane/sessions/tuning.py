"""What one session is tuned to: values that differ from the node's, and how people write them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, get_args

from valkyrie.controlplane.config.settings import Controller
from valkyrie.dataplane.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Tuning = dict[str, int]
"""Fields of ``struct vk_tuning`` that differ from the node's parameters."""

WINDOW_MAX = 1 << 30
"""Bytes in flight: the worker clamps to as much."""
_CONTROLLERS = {name: number + 1 for number, name in enumerate(get_args(Controller))}
_RANGES = {
    "ack_delay_us": (10, 100_000),
    "window_min": (0, WINDOW_MAX),
    "window_max": (0, WINDOW_MAX),
    "rate": (1_000, 1 << 40),
    "mtu": (1_200, 65_507),
    "stream_min": (65_536, WINDOW_MAX),
    "stream_max": (65_536, WINDOW_MAX),
}
_SWITCHES = ("aggregate", "pacing")
KEYS = ("controller", *_SWITCHES, *_RANGES)
NODE = "node"
"""The value that takes a key's own value away again."""


def changed(tuning: Tuning, values: Mapping[str, int | str]) -> Tuning:
    """Return the tuning with keys changed; ConfigError names the key and what it may be.

    ``window_min`` and ``window_max`` are bytes in flight, ``stream_min`` and ``stream_max`` bytes
    that a stream may be ahead of its reader here; ``rate`` is bytes/s of ``fixed``.
    """
    made = dict(tuning)
    for key, value in values.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(KEYS)}"
            raise ConfigError(f"tune: {key}: nothing of a session: {hint}")
        made.pop(key, None)
        if value != NODE:
            made[key] = _number(key, value)
    for what in ("window", "stream"):
        if made.get(f"{what}_max", 1 << 62) < made.get(f"{what}_min", 0):
            raise ConfigError(f"tune: {what}_max: below {what}_min")
    return made


def _number(key: str, value: int | str) -> int:
    if key == "controller":
        if value not in _CONTROLLERS:
            raise ConfigError(f"tune: controller: {', '.join(_CONTROLLERS)} or {NODE}")
        return _CONTROLLERS[str(value)]
    if key in _SWITCHES:
        if value not in (0, 1):
            raise ConfigError(f"tune: {key}: on, off or {NODE}")
        return 1 if value else 2
    low, high = _RANGES[key]
    if not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"tune: {key}: {low} to {high}, or {NODE}")
    return value


def document(tuning: Tuning) -> dict[str, object]:
    """Return it as people write it."""
    words: dict[str, object] = dict(tuning)
    if "controller" in tuning:
        words["controller"] = get_args(Controller)[tuning["controller"] - 1]
    words |= {key: tuning[key] == 1 for key in _SWITCHES if key in tuning}
    return words
