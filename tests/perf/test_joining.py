"""What a handshake costs: every mode that signs or agrees on keys is measured."""

from __future__ import annotations

from perf import joining
from valkyrie.dataplane.signing import fn_dsa


def test_the_cost_of_a_handshake_is_told_for_every_mode() -> None:
    rows = {str(row["metric"]).rpartition("sides, ")[2]: row["value"] for row in joining.run(True)}
    wanted = {"noise, XK", "noise, IK", "mtls", "post_quantum, ML-DSA-65"}
    if fn_dsa.library() is not None:
        wanted.add("post_quantum, FN-DSA-512")
    assert rows.keys() == wanted
    assert all(value > 0 for value in rows.values())
