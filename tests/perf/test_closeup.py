"""Close-ups in processes of their own: what they find, how they fail, how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf import closeup
from perf.contestant import ROOT, MissingError
from tests.lab import wait_until

END_S = 60.0

EXAMPLES = {
    "good": "return [{'metric': 'own process', 'value': os.getpid(), 'quick': quick}]",
    "failing": "raise RuntimeError('no luck')",
    "absent": "raise MissingError('no such thing here')",
    "killed": "os.kill(os.getpid(), 9)",
    "leaving": "return [{'left': subprocess.Popen(['sleep', '1000']).pid}]",
    "waiting": """
    child = subprocess.Popen(['sleep', '1000'])
    try:
        print(child.pid, flush=True)
        child.wait()
    finally:
        print('closed', flush=True)
""",
}


@pytest.fixture(autouse=True)
def _examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = (
        "import os, subprocess\nfrom perf.contestant import MissingError\n\ndef run(quick):\n    "
    )
    for name, body in EXAMPLES.items():
        (tmp_path / f"example_{name}.py").write_text(head + body.lstrip("\n ") + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_close_up_runs_in_a_process_of_its_own() -> None:
    (row,) = closeup.run("example_good", quick=True)
    assert row["quick"] is True
    assert row["value"] != os.getpid()
    assert not _is_there(row["value"])


def test_what_fails_is_told_with_its_traceback() -> None:
    with pytest.raises(closeup.CloseUpError, match="no luck") as caught:
        closeup.run("example_failing", quick=True)
    assert "example_failing.py" in caught.value.__notes__[0]


def test_what_cannot_be_run_here_is_told_as_that() -> None:
    with pytest.raises(MissingError, match="no such thing here"):
        closeup.run("example_absent", quick=True)


def test_a_process_that_ends_without_a_word_is_a_failure() -> None:
    with pytest.raises(closeup.CloseUpError, match="its process ended with -9"):
        closeup.run("example_killed", quick=True)


def test_nothing_is_left_behind_a_close_up() -> None:
    (row,) = closeup.run("example_leaving", quick=True)
    wait_until(lambda: not _is_there(row["left"]), END_S, "what was left ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_has_its_close_up_take_back_what_it_made(number: int) -> None:
    code = (
        "from perf import closeup, ending\n"
        "ending.in_order()\n"
        "closeup.run('example_waiting', quick=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        run.send_signal(number)
        assert run.stdout.readline() == b"closed\n"
        code_of_end = run.wait(END_S)
    assert code_of_end == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        wait_until(lambda: not _is_there(child), END_S, "its child ends")
        return
    os.kill(child, signal.SIGKILL)
