"""The file of peers that commands and people share: nothing of what people wrote is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkyrie.controlplane.config import peerfile
from valkyrie.controlplane.config import reader as config
from valkyrie.dataplane.errors import ConfigError

B = '[[peer]]\nname = "b"\naddress = "10.0.0.2"\n'
C = '[[peer]]\nname = "c"\naddress = "10.0.0.3"\n'
WRITTEN = f"# ours\n\n{B}# of b\nport = 7\n\n# the other site\n{C}"
PLAIN = '[[interface]]\nname = "vk0"\n[security]\nmodes = ["plaintext"]\n'

REMOVED = {
    # number: (before, name, after)
    1: (B, "b", ""),
    2: (f"{B}\n{C}", "b", C),
    3: (f"{B}\n{C}", "c", B + "\n"),
    4: (WRITTEN, "b", f"# ours\n\n# the other site\n{C}"),
    5: (WRITTEN, "c", f"# ours\n\n{B}# of b\nport = 7\n\n# the other site\n"),
    6: (f"{B}{C}# the end", "c", f"{B}# the end"),
    7: (f'  [[ peer ]]\nname = "x" # [[peer]]\n{B}', "x", B),
}


@pytest.mark.parametrize("number", REMOVED)
def test_a_peer_goes_with_its_table_and_nothing_else(number: int) -> None:
    before, name, after = REMOVED[number]
    assert peerfile.removed(before, name, "f") == after


@pytest.mark.parametrize(
    "text",
    [
        'peer = [{name = "b"}, {name = "c"}]\n',
        'x = """\n[[peer]]\n"""\n[[peer]]\nname = "b"\n',
        '["peer"]\nname = "b"\n',
    ],
)
def test_what_only_people_can_take_out_is_left_to_them(text: str) -> None:
    with pytest.raises(ConfigError):
        peerfile.removed(text, "b", "f")


def test_a_peer_that_is_not_there_is_not_removed() -> None:
    with pytest.raises(KeyError):
        peerfile.removed(WRITTEN, "d", "f")


NAMES = st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,8}\Z"), unique=True, max_size=6)
COMMENTS = st.sampled_from(["", "# [[peer]]\n", "\n\n\n", "# a 'quoted' word\n\n"])


@given(NAMES, st.data())
def test_what_is_added_can_be_removed_in_any_order(names: list[str], data: st.DataObject) -> None:
    text = data.draw(COMMENTS)
    for name in names:
        several = ["[[peer]]", "b"]
        text = peerfile.added(
            text, {"name": name, "port": 7, "static": True, "services": several, "address": "::1"}
        )
        text += data.draw(COMMENTS)
    assert [each["name"] for each in peerfile.tables(text, "f")] == names
    left = list(names)
    for name in data.draw(st.permutations(names)):
        text = peerfile.removed(text, name, "f")
        left.remove(name)
        assert [each["name"] for each in peerfile.tables(text, "f")] == left
    assert all(line.startswith("#") for line in text.splitlines() if line)


# ---- As part of the configuration ----


def written(folder: Path, main: str, peers: str | None) -> Path:
    path = folder / "valkyrie.toml"
    path.write_text(main)
    if peers is not None:
        (folder / "peers.toml").write_text(peers)
    return path


def test_peers_of_both_files_are_known_in_their_order(tmp_path: Path) -> None:
    read = config.load(written(tmp_path, PLAIN + C, B))
    assert [peer.name for peer in read.peers] == ["c", "b"]
    assert [peer.name for peer in config.load(written(tmp_path, PLAIN + C, "")).peers] == ["c"]


REFUSED = {
    # number: (valkyrie.toml, peers.toml, which files are named, what is said)
    1: (PLAIN, "x =", "peers.toml", "not TOML"),
    2: (PLAIN, "[node]\n", "peers.toml", "node: unknown key: known are peer"),
    3: (PLAIN, "[peer]\n", "peers.toml", "write [[peer]], with two brackets"),
    4: (PLAIN, B.replace("10.0.0.2", "x"), "peers.toml", "peer[0].address: 'x' is no IPv4"),
    5: (PLAIN, B + B, "peers.toml", "peer[1].name: 'b' is peer[0]'s already"),
    6: (PLAIN + B, B, "together", "peer[1].name: 'b' is peer[0]'s already"),
    7: (PLAIN + B, C + "nam = 1", "peers.toml", "peer[0].nam: unknown key: did you mean 'name'?"),
    8: ('[[interface]]\nname = "vk0"\n', B, "peers.toml", "peer[0]: nothing tells 'b' from"),
}


@pytest.mark.parametrize("number", REFUSED)
def test_a_wrong_file_of_peers_is_named_with_key_and_remedy(tmp_path: Path, number: int) -> None:
    main, peers, file, message = REFUSED[number]
    with pytest.raises(ConfigError) as caught:
        config.load(written(tmp_path, main, peers))
    assert f"{file}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_peers_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN, B)
    (tmp_path / "peers.toml").chmod(0o666)
    with pytest.raises(ConfigError, match="anybody may write it, and it grants rights"):
        config.load(path)


def test_changes_that_come_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "peers.toml"

    def add(index: int) -> None:
        peerfile.edit(path, lambda text: peerfile.added(text, {"name": f"p{index}"}))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = {each["name"] for each in peerfile.tables(path.read_text(), "f")}
    assert found == {f"p{i}" for i in range(16)}
    assert [each.name for each in tmp_path.iterdir()] == ["peers.toml"]


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "peers.toml"
    path.write_text(B)
    path.chmod(0o640)

    def change(_text: str) -> str:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        peerfile.edit(path, change)
    assert path.read_text() == B
    peerfile.edit(path, lambda text: text + C)
    assert path.stat().st_mode & 0o777 == 0o640
