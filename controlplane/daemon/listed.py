"""The newest signed lists that the node has had, kept so that no older one takes their place.

A small file beside the audit log. The broker writes it for the daemon, which can write no files,
and puts nothing older into it, whatever a daemon says.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from valkyrie.controlplane import wholefile
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from .auditor import log_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.security.crl import CrlFile, Issued
    from valkyrie.controlplane.security.revocation import RevocationFile

    from .brokerlink import BrokerLink

log = logging.getLogger("valkyrie")

KINDS = (Kind.LISTED,)
RETRY_S = 60.0
"""How soon what could not be kept is tried again."""
MODE = 0o600
_ROOTS_MAX = 256
"""Of all configurations that a node ever had."""
_NUMBER_MAX = 1 << 160
"""RFC 5280, section 5.2.3: 20 octets."""
_ID_SIZE = 64


def state_path(config: Config) -> Path:
    """Return where it is kept."""
    path = log_path(config)
    if path is None:
        return Path("/var/lib/valkyrie") / config.node.name / "lists.json"
    return path.with_name(f"{path.stem}-lists.json")


def pack(known: Mapping[str, Issued]) -> str:
    """Return what is kept as JSON: seconds since 1970 and number, by ``root_id``."""
    return json.dumps({key: [int(at.timestamp()), number] for key, (at, number) in known.items()})


def parse(data: str | bytes) -> dict[str, Issued]:
    """Return what ``pack`` was given; ValueError."""
    found: dict[str, Issued] = {}
    for key, (seconds, number) in json.loads(data).items():
        right = len(bytes.fromhex(key)) * 2 == _ID_SIZE and 0 <= number < _NUMBER_MAX
        if not right or type(seconds) is not int or type(number) is not int:
            raise ValueError(key)
        found[key] = dt.datetime.fromtimestamp(seconds, dt.UTC), number
    if len(found) > _ROOTS_MAX:
        raise ValueError("too many roots")
    return found


def read(path: Path) -> dict[str, Issued]:
    """Return what is kept; ConfigError says what to do with a file that cannot be read."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{path}: what lists of revoked certificates there were cannot be read: {error}: see"
            " that security.crl_file is the newest one, then remove this file"
        ) from error


def keep(path: Path, more: Mapping[str, Issued]) -> None:
    """Put what is newer into the file; ConfigError or OSError, and it is what it was."""
    before = read(path)
    known = before | {key: at for key, at in more.items() if key not in before or at > before[key]}
    if known == before:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    wholefile.write(path, pack(known).encode(), MODE)


def handler(config: Config) -> Callable[[Message, Message], None]:
    """Return what answers the message, in the broker."""
    return partial(_answer, state_path(config))


def _answer(path: Path, message: Message, _reply: Message) -> None:
    try:
        keep(path, parse(message.text))
    except (ConfigError, OSError) as error:
        raise DataPlaneError(errno.EIO, f"{path}: cannot be kept: {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataPlaneError.of(errno.EBADMSG, "keep what lists a node has had") from error


class Memory:
    """Has the broker keep what lists the daemon has read, and that there was a `revoked.toml`."""

    def __init__(
        self, crl: CrlFile | None, broker: BrokerLink, revoked: RevocationFile | None = None
    ) -> None:
        self._crl = crl
        self._revoked = revoked
        self._broker = broker
        self._told = False
        self._kept: dict[str, Issued] = {}
        self._retry_s = 0.0

    async def look(self) -> None:
        """Have it kept if it is new."""
        if time.monotonic() < self._retry_s:
            return
        known = self._crl.known if self._crl is not None else {}
        try:
            if not self._told and self._revoked is not None and self._revoked.read:
                await self._broker.ask(Message(Kind.REVOKED))
                self._told = True
            if known != self._kept:
                await self._broker.ask(Message(Kind.LISTED, text=pack(known)))
        except DataPlaneError as error:
            self._retry_s = time.monotonic() + RETRY_S
            log.warning("%s", error.args[-1])
        else:
            self._kept = known
