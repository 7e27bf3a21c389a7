"""What a report says about the machine that it was made on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from .contestant import PYTHON, ROOT

DEBIAN = ("libzmq5", "nats-server", "redis-server", "iceoryx", "openssl")
PYPI = ("pyzmq", "grpcio", "aioquic", "iceoryx2", "eclipse-zenoh", "nats-py", "redis")


def _first(pattern: str, path: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text("utf-8"))
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _command(*argv: str | Path) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return done.stdout


def _versions() -> dict[str, str]:
    """Return the versions of what is compared, as far as it is installed."""
    listing = _command("dpkg-query", "-W", "-f", "${Package}\t${Version}\n", *DEBIAN)
    found = dict(line.split("\t") for line in listing.splitlines() if line.count("\t") == 1)
    if PYTHON.exists():
        code = (
            "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
        )
        listed = dict(line.split() for line in _command(PYTHON, "-c", code).splitlines())
        found.update({name: listed[name] for name in PYPI if name in listed})
    return {name: version for name, version in found.items() if version}


def facts() -> dict[str, Any]:
    """Return processor, kernel, memory, versions and revision."""
    revision = _command("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip()
    dirty = _command("git", "-C", ROOT, "status", "--porcelain").strip()
    return {
        "processor": _first(r"model name\s*: (.*)", "/proc/cpuinfo") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "hypervisor": bool(re.search(r"\bhypervisor\b", Path("/proc/cpuinfo").read_text("utf-8"))),
        "memory_mib": int(_first(r"MemTotal:\s*(\d+)", "/proc/meminfo") or 0) // 1024,
        "kernel": platform.release(),
        "governor": _first("(.*)", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": platform.python_version(),
        "revision": revision + ("+" if dirty else ""),
        "versions": _versions(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """Return the machine in a few words."""
    kernel = machine["kernel"].split("-")[0]
    virtual = ", virtual" if machine["hypervisor"] else ""
    return f"{machine['cores']} cores of {machine['processor']}{virtual}, Linux {kernel}"


def here() -> str:
    """Return this machine in a few words."""
    return sentence(facts())
