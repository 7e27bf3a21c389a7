"""What stat and top show of a node."""

from __future__ import annotations

from pathlib import Path

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import NodeUnderTest, expect, make_pair, running
from valkyrie.controlplane.counters.readout import AppCounts, Page


def only_app(node: NodeUnderTest) -> AppCounts:
    """Return the counters of the one application that a node has, or had last."""
    with Page(node.socket) as page:
        (app,) = page.read().apps
    return app


def test_an_application_has_no_counts_of_the_one_before_it_in_its_slot(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = make_pair(lab, tmp_path)
    with (
        running(a, b),
        valkyrie.attach_sync(b.socket) as other,
        other.listen("sink") as service,
    ):
        for count in (5, 3):
            with valkyrie.attach_sync(a.socket, name=f"sends {count}") as attached:
                stream = attached.connect("b").open("sink", cls="data")
                assert not only_app(a).classes
                accepted = service.accept(timeout=SOON_S)
                for _ in range(count):
                    stream.send(b"x")
                for _ in range(count):
                    expect(accepted, b"x")
                app = only_app(a)
                assert app.name == f"sends {count}"
                assert app.classes["data"]["sent"] == count
            wait_until(lambda: a.applications() == 0, SOON_S)
