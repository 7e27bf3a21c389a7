"""Streams: options, back pressure with its reason, requests, batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import valkyrie
from tests.dataplane.double import DEFAULT_RING_SIZE, DoubleNode, Fabric
from tests.dataplane.test_node import Nodes, app_of, both, opened, until, waiters
from tests.lab import SOON_S, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import attachment, flow
from valkyrie.dataplane.application.rings import REASONS
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.wire import Class, Type

if TYPE_CHECKING:
    from valkyrie.dataplane.application.stream import Stream, SyncStream

JOB = Class.JOB.value


def hold(fabric: Fabric, node: DoubleNode, held: bool, blocked: int = 0) -> None:
    """Let the worker take nothing from the application's rings, for a reason, or go on."""

    def change() -> None:
        app = app_of(node)
        assert app.channel is not None
        app.held = held
        app.channel.d.blocked[JOB] = blocked

    fabric.do(change)


@contextmanager
def sync_pair(nodes: Nodes, stream: int = 100) -> Iterator[tuple[SyncStream, SyncStream]]:
    with (
        valkyrie.attach_sync(nodes[0].path) as left,
        valkyrie.attach_sync(nodes[1].path) as right,
        right.listen("service") as service,
    ):
        mine = left.connect("right").open("service", stream)
        yield mine, service.accept(timeout=SOON_S)


async def next_of(stream: Stream) -> valkyrie.Message:
    message = await stream.recv(timeout=SOON_S)
    assert message is not None
    return message


# ---- Sending and receiving ----


