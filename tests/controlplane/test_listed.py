"""Which signed lists a node has had is kept across its restarts, and never goes back."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config.reader import parse as parse_config
from valkyrie.controlplane.daemon import listed
from valkyrie.controlplane.daemon.listed import keep, pack, parse, read, state_path
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ROOT, OTHER = "0a" * 32, "0b" * 32


def test_what_is_kept_only_grows_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lists.json"
    keep(path, {ROOT: (NOW, 7)})
    assert path.stat().st_mode & 0o777 == listed.MODE == 0o600
    keep(path, {ROOT: (NOW - DAY, 9), OTHER: (NOW, 1 << 159)})
    assert read(path) == {ROOT: (NOW, 7), OTHER: (NOW, 1 << 159)}
    keep(path, {ROOT: (NOW + DAY, 8)})
    assert read(path)[ROOT] == (NOW + DAY, 8)
    assert [each.name for each in path.parent.iterdir()] == ["lists.json"]


def test_what_is_kept_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    keep(path, {ROOT: (NOW, 7)})
    before = path.stat().st_ino
    keep(path, {ROOT: (NOW, 7)})
    assert path.stat().st_ino == before


WRONG = [
    "",
    "[]",
    "5",
    '{"0a": [1, 2]}',
    json.dumps({ROOT: 5}),
    json.dumps({ROOT: [1.5, 2]}),
    json.dumps({ROOT: [1, -1]}),
    json.dumps({ROOT: [1, 1 << 160]}),
    json.dumps({ROOT: [1 << 70, 1]}),
    json.dumps({f"{i:064x}": [1, 1] for i in range(257)}),
]


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_no_good_says_what_to_do_and_a_message_keeps_nothing(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "lists.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="then remove this file"):
        read(path)
    path.unlink()
    log = f'[security]\naudit_file = "{tmp_path}/audit.jsonl"\n'
    config = parse_config(f'[[interface]]\nname = "lo"\n{log}')
    answer = listed.handler(config)
    with pytest.raises(DataPlaneError):
        answer(Message(Kind.LISTED, text=text), Message(Kind.LISTED))
    assert not state_path(config).exists()
    answer(Message(Kind.LISTED, text=pack({ROOT: (NOW, 7)})), Message(Kind.LISTED))
    assert read(tmp_path / "audit-lists.json") == {ROOT: (NOW, 7)}


async def test_the_broker_is_asked_once_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []
    full = True

    async def ask(message: Message) -> None:
        asked.append(message.text)
        if full:
            raise DataPlaneError.of(28, "keep it")

    crl: Any = SimpleNamespace(known={ROOT: (NOW, 7)})
    memory = listed.Memory(crl, cast(Any, SimpleNamespace(ask=ask)))
    for _ in range(3):
        await memory.look()
    assert len(asked) == 1  # and again in a minute
    assert "keep it" in caplog.text
    full = False
    memory = listed.Memory(crl, cast(Any, SimpleNamespace(ask=ask)))
    for _ in range(3):
        await memory.look()
    crl.known = {ROOT: (NOW + DAY, 8)}
    await memory.look()
    assert [parse(text) for text in asked[1:]] == [{ROOT: (NOW, 7)}, {ROOT: (NOW + DAY, 8)}]
