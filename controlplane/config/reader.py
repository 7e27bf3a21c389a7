"""Reads ``valkyrie.toml`` into the tree of ``settings.py``, or says what to write instead.

Also the only place that looks at the environment.
"""

from __future__ import annotations

import difflib
import grp
import ipaddress
import os
import pwd
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import msgspec

from valkyrie.controlplane.security.policy import (
    STREAM_MAX,
    Grant,
    Operator,
    Role,
    Rule,
    StreamRange,
    Whom,
)
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.ports import Rings
from valkyrie.dataplane.wire import FIRST_STREAMS, Class, stream_class

from . import peerfile, settings_intrusion, trust
from .settings import Application, ClassLimits, Config, Interface, OperatorRule, PeersFile
from .settings_base import Settings, WrongKeyError
from .settings_peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "DEFAULT_PATH",
    "Config",
    "Environment",
    "beside",
    "environment",
    "limits",
    "live_keys",
    "load",
    "load_alone",
    "operators",
    "parse",
    "peers_path",
    "ring_sizes",
    "rules",
    "token_classes",
    "tuned",
    "with_new_peers",
    "with_nobody",
    "with_peers",
    "without_peer",
]

DEFAULT_PATH = "/etc/valkyrie/valkyrie.toml"
"""Where a node's configuration is, if nobody says otherwise."""


Table = TypeVar("Table", bound=Settings)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment tells; empty or 0 where it does not."""

    notify_socket: str
    """systemd's NOTIFY_SOCKET."""
    watchdog_us: int
    """systemd's WATCHDOG_USEC."""


def environment() -> Environment:
    """Read the environment."""
    watchdog = os.environ.get("WATCHDOG_USEC", "")
    return Environment(
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
        watchdog_us=int(watchdog) if watchdog.isdecimal() else 0,
    )


def load(path: str | Path = DEFAULT_PATH) -> Config:
    """Return the configuration in a file, with the peers that commands have added.

    ConfigError when there is anything wrong with it.
    """
    config = load_alone(path)
    peers = peers_path(config)
    return with_peers(config, peerfile.read(peers), str(peers))


def load_alone(path: str | Path) -> Config:
    """Return the same without the file of peers."""
    path = Path(path)
    try:
        text = peerfile.read_text(path)
    except FileNotFoundError as error:
        hint = "write one (docs/CONFIGURATION.md), or name another with --config"
        raise ConfigError(f"{path}: {error.strerror}: {hint}") from error
    return parse(text, str(path))


def beside(config: Config, name: str) -> Path:
    """Return the path of a file that the configuration names."""
    return Path(config.file).parent / name


def peers_path(config: Config) -> Path:
    """Return where the peers stand that commands add."""
    return beside(config, config.node.peers_file)


def parse(text: str, file: str = "valkyrie.toml") -> Config:
    """Return the configuration in a text; ``file`` is for messages."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    try:
        _refuse_unknown(Config, given, "")
        config = _convert(given)
        _check(config)
    except WrongKeyError as error:
        raise ConfigError(f"{file}: {error}") from None
    return msgspec.structs.replace(config, file=file)


def with_peers(config: Config, text: str, file: str) -> Config:
    """Return the configuration with the peers of a file of their own."""
    try:
        tree = {"peer": peerfile.tables(text, file)}
        _refuse_unknown(PeersFile, {**tomllib.loads(text), **tree}, "")
        more = _converted(PeersFile, tree).peers
        _check_peers(msgspec.structs.replace(config, peers=more))
    except WrongKeyError as error:
        raise ConfigError(f"{file}: {error}") from None
    both = msgspec.structs.replace(config, peers=[*config.peers, *more])
    try:
        _check_peers(both)
    except WrongKeyError as error:
        raise ConfigError(f"{config.file} and {file} together: {error}") from None
    return both


def without_peer(config: Config, index: int) -> Config:
    """Return the configuration of a running node with nobody in a peer's place."""
    peers = list(config.peers)
    peers[index] = _nobody()
    return msgspec.structs.replace(config, peers=peers)


def with_nobody(config: Config, count: int) -> Config:
    """Return the configuration of a running node with nobody in so many places more."""
    more = [_nobody() for _ in range(min(count, lib.VK_PEERS_MAX - len(config.peers)))]
    return msgspec.structs.replace(config, peers=[*config.peers, *more])


def _nobody() -> Peer:
    return Peer(name="", address="")