async def test_a_descriptor_travels_with_its_message(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        before = time.time_ns()
        await mine.send(
            b"x", type="job_request", correlation=7, urgent=True, priority=120, stamp=True
        )
        await mine.send(b"plain")
        message = await next_of(theirs)
        assert (message.type, message.type_name) == (Type.JOB_REQUEST, "job_request")
        assert (message.correlation, message.priority) == (7, 120)
        assert message.flags == valkyrie.Flag.URG
        latency_ns = message.latency_ns()
        assert latency_ns is not None
        assert 0 <= latency_ns <= time.time_ns() - before
        plain = await next_of(theirs)
        assert (plain.type, plain.correlation, plain.flags, plain.latency_ns()) == (0, 0, 0, None)
        assert (message.sequence, plain.sequence) == (0, 1)
        for kind in ("no_such_type", "hello", "stream_close", valkyrie.Type.PING, 0x50, -1):
            with pytest.raises(LocalProtocolError, match="FORMATS"):
                await mine.send(b"x", type=kind)


async def test_many_messages_share_a_type(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send_many([b"one", b"two"], type="file_chunk")
        await mine.send(b"three")
        got = [(await next_of(theirs)).type for _ in range(3)]
        assert got == [valkyrie.Type.FILE_CHUNK, valkyrie.Type.FILE_CHUNK, 0]
        with pytest.raises(LocalProtocolError, match="FORMATS"):
            await mine.send_many([b"x"], type="hello")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_bytes_can_be_sent(nodes: Nodes, kind: type) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        await mine.send(kind(b"one"))
        await mine.send_many([kind(b"two"), kind(b"")])
        await mine.send_many(kind(b"abcdef"), 3)
        got = [(await next_of(theirs)).payload for _ in range(5)]
        assert got == [b"one", b"two", b"", b"abc", b"def"]


async def test_every_class_has_a_ring_of_its_own(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        for stream, name in ((0, "critical"), (1, "system"), (999, "job"), (9999, "data")):
            mine, theirs = await opened(left, right, stream)
            await mine.send(name.encode())
            assert (await next_of(theirs)).payload.decode() == mine.class_name == name


async def test_more_than_a_ring_goes_through_in_order_and_is_counted(nodes: Nodes) -> None:
    count = 20_000  # 2 MB through rings of 64 KiB
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)

        async def send() -> None:
            for first in range(0, count, 500):
                numbers = range(first, first + 500)
                await mine.send_many([number.to_bytes(8, "big") for number in numbers])

        sending = asyncio.create_task(send())
        got: list[int] = []
        while len(got) < count:
            for message in await theirs.recv_many(timeout=SOON_S):
                got.append(message.sequence)
                assert int.from_bytes(message.payload, "big") == message.sequence
        await sending
        assert got == list(range(count))
        assert (mine.counts.sent, mine.counts.sent_bytes) == (count, count * 8)
        assert (theirs.counts.received, theirs.counts.received_bytes) == (len(got), len(got) * 8)


# ---- Back pressure ----


@pytest.mark.parametrize(("blocked", "reason"), list(REASONS.items()))
async def test_a_send_without_room_waits_or_says_why_there_is_none(
    fabric: Fabric, nodes: Nodes, blocked: int, reason: str
) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        hold(fabric, nodes[0], True, blocked)
        sent = 65536 // 1048
        for _ in range(sent):
            await mine.send(bytes(1000), timeout=0)
        with pytest.raises(valkyrie.WouldBlockError) as caught:
            await mine.send(bytes(1000), timeout=0)
        assert caught.value.reason == reason
        with pytest.raises(valkyrie.WouldBlockError):
            await mine.send(bytes(1000), timeout=0.01)
        waiting = asyncio.create_task(mine.send(bytes(999)))
        await waiters(left)
        hold(fabric, nodes[0], False)
        await asyncio.wait_for(waiting, SOON_S)
        for size in [1000] * sent + [999]:
            assert len((await next_of(theirs)).payload) == size


def test_a_synchronous_send_waits_or_says_why_too(fabric: Fabric, nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        hold(fabric, nodes[0], True, lib.VK_BLOCKED_POLICY)
        with pytest.raises(valkyrie.WouldBlockError, match="policy") as caught:
            mine.send_many(bytes(100_000), 1000, timeout=0.01)
        assert caught.value.sent == mine.counts.sent == 65536 // 1048
        timer = threading.Timer(0.02, lambda: hold(fabric, nodes[0], False))
        timer.start()
        mine.send(b"last", timeout=SOON_S)
        timer.join()
        got = [theirs.recv(timeout=SOON_S) for _ in range(caught.value.sent + 1)]
        assert got[-1] is not None
        assert got[-1].payload == b"last"


async def test_a_critical_stream_nobody_reads_holds_up_its_class_only(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "QUEUE_MESSAGES_MAX", 10)
    async with both(nodes) as (left, right):
        mine, unread = await opened(left, right, 0)  # critical has no window
        other, read = await opened(left, right, 1000)
        for number in range(50):
            await mine.send(bytes([number]))
        for number in range(50):
            await other.send(bytes([number]))
            assert (await next_of(read)).payload == bytes([number])
        assert unread.counts.held_up == 1
        assert unread.counts.received == 10
        got = [(await next_of(unread)).payload[0] for _ in range(50)]
        assert got == list(range(50))  # nothing was lost: it waited in the ring


async def test_a_stream_that_cannot_open_says_who_is_in_the_way(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "QUEUE_MESSAGES_MAX", 1)
    monkeypatch.setattr(attachment, "OPEN_TIMEOUT_NS", 100_000_000)
    async with both(nodes) as (left, right):
        mine, _ = await opened(left, right)
        service = await left.listen("back")
        back = await (await right.connect("left")).open("back", stream=0)
        unread = await service.accept()
        for _ in range(5):
            await back.send(b"x")
        await until(lambda: unread.counts.held_up)
        with pytest.raises(valkyrie.UnreachableError, match="reader of stream 0"):
            await (await left.connect("left")).open("back", stream=0)
        await unread.close()
        await mine.send(b"x")


async def test_a_stream_nobody_reads_is_sent_a_window_and_holds_up_no_other(nodes: Nodes) -> None:
    count = 250  # more than a window, and less than the sender's node holds back for a stream
    async with both(nodes) as (left, right):
        mine, unread = await opened(left, right, 100)
        other, read = await opened(left, right, 101)
        sending = asyncio.create_task(mine.send_many(bytes(count * 1000), 1000))
        for number in range(300):
            await other.send(b"%d" % number)
            assert (await next_of(read)).payload == b"%d" % number
        assert unread.counts.received <= lib.VK_WINDOW_START // (1000 + lib.VK_MESSAGE_COST)
        got = [(await next_of(unread)).sequence for _ in range(count)]
        assert got == list(range(count))
        await asyncio.wait_for(sending, SOON_S)
        assert app_of(nodes[1]).violations == app_of(nodes[0]).violations == 0


async def test_logs_nobody_reads_lose_their_oldest_and_say_so(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "QUEUE_MESSAGES_MAX", 10)
    async with both(nodes) as (left, right):
        mine, unread = await opened(left, right, 10000)
        other, read = await opened(left, right, 10001)
        for number in range(50):
            await mine.send(bytes([number]))
        await other.send(b"not held up")
        assert (await next_of(read)).payload == b"not held up"
        assert unread.counts.dropped == 41
        assert [(await next_of(unread)).payload[0] for _ in range(9)] == list(range(41, 50))


async def test_a_window_that_is_spent_is_the_reason(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        payloads = bytes(100 * 4 * DEFAULT_RING_SIZE)
        with pytest.raises(valkyrie.WouldBlockError, match="reads slower") as caught:
            await mine.send_many(payloads, 100, timeout=0.05)
        assert caught.value.reason == "credit"
        assert mine.counts.sent > lib.VK_WINDOW_START // (100 + lib.VK_MESSAGE_COST)
        waiting = asyncio.create_task(mine.send(b"last", timeout=SOON_S))
        while (await next_of(theirs)).payload != b"last":
            pass
        await waiting


async def test_a_limit_keeps_what_nobody_takes_out_of_the_ring(nodes: Nodes) -> None:
    nodes[0].tells_limits = nodes[1].tells_limits = True
    async with both(nodes) as (left, right):
        slow, unread = await opened(left, right, 100)
        quick, read = await opened(left, right, 101)
        with pytest.raises(valkyrie.WouldBlockError) as caught:
            await slow.send_many(bytes(100 * DEFAULT_RING_SIZE), 100, timeout=0.05)
        assert caught.value.reason == "credit"
        assert slow.counts.sent == lib.VK_WINDOW_START // (100 + lib.VK_MESSAGE_COST)
        large = bytes(4 * DEFAULT_RING_SIZE)
        waiting = asyncio.create_task(slow.send(large))
        for number in range(1000):
            await quick.send(number.to_bytes(200), timeout=SOON_S)
            assert (await next_of(read)).payload == number.to_bytes(200)
        assert not waiting.done()
        for _ in range(slow.counts.sent):
            await next_of(unread)
        assert (await next_of(unread)).payload == large
        await waiting
        assert app_of(nodes[1]).violations == app_of(nodes[0]).violations == 0


def test_the_c_application_waits_for_a_limit(nodes: Nodes) -> None:
    nodes[0].tells_limits = nodes[1].tells_limits = True
    with sync_pair(nodes) as (mine, theirs):
        flows = mine._flow, theirs._flow
        client, server = (end.rings.client for end in flows)
        result, sent = (ffi.new("struct vk_blast_result *") for _ in range(2))
        limit_ns = int(SOON_S * 1e9)
        outlet, back = (end.outlet for end in flows)
        sender = threading.Thread(
            target=lib.vk_blast_send, args=(client, outlet, 1024, 1000, 32, limit_ns, sent)
        )
        sender.start()
        inlet = flows[1].inlet
        assert lib.vk_blast_receive(server, back, inlet, 1000, limit_ns, result) == 0
        sender.join()
        assert (sent.messages, result.messages, result.corrupt) == (1000, 1000, 0)
        assert outlet.limit >= outlet.spent


async def test_reports_that_find_no_room_are_made_good(fabric: Fabric, nodes: Nodes) -> None:
    nodes[1].control_ring = lib.VK_RING_CAPACITY_MIN
    nodes[0].window = nodes[1].window = 1 << 30
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        app = app_of(nodes[1])
        app.deaf = True
        room = lib.VK_RING_CAPACITY_MIN // 24 + 10  # more reports than the ring has room for
        for _ in range(room):
            await mine.send(bytes(lib.VK_INLET_REPORT))
            await next_of(theirs)
        assert right._driver.rings._owed

        def listen() -> None:
            app.deaf = False

        fabric.do(listen)
        cost = room * (lib.VK_INLET_REPORT + lib.VK_MESSAGE_COST)
        end = next(iter(nodes[1].flows.values()))
        await until(lambda: end.consumed == cost)
        assert not right._driver.rings._owed
        assert app.violations == 0


# ---- Requests ----


async def test_replies_find_their_requests_in_any_order(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)

        async def serve() -> None:
            requests = [await next_of(theirs) for _ in range(10)]
            for request in reversed(requests):
                await theirs.send(b"by the way")
                await theirs.reply(request, request.payload * 2, type="job_accept")

        serving = asyncio.create_task(serve())
        replies = await asyncio.gather(*(mine.request(b"%d" % n) for n in range(10)))
        await serving
        assert [reply.payload for reply in replies] == [b"%d" % n * 2 for n in range(10)]
        assert {(reply.type_name, reply.is_reply) for reply in replies} == {("job_accept", True)}
        assert [(await next_of(mine)).payload for _ in range(10)] == [b"by the way"] * 10


async def test_a_request_without_a_reply_ends_in_time(nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        with pytest.raises(TimeoutError, match="stream 100"):
            await mine.request(b"?", timeout=0.01)
        await theirs.reply(await next_of(theirs), b"too late")
        await theirs.send(b"by the way")
        assert (await next_of(mine)).payload == b"by the way"
        assert mine.counts.late == 1
        waiting = asyncio.create_task(mine.request(b"?"))
        await next_of(theirs)
        await theirs.close()
        with pytest.raises(valkyrie.RefusedError, match="without a reply"):
            await asyncio.wait_for(waiting, SOON_S)


def test_replies_that_come_too_late_are_in_no_batch_and_fill_no_window(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        for _ in range(2 * lib.VK_WINDOW_START // 10_000):
            with pytest.raises(TimeoutError):
                mine.request(b"?", timeout=0)
            request = theirs.recv(timeout=SOON_S)
            assert request is not None
            theirs.reply(request, bytes(10_000), timeout=SOON_S)
            with pytest.raises(TimeoutError):
                mine.recv(timeout=0)
        theirs.send(b"by the way")
        theirs.send(b"an answer to no request", correlation=1)
        got: list[bytes] = []
        while len(got) < 2:
            with mine.recv_many(timeout=SOON_S) as batch:
                got += [bytes(view) for view in batch]
        assert got == [b"by the way", b"an answer to no request"]
        assert mine.counts.late == 2 * lib.VK_WINDOW_START // 10_000


# ---- Batches ----


def test_a_batch_is_read_where_it_lies(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        mine.send_many([b"%d" % number for number in range(100)])
        got: list[bytes] = []
        while len(got) < 100:
            with theirs.recv_many(timeout=SOON_S) as batch:
                assert list(batch.sequences) == list(range(len(got), len(got) + len(batch)))
                assert batch.sizes == [len(view) for view in batch]
                assert bytes(batch.types) == bytes(len(batch))
                assert set(batch.times_ns) == {0}
                got += [bytes(view) for view in batch]
        assert got == [b"%d" % number for number in range(100)]
        assert theirs.counts.received == 100


def test_streams_of_one_class_do_not_mix_in_a_batch(nodes: Nodes) -> None:
    with (
        valkyrie.attach_sync(nodes[0].path) as left,
        valkyrie.attach_sync(nodes[1].path) as right,
        right.listen("service") as service,
    ):
        peer = left.connect("right")
        ends = [(peer.open("service", cls="job"), service.accept(SOON_S)) for _ in range(2)]
        for number in range(40):
            for mine, _ in ends:
                mine.send(b"%d %d" % (mine.id, number), correlation=number)
        for _, theirs in reversed(ends):
            got: list[bytes] = []
            correlations: list[int] = []
            while len(got) < 40:
                with theirs.recv_many(timeout=SOON_S) as batch:
                    got += [bytes(view) for view in batch]
                    correlations += batch.correlations
                    assert [m.payload for m in batch.messages()] == got[-len(batch) :]
            assert got == [b"%d %d" % (theirs.id, number) for number in range(40)]
            assert correlations == list(range(40))


def test_a_batch_waits_only_so_long(nodes: Nodes) -> None:
    with sync_pair(nodes) as (_, theirs):
        with pytest.raises(TimeoutError):
            theirs.recv_many(timeout=0.01)
        with pytest.raises(TimeoutError):
            theirs.recv(timeout=0)


def test_a_buffer_that_is_no_multiple_of_its_messages_is_refused(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, _), pytest.raises(LocalProtocolError, match="of size=3"):
        mine.send_many(b"1234", 3)
    with sync_pair(nodes, 10000) as (mine, _):
        with pytest.raises(LocalProtocolError, match="without fragments, takes 65488"):
            mine.send_many([b"1", bytes(65537)])  # the first went
        assert mine.counts.sent == 1
        mine.send_many([])


async def test_logs_carry_how_long_they_are_worth_sending(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right, 10000)
        hold(fabric, nodes[0], True)
        await mine.send(b"soon stale", lifetime=0.25)
        channel = app_of(nodes[0]).channel
        assert channel is not None
        with fabric.lock:
            taken = channel.take(Class.LOGS)
        assert taken is not None
        assert taken[1].code == 250_000
        assert 0 <= time.time_ns() - taken[1].time_ns < SOON_S * 1e9
        hold(fabric, nodes[0], False)
        for lifetime in (0, -1, 5000):
            with pytest.raises(LocalProtocolError, match="lifetime"):
                await mine.send(b"x", correlation=7, lifetime=lifetime)
        job, _ = await opened(left, right)
        with pytest.raises(LocalProtocolError, match="use logs"):
            await job.send(b"x", lifetime=1)
        await mine.send(b"fresh", lifetime=1)
        message = await next_of(theirs)
        assert (message.payload, message.sequence, message.correlation) == (b"fresh", 1, 0)
        await mine.send(b"plain")
        assert (await next_of(theirs)).correlation == 0


async def test_cancelled_readers_and_senders_lose_nothing(fabric: Fabric, nodes: Nodes) -> None:
    async with both(nodes) as (left, right):
        mine, theirs = await opened(left, right)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(theirs.recv(), 0.01)
        hold(fabric, nodes[0], True)
        with pytest.raises(valkyrie.WouldBlockError):
            await mine.send_many(bytes(100_000), 1000, timeout=0)
        waiting = asyncio.create_task(mine.send(bytes(1000)))
        await waiters(left)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hold(fabric, nodes[0], False)
        for number in range(mine.counts.sent):
            assert (await next_of(theirs)).sequence == number
        with pytest.raises(TimeoutError):
            await theirs.recv(timeout=0.01)


def test_the_c_application_finds_what_it_sent(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        flows = mine._flow, theirs._flow
        client, server = (end.rings.client for end in flows)
        outlet, back = (end.outlet for end in flows)
        inlet, back_in = (end.inlet for end in flows)
        results = [ffi.new("struct vk_blast_result *") for _ in range(2)]
        limit_ns = int(SOON_S * 1e9)
        echo = threading.Thread(
            target=lib.vk_blast_echo, args=(server, back, back_in, 200, limit_ns, results[1])
        )
        echo.start()
        rtt_ns = ffi.new("uint64_t[]", 200)
        ends = client, outlet, inlet
        assert lib.vk_blast_ping(*ends, 64, 200, limit_ns, rtt_ns, results[0]) == 0
        echo.join()
        result = results[0]
        assert (result.messages, result.lost, result.corrupt) == (200, 0, 0)
        assert all(rtt_ns[n] > 0 for n in range(200))
        assert lib.vk_blast_send(client, outlet, 64, 300, 32, limit_ns, result) == 0
        assert lib.vk_blast_receive(server, back, back_in, 300, limit_ns, result) == 0
        assert (result.messages, result.bytes, result.corrupt) == (300, 300 * 64, 0)
        assert lib.vk_blast_send(client, outlet, 7, 1, 1, limit_ns, result) < 0


def test_the_c_application_cuts_large_messages_and_finds_them_whole(nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):
        client, server = mine._flow.rings.client, theirs._flow.rings.client
        size, count, limit_ns = 1_000_000, 20, int(SOON_S * 1e9)
        sent, result = (ffi.new("struct vk_blast_result *") for _ in range(2))
        sender = threading.Thread(
            target=lib.vk_blast_send,
            args=(client, mine._flow.outlet, size, count, 32, limit_ns, sent),
        )
        sender.start()
        ends = server, theirs._flow.outlet, theirs._flow.inlet
        assert lib.vk_blast_receive(*ends, count, limit_ns, result) == 0
        sender.join()
        assert sent.messages == result.messages == count
        assert sent.bytes == result.bytes == size * count
        assert result.records > 15 * count
        assert (result.lost, result.corrupt) == (0, 0)


LOOKS: dict[str, Callable[[SyncStream], object]] = {
    "recv": lambda stream: stream.recv(timeout=0),
    "recv_into": lambda stream: stream.recv_into(bytearray(8), timeout=0),
    "recv_many": lambda stream: stream.recv_many(timeout=0),
    "send": lambda stream: stream.send(b"x" * 1000, timeout=0),
    "send_many": lambda stream: stream.send_many([b"x" * 1000], timeout=0),
    "flush": lambda stream: stream.flush(timeout=0),
}


@pytest.mark.parametrize("call", LOOKS)
def test_who_never_waits_hears_that_the_node_is_gone(
    fabric: Fabric, nodes: Nodes, call: str
) -> None:
    def gone() -> bool:
        try:
            LOOKS[call](mine)
        except valkyrie.NodeGoneError:
            return True
        except (TimeoutError, valkyrie.WouldBlockError):
            return False
        return False

    with sync_pair(nodes) as (mine, _):
        hold(fabric, nodes[0], held=True)
        mine.send(b"nobody takes this")
        assert not gone()
        fabric.do(app_of(nodes[0]).cut)
        wait_until(gone, what="the end of the lease is told")


def test_who_never_waits_sends_when_there_is_credit_again(fabric: Fabric, nodes: Nodes) -> None:
    with sync_pair(nodes) as (mine, theirs):

        def sent() -> bool:
            try:
                mine.send(b"x" * 1000, timeout=0)
            except valkyrie.WouldBlockError:
                return False
            return True

        while sent():
            pass
        for _ in range(200):
            assert theirs.recv(timeout=SOON_S) is not None
            wait_until(sent, what="there is room again")
