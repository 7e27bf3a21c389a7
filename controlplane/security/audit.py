"""The audit log: JSON lines, each with the hash of the one before, and signed checkpoints.

    {"n": 7, "time_ns": ..., "event": "...", "fields": {...}, "previous": "...", "hash": "..."}

Who changes, removes or moves a record breaks the chain at that place; who cuts the end off, or
writes the whole chain anew, is found out by the last checkpoint that somebody has kept, and cannot
sign one of his own. Sans-IO: ``append`` returns the lines to write, ``verify`` takes lines.
Secrets do not get in: a field's value is text, a number or a truth value, and nothing else.

A chain may lie in several files. Each but the first begins with ``audit.continue``, which names the
file before it and the hash that this ends with. What the node removes of its oldest files it says
before, in ``audit.remove``, and signs.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ValkyrieError

from .errors import MisuseError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .identity import Card, Identity
from valkyrie.dataplane.signing.signature import Algorithm

Value = str | int | bool | None
FIRST = "0" * 64
"""What the first record has for the hash before it."""
LINE_MAX = 4096
CHECKPOINT = "checkpoint"
CHECKPOINT_EVERY = 256
CONTINUE = "audit.continue"
REMOVE = "audit.remove"
_LABEL = b"valkyrie audit checkpoint 1\0"
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}\Z")
_SIGNATURE = "signature"
_KEYS = ["event", "fields", "hash", "n", "previous", "time_ns"]


class AuditError(ValkyrieError):
    """The log is broken; ``record`` is the number of the first bad line, from 0."""

    def __init__(self, record: int, what: str, file: str = "") -> None:
        where = f" ({file})" if file else ""
        super().__init__(
            f"audit record {record}{where}: {what}. What stands before it is whole; keep a copy of"
            " the file before anything else is done to it"
        )
        self.record = record
        self.what = what
        self.file = file


@dataclass(frozen=True, slots=True)
class Redacted:
    """A value that must not be in the log: the log has its kind and its size."""

    kind: str
    size: int


def redact(secret: bytes | str, kind: str) -> Redacted:
    """Return what may be logged of a secret."""
    return Redacted(kind, len(secret))


def _canonical(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _hash(record: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical(record)).hexdigest()


def _plain(name: str, value: object) -> Value:
    if isinstance(value, Redacted):
        return f"<{value.kind}, {value.size} bytes>"
    if value is not None and not isinstance(value, str | int | bool):
        raise MisuseError(f"audit field {name}: a {type(value).__name__} is not to be logged")
    return value


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends."""

    count: int = 0
    hash: str = FIRST
    checkpoint: int | None = None
    """The last signed record."""


class AuditLog:
    """Makes the records of one chain; signs it now and then."""

    def __init__(self, identity: Identity, head: Head | None = None) -> None:
        self._identity = identity
        self.head = head or Head()

    def append(self, event: str, now_ns: int, **fields: Value | Redacted) -> list[bytes]:
        """Return the lines to write; ``commit`` when they are on the disk."""
        if not _NAME.match(event) or event in (CHECKPOINT, CONTINUE, REMOVE):
            raise MisuseError(f"{event!r} is no name of an event")
        plain = {name: _plain(name, value) for name, value in fields.items()}
        return [self._line(self.head, event, now_ns, plain)]

    def checkpoint(self, now_ns: int) -> list[bytes]:
        """Return the line of a signed checkpoint over all that is before it."""
        return [self._checkpoint(self.head, now_ns)]

    def go_on(self, file: str, before: int, now_ns: int) -> list[bytes]:
        """Return what the next file begins with: where it goes on, and a signed checkpoint.

        ``file`` is the name of the one that ends here. Records before number ``before`` will be
        removed with their files when these lines are on the disk; 0 = none.
        """
        lines: list[bytes] = []
        head = self.head

        def add(line: bytes) -> None:
            nonlocal head
            head = _behind(head, _parse(line, head))
            lines.append(line)

        add(self._line(head, CONTINUE, now_ns, {"file": file, "hash": head.hash}))
        if before:
            add(self._line(head, REMOVE, now_ns, {"before": before}))
        add(self._checkpoint(head, now_ns))
        return lines

    def _checkpoint(self, head: Head, now_ns: int) -> bytes:
        signature = self._identity.sign(Algorithm.ED25519, _signed(head)).hex()
        card = self._identity.card.fingerprint
        fields: dict[str, Value] = {_SIGNATURE: signature, "signer": str(card)}
        return self._line(head, CHECKPOINT, now_ns, fields)

    @property
    def wants_checkpoint(self) -> bool:
        """Whether it is time for one."""
        last = self.head.checkpoint if self.head.checkpoint is not None else -1
        return self.head.count - last > CHECKPOINT_EVERY

    def commit(self, lines: Iterable[bytes]) -> None:
        """The lines are written: go on behind them."""
        for line in lines:
            record = _parse(line, self.head)
            self.head = _behind(self.head, record)

    @staticmethod
    def _line(head: Head, event: str, now_ns: int, fields: Mapping[str, Value]) -> bytes:
        record: dict[str, object] = {
            "n": head.count,
            "time_ns": now_ns,
            "event": event,
            "fields": dict(fields),
            "previous": head.hash,
        }
        record["hash"] = _hash(record)
        line = _canonical(record) + b"\n"
        if len(line) > LINE_MAX:
            raise MisuseError(f"audit event {event}: a record has at most {LINE_MAX} bytes")
        return line