def with_new_peers(config: Config, names: Iterable[str] | None = None) -> Config:
    """Return the configuration of a running node with what was added to its file of peers.

    All others stay as and where they are: rows of memory go by their order. ``names``: take these
    only, in this order, with nobody in the place of one that the file does not have.
    """
    known = {peer.name for peer in config.peers}
    found = {peer.name: peer for peer in load(config.file).peers if peer.name not in known}
    more = [found.get(name) or _nobody() for name in (found if names is None else names)]
    both = msgspec.structs.replace(config, peers=[*config.peers, *more])
    try:
        _check_peers(both)
    except WrongKeyError as error:
        raise ConfigError(f"{peers_path(config)}: {error}") from None
    return both


# ---- Shape: unknown keys, types, ranges ----


def _refuse_unknown(table: type[Settings], given: Mapping[str, Any], where: str) -> None:
    fields = {f.encode_name: f for f in msgspec.structs.fields(table) if f.name != "file"}
    for key, value in given.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(fields)}"
            raise WrongKeyError(path, f"unknown key: {hint}")
        child, many = nested(fields[key].type)
        if child is None:
            continue
        if many and isinstance(value, dict):
            raise WrongKeyError(path, f"write [[{path}]], with two brackets: there may be several")
        for i, item in enumerate(value if many and isinstance(value, list) else [value]):
            if isinstance(item, dict):
                _refuse_unknown(child, item, f"{path}[{i}]" if many else path)


def nested(annotation: Any) -> tuple[type[Settings] | None, bool]:
    """Return the table that a field holds, if any, and whether it holds several."""
    annotation = _bare(annotation)
    many = get_origin(annotation) is list
    if many:
        annotation = _bare(get_args(annotation)[0])
    is_table = isinstance(annotation, type) and issubclass(annotation, Settings)
    return (annotation if is_table else None), many


def _bare(annotation: Any) -> Any:
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return annotation


def _convert(given: Mapping[str, Any]) -> Config:
    if not given.get("interface"):
        raise WrongKeyError("interface", 'name one at least: [[interface]], name = "eth0"')
    # Overlaid on the defaults, because those of [class.<name>] depend on the name.
    defaults = msgspec.to_builtins(Config())
    return _converted(Config, _overlay(defaults, given))


def _converted(table: type[Table], tree: Any) -> Table:
    try:
        return msgspec.convert(tree, table)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").lstrip(".").replace("[...]", "")
        found = _found(tree, path)
        message = message[:1].lower() + message[1:]
        raise WrongKeyError(path, f"{message}, found {found}" if found else message) from error


def _overlay(defaults: Any, given: Any) -> Any:
    if isinstance(defaults, dict) and isinstance(given, dict):
        return {**defaults, **{k: _overlay(defaults.get(k), v) for k, v in given.items()}}
    return given


