"""Fixtures of the application API's tests: two nodes that are doubles, see double.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.double import DoubleNode, Fabric


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    made = Fabric(tmp_path)
    yield made
    made.close()


@pytest.fixture
def nodes(fabric: Fabric) -> tuple[DoubleNode, DoubleNode]:
    """The nodes "left" and "right"."""
    left, right = fabric.nodes
    return left, right
