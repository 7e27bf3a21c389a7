"""How a run that is told to end does so: as if something had failed, and only once."""

from __future__ import annotations

import signal
import sys

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _end(number: int, _frame: object) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def in_order() -> None:
    """Let SIGTERM and Ctrl-C raise SystemExit: nodes and namespaces go with us."""
    for each in SIGNALS:
        signal.signal(each, _end)
