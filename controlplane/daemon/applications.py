"""The node's applications: who may attach, whom they may reach, and what services they offer."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.security import policy
from valkyrie.controlplane.security.policy import Grant, Refusal
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.appsocket import AnyRequest, Reply
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from . import administration
from .appserver import Answer, AppServer, Connection, refuse
from .notary import Notary
from .state import begin_application, get

if TYPE_CHECKING:
    from .daemon import Daemon

log = logging.getLogger("valkyrie")

_NAME_MAX = 31
"""That many characters, and the end, has `app_name` of the counters page."""
_DETACH_AGAIN_S = 0.5
"""After which the broker is asked again to end a slot."""


def _plain(name: str) -> str:
    """Return a name that logs and terminals take for nothing but a name."""
    clean = (each if each.isascii() and each.isprintable() else "?" for each in name[:_NAME_MAX])
    return "".join(clean)


class Applications:
    """Those of a running node, attached or only asking."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._state, self._audit = daemon.state, daemon.audit
        self._server = AppServer(daemon.inherited.listener, self._answer, self._ended)
        self.connections = self._server.connections
        self.refused = self._server.refused
        """Connections and requests refused, by reason."""
        self._returning: set[asyncio.Task[None]] = set()
        identity = daemon.prepared.credentials.lasting_identity
        self._notary = Notary(daemon.config.node.name, identity, daemon.audit)

    def start(self) -> None:
        """Serve, those too that an earlier daemon attached."""
        self._server.start(self._adopted())

    def abandon(self) -> None:
        """Leave applications attached: a next daemon goes on with them."""
        self._server.abandon()

    async def stop(self) -> None:
        """End all connections and serve nobody any more."""
        await self._server.stop()

    def violated(self, slot: int, generation: int) -> None:
        """Cut off who broke the rules of its rings."""
        for connection in self.connections:
            if (connection.slot, connection.generation) == (slot, generation):
                self._daemon.figures.violations += 1
                self._daemon.watch.happened("violation", connection.subject)
                self._audit.note("application.violation", "", **connection.on_record())
                log.warning(
                    "application '%s' (pid %d, uid %d) broke the rules of its rings: cut off",
                    connection.name,
                    connection.who.pid,
                    connection.who.uid,
                )
                self._server.cut(connection)

    def slots(self) -> list[tuple[int, str]]:
        """Return the slots of attached applications, and what alarms call each."""
        attached = (each for each in self.connections if each.attached)
        return [(each.slot, each.subject) for each in attached]

    def cut(self, subject: str) -> None:
        """Cut off an application that an alarm names."""
        for connection in list(self.connections):
            if connection.subject == subject:
                self._server.cut(connection)

    def _adopted(self) -> list[Connection]:
        """Return the connections of applications that an earlier daemon attached."""
        found = []
        services = self._state.services()
        taken = self._daemon.inherited.connections
        for slot, (generation, end) in taken.items():
            connection = self._server.connection(end)
            connection.slot, connection.generation = slot, generation
            connection.name = get(self._daemon.counters.app_name[slot])
            grant = self._grant(connection)
            connection.grant = grant if isinstance(grant, Grant) else None
            connection.services = {
                name for name, owner in services.items() if owner == (slot, generation)
            }
            found.append(connection)
        for slot in range(lib.VK_APPS_MAX):  # what the dead one left half done
            if slot not in taken and self._state.rows.apps[slot].state != lib.VK_ROW_FREE:
                self._forget(slot)
        for name, (slot, generation) in services.items():
            if slot not in taken or taken[slot][0] != generation:
                self._state.remove_service(name)
        return found

    def _forget(self, slot: int) -> None:
        # Its name stays in the counters page beside what it counted.
        self._state.set_application_state(slot, lib.VK_ROW_FREE)

    async def _ended(self, connection: Connection) -> None:
        if not connection.attached or self._daemon.stopping.is_set():
            return
        for name in connection.services:
            self._state.remove_service(name)
        slot = connection.slot
        self._audit.note(
            "application.detach", f"uid {connection.who.uid}", **connection.on_record()
        )
        self._state.set_application_state(slot, lib.VK_ROW_CLOSING)
        await self._take_back(slot, connection.generation)

    async def _take_back(self, slot: int, generation: int) -> None:
        """Have the broker end a slot, however late it answers: nobody else gets it before."""
        while True:
            try:
                message = Message(Kind.DETACH, slot=slot, generation=generation)
                await self._daemon.broker.ask(message)
                break
            except DataPlaneError as error:
                if error.errno == errno.ENOENT:  # it has ended already, or never was
                    break
                log.warning("slot %d could not be taken back: %s", slot, error)
                await asyncio.sleep(_DETACH_AGAIN_S)
        self._forget(slot)

    async def _answer(self, connection: Connection, request: AnyRequest) -> Answer:
        answer = await self._try(connection, request)
        if answer[0].code == lib.VK_CODE_POLICY:
            self._daemon.watch.happened("policy_refused", connection.subject)
            who = connection.on_record()
            request_name = type(request).__name__.lower()
            self._audit.note(
                "policy.refuse",
                f"uid {connection.who.uid} {request_name}",
                request=request_name,
                reason=answer[0].message,
                **who,
            )
        return answer

    async def _try(self, connection: Connection, request: AnyRequest) -> Answer:
        try:
            if isinstance(request, appsocket.Attach):
                return await self._attach(connection, request)
            return await self._reply(connection, request), []
        except DataPlaneError as error:
            return Reply(code=lib.VK_CODE_FAILED, message=str(error.args[-1])), []
        except ConfigError as error:
            return Reply(code=lib.VK_CODE_POLICY, message=str(error)), []

    async def _reply(self, connection: Connection, request: AnyRequest) -> Reply:
        match request:
            case appsocket.Connect():
                return self._connect(connection, request)
            case appsocket.Listen():
                return self._listen(connection, request)
            case appsocket.Unlisten():
                return self._unlisten(connection, request)
            case appsocket.Sign():
                return await self._notary.sign(
                    connection, request, time.monotonic(), time.time_ns()
                )
            case _:
                return await administration.answer(self._daemon, connection, request)

    def _grant(self, connection: Connection) -> Grant | Refusal:
        return connection.grant or policy.decide(
            self._daemon.prepared.rules, connection.who.uid, connection.who.gids
        )

    async def _attach(self, connection: Connection, request: appsocket.Attach) -> Answer:
        if connection.attached:
            return Reply(code=lib.VK_CODE_POLICY, message="attached already: connect anew"), []
        room = self._room(connection, request)
        if isinstance(room, Refusal):
            return refuse(room), []
        grant, capacity, slot = room
        who = connection.who
        generation = self._state.set_application(slot, grant, who.uid, who.pid)
        connection.slot, connection.generation = slot, generation
        connection.grant = grant
        connection.name = _plain(request.name)
        message = Message(
            Kind.ATTACH,
            slot=slot,
            generation=generation,
            capacity=capacity + (0,) * (lib.VK_RINGS_MAX - len(capacity)),
            descriptors=[connection.socket.fileno()],
        )
        try:
            answer = await self._daemon.broker.ask(message)
        except DataPlaneError:
            connection.slot = -1
            # A broker that did not answer in time may attach it yet.
            self._state.set_application_state(slot, lib.VK_ROW_CLOSING)
            task = asyncio.get_running_loop().create_task(self._take_back(slot, generation))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            raise
        connection.capacity = capacity
        begin_application(self._daemon.counters, slot, connection.name, who.uid, who.pid)
        self._audit.note(
            "application.attach", f"uid {who.uid}", rule=grant.rule, **connection.on_record()
        )
        reply = Reply(slot=slot, generation=generation, capacity=list(capacity))
        return reply, answer.descriptors

    def _room(
        self, connection: Connection, request: appsocket.Attach
    ) -> tuple[Grant, tuple[int, ...], int] | Refusal:
        """Return by what grant an application may attach, the sizes of its rings, and its slot."""
        grant = self._grant(connection)
        if isinstance(grant, Refusal):
            return grant
        others = [each for each in self.connections if each.attached]
        mine = sum(
            each.who.uid == connection.who.uid
            and each.grant is not None
            and each.grant.rule == grant.rule
            for each in others
        )
        capacity = policy.rings(grant, mine, request.ring_size)
        if isinstance(capacity, Refusal):
            return capacity
        slot = self._state.free_slot({each.slot for each in others})
        if slot is None:
            why = f"all {lib.VK_APPS_MAX} slots are taken: close an application"
            return Refusal(why, lib.VK_CODE_OVERLOAD)
        return grant, capacity, slot

    def _connect(self, connection: Connection, request: appsocket.Connect) -> Reply:
        grant = self._grant(connection)
        if isinstance(grant, Refusal):
            return refuse(grant)
        index = self._daemon.peers.find(request.peer)
        if index is None:
            known = self._daemon.peers.names()
            message = f"no peer '{request.peer}' in the configuration; known: {known}"
            return Reply(code=lib.VK_CODE_NO_PEER, message=message)
        peer = self._daemon.config.peers[index]
        if refusal := policy.may_reach(grant, peer.name, peer.address):
            return refuse(refusal)
        if connection.attached:
            self._state.let_reach(connection.slot, index)
        self._daemon.links.want(index)
        if connection.peer < 0:
            connection.peer = index
        elif connection.peer != index and connection.attached:
            self._state.set_many_peers(connection.slot)
        return Reply(peer=index, family=self._daemon.peers.family(index))

    def _listen(self, connection: Connection, request: appsocket.Listen) -> Reply:
        name, grant = request.service, connection.grant
        if grant is None or not connection.attached:
            return Reply(code=lib.VK_CODE_POLICY, message="attach first")
        if refusal := policy.may_listen(grant, name):
            return refuse(refusal)
        if name in connection.services:
            return Reply()
        if name in self._state.services():
            message = f"another application listens on '{name}': choose another name"
            return Reply(code=lib.VK_CODE_STREAM_IN_USE, message=message)
        if not self._state.add_service(name, connection.slot, connection.generation):
            most = lib.VK_SERVICES_MAX
            message = f"{most} service names are for all: this application would have too many"
            return Reply(code=lib.VK_CODE_OVERLOAD, message=message)
        connection.services.add(name)
        return Reply()

    def _unlisten(self, connection: Connection, request: appsocket.Unlisten) -> Reply:
        if request.service not in connection.services:
            message = f"this application does not listen on '{request.service}'"
            return Reply(code=lib.VK_CODE_NO_SERVICE, message=message)
        connection.services.discard(request.service)
        self._state.remove_service(request.service)
        return Reply()
