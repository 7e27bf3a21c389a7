"""Looks at the files of the node's secrets before anything else is opened, and makes an identity.

In a child that ends at once, so that the broker never has any of it in its memory.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, NoReturn

from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.confinement import privileges
from valkyrie.controlplane.daemon import credentials
from valkyrie.dataplane.errors import ConfigError

from . import children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from valkyrie.controlplane.config.settings import Config

log = logging.getLogger("valkyrie")


def prepare(config: Config) -> tuple[int, str]:
    """Return what to log when the node is ready: the level, and who it is.

    ConfigError for files that the daemon could not use.
    """
    found = _ask(config)
    if "error" in found:
        raise ConfigError(str(found["error"]))
    if set(config.security.modes) == {"plaintext"}:
        return logging.WARNING, 'sessions are not protected: security.modes is ["plaintext"]'
    if found["made"]:
        what = "made this node's identity; tell its peers the fingerprint:"
        return logging.INFO, f"{what} {found['fingerprint']}"
    return logging.INFO, f"this node's fingerprint is {found['fingerprint']}"


def with_new_peers(config: Config, names: Sequence[str] | None = None) -> Config:
    """Return the configuration for the next daemon: peers were added while the last one ran.

    ``names``: take these, in this order, with nobody in the place of one that cannot be had.
    """
    try:
        return configuration.with_new_peers(config, names)
    except ConfigError as error:
        log.warning("peers stay as they are: %s", error)
        return configuration.with_nobody(config, len(names or ()))


def _ask(config: Config) -> dict[str, object]:
    reader, writer = os.pipe()

    def child(_parent: int) -> NoReturn:
        os.close(reader)
        privileges.hide()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(_look(config)).encode())
        os._exit(0)

    looking = children.fork(child, "who looks at the files")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = looking.reap()
    if status or not data:
        how = children.describe(status)
        raise ConfigError(f"{config.file}: who looked at the files of [security] {how}")
    answer: dict[str, object] = json.loads(data)
    return answer


def _look(config: Config) -> dict[str, object]:
    try:
        found = credentials.load(config, make=True)
    except ConfigError as error:
        return {"error": str(error)}
    return {"made": found.made, "fingerprint": str(found.local.identity.card.fingerprint)}
