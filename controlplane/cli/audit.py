"""``valkyrie audit``: what a node has put on record, and whether that is still whole."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .client import JsonOption, plain, print_json, quiet_pipe
from .exits import Exit
from .node import ConfigOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyclopts import App

FileArgument = Annotated[
    Path | None,
    Parameter(
        help="A directory with a log, or one file, instead of all of the configuration's log."
    ),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def verify(
    file: FileArgument = None,
    /,
    *,
    config: ConfigOption = None,
    key: Annotated[
        str, Parameter(help="What the node's checkpoints are signed by, as `verify` prints it.")
    ] = "",
    json: JsonOption = False,
) -> int:
    """Read an audit log, and name the first record that was changed, removed or moved.

    That is all its files, and one that is missing is named too; or the one file that is given.
    Prints how many records there are and the hash of the last: keep it, and nobody can cut the end
    off unseen. Wants root, or --key and a copy.
    """
    from valkyrie.controlplane.daemon.auditor import key_path
    from valkyrie.controlplane.security.audit import AuditError
    from valkyrie.controlplane.security.audit_files import log_of, verify_all, verify_one
    from valkyrie.controlplane.security.identity import Card
    from valkyrie.controlplane.security.identity_file import of_pem, read_private

    path, whole = _named(file, config)
    private = key_path(log_of(path))
    card = Card.of_text(key) if key else of_pem(read_private(private), str(private)).card
    try:
        reader = verify_all(path, card) if whole else verify_one(path, card)
    except AuditError as error:
        if not json:
            raise
        where = str(path.with_name(error.file) if error.file else path)
        print_json({"file": where, "whole": False, "record": error.record, "error": str(error)})
        return Exit.FAILED
    head = reader.head
    document = {
        "file": str(path),
        "whole": True,
        "first": reader.first,
        "records": head.count,
        "checkpoint": head.checkpoint,
        "hash": head.hash,
        "key": card.text(),
    }
    if json:
        print_json(document)
    else:
        for name, value in document.items():
            print(f"{name:<10}  {plain(value)}")
    return Exit.OK


def show(
    file: FileArgument = None,
    /,
    *,
    config: ConfigOption = None,
    since: Annotated[
        str, Parameter(help="Not what is older: 90s, 15m, 2h, 7d, or a time as 2030-01-31T08:00.")
    ] = "",
    event: Annotated[str, Parameter(help="Only events that begin so, as admin.")] = "",
    json: JsonOption = False,
) -> int:
    """Print an audit log, a line a record. Does not say whether it is whole: `verify` does.

    Wants root, or a file that one may read.
    """
    path, whole = _named(file, config)
    begin_ns = _begin_ns(since, dt.datetime.now(dt.UTC))
    with quiet_pipe():
        for record in _records(path, whole=whole):
            if record["time_ns"] < begin_ns or not record["event"].startswith(event):
                continue
            if json:
                print_json(record)
            else:
                when = dt.datetime.fromtimestamp(record["time_ns"] / 1e9, dt.UTC)
                fields = " ".join(f"{k}={plain(v)}" for k, v in record["fields"].items())
                print(
                    f"{record['n']:>6} {when:%Y-%m-%d %H:%M:%S} {plain(record['event'])} {fields}"
                )
    return Exit.OK


def _configured(config: Path | None) -> Path:
    from valkyrie.controlplane.config.reader import DEFAULT_PATH, load
    from valkyrie.controlplane.daemon.auditor import log_path
    from valkyrie.dataplane.errors import ConfigError

    path = log_path(load(config or DEFAULT_PATH))
    if path is None:
        raise ConfigError('this node keeps no audit log: security.audit_file is "off"')
    return path


def _named(file: Path | None, config: Path | None) -> tuple[Path, bool]:
    """Return a log, and whether all its files are meant."""
    from valkyrie.controlplane.security.audit_files import log_in

    if file is None:
        return _configured(config), True
    return (log_in(file), True) if file.is_dir() else (file, False)


def _records(path: Path, *, whole: bool) -> Iterator[dict[str, Any]]:
    """Yield the records of a log; ConfigError for a line that is none."""
    import msgspec

    from valkyrie.controlplane.security.audit_files import parts, read_lines
    from valkyrie.dataplane.errors import ConfigError

    class Record(msgspec.Struct, forbid_unknown_fields=True):
        n: int
        time_ns: int
        event: str
        fields: dict[str, str | int | bool | None]
        previous: str
        hash: str

    files = parts(path) if whole else [path]
    lines = ((file, n, line) for file in files for n, line in enumerate(read_lines(file)))
    for file, number, line in lines:
        try:
            yield msgspec.structs.asdict(msgspec.json.decode(line, type=Record))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ConfigError(
                f"{file}: line {number + 1} is no audit record ({error}): see `audit verify`"
            ) from None


def _begin_ns(since: str, now: dt.datetime) -> int:
    """Return the time that somebody gave, as nanoseconds since 1970."""
    from valkyrie.dataplane.errors import ConfigError

    if not since:
        return -(2**63)
    if match := re.fullmatch(r"(\d{1,9})([smhd])", since):
        seconds = int(match[1]) * _UNITS[match[2]]
        return int((now.timestamp() - seconds) * 1e9)
    try:
        return int(dt.datetime.fromisoformat(since).astimezone(dt.UTC).timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since: '{since}' is no time: write 15m, 2h, 7d or 2030-01-31T08:00"
        ) from None


def build() -> App:
    """Return the commands below ``valkyrie audit``."""
    from cyclopts import App

    app = App(name="audit", help="What the node has put on record.", help_format="plaintext")
    app.command(verify)
    app.command(show)
    return app
