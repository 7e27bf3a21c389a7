"""The README's table of figures, between its markers."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def number(value: float | None) -> str:
    """Return a number as people read it."""
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> str:
    """Return what the figures were taken on."""
    text = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"model name\s*: (.*)", text)
    cores = text.count("processor\t")
    name = model[1].strip() if model else platform.machine()
    return f"{cores} cores of {name}, Linux {platform.release().split('-')[0]}"


def write(rows: Iterable[dict[str, Any]], command: str) -> None:
    """Replace what stands between the markers."""
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}; two hosts are two namespaces",
        "joined by a veth, each with one core for its worker and its application.",
        "",
        "| | value | unit | baseline | ratio |",
        "|---|---:|---|---:|---:|",
    ]
    lines += [
        f"| {row['scenario']}: {row['metric']} | {number(row['value'])} | {row['unit']} "
        f"| {number(row['baseline'])} | {number(row['ratio'])} |"
        for row in rows
    ]
    text = README.read_text("utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:begin] + "\n" + "\n".join(lines) + "\n" + text[end:], "utf-8")
