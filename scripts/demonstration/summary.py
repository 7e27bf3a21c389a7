"""The summary: one document for ``--json``, one page for people."""

from __future__ import annotations

from typing import Any

from . import eavesdrop, forged, lossy, protection, stranger
from .tally import CLASSES, PHASES, Column, Tally

Document = dict[str, Any]
KEPT = ("critical", "system", "data")
"""Classes that lose nothing, flood or not. A job counts only if its answer came in time too."""


def missing(tally: Tally, name: str) -> int:
    """Return how many messages of a class were sent and have not come."""
    rows = [tally.row(index, name) for index in range(len(PHASES))]
    return sum(row.get(Column.SENT) - row.get(Column.DELIVERED) for row in rows)


def phases(tally: Tally, seconds: dict[str, float]) -> Document:
    """Return, per phase and class, what was sent, delivered and lost, and latency percentiles."""
    document: Document = {}
    for index, phase in enumerate(PHASES):
        classes: Document = {}
        for name in CLASSES:
            row = tally.row(index, name)
            sent, delivered = row.get(Column.SENT), row.get(Column.DELIVERED)
            classes[name] = {
                "sent": sent,
                "delivered": delivered,
                "lost": sent - delivered,
                "waited": row.get(Column.WAITED),
                "per_second": round(delivered / max(seconds[phase], 1e-9)),
                "mbit_per_second": round(
                    row.get(Column.DELIVERED_BYTES) * 8e-6 / max(seconds[phase], 1e-9), 2
                ),
                "p50_us": row.percentile_us(0.50),
                "p99_us": row.percentile_us(0.99),
                "p999_us": row.percentile_us(0.999),
            }
        document[phase] = {"seconds": round(seconds[phase], 2), "classes": classes}
    return document


def verdict(document: Document) -> list[str]:
    """Return what is wrong with a run, one sentence each; empty when all promises were kept."""
    wrong: list[str] = []
    for name, row in document["phases"]["calm"]["classes"].items():
        if not row["delivered"]:
            wrong.append(f"class {name} delivered nothing in the calm phase")
        elif row["lost"]:
            wrong.append(f"class {name} lost {row['lost']} messages in the calm phase")
    for name in KEPT:
        row = document["phases"]["flood"]["classes"][name]
        if row["lost"] or not row["delivered"]:
            wrong.append(f"{name} lost {row['lost']} messages under the flood")
    if not document["file"]["sha256_match"]:
        wrong.append("the file did not arrive, or with another digest")
    if document["ledger"]["residual"]:
        wrong.append(f"the counters do not balance: {document['ledger']['levels']}")
    wrong += protection.verdict(document) + eavesdrop.verdict(document["listener"])
    return wrong + stranger.verdict(document["stranger"]) + forged.verdict(document["forged"])


def page(document: Document) -> str:
    """Return the page that ends a run."""
    lines = [""]
    for phase, figures in document["phases"].items():
        lines.append(f"{phase} ({figures['seconds']} s)")
        lines.append(
            f"  {'class':<10}{'sent':>10}{'delivered':>11}{'lost':>9}{'msg/s':>10}"
            f"{'Mbit/s':>10}{'p50 µs':>9}{'p99 µs':>9}{'p99.9 µs':>10}"
        )
        for name, row in figures["classes"].items():
            lines.append(
                f"  {name:<10}{row['sent']:>10}{row['delivered']:>11}{row['lost']:>9}"
                f"{row['per_second']:>10}{row['mbit_per_second']:>10}{row['p50_us']:>9}"
                f"{row['p99_us']:>9}{row['p999_us']:>10}"
            )
        lines.append("")
    lines += _where_lost(document) + _interfaces(document) + protection.lines(document)
    lines += _ending(document)
    return "\n".join(lines)


def _where_lost(document: Document) -> list[str]:
    lines = ["lost, by place and reason"]
    for host, reasons in document["drops"].items():
        for reason, count in sorted(reasons.items()):
            lines.append(f"  {host:<4} {reason:<34}{count:>12}")
    return [*lines, ""]


def _interfaces(document: Document) -> list[str]:
    lines = ["interfaces"]
    for host, row in document["interfaces"].items():
        lines.append(f"  {host:<4} {row['mode']}  ({row['reason']})")
    return [*lines, ""]


def _ending(document: Document) -> list[str]:
    file, ledger = document["file"], document["ledger"]
    lines = [
        f"file      {file['bytes']} bytes, digest {'equal' if file['sha256_match'] else 'WRONG'}",
        f"garbage   {document['garbage']['sent']} malformed packets from the third host",
        *eavesdrop.lines(document["listener"]),
        *stranger.lines(document["stranger"]),
        *forged.lines(document["forged"]),
        f"balance   residual {ledger['residual']}  {ledger['levels']}",
        f"early     {ledger['early']} frames to a node that had not begun",
    ]
    if "lossy" in document:
        lines += lossy.lines(document["lossy"])
    if beside := document.get("kernel_path"):
        lines.append(
            f"beside    the kernel path on the same link: {beside['messages_per_second']} msg/s "
            f"of {beside['size']} B, p50 {beside['p50_us']} µs "
            f"(the xdp path: {beside['xdp_messages_per_second']} msg/s, "
            f"p50 {beside['xdp_p50_us']} µs)"
        )
    lines += [f"WRONG     {sentence}" for sentence in document["wrong"]]
    lines.append("result    " + ("all promises kept" if document["ok"] else "NOT as promised"))
    return lines
