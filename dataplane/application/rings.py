"""The application's rings: a typed face of vk_client.h, and who may still look at ring memory."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from valkyrie.dataplane._core import ffi, lib
from valkyrie.dataplane.errors import DataPlaneError, LocalProtocolError
from valkyrie.dataplane.wire import Class, Code, members

from .message import ENTRY_SIZE, Batch
from .refusal import NodeGoneError, PolicyError, WouldBlockError

REASONS = {
    reason: "ring" if name == "NONE" else name.lower()
    for name, reason in members("vk_blocked", "VK_BLOCKED_").items()
}
"""Why there is no room: ``enum vk_blocked``, where none is the ring itself."""
FOREIGN = (
    "The node has other layouts than this library: install the node's version of valkyrie here,"
    " or upgrade the node and restart it"
)
COLLECTED_MAX = 256 * 1024
"""Bytes that are copied out of a ring before their room is given back."""
EMPTY = b""
Payload = bytes | bytearray | memoryview
"""What a message may be sent from."""


def size_of(payload: Payload) -> int:
    """Return the bytes of a payload, whatever the items of a view are; TypeError if it is none."""
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    return len(buffer_of(payload))


def buffer_of(payload: Payload) -> Any:
    """Return the bytes of a payload for C, which keep it alive; TypeError if it is none."""
    try:
        return ffi.from_buffer("uint8_t[]", payload)
    except TypeError:
        raise no_payload(payload) from None


def no_payload(payload: object) -> TypeError:
    """Return the error for what cannot be sent."""
    hint = ": encode it first" if isinstance(payload, str) else ""
    kind = type(payload).__name__
    return TypeError(f"a payload is bytes, bytearray or a memoryview, not {kind}{hint}")


def spare_cpu() -> bool:
    """Say whether this process may use more CPUs than the one it spins on."""
    return len(os.sched_getaffinity(0)) > 1


def _keep(_owner: object, _data: object) -> None:
    pass


def _nothing() -> None:
    pass


class _Span:
    """Ring memory up to a position that is still looked at."""

    __slots__ = ("end", "held")

    def __init__(self, end: int) -> None:
        self.end = end
        self.held = True


class Rings:
    """One attachment's rings and bells, by class number. Not thread-safe."""

    def __init__(self, descriptors: Sequence[int], generation: int) -> None:
        """Map regions D and A; descriptors: D, A, our bell, the worker's (stay the caller's)."""
        self.generation = generation
        self.bell = descriptors[2]
        client = ffi.new("struct vk_client *")
        error = lib.vk_client_open(client, *descriptors, generation)
        if not error and not client.tx_capacity[Class.CONTROL]:
            lib.vk_client_close(client)
            error = -errno.EPROTO  # a worker that cannot be told what was taken
        if error == -errno.EPROTONOSUPPORT:
            raise DataPlaneError.of(error, "map the node's rings", FOREIGN)
        if error:
            raise DataPlaneError.of(
                error, "map the node's rings", "Are library and node of the same version?"
            )
        # Views of ring memory may outlive the attachment; the mapping lives as long as the last.
        self.client = ffi.gc(client, lib.vk_client_close)
        if spare_cpu():
            client.spin.max_ns = lib.vk_wake_bound()
        self._entries = ffi.new("struct vk_entry[]", lib.VK_CLIENT_BATCH)
        self.entries = memoryview(ffi.buffer(self._entries))
        self._bytes = ffi.new("uint64_t *")
        self.tx_capacity: dict[int, int] = {ring: int(client.tx_capacity[ring]) for ring in Class}
        self.classes: list[int] = [
            ring.value for ring in Class if ring and client.rx_capacity[ring]
        ]
        self.copies = {ring: self._memory(ring) for ring in self.classes}
        """Ring memory, by class; a slice of it is a copy."""
        self._views = {
            ring: memoryview(memory).toreadonly() for ring, memory in self.copies.items()
        }
        self._held: dict[int, deque[_Span]] = {ring: deque() for ring in Class}
        self._owed: dict[Callable[[], bool], int] = {}
        self.owing: Callable[[], None] = _nothing
        """Called when a record is owed: whoever has asked for the bell asks again, for its room."""
        self.farewell: NodeGoneError | None = None
        """Why nothing can be sent any more, where this side knows."""

    def _memory(self, ring: int) -> Any:
        owner = self.client
        # A view keeps `data` alive, and `data` what its destructor refers to: the mapping.
        data = ffi.gc(ffi.cast("uint8_t *", owner.rx[ring].data), partial(_keep, owner))
        return ffi.buffer(data, 2 * owner.rx_capacity[ring])

    def lease(self, descriptor: int) -> None:
        """Take the end of a socket for the end of the attachment while waiting."""
        self.client.lease = descriptor

    def end(self) -> None:
        """Note that the lease has ended: what lies in the rings is the last."""
        self.client.ended = 1

    def close(self) -> None:
        """Say good-bye to the worker; the memory goes with its last view."""
        self.client.self.closed = 1
        self.client.generation ^= 0xFFFFFFFF  # no call touches the rings or bells any more

    def orphan(self) -> None:
        """Leave the rings to the process that this one is a fork of."""
        self.client.generation ^= 0xFFFFFFFF  # likewise
        self.client.engaged = 0  # no other thread is in here
        for ring in Class:
            self.client.rx[ring].capacity = 0  # what lies there is the parent's to take

    # Sending

    def put(self, kind: int, head: Any, payload: bytes = EMPTY) -> int:
        """Publish one record of any kind; returns 0 or -errno, see ``failure``."""
        return int(lib.vk_client_put(self.client, kind, head, payload, len(payload)))

    def send_many(self, outlet: Any, payloads: Any, sizes: Any, size: int, count: int) -> int:
        """Publish messages that lie one behind the other; returns how many, or -errno."""
        return int(lib.vk_client_send_many(self.client, outlet, payloads, sizes, size, count))

    def send_part(self, outlet: Any, payload: Any, size: int, at: int) -> int:
        """Publish fragments of a message from a byte on; returns bytes that went, or -errno."""
        return int(lib.vk_client_send_part(self.client, outlet, payload, size, at))

    def record_max(self, ring: int) -> int:
        """Return the payload of the largest message that goes in one record."""
        limit: int = min(lib.VK_SHARDED_MAX, self.tx_capacity[ring] - OVERHEAD)
        return limit

    def owe(self, ring: int, record: Callable[[], bool]) -> None:
        """Put a record later that finds no room in a ring now; it says whether it went."""
        self._owed[record] = ring
        self.need(ring, 0)
        self.owing()

    def pay(self) -> None:
        """Put what is owed and has room now."""
        for record, ring in list(self._owed.items()):
            if record():
                del self._owed[record]
            else:
                self.need(ring, 0)

    def failure(self, error: int, ring: int, size: int) -> Exception:
        """Return the exception for a negative result of one of the calls above."""
        name = Class(ring).name.lower()
        if error == -errno.EAGAIN:
            return WouldBlockError(self.reason(ring), name)
        if error == -errno.EMSGSIZE:
            logs = ring == Class.LOGS
            limit = lib.VK_MESSAGE_MAX
            if logs or size <= limit:
                limit = self.record_max(ring)
            why = ", best effort and so without fragments," if logs else ""
            return LocalProtocolError(
                f"a message of {size} bytes; the {name} class{why} takes {limit}: send parts"
            )
        if error == -errno.EACCES:
            return PolicyError(Code.POLICY, f"the policy gives this application no {name} class")
        if error == -errno.EDEADLK:
            return shared()
        return self.farewell or gone(error)

    def reason(self, ring: int) -> str:
        """Return why the worker takes nothing from a ring: a key of ``refusal.ROOM_HINTS``."""
        return REASONS.get(self.client.peer.blocked[ring], "ring")

    def room(self, ring: int) -> int:
        """Return the free bytes of a TX ring."""
        return int(lib.vk_client_room(self.client, ring))

    def need(self, ring: int, size: int) -> None:
        """Ask to be woken when a TX ring has room for a message of size bytes; -1 = do not."""
        if size < 0:
            self.client.need[ring] = 0
            return
        # One wake for many messages: an eighth of the ring unless the message is larger.
        want = max(size + OVERHEAD, self.tx_capacity[ring] // 8)
        asked = self.client.need[ring] or want
        self.client.need[ring] = min(want, asked, self.tx_capacity[ring])

    def satisfied(self, ring: int) -> bool:
        """Say whether the room that was asked for is there; the request is then forgotten."""
        need = self.client.need[ring]
        if not need or 0 <= self.room(ring) < need:
            return False
        self.client.need[ring] = 0
        return True

    # Receiving

    def receive(self, ring: int) -> int:
        """Describe the next records in ``entries``; returns how many, or -errno."""
        return int(
            lib.vk_client_receive(
                self.client,
                ring,
                lib.VK_CLIENT_ANY_FLOW,
                lib.VK_CLIENT_ANY_SEQUENCE,
                self._entries,
                lib.VK_CLIENT_BATCH,
            )
        )

    def collect(self, ring: int, index: int, count: int, memory: Any) -> tuple[int, int]:
        """Copy the middle of a message out of the ring, from ``entries[index]`` on, of *count*.

        Returns how many fragments, and their bytes. ``collected`` gives their room back.
        """
        entries = self._entries + index
        room = min(len(memory), COLLECTED_MAX)
        taken = int(
            lib.vk_client_collect(
                self.client,
                ring,
                entries,
                count - index,
                ffi.addressof(entries[0], "message"),
                ffi.from_buffer("uint8_t[]", memory),
                room,
                self._bytes,
            )
        )
        return taken, int(self._bytes[0])

    def collected(self, ring: int, index: int) -> None:
        """Let the worker have the room of a record and those before it at once."""
        if not self._held[ring]:
            lib.vk_client_release(self.client, ring, self._entries[index].end)

    def position(self, ring: int) -> int:
        """Return where the next record to receive begins."""
        return int(self.client.rx[ring].head)

    def tail(self, ring: int) -> int:
        """Return where the last record that can be received ends."""
        return int(self.client.peer.tail[ring])

    def rewind(self, ring: int, position: int) -> None:
        """Receive the records from a position on again."""
        lib.vk_client_rewind(self.client, ring, position)

    def held(self, ring: int) -> deque[_Span]:
        """Return what of a ring is still looked at: while there is any, nothing goes back."""
        return self._held[ring]

    def consumed(self, ring: int) -> None:
        """Give back everything received so far, or queue it behind batches that are held."""
        held = self._held[ring]
        position = self.position(ring)
        if held:
            held.append(span := _Span(position))
            span.held = False
        else:
            lib.vk_client_release(self.client, ring, position)

    def batch(
        self, ring: int, flow: int, count_max: int, sequence: int = lib.VK_CLIENT_ANY_SEQUENCE
    ) -> Batch | int:
        """Return a batch of the next messages of a flow's key, left in the ring; else 0 or -errno.

        With a sequence the batch begins with it, and ends before the first message astray.
        """
        count = int(
            lib.vk_client_receive(
                self.client,
                ring,
                flow,
                sequence,
                self._entries,
                min(count_max, lib.VK_CLIENT_BATCH),
            )
        )
        if count <= 0:
            return count
        span = _Span(self.position(ring))
        self._held[ring].append(span)

        def release() -> None:
            span.held = False
            self._give_back(ring)

        return Batch(self._views[ring], bytes(self.entries[: count * ENTRY_SIZE]), release)

    def _give_back(self, ring: int) -> None:
        held = self._held[ring]
        end = None
        while held and not held[0].held:
            end = held.popleft().end
        if end is not None:
            lib.vk_client_release(self.client, ring, end)

    def pause(self, ring: int, paused: bool) -> None:
        """Let records in a ring count as something to wake for, or not."""
        bit = 1 << ring
        self.client.paused = (self.client.paused & ~bit) | (bit if paused else 0)

    # Waiting

    def arm(self) -> bool:
        """Ask for the bell; True: something is ready already, and the bell is not armed."""
        return bool(lib.vk_client_arm(self.client))

    def disarm(self) -> None:
        """Empty the bell that rang: this side is awake."""
        lib.vk_client_disarm(self.client, 1)

    def wait(self, timeout_ns: int) -> bool:
        """Block until something is ready (False: timeout; negative timeout: for ever)."""
        result = int(lib.vk_client_wait(self.client, timeout_ns))
        if result == -errno.EDEADLK:
            raise shared()
        if result < 0 and result != -errno.EINTR:
            raise DataPlaneError.of(result, "wait for the node's bell")
        return result > 0


OVERHEAD = ffi.sizeof("struct vk_record") + ffi.sizeof("struct vk_message")
"""Bytes of a ring that a message takes besides its payload (and padding)."""


def span(size: int) -> int:
    """Return the bytes of a ring that a message of size bytes takes, with its descriptor."""
    align: int = lib.VK_RECORD_ALIGN
    return -(-(int(OVERHEAD) + size) // align) * align


def shared() -> LocalProtocolError:
    """Return the error for two threads that were met at one attachment."""
    return LocalProtocolError(
        "two threads use one attachment at a time: let each attach for itself, or share a lock"
    )


def gone(error: int) -> NodeGoneError:
    """Return the error for a channel that closed (-ESHUTDOWN) or broke its rules (-EPROTO)."""
    if error == -errno.ESHUTDOWN:
        return NodeGoneError("the node ended this attachment, or itself: attach again")
    return NodeGoneError(
        f"the node broke the rings' rules ({os.strerror(-error)}): attach again, and report it"
    )