def _signed(head: Head) -> bytes:
    return _LABEL + head.count.to_bytes(8, "big") + head.hash.encode()


def _behind(head: Head, record: Mapping[str, object]) -> Head:
    checkpoint = head.count if record["event"] == CHECKPOINT else head.checkpoint
    return Head(head.count + 1, str(record["hash"]), checkpoint)


def _parse(line: bytes, head: Head) -> dict[str, object]:
    """Return the record that a line has, if it is the next one of the chain."""
    number = head.count
    if not line.endswith(b"\n"):
        raise AuditError(number, "is cut off")
    if len(line) > LINE_MAX:
        raise AuditError(number, "is too long")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise AuditError(number, "is no JSON") from None
    if not isinstance(record, dict) or sorted(record) != _KEYS:
        raise AuditError(number, "does not have the fields of a record")
    without = {name: value for name, value in record.items() if name != "hash"}
    # Byte for byte: what reads the same and is written otherwise was not written by us.
    if _canonical(record) + b"\n" != line or record["hash"] != _hash(without):
        raise AuditError(number, "was changed")
    if record["n"] != number or record["previous"] != head.hash:
        raise AuditError(number, "is not the next one: records were removed, added or moved")
    if not isinstance(record["fields"], dict) or not isinstance(record["event"], str):
        raise AuditError(number, "does not have the fields of a record")
    return record


class Reader:
    """Reads a chain record by record, and takes nothing that is not the next one."""

    def __init__(self, card: Card, *, kept: Head | None = None) -> None:
        """``kept`` is an earlier head that somebody has written down: the chain must have it."""
        self._card = card
        self._kept = kept
        self._announced = 0
        self.head = Head()
        """Where the chain ends so far."""
        self.first = 0
        """The number that it begins with: what was before is not there any more."""
        self.removed = 0
        """Records before this number the node itself has removed: it has signed that."""

    def begin(self, line: bytes) -> None:
        """Let the chain begin with the first line of a later file, if the line is one."""
        found = continued(line)
        if found is not None:
            self.head, self.first = found, found.count
            self._compare(found.count)

    def take(self, line: bytes) -> None:
        """Read the next record; AuditError when it is not that."""
        head = self.head
        record = _parse(line, head)
        fields = record["fields"]
        assert isinstance(fields, dict)
        if record["event"] == CHECKPOINT:
            _verify_checkpoint(record, head, self._card)
            self.removed = max(self.removed, self._announced)
        elif record["event"] == CONTINUE and fields.get("hash") != head.hash:
            raise AuditError(head.count, "does not go on where the file before it ends")
        elif record["event"] == REMOVE and type(fields.get("before")) is int:
            self._announced = max(self._announced, min(fields["before"], head.count))
        self.head = _behind(head, record)
        self._compare(head.count)

    def _compare(self, record: int) -> None:
        kept, head = self._kept, self.head
        if kept is not None and head.count == kept.count and head.hash != kept.hash:
            raise AuditError(record, "is not the one that was there before")

    def end(self) -> Head:
        """Return where the chain ends; AuditError when it should go on, or is not signed."""
        head, kept = self.head, self._kept
        if kept is not None and head.count < kept.count:
            raise AuditError(head.count, f"is missing: there were {kept.count} records once")
        if self.first and head.checkpoint is None:
            raise AuditError(self.first, "begins a file without a signed checkpoint")
        return head


def verify(lines: Iterable[bytes], card: Card, *, kept: Head | None = None) -> Head:
    """Return where the chain ends, or raise AuditError for the first bad record.

    The lines are a whole chain, or begin where a later file of one does.
    """
    reader = Reader(card, kept=kept)
    for number, line in enumerate(lines):
        if number == 0:
            reader.begin(line)
        reader.take(line)
    return reader.end()


def continued(line: bytes) -> Head | None:
    """Return where the chain would end before a line, if that begins a later file."""
    found = _before(line, CONTINUE)
    return found if found is not None and found.count else None


def resume(lines: Sequence[bytes], card: Card) -> Head:
    """Return where a chain ends of which only the last lines are at hand, the first one whole.

    Trusts what stands before the last signed checkpoint: ``verify`` reads everything. AuditError
    numbers the records as they number themselves.
    """
    for at in reversed(range(len(lines))):
        if (head := _before(lines[at], CHECKPOINT)) is None:
            continue
        _verify_checkpoint(_parse(lines[at], head), head, card)
        for line in lines[at:]:
            head = _behind(head, _parse(line, head))
        return head
    raise AuditError(-1, f"there is no checkpoint among the last {len(lines)} records")


def _before(line: bytes, event: str) -> Head | None:
    """Return where the chain would end before a line, if that is such an event."""
    try:
        record = json.loads(line)
        if record["event"] != event or type(record["n"]) is not int or record["n"] < 0:
            return None
        return Head(record["n"], str(record["previous"]))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _verify_checkpoint(record: Mapping[str, object], head: Head, card: Card) -> None:
    fields = record["fields"]
    assert isinstance(fields, dict)
    try:
        signature = bytes.fromhex(fields[_SIGNATURE])
        card.verify(Algorithm.ED25519, signature, _signed(head))
    except (KeyError, TypeError, ValueError, SecurityError):
        raise AuditError(head.count, "is a checkpoint that this node did not sign") from None
