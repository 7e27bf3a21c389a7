"""Fixtures of the control plane's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.census import NODE_PREFIX


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others can look into, the daemon's user too; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix=NODE_PREFIX) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
