"""The worker as a whole: every message is delivered or counted, whatever happens around it."""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Iterator

import pytest

from tests.dataplane.rig import BROKEN_PAYLOAD, STREAM_TYPES, Record, Rig, Sent, Stream, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import (
    Class,
    ExtKind,
    Flag,
    Fragment,
    Frame,
    Gauge,
    Seq,
    Session,
    Shard,
    Type,
    class_space,
    make_frame,
    parse_frame,
    stream_class,
)

STREAMS = [0, 5, 100, 1000, 10000]
LARGEST = lib.VK_SHARDED_MAX
UNSENT = (
    *("refused_flow", "refused_size", "refused_policy", "refused_late"),
    "drop_tx_unreachable",
)
"""What may become of a DATA record besides tx_messages: see vk_outgoing.h."""
FAR = 1 << 20
"""A packet number that no worker reaches here."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


def inner(sent: Sent) -> list[Frame]:
    """Return what a datagram carries, read by the Python view of the format."""
    outer = parse_frame(sent.data)
    if not outer.header.flags & Flag.AGG:
        return [outer]
    found = list(outer.inner())
    assert len(found) == outer.header.correlation
    return found


def is_probe(sent: Sent) -> bool:
    """Say whether a datagram is only there to see how large they may be."""
    return bool(parse_frame(sent.data).header.type == Type.PING)


def messages(sent: list[Sent]) -> Iterator[tuple[Sent, Frame]]:
    """Yield the DATA messages and shards of datagrams."""
    for each in sent:
        for frame in inner(each):
            if (
                frame.header.type not in STREAM_TYPES
                and frame.header.type >= lib.VK_TYPE_CONTROL_END
            ):
                yield each, frame


def reliable(stream: int) -> bool:
    """Return whether a stream's messages are sent until they are acknowledged."""
    return bool(stream_class(stream) != Class.LOGS)


def part(where: Seq | Shard) -> tuple[int, int]:
    """Return the sequence and the first byte of what a frame carries."""
    return where.sequence, where.offset if isinstance(where, Shard) else 0


def place(frame: Frame) -> Seq | Shard:
    """Return where a message belongs on its stream."""
    (found,) = [each for each in frame.extensions if isinstance(each, Seq | Shard)]
    return found


