"""The third host: it has a peer's address and another key, and is refused by a real node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perf.network import CONFIGURATION, INTERFACE, Network, Node
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane.wire import Code

from .protection import MODES, command, session

NAME = "c"
ADDRESS = "10.9.1.1"
"""What a lab calls the far end of its second wire."""
EVENT = "peer.refuse"


def fingerprint(key: Path) -> str:
    """Return the fingerprint of a key file, which is made if there is none."""
    return str(load_or_make(key)[0].card.fingerprint)


def peer(expected: str) -> str:
    """Return what host b has been told of host c."""
    return f'\n[[peer]]\nname = "{NAME}"\naddress = "{ADDRESS}"\nfingerprint = "{expected}"\n'


class Stranger:
    """Host c's node. It knows b; b knows a host c at this address, by the key it had once."""

    def __init__(self, network: Network, name: str, expected: str) -> None:
        """Make its configuration and a new key."""
        here, there = network.stranger
        assert str(here.v4.ip) == ADDRESS, "b would take c for nobody, not for a bad key"
        key = network.directory / f"{NAME}.key"
        self.shown, self.expected = fingerprint(key), expected
        self._network = network
        self.node = Node(
            here.host,
            f"{name}-{NAME}",
            network.directory,
            CONFIGURATION.format(
                node=name,
                host=NAME,
                cpu="",
                interfaces=INTERFACE.format(name=here.name, path="xdp"),
                other="b",
                address=there.v4.ip,
                modes=", ".join(f'"{mode}"' for mode in MODES),
                audit_file=network.directory / f"audit-{NAME}.jsonl",
                identity_file=key,
                fingerprint=f'fingerprint = "{network.fingerprints["b"]}"\n',
            ),
        )

    def _records(self) -> list[dict[str, Any]]:
        """Return what b has on record of c, and as people read it."""
        log = str(self._network.audit["b"])
        said = command("audit", "show", log, "--json").splitlines()
        records = [json.loads(line) for line in said]
        return [each for each in records if each["fields"].get("peer") == NAME]

    def _refusals(self) -> list[dict[str, Any]]:
        """Return the records of refusals for who c is; before it began it was not to be found."""
        return [
            each
            for each in self._records()
            if each["event"] == EVENT and each["fields"]["code"] == Code.IDENTITY
        ]

    def refused(self) -> bool:
        """Say whether b has put on record that it refused c."""
        return bool(self._refusals())

    def document(self) -> dict[str, Any]:
        """Return what became of it."""
        refusals = self._refusals()
        both = [each for each in refusals if self.expected in each["fields"]["reason"]]
        at_b, at_c = session(self._network.nodes["b"], NAME), session(self.node, "b")
        return {
            "fingerprint": self.shown,
            "expected": self.expected,
            "refused": len(refusals),
            "code": int(Code.IDENTITY) if refusals else 0,
            "name": Code.IDENTITY.name.lower() if refusals else "",
            "record": next(iter((*both, *refusals)), {}),
            "let_in": sum(each["event"] == "peer.join" for each in self._records()),
            "states": {"b": at_b["state"], NAME: at_c["state"]},
            "told": at_c["reason"],
        }


def verdict(document: dict[str, Any]) -> list[str]:
    """Return what is wrong, one sentence each."""
    wrong = []
    if document["let_in"] or "up" in document["states"].values():
        wrong.append(f"a host with a key that nobody knows was let in: {document}")
    if not document["refused"]:
        wrong.append(f"the third host was not refused for its identity: {document}")
    return wrong


def lines(document: dict[str, Any]) -> list[str]:
    """Return its lines of the page."""
    record = document["record"]
    fields = " ".join(f"{name}={value}" for name, value in record.get("fields", {}).items())
    how = f"{document['refused']} times, {document['code']} {document['name']}"
    return [
        f"stranger  host c has the key {document['fingerprint']}",
        f"          b expects        {document['expected']}",
        f"          refused {how}; in the audit log of b:",
        f"          {record.get('n')} {record.get('event')} {fields}",
    ]
