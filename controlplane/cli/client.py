"""Questions to a running node, on its application socket, and how answers are printed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from valkyrie.dataplane.errors import ValkyrieError

from .exits import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from valkyrie.dataplane.application.appsocket import Reply, Request

NodeOption = Annotated[str, Parameter(help="Name of the node, or path of its socket.")]
JsonOption = Annotated[bool, Parameter(negative="", help="Print JSON.")]

DEFAULT_NODE = "valkyrie"
ANSWER_S = 10.0
"""Seconds a node may take for an answer; an upgrade may take longer and says so."""


def ask(node: str, request: Request, timeout_s: float = ANSWER_S) -> Reply:
    """Send one request to a node and return its answer, if that is a yes.

    NotRunningError if nobody listens, RefusedError if it says no.
    """
    from valkyrie.dataplane.application import appsocket
    from valkyrie.dataplane.application.driver import socket_path
    from valkyrie.dataplane.application.refusal import refusal
    from valkyrie.dataplane.errors import DataPlaneError

    path = socket_path(node)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            connection.sendall(appsocket.encode(request))
            packet, descriptors, _, _ = socket.recv_fds(
                connection, appsocket.PACKET_SIZE_MAX, 8, socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError as error:
            what = f"node '{node}' did not answer within {timeout_s:g} s: see its log"
            raise DataPlaneError(errno.ETIMEDOUT, what) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise NotRunningError(_absent(node, path)) from None
            raise DataPlaneError.of(error.errno or errno.EIO, f"ask the node on {path}") from error
    for fd in descriptors:  # nobody asked for any
        os.close(fd)
    if not packet:
        raise NotRunningError(f"node '{node}' ended while it was asked: see its log")
    reply = appsocket.decode_reply(packet)
    if reply.code:
        raise refusal(reply.code, reply.message)
    return reply


def _absent(node: str, path: str) -> str:
    return f"no node '{node}' is running (nobody listens on {path}): start it with valkyrie up"


def print_json(document: object) -> None:
    """Print one JSON value on a line of its own."""
    print(json.dumps(document, separators=(",", ":")), flush=True)


def print_document(document: Any) -> None:
    """Print a document of tables and values as people read it."""
    for line in lines(document, 0):
        print(line)


def lines(document: Any, depth: int) -> Iterable[str]:
    """Yield a document as indented text: values first, then its tables."""
    indent = "  " * depth
    if not isinstance(document, dict):
        yield f"{indent}{plain(document)}"
        return
    nested = {k: v for k, v in document.items() if (isinstance(v, dict) and v) or _is_table(v)}
    width = max((len(str(key)) for key in document if key not in nested), default=0)
    for key, value in document.items():
        if key not in nested:
            yield f"{indent}{key!s:<{width}}  {plain(value)}"
    for key, value in nested.items():
        yield f"{indent}{key}:"
        rows = _as_rows(value) if isinstance(value, dict) else value
        if rows:
            yield from (f"{indent}  {line}" for line in columns(rows))
        else:
            yield from lines(value, depth + 1)


def _as_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return tables of the same keys as rows, each led by its name; none if they differ."""
    values = list(table.values())
    if len(values) < 2 or not all(isinstance(value, dict) and value for value in values):
        return []
    if any(value.keys() != values[0].keys() for value in values):
        return []
    return [{"": name, **value} for name, value in table.items()]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def columns(rows: list[dict[str, Any]]) -> Iterable[str]:
    """Yield rows of the same keys as aligned columns under a head."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [
        [str(key) for key in keys],
        *([plain(row.get(key, "")) for key in keys] for row in rows),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def print_rows(rows: list[dict[str, Any]], *, json: bool, none: str) -> None:
    """Print rows as JSON or as a table; ``none`` says what no rows mean."""
    if json:
        print_json(rows)
    for line in [] if json else columns(rows) if rows else [none]:
        print(line)


def plain(value: Any) -> str:
    """Return a value on one line; control characters of others' making do not reach a terminal."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value)
    return "".join(char if char.isprintable() else "?" for char in str(value))


@contextlib.contextmanager
def quiet_pipe() -> Any:
    """End quietly when the reader of standard output goes away."""
    try:
        with one_error():
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


@contextlib.contextmanager
def one_error() -> Any:
    """Raise the first error of a group of tasks as it is, if all of them are to be expected."""
    try:
        yield
    except ExceptionGroup as group:
        expected, others = group.split((ValkyrieError, OSError))
        if others is not None or expected is None:
            raise
        error: Exception = expected
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def drop_output() -> None:
    """Let go of what standard output does not take, or Python complains of it when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
