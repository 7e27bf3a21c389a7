"""The transfer of a file without a network: pairs, interruptions, and peers that lie."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.dataplane import lib
from valkyrie.dataplane.files.filereceive import Reception
from valkyrie.dataplane.files.filesource import Source
from valkyrie.dataplane.files.filestore import Directory, Rules
from valkyrie.dataplane.files.transfer import (
    CHUNK_SIZE,
    COMPLETE,
    HAVE,
    START,
    Offer,
    Packet,
    Receiving,
    Sending,
    TransferError,
    check_name,
    chunk_head,
    readable,
    verdict,
)
from valkyrie.dataplane.wire import FileCode, Type, halves

MTIME_NS = 1_600_000_000_123_456_789
START_TYPE, CHUNK_TYPE, COMPLETE_TYPE = (
    Type.FILE_TRANSFER_START,
    Type.FILE_CHUNK,
    Type.FILE_COMPLETE,
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    (tmp_path / "in").mkdir()
    with Directory(tmp_path / "in") as found:
        yield found


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    return path


def outgoing(source: Source, machine: Sending) -> Iterator[Packet]:
    """Yield what a sender says, once it has been answered."""
    while (block := source.read()) is not None:
        stride = len(chunk_head(0)) + CHUNK_SIZE
        for at in range(0, len(block.full), stride):
            yield Packet(CHUNK_TYPE, ack=False, payload=bytes(block.full[at : at + stride]))
        if block.rest:
            yield Packet(CHUNK_TYPE, ack=False, payload=bytes(block.rest))
        machine.sent(block.size)
    yield machine.complete(source.digest())


def to_the_end(source: Source) -> bytes:
    while source.read() is not None:
        pass
    return source.digest()


def transfer(path: Path, directory: Directory, cut: int | None = None, batch: int = 3) -> int:
    """Send a file, but for all after ``cut`` packets; returns the bytes that were there before."""
    with Source(path) as source:
        machine = Sending(source.offer, 0)
        reception = Reception(directory, 0)
        left = 1 << 62 if cut is None else cut
        try:
            answers = reception.take([machine.start()][:left], 0)
            left -= 1
            if not answers:
                return 0
            have = machine.receive(answers[0], 0)
            assert have is not None
            machine.proved(same=source.proves(have))
            resumed = machine.offset
            queue = deque(list(outgoing(source, machine))[: max(0, left)])
            while queue:
                packets = [queue.popleft() for _ in range(min(batch, len(queue)))]
                for answer in reception.take(packets, 0):
                    machine.receive(answer, 0)
            assert machine.done or cut is not None
            return resumed
        finally:
            reception.close()


def start(name: str = "x", size: int = 10, mtime_ns: int = MTIME_NS) -> Packet:
    payload = START.pack(halves("size", size) | halves("mtime", mtime_ns)) + name.encode()
    return Packet(START_TYPE, ack=False, payload=payload)


def chunk(offset: int, data: bytes) -> Packet:
    return Packet(CHUNK_TYPE, ack=False, payload=chunk_head(offset) + data)


def complete(content: bytes) -> Packet:
    digest = hashlib.sha256(content).digest()
    return Packet(COMPLETE_TYPE, ack=False, payload=verdict(FileCode.OK, digest=digest))


def said(answers: list[Packet]) -> str:
    """Return the verdict that a receiver's last answer is, by name."""
    assert answers[-1].type == COMPLETE_TYPE
    return FileCode(COMPLETE.unpack(answers[-1].payload)["code"]).name


