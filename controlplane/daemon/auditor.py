"""What the daemon puts on record, and how much of it: nobody fills a disk by being refused.

Administration is on the disk before it is done (``require``); what concerns data is written soon
(``note``, ``flush``). The same event about the same subject is written a few times a minute, the
rest is counted.
"""

from __future__ import annotations

import errno
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane.security import audit_file
from valkyrie.controlplane.security.audit import AuditError, Redacted, Value
from valkyrie.controlplane.security.audit_file import AuditFile
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError, DataPlaneError
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from valkyrie.controlplane.config.settings import Config
    from valkyrie.controlplane.config.settings_security import Security

log = logging.getLogger("valkyrie")

FLUSH_S = 0.25
"""How soon notes are on the disk."""
_DAY_NS = 86_400_000_000_000
WINDOW_NS = 60_000_000_000
REPEATS_MAX = 8
"""Records of one event about one subject in a window."""
OPENS_PAUSE_NS = WINDOW_NS // (REPEATS_MAX - 1)
"""Between records of opens that were refused: no window has too many, so no count is left out."""
SUBJECTS_MAX = 1024
TEXT_MAX = 512
"""Bytes of a text, as JSON."""


@dataclass(slots=True)
class _Window:
    began_ns: int
    count: int = 1


class Opens:
    """Says how many streams of peers a worker has refused: it counts them, nobody else hears."""

    def __init__(self, page: Any) -> None:
        """Of a counters page; what was counted before is not told."""
        self._page = page
        self._told = {klass: self._count(klass) for klass in Class}
        self._next_ns = dict.fromkeys(Class, 0)

    def _count(self, klass: Class) -> int:
        return int(self._page.classes[klass][lib.VK_REFUSED_OPEN])

    def news(self, now_ns: int) -> Iterator[tuple[str, int]]:
        """Yield class and count of what is new: at once, then seldom. Monotonic time."""
        for klass, due_ns in self._next_ns.items():
            if now_ns >= due_ns and (count := self._new(klass)):
                self._next_ns[klass] = now_ns + OPENS_PAUSE_NS
                yield klass.name.lower(), count

    def final(self) -> Iterator[tuple[str, int]]:
        """Yield class and count of all that is new: the node ends."""
        for klass in Class:
            if count := self._new(klass):
                yield klass.name.lower(), count

    def _new(self, klass: Class) -> int:
        count = max(0, self._count(klass) - self._told[klass])
        self._told[klass] += count
        return count


