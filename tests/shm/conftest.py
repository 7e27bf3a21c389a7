"""Fixtures of the tests of shared memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shm import native


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring and the bell under relacy: ``native.run(model, "ring", iterations)``."""
    return native.build(tmp_path_factory.mktemp("model"), "model_ring.cpp", ["-O1", "-w"])
