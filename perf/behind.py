"""Where others are ahead of us: said in every report, with the reason where it is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .report import Document, main_figure, of_scenario
from .targets import KERNEL

EVEN = 0.98
"""Closer than that is no lead."""
WHY = (
    "On a veth the kernel's own sockets win where much goes one way. Our packets cross it many at "
    "a time as theirs do (UDP_SEGMENT): dear is what is around the datagrams, a worker between "
    "application and kernel with its copies, headers, acknowledgements and windows. The close-up "
    "`bare` tells what they leave of the same packets' rate. Sockets know no classes. With a "
    "NIC that has zero-copy for AF_XDP packets reach a worker without the kernel's copy and its "
    "buffers; none has been at hand, so by how much that turns the comparison is not known."
)


def lines(document: Document, *, costs: bool = True) -> Iterator[str]:
    """Yield who carries more, answers sooner or costs less than the best of ours, by scenario.

    Without *costs* nobody is told who only costs less.
    """
    known = {one["name"]: one for one in document["contestants"]}
    kernel = False
    for scenario in document["scenarios"]:
        found = of_scenario(document, scenario["name"])
        for language in ("C", "Python"):
            able = [one for one in found if known[one["contestant"]]["language"] == language]
            mine = [one for one in able if known[one["contestant"]]["ours"]]
            for one in able:
                peer = known[one["contestant"]]
                leads = [] if peer["ours"] else _leads(one, mine, scenario)
                if leads and (costs or not leads[0].startswith("costs")):
                    kernel |= peer["family"] == KERNEL
                    yield f"{scenario['title']}: {peer['title']} {' and '.join(leads)}"
    if kernel:
        yield WHY


def _leads(one: dict[str, Any], mine: list[dict[str, Any]], scenario: dict[str, Any]) -> list[str]:
    """Return what one has over the best of ours, figure by figure."""
    words = []
    rate = scenario["figure"] == "rate"
    theirs, ours = (
        [figure["median"] for each in some if (figure := main_figure(each, scenario))]
        for some in ([one], mine)
    )
    if theirs and ours:
        lead = theirs[0] / max(ours) if rate else min(ours) / theirs[0]
        if lead > 1 / EVEN:
            words.append(
                f"carries {lead:.2f} times as much" if rate else f"answers {lead:.2f} times as soon"
            )
    spent, costs = (
        [each["cpu_ns_per_message"] for each in some if each["cpu_ns_per_message"]]
        for some in ([one], mine)
    )
    if spent and costs and spent[0] / min(costs) < EVEN:
        words.append(f"costs {spent[0] / min(costs):.2f} of the processor time a message")
    return words
