"""The broker: the node's only process with rights, and the parent of the others.

It opens everything, keeps every descriptor and mapping, forks daemon and worker, and forks the next
one when one dies. It never looks at a frame, and knows no protocol but the fixed messages.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pwd
import selectors
import signal
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from valkyrie import dataplane
from valkyrie.controlplane.config.reader import environment, rules, without_peer
from valkyrie.controlplane.confinement import privileges, rights, sandbox
from valkyrie.controlplane.daemon import archive, auditor, daemon, guarding, listed
from valkyrie.controlplane.daemon.inherited import Inherited, prepare
from valkyrie.controlplane.host import interfaces
from valkyrie.controlplane.host.journal import Journal
from valkyrie.controlplane.host.netlink import Netlink
from valkyrie.controlplane.rest import left_s
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from . import children, first_start, messages
from .boot import Boot
from .children import Budget, Child
from .claim import Claim
from .keeper import Keeper, look_after
from .messages import Kind, Message
from .notify import notify
from .slots import Slots, largest_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.controlplane.config.reader import Config

log = logging.getLogger("valkyrie")

LIBRARY = Path(dataplane.__file__).parent / "vk_worker.so"

_TICK_S = 0.25
"""Period of counters, watchdog and the look after the interfaces."""
_STILL_S = 1.0
"""So late only who was stopped looks: a frozen container, a suspended machine."""
_STOP_S = 2.0
"""How long the daemon may take to leave."""
_LISTEN_BACKLOG = 128
_OF_SLOTS = (Kind.ATTACH, Kind.DETACH)
"""What the worker answers."""


def _user(config: Config) -> privileges.User:
    entry = pwd.getpwnam(config.node.user)
    return privileges.User(entry.pw_uid, entry.pw_gid)


def turn(selector: selectors.BaseSelector, timeout_s: float) -> None:
    """Call what is registered for whatever becomes ready within the time."""
    for key, _ in selector.select(timeout_s):
        # What an earlier one of these did may have ended what this one is about, and another may
        # have its number.
        if any(key is each for each in selector.get_map().values()):
            key.data()


def _paths(row: dict[str, Any]) -> str:
    return ", ".join(f"{way} {row[way]['mode']} ({row[way]['reason']})" for way in ("rx", "tx"))


class Broker:
    """A node, from opening its interfaces to its end."""

    def __init__(self, config: Config, library: Path = LIBRARY) -> None:
        self.config = config
        self._library_path = library
        self._cleanup = contextlib.ExitStack()
        self._worker_end = contextlib.ExitStack()
        """Comes first: while signals are still caught, and all that workers use is open."""
        self._selector = selectors.DefaultSelector()
        self._interfaces: list[interfaces.Opened] = []
        self._daemon: Child | None = None
        self._daemon_deaths = Budget("daemon")
        self._daemon_due_s: float | None = None
        """When to start it although a file was of no use, or the kernel refused."""
        self._revokes = False
        """There was a `revoked.toml`."""
        self._tuned = ""
        self._serving = False
        self._leaving = False
        self._notify = environment().notify_socket

    # ---- Start ----

    def open(self) -> None:
        """Take the node's name and open everything that lasts as long as the node."""
        if lacking := privileges.missing():
            raise DataPlaneError.of(
                errno.EPERM, "start a node", f"Run it as root, or give it {', '.join(lacking)}"
            )
        defer = self._cleanup.callback
        node = self.config.node
        self._user = _user(self.config)
        directory = Path(node.run_directory)
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        claim = Claim(directory / f"{node.name}.lock")
        defer(claim.release)
        self._greeting = first_start.prepare(self.config)
        auditor.prepare(self.config)
        journal = Journal(directory / f"{node.name}.journal")
        defer(self._selector.close)
        self.boot = Boot(node.name, self._user.gid)
        defer(self.boot.close)
        self._slots = Slots(self.boot, largest_span(rules(self.config)))
        defer(self._slots.close)
        with Netlink() as netlink:
            for interface in journal.undo(netlink):
                log.warning("put back what a crashed node had changed on %s", interface)
            defer(self._put_back, journal)
            self._open_interfaces(netlink, journal)
        self._listener = self._listen(directory / f"{node.name}.sock")
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        (self._link, self._daemon_link), (self._frames_daemon, self._frames_worker) = pairs
        for each in (end for pair in pairs for end in pair):
            each.setblocking(False)
            defer(each.close)
        defer(self._close_link)
        self._keeper = Keeper(
            self.config,
            self.boot,
            self._user,
            interfaces=self._interfaces,
            slots=self._slots,
            frames=self._frames_worker,
            selector=self._selector,
            tell=self._tell,
            library=self._library_path,
        )
        self._worker_end.callback(self._keeper.close)
        privileges.keep(privileges.KEPT)

    def _close_link(self) -> None:
        self._link.close()
        self._daemon_link.close()

    def _open_interfaces(self, netlink: Netlink, journal: Journal) -> None:
        opener = interfaces.Opener(self.config, self.boot, netlink, journal)
        for wanted in self.config.interfaces:
            opened = opener.open(wanted)
            self._cleanup.callback(opened.close)
            self._interfaces.append(opened)
            for row in opened.describe():
                log.info("%s queue %d: %s", row["name"], row["queue"], _paths(row))
            if opened.warning:
                log.warning("%s: %s", opened.name, opened.warning)
        self.boot.struct.port_count = sum(len(each.queues) for each in self._interfaces)
        interfaces.name_rows(self._interfaces, self.boot.counters)

    @staticmethod
    def _put_back(journal: Journal) -> None:
        with Netlink() as netlink:
            journal.undo(netlink)

    def _listen(self, path: Path) -> socket.socket:
        path.unlink(missing_ok=True)  # the lock is ours: whoever made it is dead
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._cleanup.callback(rights.leave, listener)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: see node.run_directory") from error
        self._cleanup.callback(path.unlink, missing_ok=True)
        path.chmod(0o666)  # who may do what is the policy's business
        rights.refuse(listener)
        listener.listen(_LISTEN_BACKLOG)
        return listener

    # ---- The daemon ----

    def _start_daemon(self) -> None:
        for index, slot in self._slots.attached.items():
            # The last daemon may not have heard of it, or was not answered.
            if slot.cut_off or self._keeper.sees_off(index):
                with contextlib.suppress(OSError):
                    slot.connection.shutdown(socket.SHUT_RDWR)
        inherited = Inherited(
            config=self.config,
            boot=self.boot,
            link=self._daemon_link,
            listener=self._listener,
            frames=self._frames_daemon,
            interfaces=[row for each in self._interfaces for row in each.describe()],
            voices=[each.voice for each in self._interfaces if each.voice is not None],
            connections={
                i: (slot.generation, slot.connection) for i, slot in self._slots.attached.items()
            },
            tuned=self._tuned,
            restarts=self._daemon_deaths.total,
            worker_pid=self._keeper.pid,
            worker_deaths=self._keeper.deaths,
        )

        def child(parent: int) -> NoReturn:
            try:
                prepared = prepare(inherited, revokes=self._revokes)
            except ConfigError as error:
                print(f"valkyrie: {error}", file=sys.stderr, flush=True)
                os._exit(children.EXIT_FILES)
            kept = [0, 1, 2, *inherited.descriptors(), *prepared.audit.descriptors()]
            self._slots.leave()
            for each in self._interfaces:
                each.close(keep_voice=True)
            self.boot.enter_daemon()
            children.close_others(kept)
            daemon.run(inherited, prepared, self._user, parent)
            os._exit(0)

        self._daemon = children.fork(child, "daemon")
        self._selector.register(self._daemon.pidfd, selectors.EVENT_READ, self._on_daemon_end)

    # ---- What happens ----

    def serve(self) -> None:
        """Run the node until it is told to stop; StoppedError when it cannot go on."""
        self._catch_signals()
        self._selector.register(self._link, selectors.EVENT_READ, self._on_message)
        self._keeper.run(recover=False)
        self._start_daemon()
        due = time.monotonic()
        while not self._leaving:
            turn(self._selector, max(0.0, due - time.monotonic()))
            if (now := time.monotonic()) >= due:
                if now - due > _STILL_S:
                    self._pardon()
                due = now + left_s(_TICK_S, now)
                self._tick()

    def _pardon(self) -> None:
        """Give the children time to beat: where this process stood still they may have, too."""
        self._keeper.pardon()
        if self._daemon:
            self._daemon.pardon()

    def _catch_signals(self) -> None:
        reader, writer = socket.socketpair()
        for each in (reader, writer):
            each.setblocking(False)
            self._cleanup.callback(each.close)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._cleanup.callback(signal.set_wakeup_fd, before)
        for number in (signal.SIGTERM, signal.SIGINT):
            old = signal.signal(number, lambda _number, _frame: self._leave())
            self._cleanup.callback(signal.signal, number, old)
        self._selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(64))

    def _leave(self) -> None:
        self._leaving = True

    def _tick(self) -> None:
        with contextlib.suppress(DataPlaneError):  # the kernel has no memory: the next tick may
            interfaces.copy_counters(self._interfaces, self.boot.counters)
        look_after(self._interfaces)
        self._keeper.look()
        if self._daemon and self._daemon.hangs(self.boot.counters.daemon_heartbeat_ns):
            self._daemon.kill()
        if self._daemon is None and time.monotonic() >= (self._daemon_due_s or 0.0):
            self._renew_daemon()
        if self._serving:
            notify(self._notify, "WATCHDOG=1")

    def _on_daemon_end(self) -> None:
        gone = self._daemon
        assert gone is not None
        self._daemon = None
        self._selector.unregister(gone.pidfd)
        status = gone.reap()
        how = children.describe(status)
        # Answers to requests of the dead one must not reach the next: a new pair of sockets.
        self._selector.unregister(self._link)
        self._close_link()
        self._keeper.forget_who_asked()
        if status == children.EXIT_FILES and self._serving:
            if self._daemon_due_s is None:
                log.error("the daemon %s; messages flow on until it can be started", how)
            self._daemon_due_s = time.monotonic() + children.AGAIN_S
            return
        self._daemon_due_s = None
        log.error("the daemon %s; starting another one", how)
        self._daemon_deaths.spend(how)
        self._renew_daemon()

    def _renew_daemon(self) -> None:
        self.config = first_start.with_new_peers(self.config)
        try:
            self._link, self._daemon_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._link.setblocking(False)
            self._daemon_link.setblocking(False)
            self._start_daemon()
        except OSError as error:
            self._close_link()
            self._daemon_due_s = time.monotonic() + children.AGAIN_S
            self._daemon_deaths.refused(error)
        else:
            self._selector.register(self._link, selectors.EVENT_READ, self._on_message)

    def _tell(self, message: Message) -> None:
        """Send to the daemon; one that does not read is ended, and the next asks anew."""
        try:
            messages.send(self._link, message)
        except BlockingIOError:
            if self._daemon is not None:
                log.warning("the daemon does not read its messages: ending it")
                self._daemon.kill()
        except OSError:
            return  # it has just died

    # ---- What the daemon asks ----

    def _on_message(self) -> None:
        try:
            message = messages.receive(self._link)
        except (BlockingIOError, ConnectionError, ValueError):
            return
        if message is None:
            return
        answer = Message(message.kind, message.token, message.slot, message.generation)
        handler: Callable[[Message, Message], None] | None = {
            Kind.ATTACH: self._attach,
            Kind.DETACH: self._detach,
            Kind.TUNED: self._remember,
            Kind.KNOW: self._know,
            Kind.FORGET: self._forget,
            Kind.REVOKED: self._expect_revocations,
            Kind.COUNT: self._count,
            Kind.CENSUS: self._census,
            Kind.PROCESSES: self._processes,
            Kind.RENEW: self._upgrade,
            Kind.STOP: self._stop,
            Kind.READY: self._ready,
            **dict.fromkeys(guarding.KINDS, self._guard),
            **dict.fromkeys(archive.KINDS, archive.handler(self.config)),
            **dict.fromkeys(listed.KINDS, listed.handler(self.config)),
        }.get(message.kind)
        try:
            if handler is None:
                raise DataPlaneError.of(errno.EPROTO, f"answer {message.kind.name}")
            handler(message, answer)
        except OSError as error:  # the kernel's refusals, too: one request is not the node's end
            answer.result = -(error.errno or errno.EIO)
            answer.text = str(error.args[-1])
        if message.kind not in _OF_SLOTS or answer.result:  # else the worker is waited for
            self._tell(answer)
            messages.close_all(answer.descriptors)
        messages.close_all(message.descriptors)

    def _attach(self, message: Message, answer: Message) -> None:
        if len(message.descriptors) != 1:
            raise DataPlaneError.of(errno.EBADMSG, "attach without a connection")
        connection = socket.socket(fileno=message.descriptors.pop())
        try:
            regions = self._slots.create(
                message.slot, message.generation, message.capacity, connection
            )
        except BaseException:
            connection.close()
            raise
        try:
            self._keeper.let_in(message.slot, regions, answer)
        except BaseException:
            regions.close()
            self._slots.remove(message.slot)
            raise

    def _detach(self, message: Message, answer: Message) -> None:
        slot = self._slots.attached.get(message.slot)
        if slot is None or slot.generation != message.generation:
            raise DataPlaneError.of(errno.ENOENT, f"detach slot {message.slot}")
        self._keeper.see_off(message.slot, answer)

    def _guard(self, message: Message, _answer: Message) -> None:
        for each in self._interfaces:
            guarding.apply(message, each)

    def _remember(self, message: Message, _answer: Message) -> None:
        self._tuned = message.text

    def _know(self, message: Message, _answer: Message) -> None:
        try:
            names = msgspec.json.decode(message.text, type=list[str])
        except msgspec.DecodeError as error:
            raise DataPlaneError.of(errno.EBADMSG, "know more peers") from error
        self.config = first_start.with_new_peers(self.config, names)

    def _forget(self, message: Message, _answer: Message) -> None:
        names = [peer.name for peer in self.config.peers]
        if message.text and message.text in names:
            self.config = without_peer(self.config, names.index(message.text))

    def _expect_revocations(self, _message: Message, _answer: Message) -> None:
        self._revokes = True

    def _count(self, _message: Message, answer: Message) -> None:
        interfaces.copy_counters(self._interfaces, self.boot.counters)
        answer.text = json.dumps(self._slots.fill())

    def _census(self, _message: Message, answer: Message) -> None:
        found = {}
        for port in (port for each in self._interfaces for port in each.queues):
            census = port.census()
            found[f"{port.interface}/{port.queue}"] = {
                **asdict(census),
                "total": census.total,
                "frames": port.frames,
            }
        answer.text = json.dumps(found)

    def _processes(self, _message: Message, answer: Message) -> None:
        answer.text = sandbox.report(self._daemon.pid if self._daemon else 0, self._keeper.pid)

    def _ready(self, _message: Message, _answer: Message) -> None:
        if not self._serving:
            self._serving = True
            notify(self._notify, "READY=1", f"MAINPID={os.getpid()}")
            log.log(*self._greeting)
            log.info("node %s is ready", self.config.node.name)

    def _upgrade(self, _message: Message, answer: Message) -> None:
        answer.text = self._keeper.upgrade()

    def _stop(self, _message: Message, _answer: Message) -> None:
        self._leave()

    # ---- End ----

    def close(self) -> None:
        """End the children, detach, close and remove everything."""
        notify(self._notify, "STOPPING=1")
        if self._daemon is not None:
            self._tell(Message(Kind.STOPPING))
            self._selector.unregister(self._daemon.pidfd)
        for each in self._interfaces:
            each.detach()
        self._worker_end.close()
        if self._daemon is not None:
            if not self._daemon.ended(_STOP_S):
                self._daemon.kill()
            self._daemon.reap()
            self._daemon = None
        self._cleanup.close()


def run(config: Config, library: Path = LIBRARY) -> int:
    """Run a node in the foreground until SIGTERM, SIGINT or Stop; returns the exit status.

    ValkyrieError when it cannot start or go on; nothing is left behind then either.
    """
    logging.basicConfig(
        level=logging.INFO, format="valkyrie: %(levelname)s: %(message)s", stream=sys.stderr
    )
    broker = Broker(config, library)
    try:
        broker.open()
        broker.serve()
    finally:
        broker.close()
    return 0
