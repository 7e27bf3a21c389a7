"""What all tables of the settings are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
ClassName = Literal["critical", "system", "job", "data", "logs"]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables: immutable, and unknown keys are an error."""


class WrongKeyError(Exception):
    """A key of the configuration and what is wrong with it."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}")
