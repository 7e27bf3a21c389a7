"""The key schedule: what is derived from what, and what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.keys import (
    SECRET_SIZE,
    Direction,
    Schedule,
    expand,
    extract,
)

# RFC 5869, appendix A.1
IKM, SALT = b"\x0b" * 22, bytes(range(13))
PRK = "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"


def test_extract_is_that_of_rfc_5869() -> None:
    assert extract(SALT, IKM).hex() == PRK


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab ", max_size=4), st.binary(max_size=4)), max_size=4))
def test_labels_and_contexts_are_never_mistaken_for_another(
    inputs: list[tuple[str, bytes]],
) -> None:
    found = {expand(bytes(32), label, context, 32) for label, context in inputs}
    assert len(found) == len(set(inputs))


def test_every_direction_has_its_own_secret() -> None:
    schedule = Schedule(b"secret", b"transcript")
    there, back = (schedule.traffic(direction) for direction in Direction)
    assert there != back
    assert (len(there), len(back)) == (SECRET_SIZE, SECRET_SIZE)
    assert there == Schedule(b"secret", b"transcript").traffic(Direction.THERE)


@pytest.mark.parametrize(
    ("secret", "transcript"), [(b"other", b"transcript"), (b"secret", b"other")]
)
def test_secret_and_transcript_both_count(secret: bytes, transcript: bytes) -> None:
    one, other = Schedule(b"secret", b"transcript"), Schedule(secret, transcript)
    assert one.traffic(Direction.THERE) != other.traffic(Direction.THERE)
    assert one.export("use", b"") != other.export("use", b"")


def test_exports_differ_by_label_and_context() -> None:
    schedule = Schedule(b"secret", b"transcript")
    found = [schedule.export(*use) for use in (("a", b""), ("b", b""), ("a", b"x"))]
    found.append(schedule.export("a", b"", 64)[:32])
    assert len(set(found)) == 4


def test_no_repr_shows_a_secret() -> None:
    schedule = Schedule(b"secret", b"transcript")
    assert repr(schedule) == "<Schedule>"