def _found(tree: Any, path: str) -> str:
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            tree = tree[int(step)] if isinstance(tree, list) else tree[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return ""
    return repr(tree) if isinstance(tree, str | int | float | bool) else ""


# ---- Sense: what no type can say ----


def _check(config: Config) -> None:
    _check_user(config.node.user)
    _check_interfaces(config.interfaces)
    for klass in Class:
        name = klass.name.lower()
        _check_power_of_two(f"class.{name}.ring_frames", limits(config, klass).ring_frames)
    _check_tokens(config)
    _check_peers(config)
    _refuse_twins("application", "name", [rule.name for rule in config.applications])
    for i, application in enumerate(config.applications):
        _rule(application, f"application[{i}]")
    _refuse_twins("operator", "name", [rule.name for rule in config.operators])
    for i, operator in enumerate(config.operators):
        _operator(operator, f"operator[{i}]")
    _refuse_twins("intrusion", "name", [rule.name for rule in config.intrusion])
    for i, rule in enumerate(config.intrusion):
        settings_intrusion.check(rule, f"intrusion[{i}]")


def _check_user(user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise WrongKeyError("node.user", f"this host has no user '{user}'") from None
    if entry.pw_uid == 0:
        raise WrongKeyError("node.user", "daemon and workers need no rights: name another user")


def _check_interfaces(interfaces: list[Interface]) -> None:
    _refuse_twins("interface", "name", [each.name for each in interfaces])
    ports = sum(each.queues or 1 for each in interfaces)
    if ports > lib.VK_PORTS_MAX:
        raise WrongKeyError("interface", f"{ports} queues in all, {lib.VK_PORTS_MAX} can be served")
    for i, each in enumerate(interfaces):
        _check_power_of_two(f"interface[{i}].tx_frames", each.tx_frames)


def _check_tokens(config: Config) -> None:
    if config.classes.control.token:
        what = "control frames come before there is a token: leave it out here"
        raise WrongKeyError("class.control.token", what)


def _check_peers(config: Config) -> None:
    if len(config.peers) > lib.VK_PEERS_MAX:
        raise WrongKeyError("peer", f"there are more than {lib.VK_PEERS_MAX}")
    _refuse_twins("peer", "name", [peer.name for peer in config.peers])
    addresses = []
    for i, peer in enumerate(config.peers):
        if peer.gone:
            addresses.append("")
            continue
        key = f"peer[{i}].address"
        try:
            address = ipaddress.ip_address(peer.address)
        except ValueError:
            found = f"'{peer.address}' is no IPv4 or IPv6 address (names are not looked up)"
            raise WrongKeyError(key, found) from None
        if address.is_multicast or address.is_unspecified:
            raise WrongKeyError(key, f"'{peer.address}' is not the address of one node")
        addresses.append(str(address))
    _refuse_twins("peer", "address", addresses)
    trust.pins(config)


def _refuse_twins(table: str, key: str, values: list[str]) -> None:
    places: dict[str, int] = {}
    for i, value in enumerate(values):
        first = places.setdefault(value, i)
        if value and first != i:
            raise WrongKeyError(f"{table}[{i}].{key}", f"'{value}' is {table}[{first}]'s already")


def _check_power_of_two(key: str, value: int) -> None:
    if value & (value - 1):
        near = 1 << value.bit_length() - 1
        raise WrongKeyError(key, f"{value} is no power of two: take {near} or {near * 2}")


# ---- Views ----


def limits(config: Config, klass: Class) -> ClassLimits:
    """Return the limits of a class."""
    found: ClassLimits = getattr(config.classes, klass.name.lower())
    return found


def token_classes(config: Config) -> frozenset[Class]:
    """Return the classes whose frames need a token."""
    return frozenset(klass for klass in Class if limits(config, klass).token)


def ring_sizes(config: Config, interface: Interface) -> Rings:
    """Return the sizes of the AF_XDP rings of an interface's queues."""
    return Rings(
        rx={klass: limits(config, klass).ring_frames for klass in Class},
        reserve=interface.reserve_frames,
        tx=interface.tx_frames,
    )


# ---- Rules ----


def rules(config: Config) -> tuple[Rule, ...]:
    """Return the policy: the application rules with users and groups as numbers."""
    try:
        return tuple(_rule(each, f"application[{i}]") for i, each in enumerate(config.applications))
    except WrongKeyError as error:  # a user was removed since the file was read
        raise ConfigError(f"{config.file}: {error}") from None


def _rule(application: Application, where: str) -> Rule:
    _check_power_of_two(f"{where}.ring_bytes", application.ring_bytes)
    whom = _whom(application, where)
    classes, streams = _streams(application, where)
    return Rule(
        Grant(
            rule=application.name,
            classes=classes,
            streams=streams,
            listen=tuple(application.listen),
            peers=tuple(application.peers),
            rate_messages=application.rate_messages,
            rate_bytes=application.rate_bytes,
            weight=application.weight,
            ring_bytes=application.ring_bytes,
            memory_bytes_max=application.memory_bytes_max,
            attachments_max=application.attachments_max,
            sign=application.sign,
        ),
        whom,
    )


def operators(config: Config) -> tuple[Operator, ...]:
    """Return who may do what beside applications, with users and groups as numbers."""
    try:
        return tuple(_operator(each, f"operator[{i}]") for i, each in enumerate(config.operators))
    except WrongKeyError as error:
        raise ConfigError(f"{config.file}: {error}") from None


def _operator(given: OperatorRule, where: str) -> Operator:
    return Operator(frozenset(Role(role) for role in given.roles), _whom(given, where))


def _whom(given: Application | OperatorRule, where: str) -> Whom:
    uids = set() if given.uid is None else {given.uid}
    gids = set()
    if given.user:
        try:
            uids.add(pwd.getpwnam(given.user).pw_uid)
        except KeyError:
            what = f"this host has no user '{given.user}'"
            raise WrongKeyError(f"{where}.user", what) from None
    if given.group:
        try:
            gids.add(grp.getgrnam(given.group).gr_gid)
        except KeyError:
            what = f"this host has no group '{given.group}'"
            raise WrongKeyError(f"{where}.group", what) from None
    if bool(uids or gids) == given.anybody:
        what = "matches nobody" if not given.anybody else "names somebody and anybody"
        raise WrongKeyError(where, f"{what}: write user, uid or group, or else anybody = true")
    return Whom(frozenset(uids), frozenset(gids), given.anybody)


def _streams(
    application: Application, where: str
) -> tuple[frozenset[Class], tuple[StreamRange, ...]]:
    classes = frozenset(Class[name.upper()] for name in application.classes)
    ranges = [
        _stream_range(str(text), f"{where}.streams[{i}]")
        for i, text in enumerate(application.streams)
    ]
    touched = {
        klass for each in ranges for klass, whole in _class_streams() if _overlap(each, whole)
    }
    if not ranges:
        ranges = [whole for klass, whole in _class_streams() if klass in classes]
    if not ranges:
        raise WrongKeyError(where, "grants nothing: write classes, or streams, or both")
    if classes and touched - classes:
        names = ", ".join(sorted(klass.name.lower() for klass in touched - classes))
        what = f"some lie in {names}, which classes does not grant: add the class, or cut the range"
        raise WrongKeyError(f"{where}.streams", what)
    merged = tuple(_merge(ranges))
    if len(merged) > lib.VK_RANGES_MAX:
        what = f"{len(merged)} ranges that do not touch, {lib.VK_RANGES_MAX} can be kept"
        raise WrongKeyError(f"{where}.streams", what)
    return classes or frozenset(touched), merged


def _stream_range(text: str, key: str) -> StreamRange:
    match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", text)
    if not match:
        raise WrongKeyError(key, f"'{text}' is no stream: write 7 or \"100-199\"")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last or last > STREAM_MAX:
        raise WrongKeyError(key, f"'{text}': streams ascend from 0 to {STREAM_MAX}")
    return StreamRange(first, last)


def _class_streams() -> Iterator[tuple[Class, StreamRange]]:
    firsts = sorted(FIRST_STREAMS.values())
    for first, following in zip(firsts, [*firsts[1:], STREAM_MAX + 1], strict=True):
        yield stream_class(first), StreamRange(first, following - 1)


def _overlap(a: StreamRange, b: StreamRange) -> bool:
    return a.first <= b.last and b.first <= a.last


def _merge(ranges: Iterable[StreamRange]) -> Iterator[StreamRange]:
    current: StreamRange | None = None
    for each in sorted(ranges, key=lambda r: r.first):
        if current is not None and each.first <= current.last + 1:
            current = StreamRange(current.first, max(current.last, each.last))
            continue
        if current is not None:
            yield current
        current = each
    if current is not None:
        yield current


# ---- Live changes ----


def live_keys(config: Config) -> dict[str, int | str]:
    """Return what ``valkyrie tune`` can change, with its present value."""
    return dict(_live(config, ""))


def _live(table: Settings, where: str) -> Iterator[tuple[str, int | str]]:
    for each in msgspec.structs.fields(table):
        value = getattr(table, each.name)
        path = f"{where}.{each.encode_name}" if where else each.encode_name
        if isinstance(value, Settings):
            yield from _live(value, path)
        elif any((meta.extra or {}).get("live") for meta in metadata(each.type)):
            yield path, value if isinstance(value, str) else int(value)


def metadata(annotation: Any) -> Iterator[msgspec.Meta]:
    """Yield the Meta objects around a field's type, outermost first."""
    while hasattr(annotation, "__metadata__"):
        yield from reversed(annotation.__metadata__)
        annotation = annotation.__origin__


def tuned(config: Config, values: Mapping[str, int | str]) -> Config:
    """Return the configuration with live keys changed; ConfigError for any other key or value."""
    known = live_keys(config)
    present = [peer for peer in config.peers if not peer.gone]
    tree: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(config, peers=present))
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else "docs/CONFIGURATION.md says which can"
            raise ConfigError(f"tune: {key}: cannot change while the node runs: {hint}")
        *steps, last = key.split(".")
        table = tree
        for step in steps:
            table = table[step]
        table[last] = bool(value) if isinstance(table[last], bool) and value in (0, 1) else value
    try:
        changed = _convert(tree)
        _check_tokens(changed)
    except WrongKeyError as error:
        raise ConfigError(f"tune: {error}") from None
    return msgspec.structs.replace(changed, peers=config.peers)
