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

from valkyrie import dataplane
from valkyrie.controlplane.config.reader import environment, rules
from valkyrie.controlplane.confinement import privileges, rights, sandbox
from valkyrie.controlplane.daemon import archive, auditor, daemon, guarding, listed
from valkyrie.controlplane.daemon.inherited import Inherited, prepare
from valkyrie.controlplane.host import interfaces
from valkyrie.controlplane.host.journal import Journal
from valkyrie.controlplane.host.netlink import Netlink
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from . import children, first_start, messages, worker
from .boot import Boot
from .children import Budget, StoppedError
from .claim import Claim
from .messages import Kind, Message
from .notify import notify
from .slots import Slots, largest_span
from .worker import Order, OrderKind, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.controlplane.config.reader import Config
    from valkyrie.dataplane import loader

log = logging.getLogger("valkyrie")

LIBRARY = Path(dataplane.__file__).parent / "vk_worker.so"

_TICK_S = 0.1
"""Period of counters, watchdog and the look after the interfaces."""
_START_S = 5.0
"""How long a child may take until it serves."""
_STOP_S = 2.0
"""How long a child may take to leave."""
_HUNG_S = 5.0
"""A child whose heart has not beaten for this long is ended."""
_LISTEN_BACKLOG = 128


def _user(config: Config) -> privileges.User:
    entry = pwd.getpwnam(config.node.user)
    return privileges.User(entry.pw_uid, entry.pw_gid)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise DataPlaneError.of(result, what)


def _paths(row: dict[str, Any]) -> str:
    return ", ".join(f"{way} {row[way]['mode']} ({row[way]['reason']})" for way in ("rx", "tx"))


