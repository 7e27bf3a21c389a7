"""What is asked of a daemon at once by several people."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace
from typing import Any

from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config.reader import parse
from valkyrie.controlplane.daemon import administration
from valkyrie.controlplane.daemon.tokens import Tokens
from valkyrie.dataplane.wire import Class


async def test_of_two_that_tune_at_once_the_later_one_has_its_way() -> None:
    config = parse('[[interface]]\nname = "lo"\n')
    asked: list[Message] = []

    async def ask(message: Message) -> None:
        asked.append(message)

    looks = itertools.count()
    sessions: Any = SimpleNamespace(owing=lambda _now_ns: next(looks) < 3)
    broker: Any = SimpleNamespace(ask=ask)
    daemon: Any = SimpleNamespace(
        config=config,
        inherited=SimpleNamespace(config=config),
        broker=broker,
        tuning=asyncio.Lock(),
        set_parameters=lambda: None,
        watch=SimpleNamespace(rates=lambda _which: (0, 0)),
        tokens=Tokens(config, SimpleNamespace(generation=0), broker, sessions),
    )
    wishes: list[dict[str, int | str]] = [{"class.data.token": wish} for wish in (1, 0)]
    await asyncio.gather(*(administration.tune(daemon, wish) for wish in wishes))
    demanded = [message.first for message in asked if message.kind == Kind.DEMAND]
    assert demanded[0] == 1 << Class.DATA
    assert demanded[-1] == 0
    tuned = [json.loads(message.text) for message in asked if message.kind == Kind.TUNED]
    assert tuned == [{"class.data.token": 1}, {}]
