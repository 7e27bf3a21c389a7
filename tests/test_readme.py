"""What README.md and docs/API.md show runs as it stands there."""

from __future__ import annotations

import asyncio
import builtins
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import valkyrie
from tests.dataplane.double import Fabric
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import make_pair, running
from valkyrie.controlplane.config import reader

ROOT = Path(__file__).parents[1]


def examples(path: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / path).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_configuration_of_the_readme_lets_everybody_attach(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    path = tmp_path / "valkyrie.toml"
    path.write_text(text)
    path.chmod(0o644)
    config = reader.load(path)
    assert [each.name for each in config.interfaces] == ["eth0"]
    assert config.applications[0].anybody
    assert len(config.applications[0].classes) == 5


def run(code: str, socket: str, **names: Any) -> None:
    """Run an example on the host whose node has this socket."""
    code = re.sub(r"(attach(?:_sync)?)\(", rf'\1("{socket}", ', code)
    exec(compile(code, "example", "exec"), {"__name__": "example", **names})


def in_thread(work: Callable[..., None], *arguments: Any, **names: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, kwargs=names, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def fabric(tmp_path: Path) -> Any:
    made = Fabric(tmp_path, ("10.9.0.1", "10.9.0.2"))
    yield made
    made.close()


def test_the_hello_world_says_hello(fabric: Fabric) -> None:
    receiver, sender = examples("README.md")
    assert max(len(code.strip().splitlines()) for code in (receiver, sender)) <= 6
    printed: list[bytes] = []
    here, there = fabric.nodes
    thread = in_thread(run, receiver, there.path, print=printed.append)
    wait_until(lambda: any("greeter" in app.services for app in there.apps), SOON_S)
    run(sender, here.path)
    thread.join(SOON_S)
    assert printed == [b"hello, world"]


def test_the_example_of_the_api_page_gets_its_answer(fabric: Fabric) -> None:
    example, *_ = examples("docs/API.md")
    here, there = fabric.nodes
    printed: list[bytes] = []

    def serve() -> None:
        with valkyrie.attach_sync(there.path) as node, node.listen("readings") as service:
            stream = service.accept(SOON_S)
            for request in stream:
                stream.reply(request, b"warm enough: " + request.payload)

    thread = in_thread(serve)
    wait_until(lambda: any("readings" in app.services for app in there.apps), SOON_S)
    run(example, here.path, print=printed.append, asyncio=asyncio)
    assert printed == [b"warm enough: 21.5"]
    wait_until(lambda: not here.apps)
    thread.join(SOON_S)


def test_the_pages_that_the_readme_names_are_there() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((docs/[^)]+)\)", text)
    missing = [link for link in links if not (ROOT / link).is_file()]
    assert not missing
    assert "<!-- bench -->" in text


def test_the_api_page_names_every_public_name() -> None:
    text = (ROOT / "docs/API.md").read_text("utf-8")
    unnamed = {"__version__", "Class", "Flag", "Type"}
    assert [name for name in valkyrie.__all__ if name not in text and name not in unnamed] == []
    errors = set(re.findall(r"`(\w+Error)`", text))
    assert [
        name for name in errors if not hasattr(valkyrie, name) and name not in dir(builtins)
    ] == []


@pytest.mark.parametrize("path", ["xdp", "udp"])
def test_the_hello_world_crosses_from_host_to_host(lab: Lab, tmp_path: Path, path: str) -> None:
    here, there = make_pair(lab, tmp_path, path=path)
    receiver, sender = examples("README.md")
    address = str(there.link.v4.ip)
    printed: list[bytes] = []
    with running(here, there):
        thread = in_thread(run, receiver, there.socket, print=printed.append)
        wait_until(lambda: "greeter" in str(there.status()), SOON_S)
        run(sender.replace("10.9.0.2", address), here.socket)
        thread.join(SOON_S)
        assert printed == [b"hello, world"]