class Broker:
    """A node, from opening its interfaces to its end."""

    def __init__(self, config: Config, library: Path = LIBRARY) -> None:
        self.config = config
        self._library_path = library
        self._cleanup = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._interfaces: list[interfaces.Opened] = []
        self._worker: Worker | None = None
        self._daemon_pid = self._daemon_pidfd = -1
        self._daemon_started_s = 0.0
        self._worker_deaths = Budget("worker")
        self._daemon_deaths = Budget("daemon")
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
        self._library = worker.open_library(self._library_path)
        defer(lambda: os.close(self._library))
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
        defer(self._daemon_link_close)
        privileges.keep(privileges.KEPT)

    def _daemon_link_close(self) -> None:
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

    # ---- Children ----

    def _start_worker(self, library: int, *, recover: bool) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        boot = self.boot.struct
        boot.recover = recover
        boot.cpu, boot.confine = self.config.worker.cpu, sandbox.CONFINE[self.config.node.sandbox]
        boot.control_fd, boot.python_fd = theirs.fileno(), self._frames_worker.fileno()
        kept = [boot.control_fd, boot.python_fd, *self._slots.bells()]
        kept += [fd for each in self._interfaces for fd in each.descriptors()]

        def child(parent: int) -> NoReturn:
            self.boot.enter_worker()
            worker.pin(self.config.worker.cpu)
            worker.run(self.boot.address, library, self._user, parent, kept)

        pid = children.fork(child)
        theirs.close()
        return Worker(pid, ours)

    def _await_worker(self, started: Worker) -> int | None:
        """Wait until a worker runs; its exit status if it ended instead."""
        end = time.monotonic() + _START_S
        work = self.boot.work
        while not started.ended(0.001):
            if work.pid == started.pid and work.phase == lib.VK_WORKER_RUNNING:
                return None
            if time.monotonic() > end:
                started.kill()
        return started.reap()

    def _run_worker(self, *, recover: bool) -> None:
        """Start workers until one runs; StoppedError when the budget is spent."""
        while True:
            started = self._start_worker(self._library, recover=recover)
            status = self._await_worker(started)
            if status is None:
                break
            recover = True
            self._worker_deaths.spend(children.describe(status))
        self._adopt_worker(started)

    def _adopt_worker(self, started: Worker) -> None:
        self._worker = started
        self._selector.register(started.pidfd, selectors.EVENT_READ, self._on_worker_end)
        self._selector.register(started.control, selectors.EVENT_READ, self._on_worker_news)
        self._tell(Message(Kind.WORKER, first=started.pid, second=self._worker_deaths.total))

    def _release_worker(self) -> int:
        """Forget the worker, which has ended; returns its exit status."""
        gone = self._worker
        assert gone is not None
        self._worker = None
        self._selector.unregister(gone.pidfd)
        with contextlib.suppress(KeyError):  # it may be known as gone already
            self._selector.unregister(gone.control)
        for news in gone.news:
            self._on_violation(news)
        with contextlib.suppress(BlockingIOError):
            while (order := gone.receive()) is not None:
                self._on_violation(order)
        return gone.reap()

    def _start_daemon(self) -> None:
        for slot in self._slots.attached.values():
            if slot.cut_off:  # the last daemon may not have heard of it
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
            worker_pid=self._worker.pid if self._worker else 0,
            worker_deaths=self._worker_deaths.total,
        )

        def child(parent: int) -> NoReturn:
            prepared = prepare(self.config)
            kept = [0, 1, 2, *inherited.descriptors(), *prepared.audit.descriptors()]
            self._slots.leave()
            for each in self._interfaces:
                each.close(keep_voice=True)
            self.boot.enter_daemon()
            children.close_others(kept)
            daemon.run(inherited, prepared, self._user, parent)
            os._exit(0)

        self._daemon_pid = children.fork(child)
        self._daemon_pidfd = os.pidfd_open(self._daemon_pid)
        self._daemon_started_s = time.monotonic()
        self._selector.register(self._daemon_pidfd, selectors.EVENT_READ, self._on_daemon_end)

    # ---- What happens ----

    def serve(self) -> None:
        """Run the node until it is told to stop; StoppedError when it cannot go on."""
        self._catch_signals()
        self._selector.register(self._link, selectors.EVENT_READ, self._on_message)
        self._run_worker(recover=False)
        self._start_daemon()
        due = time.monotonic()
        while not self._leaving:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                # What an earlier one of these did may have ended what this one is about.
                if key.fileobj in self._selector.get_map():
                    key.data()
            if time.monotonic() >= due:
                due = time.monotonic() + _TICK_S
                self._tick()

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
        interfaces.copy_counters(self._interfaces, self.boot.counters)
        for each in self._interfaces:
            if not each.present():
                self._interface_gone(each)
        running = self._worker
        if running is not None and self._hangs(
            "worker", running.started_s, self.boot.work.heartbeat_ns
        ):
            running.kill()
        if self._daemon_pidfd >= 0 and self._hangs(
            "daemon", self._daemon_started_s, self.boot.counters.daemon_heartbeat_ns
        ):
            signal.pidfd_send_signal(self._daemon_pidfd, signal.SIGKILL)
        if self._serving:
            notify(self._notify, "WATCHDOG=1")

    @staticmethod
    def _hangs(child: str, started_s: float, beat_ns: int) -> bool:
        """Say whether a child's heart stands still; a new one has time for its first beat."""
        now_ns = time.monotonic_ns()
        silent_s = min(now_ns - beat_ns, now_ns - started_s * 1e9) / 1e9
        if silent_s > _HUNG_S:
            log.error("the %s hangs: it has not moved for %.1f s", child, silent_s)
        return silent_s > _HUNG_S

    @staticmethod
    def _interface_gone(gone: interfaces.Opened) -> None:
        raise StoppedError(
            f"interface {gone.name} has vanished: bring it back and start the node again"
        )

    def _on_worker_end(self) -> None:
        how = children.describe(self._release_worker())
        for each in self._interfaces:
            if not each.present():
                self._interface_gone(each)
        log.error("the worker %s; starting another one", how)
        self._worker_deaths.spend(how)
        self._run_worker(recover=True)

    def _on_worker_news(self) -> None:
        running = self._worker
        assert running is not None
        try:
            news = running.receive()
        except BlockingIOError:
            return  # an order's answer was waited for meanwhile, and this came with it
        if news is None:
            self._selector.unregister(running.control)  # its pidfd tells the rest
            return
        self._on_violation(news)

    def _on_violation(self, news: Order) -> None:
        slot = self._slots.attached.get(news.slot)
        if news.kind != OrderKind.VIOLATION or slot is None or slot.generation != news.generation:
            return
        if slot.cut_off:
            return
        slot.cut_off = True
        self._tell(Message(Kind.VIOLATION, slot=news.slot, generation=news.generation))

    def _on_daemon_end(self) -> None:
        self._selector.unregister(self._daemon_pidfd)
        os.close(self._daemon_pidfd)
        how = children.describe(os.waitstatus_to_exitcode(os.waitpid(self._daemon_pid, 0)[1]))
        self._daemon_pid = self._daemon_pidfd = -1
        log.error("the daemon %s; starting another one", how)
        self._daemon_deaths.spend(how)
        # Answers to requests of the dead one must not reach the next: a new pair of sockets.
        self._selector.unregister(self._link)
        self._daemon_link_close()
        self.config = first_start.with_new_peers(self.config)
        self._link, self._daemon_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setblocking(False)
        self._daemon_link.setblocking(False)
        self._selector.register(self._link, selectors.EVENT_READ, self._on_message)
        self._start_daemon()

    def _tell(self, message: Message) -> None:
        """Send to the daemon; one that does not read is ended, and the next asks anew."""
        try:
            messages.send(self._link, message)
        except BlockingIOError:
            if self._daemon_pidfd >= 0:
                log.warning("the daemon does not read its messages: ending it")
                signal.pidfd_send_signal(self._daemon_pidfd, signal.SIGKILL)
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
        except DataPlaneError as error:
            answer.result = -(error.errno or errno.EIO)
            answer.text = str(error.args[-1])
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
            order = Order(OrderKind.ATTACH, message.slot, message.generation)
            # No answer: the worker is dying, and the next one inherits the mappings.
            result = self._worker.order(order, regions.for_worker()) if self._worker else None
            _check(0 if result is None else result, "let the worker map the rings")
            regions.seal()
            answer.descriptors = regions.for_application()
        except BaseException:
            regions.close()
            self._slots.remove(message.slot)
            raise
        for news in self._take_news():
            self._on_violation(news)

    def _take_news(self) -> list[Order]:
        if self._worker is None:
            return []
        news, self._worker.news = self._worker.news, []
        return news

    def _detach(self, message: Message, answer: Message) -> None:
        slot = self._slots.attached.get(message.slot)
        if slot is None or slot.generation != message.generation:
            raise DataPlaneError.of(errno.ENOENT, f"detach slot {message.slot}")
        if self._worker is not None:
            order = Order(OrderKind.DETACH, message.slot, message.generation)
            answer.result = self._worker.order(order) or 0
        self._slots.remove(message.slot)
        for news in self._take_news():
            self._on_violation(news)

    def _guard(self, message: Message, _answer: Message) -> None:
        for each in self._interfaces:
            guarding.apply(message, each)

    def _remember(self, message: Message, _answer: Message) -> None:
        self._tuned = message.text

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
        answer.text = sandbox.report(self._daemon_pid, self._worker.pid if self._worker else -1)

    def _ready(self, _message: Message, _answer: Message) -> None:
        if not self._serving:
            self._serving = True
            notify(self._notify, "READY=1", f"MAINPID={os.getpid()}")
            log.log(*self._greeting)
            log.info("node %s is ready", self.config.node.name)

    def _stop(self, _message: Message, _answer: Message) -> None:
        self._leave()

    # ---- Upgrade ----

    def _upgrade(self, _message: Message, answer: Message) -> None:
        """Start the installed worker and programs; unless all of them run, the old ones go on."""
        with contextlib.ExitStack() as unused:
            library = worker.open_library(self._library_path)
            unused.callback(os.close, library)
            worker.probe(library)
            programs = []
            for each in self._interfaces:
                program = each.next_program()
                unused.callback(program.close)
                programs.append((each, program))
            unused.pop_all()
        answer.text = self._swap(library, programs)

    def _swap(self, library: int, programs: list[tuple[interfaces.Opened, loader.Program]]) -> str:
        self._stop_worker()
        recover = self.boot.work.phase != lib.VK_WORKER_STOPPED
        old = []
        try:
            for each, program in programs:
                old.append((each, each.replace(program)))
            started = self._start_worker(library, recover=recover)
            status = self._await_worker(started)
            if status is not None:
                raise worker.refused(f"the new worker {children.describe(status)}", status)
        except OSError:
            for each, program in old:
                with contextlib.suppress(OSError):  # the new one stays: it fits the maps
                    each.replace(program)
            for each, program in programs:
                if each.program is not program:
                    program.close()
            os.close(library)
            self._run_worker(recover=True)
            raise
        for _, program in old:
            program.close()
        os.close(self._library)
        self._library = library
        self._adopt_worker(started)
        return f"worker {started.pid} and {len(programs)} programs are new"

    def _stop_worker(self) -> None:
        running = self._worker
        if running is None:
            return
        running.ask_to_stop()
        if not running.ended(_STOP_S):
            log.error("the worker does not stop")
            running.kill()
        self._release_worker()

    # ---- End ----

    def close(self) -> None:
        """End the children, detach, close and remove everything."""
        notify(self._notify, "STOPPING=1")
        if self._daemon_pidfd >= 0:
            self._tell(Message(Kind.STOPPING))
            self._selector.unregister(self._daemon_pidfd)
        for each in self._interfaces:
            each.detach()
        self._stop_worker()
        if self._daemon_pidfd >= 0:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._daemon_pidfd, selectors.EVENT_READ)
                if not waiting.select(_STOP_S):
                    signal.pidfd_send_signal(self._daemon_pidfd, signal.SIGKILL)
            os.waitpid(self._daemon_pid, 0)
            os.close(self._daemon_pidfd)
            self._daemon_pidfd = -1
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
