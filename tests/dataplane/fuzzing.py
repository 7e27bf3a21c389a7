"""Bounded runs of libFuzzer targets."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.dataplane.native import fuzzer


def fuzz(
    name: str,
    sources: Iterable[str],
    corpus: Iterable[bytes],
    seconds: int = 10,
    *,
    lasting: bool = False,
) -> None:
    """Build a target, feed it and let it run; what it finds is a failure with the input.

    ``lasting``: what the target keeps from one input to the next is no leak.
    """
    target = fuzzer(name, *sources)
    with tempfile.TemporaryDirectory(prefix="valkyrie-fuzz-") as folder:
        seeds = Path(folder, "corpus")
        seeds.mkdir()
        for number, data in enumerate(corpus):
            (seeds / str(number)).write_bytes(data)
        run = subprocess.run(
            [
                target,
                *(f"-max_total_time={seconds}", "-runs=2000000", "-seed=1", "-max_len=2048"),
                *("-rss_limit_mb=1500", f"-detect_leaks={int(not lasting)}"),
                *(f"-artifact_prefix={folder}/", seeds),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
        found = [path.read_bytes().hex() for path in Path(folder).glob("crash-*")]
    assert run.returncode == 0, f"{run.stderr[-4000:]}\ninput: {found}"