class Load:
    """Streams of every class from node 0 to node 1, and what became of their messages."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.ends: list[Stream] = []
        self.sent: dict[int, list[tuple[int, int]]] = {stream: [] for stream in STREAMS}
        self.taken: dict[int, list[Record]] = {stream: [] for stream in STREAMS}
        self.frames: list[Sent] = []
        self.marks = 0
        for slot in range(2):
            assert rig.app(0, slot) == rig.app(1, slot) == 0
            rig.service(1, slot, f"svc{slot}")
        for number, stream in enumerate(STREAMS):
            slot = number % 2
            self.ends.append(rig.open(0, slot, stream, f"svc{slot}"))
            rig.accept(1, slot, stream_class(stream))
        rig.log()

    def send(self, largest: int) -> None:
        """Put a few messages into the rings."""
        end = self.random.choice(self.ends)
        for _ in range(self.random.randrange(1, 40)):
            size = self.random.choice([8, 64, self.random.randrange(8, largest)])
            self.marks += 1
            if not self.rig.put(end, size, self.marks):
                return
            self.sent[end.stream].append((self.marks, size))

    def take(self) -> None:
        for number, stream in enumerate(STREAMS):
            self.taken[stream] += self.rig.take(1, number % 2, stream_class(stream))

    def run(self, rounds: int, largest: int = 3000) -> None:
        for _ in range(rounds):
            self.send(largest)
            self.rig.turn(self.random.randrange(2), self.random.randrange(3))
            if self.random.random() < 0.3:
                self.take()
                self.frames += self.rig.log()
        self.settle()

    def settle(self) -> None:
        """Let everything come that will, while the applications read.

        On the worst wire several probes in a row are lost, which are seconds apart.
        """
        before, idle = -1, 0
        while idle < 4:
            self.rig.settle(self.take)
            self.take()
            self.frames += self.rig.log()
            came = sum(map(len, self.taken.values()))
            before, idle = came, idle + 1 if came == before else 0

    def check_stream(self, stream: int) -> None:
        """Nobody gets what was not sent, or twice; what was sent reliably came."""
        marks = Tally(record.mark for record in self.taken[stream])
        assert BROKEN_PAYLOAD not in marks
        assert not [mark for mark, times in marks.items() if times > 1]
        sizes = dict(self.sent[stream])
        assert all(sizes[record.mark] == record.size for record in self.taken[stream])
        places = {mark: place for place, (mark, _) in enumerate(self.sent[stream])}
        assert all(places[record.mark] == record.sequence for record in self.taken[stream])
        if reliable(stream):
            assert set(marks) == set(sizes)

    def check_class(self, stream: int) -> dict[str, int]:
        """The counters of both sides agree with the wire and with each other."""
        klass = stream_class(stream)
        ours, theirs = self.rig.count(0, klass), self.rig.count(1, klass)
        assert ours["tx_messages"] == len(self.sent[stream])
        assert ours["tx_bytes"] == sum(size for _, size in self.sent[stream])
        assert all(ours[name] == 0 for name in UNSENT)
        assert theirs["rx_messages"] == (
            theirs["rx_shards"]
            + theirs["drop_reassembly"]
            + theirs["drop_stale"]
            + theirs["drop_unknown_stream"]
            + theirs["rx_delivered"]
            + theirs["drop_app_ring"]
            + theirs["drop_app_gone"]
            - theirs["rx_reassembled"]
        )
        assert theirs["rx_delivered"] == len(self.taken[stream])
        assert theirs["drop_frame_invalid"] == theirs["drop_inner_invalid"] == 0
        assert theirs["drop_unknown_stream"] == theirs["drop_app_gone"] == 0
        return theirs

    def check_wire(self, stream: int) -> None:
        """What is sent again says so; a copy of a packet is known by its number, a copy of a
        message by its sequence."""
        klass = stream_class(stream)
        ours, theirs = self.rig.count(0, klass), self.rig.count(1, klass)
        frames = [each for each in self.frames if each.klass == klass and each.node == 0]
        carried = list(messages(frames))
        first = Tally(
            part(place(frame)) for _, frame in carried if not frame.header.flags & Flag.RTX
        )
        again = [place(frame) for _, frame in carried if frame.header.flags & Flag.RTX]
        assert set(first.values()) <= {1}
        assert {sequence for sequence, _ in first} == set(range(len(self.sent[stream])))
        whole = sum(isinstance(each, Seq) for each in again)
        assert whole <= ours["tx_again"] <= len(again)
        assert (ours["tx_again"] == 0) == (not again)
        if not reliable(stream):
            assert not again
        came = sum(each.fate > 0 for each, _ in carried)
        if theirs["drop_app_ring"] + theirs["drop_reassembly"]:  # such a packet may come twice
            assert came <= theirs["rx_messages"] <= sum(each.fate for each, _ in carried)
        else:
            assert came == theirs["rx_messages"]
            assert theirs["drop_frame_twice"] == sum(each.fate > 1 for each in frames)

    def check(self) -> None:
        for stream in STREAMS:
            self.check_stream(stream)
            theirs = self.check_class(stream)
            self.check_wire(stream)
            if reliable(stream):
                assert theirs["rx_gaps"] == 0
                continue
            # A log is delivered, refused by a full ring, or missing in the sequence; what came
            # after the newest that arrived at all is missing without anybody knowing.
            known = theirs["rx_delivered"] + theirs["drop_app_ring"] + theirs["rx_gaps"]
            assert known <= len(self.sent[stream])
            newest = max((record.sequence for record in self.taken[stream]), default=-1)
            assert newest < known


def test_a_calm_wire_delivers_every_message_in_order(rig: Rig) -> None:
    load = Load(rig, 1)
    load.run(400)
    load.check()
    for stream in STREAMS:
        assert [each.mark for each in load.taken[stream]] == [m for m, _ in load.sent[stream]]
        assert [each.sequence for each in load.taken[stream]] == list(range(len(load.sent[stream])))


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_wire_loses_nothing_but_logs_and_those_not_without_a_count(
    rig: Rig, seed: int
) -> None:
    load = Load(rig, seed)
    rig.net(loss=50, twice=50, reorder=200, pad=500, room=40, seed=seed)
    load.run(500)
    rig.net()
    load.run(20)
    load.check()
    for stream in STREAMS:
        assert rig.count(1, stream_class(stream))["drop_app_ring"] == 0
        assert (rig.count(0, stream_class(stream))["tx_again"] > 0) == reliable(stream)
    assert rig.count(1, Class.LOGS)["rx_gaps"] > 0


def test_a_dreadful_wire_only_takes_longer(rig: Rig) -> None:
    load = Load(rig, 7)
    rig.net(loss=400, twice=200, reorder=500, room=30, seed=7)
    load.run(150)
    load.check()


@pytest.mark.parametrize("seed", range(3))
def test_large_messages_cross_a_bad_wire_whole_and_exactly_once(rig: Rig, seed: int) -> None:
    load = Load(rig, 9)
    rig.net(loss=20, twice=20, reorder=100, room=30, seed=seed)
    load.run(80, largest=LARGEST)
    load.check()
    assert sum(rig.count(1, stream_class(each))["rx_reassembled"] for each in STREAMS) > 100


def test_every_datagram_carries_session_and_a_number_that_never_repeats(rig: Rig) -> None:
    load = Load(rig, 2)
    load.run(100)
    rig.ask("worker", 0, "kill")
    rig.ask("worker", 0, "recover")
    load.run(100)
    seen = set()
    for sent in load.frames:
        session = parse_frame(sent.data).extensions[0]
        assert isinstance(session, Session)
        assert session.space == class_space(sent.klass)
        seen.add((sent.node, session.space, session.number))
    assert len(seen) == len(load.frames)


def test_a_lone_message_goes_alone_and_two_share_a_datagram(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()  # until nothing is owed that would ride along
    rig.log()
    assert rig.put(ours, 64, 1)
    rig.turn(0)
    (alone,) = rig.log()
    frame = parse_frame(alone.data)
    assert not frame.header.flags & Flag.AGG
    assert [each.kind for each in frame.extensions] == [ExtKind.SESSION, ExtKind.SEQ]
    rig.put(ours, 64, 2)
    rig.put(ours, 64, 3)
    rig.turn(0)
    (both,) = rig.log()
    outer = parse_frame(both.data)
    assert outer.header.flags & Flag.AGG
    assert [each.kind for each in outer.extensions] == [ExtKind.SESSION]
    assert [place(each).sequence for each in inner(both)] == [1, 2]
    assert all(at % lib.VK_AGG_ALIGN == 0 for at in offsets(outer))


def test_what_is_owed_rides_along_with_a_message(rig: Rig) -> None:
    ours, theirs = rig.pair()
    rig.settle()
    rig.log()
    rig.put(ours, 64, 1)
    rig.turn(0)
    rig.put(theirs, 64, 2)
    rig.turn(1)
    _, answer = rig.log()
    assert [each.header.type for each in inner(answer)] == [lib.VK_STREAM_ACK, lib.VK_STREAM_DATA]
    rig.turn(0)
    assert rig.count(0, Class.DATA)["drop_frame_twice"] == 0


def offsets(outer: Frame) -> list[int]:
    """Return where the inner frames begin."""
    return [
        at
        for at in range(len(outer.payload))
        if outer.payload[at : at + 2] == lib.VK_MAGIC.to_bytes(2, "big")
    ]


@pytest.mark.parametrize(
    "count", [lib.VK_AGG_MAX - 1, lib.VK_AGG_MAX, lib.VK_AGG_MAX + 1, 3 * lib.VK_AGG_MAX]
)
def test_a_datagram_holds_no_more_inner_frames_than_the_format_allows(rig: Rig, count: int) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.log()
    for mark in range(count):
        rig.put(ours, 0, mark)
    rig.turn(0)
    sizes = [len(inner(each)) for each in rig.log() if not is_probe(each)]
    assert sum(sizes) == count
    assert max(sizes) <= lib.VK_AGG_MAX


def test_without_aggregation_every_message_has_its_own_datagram(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.ask("param", 0, "aggregate", 0)
    rig.turn(0)
    rig.log()
    for mark in range(20):
        rig.put(ours, 64, mark)
    rig.turn(0)
    assert [len(inner(each)) for each in rig.log()] == [1] * 20


def deaf_and_well(rig: Rig, klass_deaf: Class, *, ring: int = 1 << 16) -> tuple[Stream, Stream]:
    """Open a stream to an application that does not read, and one to another that does."""
    for node in (0, 1):
        assert rig.app(node, 0, ring=ring) == rig.app(node, 1, ring=ring) == 0
    rig.service(1, 0, "deaf")
    rig.service(1, 1, "well")
    first = {stream_class(stream): stream for stream in STREAMS}
    deaf, well = rig.open(0, 0, first[klass_deaf], "deaf"), rig.open(0, 1, 1001, "well")
    rig.accept(1, 0, klass_deaf)
    rig.accept(1, 1, Class.DATA)
    return deaf, well


@pytest.mark.parametrize("klass", [Class.SYSTEM, Class.JOB, Class.DATA])
def test_an_application_that_never_reads_stops_only_its_own_stream_and_loses_nothing(
    rig: Rig, klass: Class
) -> None:
    deaf, well = deaf_and_well(rig, klass)
    marks, got = 0, []
    for mark in range(4000):
        marks += rig.put(deaf, 64, marks)
        assert rig.put(well, 64, mark)
        if mark % 50 == 0:
            rig.settle()
            got += [each.mark for each in rig.take(1, 1, Class.DATA)]
    rig.settle(lambda: got.extend(each.mark for each in rig.take(1, 1, Class.DATA)))
    assert got == list(range(4000))
    kept = lib.VK_WINDOW_START // (64 + lib.VK_MESSAGE_COST)  # the window says how many
    assert rig.count(1, klass)["rx_delivered"] - (4000 if klass == Class.DATA else 0) == kept
    assert kept < marks < 4000
    assert rig.ask("blocked", 0, 0, int(klass)) == str(lib.VK_BLOCKED_CREDIT)
    rig.log()
    for _ in range(100):
        rig.exchange()
        rig.wait(0.1)
    assert rig.log() == []  # who may not send asks nobody
    heard: list[int] = []
    rig.settle(lambda: heard.extend(each.mark for each in rig.take(1, 0, klass)))
    assert heard == list(range(marks))
    assert rig.count(1, klass)["drop_app_ring"] == 0


def test_an_application_that_never_reads_critical_messages_keeps_nobody_waiting(rig: Rig) -> None:
    deaf, well = deaf_and_well(rig, Class.CRITICAL, ring=1 << 18)
    marks = 0
    while rig.put(deaf, 1000, marks):
        marks += 1
        rig.exchange()
    got: list[int] = []
    for mark in range(100):
        assert rig.put(well, 64, mark)
        rig.exchange(2)
        rig.wait(0.02)
        got += [each.mark for each in rig.take(1, 1, Class.DATA)]
    heard: list[int] = []
    rig.settle(lambda: heard.extend(each.mark for each in rig.take(1, 0, Class.CRITICAL)))
    assert sorted(heard) == list(range(marks))
    assert rig.count(1, Class.CRITICAL)["drop_app_ring"] > 0
    assert got == list(range(100))  # while nobody read the critical ones


def test_an_application_that_never_reads_its_logs_loses_only_those(rig: Rig) -> None:
    deaf, well = deaf_and_well(rig, Class.LOGS)
    got = []
    for mark in range(2000):
        assert rig.put(deaf, 64, mark)
        assert rig.put(well, 64, mark)
        if mark % 50 == 0:
            rig.settle()
            got += [each.mark for each in rig.take(1, 1, Class.DATA)]
    rig.settle()
    got += [each.mark for each in rig.take(1, 1, Class.DATA)]
    assert got == list(range(2000))
    row = rig.count(1, Class.LOGS)
    kept = [each.mark for each in rig.take(1, 0, Class.LOGS)]
    assert kept == list(range(len(kept)))
    assert row["drop_app_ring"] == 2000 - len(kept)
    assert 0 < len(kept) < 2000


def test_a_frame_of_an_unknown_host_reaches_nobody(rig: Rig) -> None:
    ours, theirs = rig.pair()
    frame = make_frame(lib.VK_STREAM_DATA, 1000, b"x" * 64, Session(0, FAR, space=1), Seq(0))
    rig.ask("raw", 1, int(Class.DATA), 6, frame.pack().hex())
    rig.turn(1)
    assert rig.count(1, Class.DATA)["drop_frame_unknown_peer"] == 1
    assert not rig.take(1, 0, Class.DATA)
    rig.ask("raw", 1, int(Class.DATA), 0, frame.pack().hex())
    rig.turn(1)
    assert len(rig.take(1, 0, Class.DATA)) == 1
    assert ours.stream == theirs.stream


def test_a_packet_number_counts_once_and_a_sequence_too(rig: Rig) -> None:
    rig.pair()
    data = int(Class.DATA)
    for number, sequence in ((FAR, 0), (FAR, 0), (FAR, 1), (FAR + 1, 0), (FAR + 2, 1)):
        session = Session(0, number, space=1)
        frame = make_frame(lib.VK_STREAM_DATA, 1000, b"x" * 64, session, Seq(sequence))
        rig.ask("raw", 1, data, 0, frame.pack().hex())
        rig.turn(1)
    row = rig.count(1, Class.DATA)
    assert (row["drop_frame_twice"], row["drop_stale"], row["rx_delivered"]) == (2, 1, 2)
    assert [each.sequence for each in rig.take(1, 0, Class.DATA)] == [0, 1]


def test_a_ping_is_answered_by_the_worker(rig: Rig) -> None:
    ping = make_frame(lib.VK_PING, 5, b"", Session(0, 1), correlation=77)
    rig.ask("raw", 1, int(Class.SYSTEM), 0, ping.pack().hex())
    rig.turn(1)
    rig.settle()
    answers = [frame.header for sent in rig.log() for frame in inner(sent)]
    (pong,) = [each for each in answers if each.type == lib.VK_PONG]
    assert pong.correlation == 77


def test_a_planned_change_of_workers_loses_nothing_and_delivers_nothing_twice(rig: Rig) -> None:
    load = Load(rig, 5)
    rig.net(room=100)
    for turn in range(60):
        load.run(1, largest=30000) if turn % 7 == 0 else load.send(30000)
        rig.turn(0)
        rig.turn(1)
        if turn % 3 == 0:
            node = turn // 3 % 2
            rig.ask("worker", node, "stop")
            load.send(30000)
            rig.ask("worker", node, "start")
        load.take()
        load.frames += rig.log()
    load.run(10)
    for stream in STREAMS:
        load.check_stream(stream)
        row = load.check_class(stream)
        assert row["rx_gaps"] == row["drop_reassembly"] == 0
        assert len(load.taken[stream]) == len(load.sent[stream])


def test_streams_and_rings_outlive_a_killed_worker(rig: Rig) -> None:
    load = Load(rig, 6)
    for node in (0, 1, 0, 1):
        load.run(20)
        rig.ask("worker", node, "kill")
        load.send(3000)
        rig.ask("worker", node, "recover")
    load.run(20)
    for stream in STREAMS:
        load.check_stream(stream)
        assert [each.mark for each in load.taken[stream]] == [m for m, _ in load.sent[stream]]
    assert rig.gauge(0, Gauge.WORKER_STARTS) == 3
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == len(STREAMS)


@pytest.mark.parametrize("seed", range(4))
def test_killed_workers_on_a_bad_wire_lose_nothing_that_is_reliable(rig: Rig, seed: int) -> None:
    load = Load(rig, seed)
    rig.net(loss=50, twice=50, reorder=200, room=40, seed=seed)
    for kill in range(12):
        for _ in range(10):
            load.send(30000 if kill % 3 == 0 else 3000)
            rig.turn(load.random.randrange(2), load.random.randrange(3))
        load.take()
        rig.ask("worker", kill % 2, "kill")
        rig.ask("worker", kill % 2, "recover")
    load.run(20)
    for stream in STREAMS:
        load.check_stream(stream)
        load.check_class(stream)


def test_what_was_under_way_when_a_peer_left_goes_on_when_it_joins_again(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.net(loss=1000)
    for mark in range(100):
        assert rig.put(ours, 64, mark)
    rig.exchange(3)
    rig.net()
    for joined in (0, 1):
        for node in (0, 1):
            rig.ask("join", node, joined)
        rig.exchange(3)
    rig.settle()
    assert sorted(each.mark for each in rig.take(1, 0, Class.DATA)) == list(range(100))


def test_what_a_leaving_application_has_put_into_its_rings_is_still_sent(rig: Rig) -> None:
    ours, _ = rig.pair()
    for mark in range(300):  # as much as the peer's window takes unread
        assert rig.put(ours, 100, mark)
    assert rig.ask("detach", 0, 0) == "0"
    rig.settle()
    records = rig.take(1, 0, Class.DATA)
    assert [each.mark for each in records if each.kind == lib.VK_RECORD_DATA] == list(range(300))
    assert (records[-1].kind, records[-1].code) == (
        lib.VK_RECORD_RESET,
        lib.VK_CODE_APPLICATION_GONE,
    )


def test_an_order_for_another_generation_is_refused(rig: Rig) -> None:
    rig.pair()
    assert rig.ask("detach", 0, 0) == "0"
    assert int(rig.ask("detach", 0, 0)) < 0
    assert rig.app(0, 0) == 0


def test_a_tuned_value_out_of_bounds_is_clamped(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.ask("param", 0, "quantum", int(Class.DATA), 0)
    rig.ask("param", 1, "reassembly_bytes", 0)
    for mark in range(3):  # what a stream may begin with
        rig.put(ours, 20000, mark)
    rig.settle()
    assert len(rig.take(1, 0, Class.DATA)) == 3


def test_a_stamped_message_says_when_it_was_sent(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.ask("param", 0, "stamp", 1)
    rig.turn(0)
    rig.log()
    rig.put(ours, 64, 1)
    rig.turn(0)
    (sent,) = rig.log()
    assert ExtKind.TIME in [each.kind for each in parse_frame(sent.data).extensions]


def test_fragments_are_marked_on_the_wire_and_at_the_reader_whether_sharded_or_not(
    rig: Rig,
) -> None:
    ours, _ = rig.pair()
    rig.log()
    marks = [Fragment.MORE, Fragment.CONTINUES | Fragment.MORE, Fragment.CONTINUES, 0xFFFC]
    for size in (64, 20000):
        for mark in marks:
            assert rig.put(ours, size, mark, code=mark)
    rig.settle()
    on_wire = {place(frame).sequence: place(frame).fragment for _, frame in messages(rig.log())}
    assert [on_wire[sequence] for sequence in range(8)] == [1, 3, 2, 0] * 2
    assert [(each.sequence, each.code) for each in rig.take(1, 0, Class.DATA)] == [
        (sequence, [1, 3, 2, 0][sequence % 4]) for sequence in range(8)
    ]


def test_logs_have_no_fragments(rig: Rig) -> None:
    ours, _ = rig.pair(stream=10000)
    rig.log()
    assert rig.put(ours, 64, 1, code=Fragment.MORE)
    rig.settle()
    ((_, frame),) = messages(rig.log())
    assert place(frame).fragment == 0
    (record,) = rig.take(1, 0, Class.LOGS)
    assert record.code == 0