# ---- Pairs ----


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3_000_000])
def test_a_file_arrives_as_it_is(directory: Directory, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = write(tmp_path / "a file", content)
    assert transfer(path, directory) == 0
    stored = directory.path / "a file"
    assert stored.read_bytes() == content
    assert stored.stat().st_mtime_ns == MTIME_NS
    assert os.listdir(directory.path) == ["a file"]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 8 * CHUNK_SIZE),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    batch=st.integers(1, 5),
    data=st.data(),
)
def test_it_arrives_though_it_is_interrupted_changed_and_corrupted(
    size: int, cuts: list[int], batch: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name, Directory(name) as directory:
        place = Path(name) / "x"
        part = Path(name) / "x.part"
        with tempfile.TemporaryDirectory() as other:
            path = write(Path(other) / "x", os.urandom(size))
            good = 0
            for cut in cuts:
                transfer(path, directory, cut, batch)
                if place.exists():  # all went, and only the sender does not know
                    break
                good = part.stat().st_size if part.exists() else 0
                what = data.draw(
                    st.sampled_from(["nothing", "change", "corrupt", "grow", "shrink"])
                )
                if what == "change":
                    path.write_bytes(os.urandom(data.draw(st.integers(0, 8 * CHUNK_SIZE))))
                elif what == "corrupt" and good:
                    content = bytearray(part.read_bytes())
                    content[data.draw(st.integers(0, good - 1))] ^= 0x40
                    part.write_bytes(content)
                elif what == "grow":
                    with part.open("ab") as file:
                        file.write(bytes(data.draw(st.integers(1, CHUNK_SIZE))))
                elif what == "shrink" and good:
                    os.truncate(part, data.draw(st.integers(0, good)))
            transfer(path, directory, None, batch)
            assert place.read_bytes() == path.read_bytes()
            assert not part.exists()


def test_a_transfer_goes_on_where_it_was_interrupted(directory: Directory, tmp_path: Path) -> None:
    path = write(tmp_path / "x", os.urandom(5 * CHUNK_SIZE))
    transfer(path, directory, cut=1 + 3)
    assert (directory.path / "x.part").stat().st_size == 3 * CHUNK_SIZE
    assert transfer(path, directory) == 3 * CHUNK_SIZE
    assert (directory.path / "x").read_bytes() == path.read_bytes()


def test_a_part_of_another_file_is_not_used(directory: Directory, tmp_path: Path) -> None:
    path = write(tmp_path / "x", os.urandom(5 * CHUNK_SIZE))
    transfer(path, directory, cut=1 + 3)
    write(path, os.urandom(4 * CHUNK_SIZE))
    assert transfer(path, directory) == 0
    assert (directory.path / "x").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("content", [b"longer, by another second", b"short"])
def test_a_file_that_changes_while_it_is_sent_is_noticed(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "x", b"as it was offered")
    with Source(path) as source:
        path.write_bytes(content)
        with pytest.raises(TransferError, match="changed while it was sent") as caught:
            to_the_end(source)
    assert caught.value.code == FileCode.CHANGED


# ---- Receivers that are lied to ----


@pytest.mark.parametrize(
    ("packets", "code"),
    [
        ([chunk(0, b"early")], "MALFORMED"),
        ([complete(b"")], "MALFORMED"),
        ([start(), start()], "MALFORMED"),
        ([start(), chunk(1, b"a gap")], "MALFORMED"),
        ([start(), chunk(0, b"abc"), chunk(2, b"overlaps")], "MALFORMED"),
        ([start(), chunk(0, b"abc"), chunk(0, b"again")], "MALFORMED"),
        ([start(), chunk(0, b"abc"), chunk(4, b"a gap")], "MALFORMED"),
        ([start(), chunk(0, b"eleven byte")], "MALFORMED"),
        ([start(), chunk((1 << 64) - 1, b"far away")], "MALFORMED"),
        ([start(size=1 << 20), chunk(0, bytes(CHUNK_SIZE + 1))], "MALFORMED"),
        ([start(), chunk(0, b"abc"), complete(b"abc")], "MALFORMED"),
        ([start(), chunk(0, bytes(10)), complete(b"another")], "DIGEST"),
        ([start(size=0), complete(b"not empty")], "DIGEST"),
        ([start(size=(1 << 64) - 1)], "MALFORMED"),
        ([start(size=1 << 62)], "SIZE"),
        ([start(mtime_ns=(1 << 64) - 1)], "MALFORMED"),
        ([Packet(START_TYPE, ack=False, payload=b"short")], "MALFORMED"),
        ([Packet(START_TYPE, ack=False, payload=bytes(start().payload[:-1]) + b"\xff")], "NAME"),
        ([start(), Packet(CHUNK_TYPE, ack=False, payload=b"short")], "MALFORMED"),
        ([start(), Packet(COMPLETE_TYPE, ack=False, payload=b"short")], "MALFORMED"),
        ([Packet(START_TYPE, ack=True, payload=start().payload)], "MALFORMED"),
        ([Packet(Type.STREAM_DATA, ack=False, payload=b"hello")], "MALFORMED"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_sender_that_breaks_the_protocol_is_told_so(
    directory: Directory, packets: list[Packet], code: str, at_once: bool
) -> None:
    reception = Reception(directory, 0)
    answers: list[Packet] = []
    for some in [packets] if at_once else [[packet] for packet in packets]:
        answers += reception.take(some, 0)
    assert said(answers) == code
    assert reception.machine.done
    assert not (directory.path / "x").exists()


@settings(max_examples=200, deadline=None)
@given(
    packets=st.lists(
        st.one_of(
            st.builds(start, size=st.integers(0, 20)),
            st.builds(chunk, st.integers(0, 20), st.binary(max_size=12)),
            st.builds(complete, st.binary(max_size=12)),
            st.builds(
                Packet, st.integers(0x30, 0x40), ack=st.booleans(), payload=st.binary(max_size=60)
            ),
        ),
        max_size=8,
    )
)
def test_whatever_comes_is_stored_only_with_its_digest(packets: list[Packet]) -> None:
    with tempfile.TemporaryDirectory() as name, Directory(name) as directory:
        reception = Reception(directory, 0)
        answers = [
            a
            for packet in packets
            if not reception.machine.done
            for a in reception.take([packet], 0)
        ]
        reception.close()
        stored = any(
            a.type == COMPLETE_TYPE and COMPLETE.unpack(a.payload)["code"] == FileCode.OK
            for a in answers
        )
        assert (Path(name) / "x").exists() == stored
        assert set(os.listdir(name)) <= {"x", "x.part"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "x/",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\u202etxt.exe",
        ".bashrc",
        "x.part",
        "\udcff",
        "x" * (lib.VK_FILE_NAME_MAX + 1),
    ],
)
def test_a_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(TransferError) as caught:
        check_name(name)
    assert caught.value.code == FileCode.NAME


@pytest.mark.parametrize("name", ["x", "a b", "naïve.tar.gz", "x" * lib.VK_FILE_NAME_MAX, "-rf"])
def test_ordinary_names_are_taken(name: str) -> None:
    check_name(name)


def test_nothing_is_written_through_links_pipes_and_directories(
    directory: Directory, tmp_path: Path
) -> None:
    victim = write(tmp_path / "victim", b"precious")
    (directory.path / "a.part").symlink_to(victim)
    os.mkfifo(directory.path / "b.part")
    os.link(victim, directory.path / "c.part")
    (directory.path / "d").mkdir()
    (directory.path / "e").symlink_to(victim)
    (directory.path / "f.part").mkdir()
    codes = [said(Reception(directory, 0).take([start(name)], 0)) for name in "abcdef"]
    assert codes == ["STORAGE", "STORAGE", "STORAGE", "EXISTS", "EXISTS", "STORAGE"]
    assert victim.read_bytes() == b"precious"


def test_a_file_is_received_once_at_a_time(directory: Directory) -> None:
    first, second = Reception(directory, 0), Reception(directory, 0)
    assert first.take([start()], 0)[0].type == START_TYPE
    assert said(second.take([start()], 0)) == "BUSY"
    first.close()
    assert Reception(directory, 0).take([start()], 0)[0].type == START_TYPE


def test_files_that_are_there_stay_where_the_rules_say_so(tmp_path: Path) -> None:
    write(tmp_path / "x", b"old")
    with Directory(tmp_path, Rules(replace=False)) as directory:
        assert said(Reception(directory, 0).take([start()], 0)) == "EXISTS"
        late = Reception(directory, 0)
        late.take([start("y"), chunk(0, b"0123456789")], 0)
        write(tmp_path / "y", b"old")
        assert said(late.take([complete(b"0123456789")], 0)) == "EXISTS"
    assert (tmp_path / "y").read_bytes() == b"old"


def test_files_that_are_too_large_are_refused(tmp_path: Path) -> None:
    with Directory(tmp_path, Rules(size_max=9)) as directory:
        assert said(Reception(directory, 0).take([start(size=10)], 0)) == "SIZE"
        assert os.listdir(tmp_path) == []


def test_a_part_outlives_its_directory_object(tmp_path: Path) -> None:
    with Directory(tmp_path) as directory:
        reception = Reception(directory, 0)
        reception.take([start()], 0)
    answers = reception.take([chunk(0, b"0123456789"), complete(b"0123456789")], 0)
    assert said(answers) == "OK"
    assert os.listdir(tmp_path) == ["x"]


def test_a_transfer_leaves_no_descriptor_open(directory: Directory, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = write(tmp_path / "x", os.urandom(3 * CHUNK_SIZE))
    for cut in (0, 1, 2, None):
        transfer(path, directory, cut)
    refused = Reception(directory, 0)
    refused.take([start(), chunk(1, b"a gap")], 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_offer_that_nothing_follows_leaves_nothing(directory: Directory) -> None:
    reception = Reception(directory, 0)
    reception.take([start()], 0)
    reception.close()
    assert os.listdir(directory.path) == []


# ---- Senders that are lied to ----


def have(size: int, content: bytes) -> Packet:
    values = halves("size", size) | {"digest": hashlib.sha256(content).digest()}
    return Packet(START_TYPE, ack=True, payload=HAVE.pack(values))


@pytest.mark.parametrize(
    "answers",
    [
        [have(11, bytes(11))],
        [have(0, b""), have(0, b"")],
        [Packet(COMPLETE_TYPE, ack=True, payload=verdict(FileCode.OK))],
        [have(0, b""), Packet(COMPLETE_TYPE, ack=True, payload=verdict(FileCode.OK))],
        [Packet(START_TYPE, ack=False, payload=have(0, b"").payload)],
        [Packet(START_TYPE, ack=True, payload=b"short")],
        [Packet(START_TYPE, ack=True, payload=bytes(have(0, b"").payload) + b"more")],
        [Packet(Type.STREAM_DATA, ack=True, payload=b"hello")],
    ],
)
def test_a_receiver_that_breaks_the_protocol_is_not_believed(answers: list[Packet]) -> None:
    machine = Sending(Offer("x", 10, 0), 0)
    for answer in answers[:-1]:
        machine.receive(answer, 0)
    with pytest.raises(TransferError) as caught:
        machine.receive(answers[-1], 0)
    assert caught.value.code == FileCode.MALFORMED
    assert not machine.done


def test_a_refusal_says_why_and_its_text_is_fit_for_a_terminal() -> None:
    machine = Sending(Offer("x", 10, 0), 0)
    payload = verdict(FileCode.EXISTS, "it \x1b[2J is there")
    with pytest.raises(TransferError, match="it \ufffd\\[2J is there") as caught:
        machine.receive(Packet(COMPLETE_TYPE, ack=True, payload=payload), 0)
    assert caught.value.name == "exists"
    assert readable("x\u202e") == "x\ufffd"


# ---- Time ----


@pytest.mark.parametrize("side", [Sending(Offer("x", 1, 0), 0, 100), Receiving(0, 100)])
def test_silence_ends_a_transfer(side: Sending | Receiving) -> None:
    side.check_silence(99)
    with pytest.raises(TransferError, match="send the file again") as caught:
        side.check_silence(100)
    assert caught.value.code == FileCode.SILENT


def test_a_sign_of_life_breaks_the_silence_and_changes_nothing(directory: Directory) -> None:
    reception = Reception(directory, 0, patience_ns=100)
    reception.take([start()], 50)
    assert reception.take([chunk(0, b"")], 90) == []
    reception.machine.check_silence(150)
    answers = reception.take([chunk(0, b"0123456789"), complete(b"0123456789")], 160)
    assert said(answers) == "OK"
