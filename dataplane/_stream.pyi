from collections import deque
from typing import Any, TypeAlias

from .application.message import Message

Payload: TypeAlias = bytes | bytearray | memoryview

class End:
    queue: deque[Message]
    early: dict[int, Any]
    held: deque[Any]
    owed: dict[int, int]
    received: int
    received_bytes: int
    queue_size: int
    expected: int
    number: int
    generation: int
    careful: bool
    halting: bool
    def send(self, payload: Payload, /) -> None: ...
    def take(self) -> Message | None: ...
    def taken(self, size: int, count: int, /) -> None: ...
    def idle(self) -> None: ...
    def report(self) -> bool: ...
    def _begin(
        self,
        memory: object,
        client: int,
        outlet: int,
        inlet: int,
        message: type[Message],
        /,
    ) -> None: ...

class Face:
    def send(
        self,
        payload: Payload,
        *,
        type: int | str = 0,  # noqa: A002
        correlation: int = 0,
        eos: bool = False,
        urgent: bool = False,
        priority: int = 0,
        stamp: bool = False,
        lifetime: float | None = None,
        timeout: float | None = None,
    ) -> None: ...
    def recv(self, timeout: float | None = None) -> Message | None: ...

def intake(
    client: int,
    ring: int,
    flows: dict[int, Any],
    woken: set[Any],
    messages: int,
    bytes: int,  # noqa: A002
    /,
) -> int: ...
