"""The chain of audit records: what is done to it is found, at the first bad record."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.audit import (
    CHECKPOINT_EVERY,
    AuditError,
    AuditLog,
    Head,
    redact,
    resume,
    verify,
)
from valkyrie.controlplane.security.errors import MisuseError

from .parties import identity

NODE = identity("node")


def written(count: int = 6, checkpoints: tuple[int, ...] = (3,), who: str = "node") -> list[bytes]:
    log = AuditLog(identity(who))
    lines: list[bytes] = []
    for number in range(count):
        new = (
            log.checkpoint(number)
            if number in checkpoints
            else log.append("peer.add", number, peer=f"p{number}", ok=True)
        )
        log.commit(new)
        lines += new
    return lines


def first_bad(lines: list[bytes], kept: Head | None = None) -> int:
    with pytest.raises(AuditError) as caught:
        verify(lines, NODE.card, kept=kept)
    return caught.value.record


def test_a_whole_chain_verifies() -> None:
    head = verify(written(), NODE.card)
    assert (head.count, head.checkpoint) == (6, 3)
    assert verify([], NODE.card) == Head()


def test_every_changed_byte_is_found_in_its_record() -> None:
    lines = written()
    for number, line in enumerate(lines):
        for at in range(len(line)):
            changed = bytearray(line)
            changed[at] ^= 1
            assert first_bad([*lines[:number], bytes(changed), *lines[number + 1 :]]) == number


def test_records_cannot_be_removed_moved_or_repeated() -> None:
    lines = written()
    for number in range(len(lines) - 1):
        assert first_bad(lines[:number] + lines[number + 1 :]) == number
        swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
        assert first_bad(swapped) == number
        assert first_bad(lines[: number + 1] + lines[number:]) == number + 1


def test_a_chain_that_was_cut_is_found_by_who_kept_its_head() -> None:
    lines = written()
    head = verify(lines, NODE.card)
    assert verify(lines[:-1], NODE.card).count == 5
    assert first_bad(lines[:-1], kept=head) == 5
    assert first_bad(written(8, (2,)), kept=head) == 5
    assert verify(lines, NODE.card, kept=verify(lines[:2], NODE.card)) == head


def test_a_chain_written_anew_has_no_checkpoint_of_the_node() -> None:
    assert first_bad(written(who="mallory")) == 3


def test_a_checkpoint_is_only_for_its_place() -> None:
    lines = written(5, (2, 4))
    record = json.loads(lines[4])
    stolen = json.loads(lines[2])["fields"]
    log = AuditLog(NODE, verify(lines[:4], NODE.card))
    forged = log._line(log.head, "checkpoint", record["time_ns"], stolen)
    assert first_bad([*lines[:4], forged]) == 4


def test_the_end_of_a_log_is_enough_to_go_on() -> None:
    lines = written(12, (3, 6))
    whole = verify(lines, NODE.card)
    for begin in range(7):
        assert resume(lines[begin:], NODE.card) == whole
    with pytest.raises(AuditError, match="no checkpoint among the last 5"):
        resume(lines[7:], NODE.card)
    with pytest.raises(AuditError, match="did not sign"):
        resume(written(12, (3, 6), who="mallory"), NODE.card)
    for at in range(6, 12):
        changed = [*lines[:at], lines[at].replace(b'"time_ns":', b'"time_ns":9'), *lines[at + 1 :]]
        with pytest.raises(AuditError):
            resume(changed[5:], NODE.card)


@given(st.lists(st.binary(max_size=80) | st.sampled_from(written(5)), max_size=6))
def test_no_end_of_a_log_is_taken_that_does_not_lead_to_a_checkpoint(lines: list[bytes]) -> None:
    try:
        head = resume(lines, NODE.card)
    except AuditError:
        return
    assert head.checkpoint is not None


def test_checkpoints_are_due_now_and_then() -> None:
    log = AuditLog(NODE)
    due = []
    for number in range(2 * CHECKPOINT_EVERY + 4):
        log.commit(log.checkpoint(0) if log.wants_checkpoint else log.append("x", 0))
        if log.head.checkpoint == number:
            due.append(number)
    assert due == [CHECKPOINT_EVERY, 2 * CHECKPOINT_EVERY + 1]


def test_secrets_do_not_get_in() -> None:
    log = AuditLog(NODE)
    with pytest.raises(MisuseError, match="a bytes is not to be logged"):
        log.append("token.make", 0, token=b"secret")  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="Identity"):
        log.append("key.make", 0, key=NODE)  # type: ignore[arg-type]
    [line] = log.append("token.make", 0, token=redact(b"secret", "token"))
    assert b"<token, 6 bytes>" in line
    assert b"secret" not in line


def test_names_and_sizes_are_kept() -> None:
    log = AuditLog(NODE)
    for name in ("", "Upper", "with space", "checkpoint", "x" * 65, "x\n"):
        with pytest.raises(MisuseError, match="no name"):
            log.append(name, 0)
    with pytest.raises(MisuseError, match="at most"):
        log.append("x", 0, text="x" * 5000)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_lines_are_verified_or_refused(lines: list[bytes]) -> None:
    try:
        assert verify(lines, NODE.card) == Head()
    except AuditError as error:
        assert 0 <= error.record < len(lines)  # noqa: PT017


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(-(2**70), 2**70), st.booleans())
def test_any_values_come_through(text: str, number: int, truth: bool) -> None:
    log = AuditLog(NODE)
    lines = log.append("x", 5, text=text, number=number, truth=truth)
    verify(lines, NODE.card)
    assert json.loads(lines[0])["fields"] == {"text": text, "number": number, "truth": truth}


def test_deep_nesting_is_refused_not_crashed() -> None:
    assert first_bad([b"[" * 4000 + b"\n"]) == 0
