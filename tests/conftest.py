"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.census import SKIPS_ALLOWED_IN_CI, Census, adopt_orphans, needs
from tests.lab import Lab, Link, laboratory
from tests.nursery import close as close_nursery
from tests.nursery import nursery

_labs = pytest.StashKey[list[Lab]]()


def pytest_configure() -> None:
    """Prepare the process for the census."""
    adopt_orphans()


def pytest_unconfigure() -> None:
    """End what lasts longer than a test."""
    close_nursery()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever has namespaces is a net test; a lab that is simulated has none.

    Those, and tests that boot other kernels, have real processes and real time: one that fails is
    run once more, and named.
    """
    for item in items:
        if "namespaces" in getattr(item, "fixturenames", ()):
            item.add_marker("net")
        if any(item.get_closest_marker(each) is not None for each in ("net", "kernels")):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip that does not name an allowed feature is a failure."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        text = str(report.longrepr)
        if not any(f"needs {feature}:" in text for feature in SKIPS_ALLOWED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {text}"
    return report


@pytest.fixture(autouse=True)
def census(request: pytest.FixtureRequest) -> Iterator[Census | None]:
    """Every net test leaves nothing behind, and the kernel does not complain."""
    if request.node.get_closest_marker("net") is None:
        yield None
        return
    needs("network namespaces")
    request.node.stash[_labs] = []
    nursery()  # it lasts: not a test's
    before = Census()
    try:
        yield before
        before.check(request.node.stash[_labs])
    finally:
        before.close()


@pytest.fixture
def namespaces(census: Census) -> None:
    """What takes root, and a census."""


@pytest.fixture
def lab(request: pytest.FixtureRequest, namespaces: None) -> Iterator[Lab]:
    """Hosts and wires of one test."""
    with laboratory() as made:
        request.node.stash[_labs].append(made)
        yield made


@pytest.fixture
def pair(lab: Lab) -> tuple[Link, Link]:
    """Two hosts, "a" and "b", joined by one wire."""
    return lab.wire(lab.host("a"), lab.host("b"))
