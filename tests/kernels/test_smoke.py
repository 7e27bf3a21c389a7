"""A short run of the tests that matter most, on the other kernels we support."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.census import needs, skip_missing

ROOT = Path(__file__).parents[2]

SMOKE = (
    "tests/test_lab.py",
    "tests/bpf/test_pass.py",
    "tests/bpf/test_classify.py",
    "tests/dataplane/test_path_xdp.py",
    "tests/dataplane/test_path_udp.py",
    "tests/test_readme.py",
)
"""What runs on every kernel; scripts/test --kernels runs everything there."""

EXIT_UNAVAILABLE = 69  # of scripts/vm


@pytest.mark.kernels
@pytest.mark.timeout(960)
@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_the_essential_path_works_on_kernel(series: str) -> None:
    needs("x86-64", "root", "qemu")
    quiet = ["-q", "--color=no", "-p", "no:cacheprovider", "-m", "not sweep"]
    inner = [sys.executable, "-m", "pytest", *quiet, *SMOKE]
    done = subprocess.run(
        [ROOT / "scripts" / "vm", series, "--timeout", "900", "--", *inner],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == EXIT_UNAVAILABLE:
        skip_missing(f"kernel {series}", done.stderr.strip())
    assert done.returncode == 0, f"on kernel {series}:\n{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, f"on kernel {series}:\n{done.stdout}"
