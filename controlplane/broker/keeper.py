"""Keeps a worker running: starts, replaces and upgrades it, and hands on what it reports."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from valkyrie.controlplane.confinement import sandbox
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError

from . import children, worker
from .children import Budget, StoppedError
from .messages import Kind, Message, close_all
from .worker import Order, OrderKind, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.confinement.privileges import User
    from valkyrie.controlplane.host.interfaces import Opened
    from valkyrie.dataplane import loader

    from .boot import Boot
    from .slots import Regions, Slots

log = logging.getLogger("valkyrie")

_START_S = 5.0
"""How long a worker may take until it runs."""
_STOP_S = 2.0
"""How long a worker may take to leave."""


def look_after(interfaces: Sequence[Opened]) -> None:
    """Look whether all interfaces are there; StoppedError when one has vanished."""
    for each in interfaces:
        if not each.present():
            raise StoppedError(
                f"interface {each.name} has vanished: bring it back and start the node again"
            )


class Keeper:
    """A node's worker: one after the other, all on the same memory and sockets."""

    def __init__(
        self,
        config: Config,
        boot: Boot,
        user: User,
        *,
        interfaces: Sequence[Opened],
        slots: Slots,
        frames: socket.socket,
        selector: selectors.BaseSelector,
        tell: Callable[[Message], None],
        library: Path,
    ) -> None:
        """Open the worker's ``library``; ``frames`` is its end of those for the daemon.

        ``tell`` gets news for the daemon: another worker, and who broke the rules of its rings.
        """
        self._config, self._boot, self._user = config, boot, user
        self._interfaces, self._slots, self._frames = interfaces, slots, frames
        self._selector, self._tell = selector, tell
        self._path = library
        self._library = worker.open_library(library)
        self._running: Worker | None = None
        self._arriving: dict[int, tuple[Regions, Message]] = {}
        """Slots that a worker has yet to take on; what is closed here then, and the answer."""
        self._leaving: dict[int, Message | None] = {}
        """Slots that a worker has yet to let go of; the answer to who asked for it."""
        self._deaths = Budget("worker")
        self._due_s = 0.0
        """When to start one if there is none: the kernel refused."""

    @property
    def pid(self) -> int:
        """The running worker's; 0: there is none."""
        return self._running.process.pid if self._running else 0

    @property
    def deaths(self) -> int:
        """How many workers have died."""
        return self._deaths.total

    def pardon(self) -> None:
        """Watch the worker's heart from now on: it was not its fault that it stood still."""
        if self._running:
            self._running.process.pardon()

    def look(self) -> None:
        """End the worker when it hangs: its end then brings the next one. Start one if none is."""
        if self._running is None:
            if time.monotonic() >= self._due_s:
                self.run(recover=True)
        elif self._running.process.hangs(self._boot.work.heartbeat_ns):
            self._running.process.kill()

    def _give(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Give an order that is answered later; what a worker dies with is the next one's."""
        if self._running is None:
            return
        try:
            self._running.send(order, descriptors)
        except BlockingIOError:
            log.warning("the worker does not read its orders: ending it")
            self._running.process.kill()
        except ConnectionError:
            return  # it has just died

    # ---- Slots that begin ----

    def let_in(self, index: int, regions: Regions, answer: Message) -> None:
        """Have the worker map a slot's rings; OSError: it cannot be asked to.

        Nobody waits for that here: then the rings are put into ``answer``, and the daemon is told.
        A worker that starts meanwhile inherits them.
        """
        self._arriving[index] = regions, answer
        order = Order(OrderKind.ATTACH, index, self._slots.attached[index].generation)
        try:
            self._give(order, regions.for_worker())
        except BaseException:
            del self._arriving[index]
            raise

    def _has_come(self, index: int, result: int) -> None:
        if index not in self._arriving:
            return
        regions, answer = self._arriving.pop(index)
        if index in self._leaving:  # it was waited for no longer
            regions.close()
            return
        try:
            if result < 0:
                raise DataPlaneError.of(result, "let the worker map the rings")
            regions.seal()
            answer.descriptors = regions.for_application()
        except OSError as error:
            regions.close()
            answer.result, answer.text = -(error.errno or errno.EIO), str(error.args[-1])
            if result < 0:
                self._slots.remove(index)
            else:  # the worker has them, and would take no others for this slot
                self._leaving[index] = None
                self._ask_to_let_go(index)
        self._tell(answer)
        close_all(answer.descriptors)

    # ---- Slots that end ----

    def see_off(self, index: int, answer: Message) -> None:
        """Have the worker let go of a slot when what it has to send is acknowledged, or too old.

        Nobody waits for that here: then the slot is removed, and the daemon told ``answer``.
        """
        asked = index in self._leaving
        self._leaving[index] = answer
        if not asked:
            self._ask_to_let_go(index)

    def sees_off(self, index: int) -> bool:
        """Say whether a slot is about to end."""
        return index in self._leaving

    def forget_who_asked(self) -> None:
        """Tell no answer to the next daemon: it asks anew. What has not begun does not begin."""
        self._leaving = dict.fromkeys(self._leaving)
        for index in self._arriving.keys() - self._leaving.keys():
            self._leaving[index] = None
            self._ask_to_let_go(index)

    def _ask_to_let_go(self, index: int) -> None:
        generation = self._slots.attached[index].generation
        self._give(Order(OrderKind.DETACH, index, generation))

    def _let_go(self, index: int, result: int) -> None:
        if index not in self._leaving:
            return  # it was waited for no longer
        answer = self._leaving.pop(index)
        cut_off = self._slots.attached[index].cut_off  # the worker let go of it by itself
        self._slots.remove(index)
        if answer is not None:
            answer.result = 0 if cut_off else result
            self._tell(answer)

    # ---- Start ----

    def run(self, *, recover: bool) -> None:
        """Start workers until one runs, or the kernel lets none begin: ``look`` tries again.

        StoppedError when the budget is spent.
        """
        while True:
            try:
                started = self._start(self._library, recover=recover)
            except OSError as error:
                self._due_s = time.monotonic() + children.AGAIN_S
                self._deaths.refused(error)
                return
            status = self._await(started)
            if status is None:
                break
            recover = True
            self._deaths.spend(children.describe(status))
        self._adopt(started)

    def _start(self, library: int, *, recover: bool) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        boot, cpu = self._boot.struct, self._config.worker.cpu
        boot.recover, self._boot.work.phase = recover, lib.VK_WORKER_NONE
        boot.cpu, boot.confine = cpu, sandbox.CONFINE[self._config.node.sandbox]
        boot.control_fd, boot.python_fd = theirs.fileno(), self._frames.fileno()
        kept = [boot.control_fd, boot.python_fd, *self._slots.bells()]
        kept += [fd for each in self._interfaces for fd in each.descriptors()]

        def child(parent: int) -> NoReturn:
            self._boot.enter_worker()
            worker.pin(cpu)
            worker.run(self._boot.address, library, self._user, parent, kept)

        try:
            return Worker(children.fork(child, "worker"), ours)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _await(self, started: Worker) -> int | None:
        """Wait until a worker runs; its exit status if it ended instead."""
        end = time.monotonic() + _START_S
        work, process = self._boot.work, started.process
        while not process.ended(0.001):
            if work.pid == process.pid and work.phase == lib.VK_WORKER_RUNNING:
                return None
            if time.monotonic() > end:
                process.kill()
        return started.reap()

    def _adopt(self, started: Worker) -> None:
        self._running = started
        self._selector.register(started.process.pidfd, selectors.EVENT_READ, self._on_end)
        self._selector.register(started.control, selectors.EVENT_READ, self._on_news)
        self._tell(Message(Kind.WORKER, first=self.pid, second=self.deaths))
        for index in list(self._arriving):
            self._has_come(index, 0)
        for index in self._leaving:
            self._ask_to_let_go(index)

    # ---- What happens ----

    def _on_end(self) -> None:
        how = children.describe(self._release())
        look_after(self._interfaces)
        log.error("the worker %s; starting another one", how)
        self._deaths.spend(how)
        self.run(recover=True)

    def _release(self) -> int:
        """Forget the worker, which has ended; returns its exit status."""
        gone = self._running
        assert gone is not None
        self._running = None
        self._selector.unregister(gone.process.pidfd)
        with contextlib.suppress(KeyError):  # it may be known as gone already
            self._selector.unregister(gone.control)
        with contextlib.suppress(BlockingIOError):
            while (order := gone.receive()) is not None:
                self._report(order)
        return gone.reap()

    def _on_news(self) -> None:
        running = self._running
        assert running is not None
        news = running.receive()
        if news is None:
            self._selector.unregister(running.control)  # its pidfd tells the rest
            return
        self._report(news)

    def _report(self, news: Order) -> None:
        slot = self._slots.attached.get(news.slot)
        if slot is None or slot.generation != news.generation:
            return
        if news.kind == OrderKind.ATTACH:
            self._has_come(news.slot, news.result)
        if news.kind == OrderKind.DETACH:
            self._let_go(news.slot, news.result)
        if news.kind != OrderKind.VIOLATION or slot.cut_off:
            return
        slot.cut_off = True
        self._tell(Message(Kind.VIOLATION, slot=news.slot, generation=news.generation))

    # ---- Upgrade ----

    def upgrade(self) -> str:
        """Start the installed worker and programs, and say so; unless all run, the old ones go on.

        OSError says which did not.
        """
        with contextlib.ExitStack() as unused:
            library = worker.open_library(self._path)
            unused.callback(os.close, library)
            worker.probe(library)
            programs = []
            for each in self._interfaces:
                program = each.next_program()
                unused.callback(program.close)
                programs.append((each, program))
            unused.pop_all()
        return self._swap(library, programs)

    def _swap(self, library: int, programs: list[tuple[Opened, loader.Program]]) -> str:
        self._stop()
        recover = self._boot.work.phase != lib.VK_WORKER_STOPPED
        old = []
        try:
            for each, program in programs:
                old.append((each, each.replace(program)))
            started = self._start(library, recover=recover)
            status = self._await(started)
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
            self.run(recover=True)
            raise
        for _, program in old:
            program.close()
        os.close(self._library)
        self._library = library
        self._adopt(started)
        return f"worker {self.pid} and {len(programs)} programs are new"

    # ---- End ----

    def close(self) -> None:
        """Have the worker leave, if there is one, and let its library go."""
        self._stop()
        os.close(self._library)

    def _stop(self) -> None:
        running = self._running
        if running is None:
            return
        running.ask_to_stop()
        if not running.process.ended(_STOP_S):
            log.error("the worker does not stop")
            running.process.kill()
        self._release()
