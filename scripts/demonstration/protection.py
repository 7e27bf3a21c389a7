"""How sessions are protected: what nodes say of them, and keys changed while messages flow."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from perf.network import VALKYRIE, Network, Node, StartError

MODES = ("noise", "post_quantum")
"""Those of a node whose configuration says nothing."""
ROTATE_S = 1
"""Workers change keys so often here; by default every 120 s."""
COMMAND_S = 10.0
SAID = ("peer", "state", "mode", "pattern", "cipher", "post_quantum", "fingerprint", "epoch")


def session(node: Node, peer: str) -> dict[str, Any]:
    """Return what a node says of its session with a peer."""
    rows: list[dict[str, Any]] = node.status()["sessions"]
    return next(row for row in rows if row["peer"] == peer)


def sessions(network: Network) -> dict[str, Any]:
    """Return, by direction, how the sessions of a and b are protected."""
    found = {}
    for host, peer in (("a", "b"), ("b", "a")):
        row = session(network.nodes[host], peer)
        found[f"{host}→{peer}"] = {
            **{name: row[name] for name in SAID},
            "pinned": network.fingerprints[peer],
        }
    return found


def command(*arguments: str) -> str:
    """Run one of an operator's commands; returns what it printed."""
    done = subprocess.run(
        [VALKYRIE, *arguments], capture_output=True, check=False, timeout=COMMAND_S, text=True
    )
    if done.returncode:
        said = done.stderr or done.stdout
        raise StartError(f"valkyrie {' '.join(arguments)}: {said.strip()}")
    return done.stdout


def hasten(network: Network) -> None:
    """Have keys change more often than in a demonstration's time they would."""
    for node in network.nodes.values():
        command("tune", f"security.rotate_s={ROTATE_S}", "--node", node.name)


def rotate(network: Network) -> dict[str, Any]:
    """Have a make its session with b anew, as an operator would; returns what that changed."""
    node = network.nodes["a"]
    before = session(node, "b")
    answer = command("session", "rotate", "b", "--node", node.name, "--json")
    after = session(node, "b")
    return {
        **json.loads(answer),
        "ids": [before["local"], after["local"]],
    }


def verdict(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with ``sessions`` and ``rotation`` of a run, one sentence each."""
    wrong = []
    for way, row in document["sessions"].items():
        if row["state"] != "up" or row["mode"] != "post_quantum" or not row["cipher"]:
            wrong.append(f"the session {way} is not protected: {row}")
        elif row["fingerprint"] != row["pinned"]:
            wrong.append(f"the session {way} is with somebody else: {row}")
    rotation = document["rotation"]
    if not rotation["calm"]:
        wrong.append(f"keys did not change in the calm, though they should every {ROTATE_S} s")
    if not rotation["rotated"] or rotation["ids"][0] == rotation["ids"][1]:
        wrong.append(f"the session was not made anew: {rotation}")
    return wrong


def lines(document: dict[str, Any]) -> list[str]:
    """Return its lines of the page."""
    said = ["sessions"]
    for way, row in document["sessions"].items():
        how = " ".join(filter(None, (row["mode"], row["pattern"], row["cipher"])))
        said.append(f"  {way:<4} {how}, epoch {row['epoch']}, peer {row['fingerprint']}")
    rotation = document["rotation"]
    old, new = rotation["ids"]
    lost = sum(row["lost"] for row in document["phases"]["calm"]["classes"].values())
    every = f"every {ROTATE_S} s here, every 120 s by default"
    return [
        *said,
        f"  keys changed {rotation['calm']} times in the calm, {lost} messages lost ({every});",
        f"  under the flood `valkyrie session rotate b` made session {new} of {old}",
        "",
    ]
