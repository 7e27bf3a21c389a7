"""A close-up in a process of its own, which has nothing of what the benchmark holds by then.

``python -m perf.closeup MODULE ARGUMENTS FILE``: ARGUMENTS of ``run`` and what is found are JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from typing import Any

from . import ending
from .contestant import ROOT, MissingError
from .rows import Row

STOP_S = 30.0
"""To end nodes and namespaces when it is told to."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class CloseUpError(RuntimeError):
    """A close-up gave no figures; its note has the traceback."""


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float | None = None) -> bool:
    """Wait for its end, but leave it to be reaped: until then nobody else is called by its id."""
    pidfd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Let it take back what it has made, and kill what is still there behind it."""
    try:
        if not _has_ended(process, 0):
            process.terminate()
            _has_ended(process, STOP_S)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(module: str, **arguments: Any) -> list[Row]:
    """Return what the ``run`` of a module gives; raises MissingError as that does."""
    with tempfile.TemporaryFile() as answer:
        words = [module, json.dumps(arguments), str(answer.fileno())]
        process = subprocess.Popen(
            [sys.executable, "-m", "perf.closeup", *words],
            pass_fds=[answer.fileno()],
            cwd=ROOT,
            process_group=0,  # Ctrl-C is for us, who end it in order
        )
        try:
            _has_ended(process)
        finally:
            _finish(process)
        answer.seek(0)
        found: dict[str, Any] = json.loads(answer.read() or b"{}")
    if "missing" in found:
        raise MissingError(found["missing"])
    if "rows" not in found:
        error = CloseUpError(found.get("error", f"its process ended with {process.returncode}"))
        error.add_note(found.get("traceback", ""))
        raise error
    return list(found["rows"])


def _answer(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"rows": importlib.import_module(module).run(**arguments)}
    except MissingError as error:
        return {"missing": str(error)}
    except Exception as error:  # whatever it was, it is told where the others are
        what = str(error) or type(error).__name__
        return {"error": what, "traceback": traceback.format_exc()}


def main() -> None:
    """Be that process."""
    ending.in_order()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    module, arguments, descriptor = sys.argv[1:]
    with os.fdopen(int(descriptor), "wb") as file:
        os.set_inheritable(file.fileno(), False)
        file.write(json.dumps(_answer(module, json.loads(arguments))).encode())


if __name__ == "__main__":
    main()
