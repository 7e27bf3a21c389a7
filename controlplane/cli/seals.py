"""Commands that have the node sign files, and that verify who signed one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

from cyclopts import Parameter

from valkyrie.controlplane import wholefile
from valkyrie.dataplane.errors import ConfigError

from .client import DEFAULT_NODE, JsonOption, NodeOption, plain, print_json
from .exits import Exit, reaching_node

if TYPE_CHECKING:
    from valkyrie.dataplane.signing.statement import Statement

SUFFIX = ".seal"
_MODE = 0o644


class _Contents(Sequence[bytes]):
    """What files contain, read one at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return _Contents(self._paths[index])
        return self._paths[index].read_bytes()


def sign(
    *files: Annotated[Path, Parameter(help="Files to sign, all by one signature.")],
    post_quantum: Annotated[bool, Parameter(help="Sign by ML-DSA-65 too.", negative="")] = False,
    fn_dsa: Annotated[
        bool,
        Parameter(help="Sign by FN-DSA-512 too, if the node's identity can.", negative=""),
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Have the node sign files, and write the seal of each beside it, as FILE.seal.

    The node gets a hash over all of them, and they go nowhere. The [[application]] rule that lets
    you attach must have `sign`. Whoever has file, seal and the node's fingerprint can verify them.
    """
    import valkyrie

    if not files:
        raise ConfigError("write the files to sign")
    with reaching_node(), valkyrie.attach_sync(node, name="valkyrie-sign") as attached:
        seals = attached.sign(_Contents(files), post_quantum=post_quantum, fn_dsa=fn_dsa)
    for path, seal in zip(files, seals, strict=True):
        written = path.with_name(path.name + SUFFIX)
        wholefile.write(written, seal.pack(), _MODE)
        if json:
            print_json({"file": str(path), "seal": str(written), "signer": str(seal.fingerprint)})
        else:
            print(plain(str(written)))
    return Exit.OK


def verify(
    file: Annotated[Path, Parameter(help="What was signed.")],
    fingerprint: Annotated[str, Parameter(help="Of the node, as `valkyrie key show` prints it.")],
    /,
    *,
    seal: Annotated[Path | None, Parameter(help="Instead of FILE.seal.")] = None,
    post_quantum: Annotated[
        bool, Parameter(help="Ask for a signature by ML-DSA-65 too.", negative="")
    ] = False,
    fn_dsa: Annotated[
        bool, Parameter(help="Ask for a signature by FN-DSA-512 too.", negative="")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Verify that the node of a fingerprint signed a file. Needs no node and no privilege."""
    import valkyrie

    packed = (seal or file.with_name(file.name + SUFFIX)).read_bytes()
    said = valkyrie.verify(
        file.read_bytes(), packed, fingerprint, post_quantum=post_quantum, fn_dsa=fn_dsa
    )
    document = {"file": str(file), **_document(said)}
    if json:
        print_json(document)
    else:
        for name, value in document.items():
            print(f"{name:<10}  {plain(str(value))}")
    return Exit.OK


def _document(said: Statement) -> dict[str, Any]:
    time = dt.datetime.fromtimestamp(said.time_ns / 1e9, dt.UTC)
    return {
        "node": said.node,
        "rule": said.rule,
        "uid": said.uid,
        "time": time.isoformat(timespec="milliseconds"),
        "signatures": " ".join(each.name.lower() for each in said.algorithms),
    }