class Damper:
    """Counts what comes too often. Time is an argument; memory is bounded."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    def admits(self, event: str, subject: str, now_ns: int) -> bool:
        """Say whether to write this one; those that are not are counted."""
        key = (event, subject)
        window = self._windows.get(key)
        if window is None and len(self._windows) >= SUBJECTS_MAX:
            key = (event, "")  # all that there is no room for
            window = self._windows.get(key)
        if window is None:
            self._windows[key] = _Window(now_ns)
            return True
        window.count += 1
        return window.count <= REPEATS_MAX

    def ended(self, now_ns: int | None) -> Iterator[tuple[str, str, int]]:
        """Yield event, subject and count of what was left out in windows that are over.

        None: in all windows.
        """
        for (event, subject), window in list(self._windows.items()):
            if now_ns is None or not 0 <= now_ns - window.began_ns < WINDOW_NS:
                del self._windows[event, subject]
                if window.count > REPEATS_MAX:
                    yield event, subject, window.count - REPEATS_MAX


def log_path(config: Config) -> Path | None:
    """Return where the log is; None: there is to be none."""
    given = config.security.audit_file
    if given == "off":
        return None
    return Path(given) if given else Path("/var/lib/valkyrie") / config.node.name / "audit.jsonl"


def key_path(log: Path) -> Path:
    """Return where the key is that signs a log: its own, so that the node may change identity."""
    return log.with_name(f"{log.stem}.key")


def prepare(config: Config) -> None:
    """Make the place of the log; ConfigError when that cannot be."""
    if (path := log_path(config)) is not None:
        audit_file.prepare(path)


def open_log(config: Config) -> Auditor:
    """Open the log that the configuration names, with the rights of who may."""
    path = log_path(config)
    return Auditor(None) if path is None else Auditor.open(path)


def clip(text: str) -> str:
    """Return a text of others' making, no longer than a record has room for."""
    while len(json.dumps(text)) > TEXT_MAX:
        text = text[: len(text) * 3 // 4] + "\N{HORIZONTAL ELLIPSIS}"
    return text


class Auditor:
    """The node's audit log, as the daemon uses it."""

    def __init__(
        self,
        file: AuditFile | None,
        *,
        broken: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Without a file nothing is kept; ``broken`` says why there should be one and is not."""
        self._file = file
        self._broken = broken
        self._clock = clock
        self._damper = Damper()
        self._failing = ""

    @classmethod
    def open(cls, path: Path) -> Auditor:
        """Open the log; one that is broken is left alone, and administration refused."""
        try:
            identity, _ = load_or_make(key_path(path))
            return cls(AuditFile(path, identity))
        except (AuditError, ConfigError) as error:  # data does not wait for that
            said = str(error)
            log.warning("%s", said if said.startswith(f"{path}:") else f"{path}: {said}")
            how = f"Move {path} to where it is kept, and start the node again"
            return cls(None, broken=f"the audit log is broken: {error}. {how}")

    def descriptors(self) -> list[int]:
        """Return what must stay open."""
        return [self._file.descriptor] if self._file else []

    def require(self, event: str, **fields: Value | Redacted) -> None:
        """Put on record what is about to be done; DataPlaneError: it must not be done."""
        if self._broken:
            raise DataPlaneError(errno.EIO, f"administration is refused: {self._broken}")
        if self._file is not None:
            self._file.record(event, self._clock(), **_clipped(fields))

    def note(self, event: str, subject: str = "", **fields: Value | Redacted) -> None:
        """Put on record soon what has happened; ``subject`` is whom it may happen to often."""
        now_ns = self._clock()
        if self._file is not None and self._damper.admits(event, subject, now_ns):
            self._file.note(event, now_ns, **_clipped(fields))

    def flush(self) -> None:
        """Write what was noted; a disk that is full is reported once."""
        if self._file is None:
            return
        now_ns = self._clock()
        self._note_repeated(self._file, now_ns, now_ns)
        self._try(lambda file: file.flush(now_ns))

    def _note_repeated(self, file: AuditFile, now_ns: int, until_ns: int | None) -> None:
        for event, subject, count in self._damper.ended(until_ns):
            about = clip(subject)
            file.note("audit.repeated", now_ns, about=event, subject=about, count=count)

    def close(self, last: str = "") -> None:
        """Write what was noted, what was only counted and a last event; sign it, close the file."""
        if self._file is None:
            return
        self._note_repeated(self._file, self._clock(), None)
        if last:
            self.note(last)
        self._try(lambda file: file.seal(self._clock()))
        self._file.close()
        self._file = None

    def _try(self, write: Callable[[AuditFile], None]) -> None:
        assert self._file is not None
        try:
            write(self._file)
        except DataPlaneError as error:
            if not self._failing:
                log.warning("%s", error.args[-1])
            self._failing = str(error.args[-1])
        else:
            if self._failing:
                log.info("the audit log is written again")
            self._failing = ""

    # ---- The next file ----

    def is_due(self, security: Security) -> bool:
        """Say whether the log is to go on in another file."""
        size, age_ns = security.audit_rotate_mib << 20, security.audit_rotate_days * _DAY_NS
        return self._file is not None and self._file.is_due(self._clock(), size, age_ns)

    @property
    def first(self) -> int:
        """The number of the record that the file begins with."""
        return self._file.first if self._file is not None else 0

    def go_on(self, descriptor: int, before: int) -> None:
        """Go on in that file; DataPlaneError: the log goes on where it is."""
        assert self._file is not None
        self._file.go_on(descriptor, before, self._clock())

    def describe(self) -> dict[str, object]:
        """Return what status says of the log."""
        file = self._file
        return {
            "state": "on" if file else "broken" if self._broken else "off",
            "records": file.head.count if file else 0,
            "waiting": file.pending if file else 0,
            "reason": self._broken or self._failing,
        }


def _clipped(fields: dict[str, Value | Redacted]) -> dict[str, Value | Redacted]:
    return {
        name: clip(value) if isinstance(value, str) else value for name, value in fields.items()
    }
