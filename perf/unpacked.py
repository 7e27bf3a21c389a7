"""Debian packages of a peer that is used without being installed: unpacked into a folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .contestant import MissingError

TIMEOUT_S = 300
# "Inst NAME (VERSION ..." would be new, "Inst NAME [OLD] (VERSION ..." an upgrade.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)


def _run(*command: str | Path, at: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=at, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]}: {error}") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MissingError(f"{command[0]}: {reason[0]}")
    return done.stdout


def _plan(packages: Sequence[str]) -> str:
    """Return what apt would do, by newer lists where the host's know no such package."""
    simulate = ("apt-get", "--simulate", "install", "--no-install-recommends", *packages)
    try:
        return _run(*simulate)
    except MissingError:
        _run("apt-get", "--quiet", "update")
        return _run(*simulate)


def needed(plan: str, packages: Sequence[str]) -> list[str]:
    """Return what runs of what apt's *plan* would install: no headers but what was asked for."""
    return [name for name in _NEW.findall(plan) if name in packages or not name.endswith("-dev")]


def unpacked(packages: Sequence[str], folder: Path) -> Path:
    """Return *folder*, with *packages* and what they need that the host has not.

    Nothing of the host's changes. apt checks what it fetches by the signatures of its lists.
    MissingError with apt's reason where they are not to be had. Once there, they stay.
    """
    if folder.is_dir():
        return folder
    names = needed(_plan(packages), packages)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as directory:
        fetched, root = Path(directory, "fetched"), Path(directory, "root")
        fetched.mkdir()
        _run("apt-get", "--quiet", "download", *names, at=fetched)
        for archive in sorted(fetched.iterdir()):
            _run("dpkg-deb", "--extract", archive, root)
        shutil.move(root, folder)
    return folder
