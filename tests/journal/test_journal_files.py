"""Journals on the disk: what is acknowledged is there, whatever fails, and what is there is told apart from what is not."""

from __future__ import annotations

import errno
import io
import threading
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import PATIENCE_S
from failing_disk import FailingDisk
from hypothesis import given, settings
from simulated import opening, readouts_of, usual_kspace

from edge_runtime.errors import JournalError
from edge_runtime.journal.disk import RealDisk
from edge_runtime.journal.folder import Journal
from edge_runtime.journal.layout import HEAD_BYTES, NOTHING_BEFORE, Origin, State, pack_head, parse_head, state_of
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.journal.record import Record, Replayed, read_record
from edge_runtime.journal.writer import BUFFER_BYTES
from edge_runtime.links.mrd_messages import MessageReader, Text
from edge_runtime.links.mrd_pack import pack_readouts, pack_text
from edge_runtime.scan import ReadoutBatch

AT_ONCE = JournalPolicy(interval_ms=0, patience_s=PATIENCE_S)
GOLDEN_HEAD = (
    b"\x05\x00"  # id of a TEXT message
    b"\xa0\x00\x00\x00"  # length of its text, 160
    b"edge-journal/1 from=scanner group=00000000 bytes=000000000009 readouts=0000000000000 "
    b"body=cbf43926 "  # CRC-32 of "123456789": the check value of IEEE 802.3's polynomial
    b"head=c25bb34e"  # of the text before it
).ljust(166)


def readouts(count: int) -> list[bytes]:
    """One message a readout."""
    return [pack_readouts(readouts_of(usual_kspace(), [line % 32], scan_counter=line)) for line in range(count)]


def record_of(disk: FailingDisk, name: str) -> Record:
    return read_record(disk, name, len(disk.files[name].written))


def content_of(disk: FailingDisk, record: Record, origin: Origin = Origin.SCANNER) -> bytes:
    replayed, found, buffer = Replayed(disk, record, origin), io.BytesIO(), memoryview(bytearray(1000))
    while count := replayed.receive_into(buffer):
        found.write(buffer[:count])
    return found.getvalue()


def test_a_head_is_that_of_the_golden_bytes() -> None:
    head, chain = pack_head(Origin.SCANNER, 0, [b"1234", b"56789"], 0, NOTHING_BEFORE)
    assert head == GOLDEN_HEAD
    assert chain == zlib.crc32(GOLDEN_HEAD[6 : GOLDEN_HEAD.index(b"head=")])
    parsed = parse_head(head, NOTHING_BEFORE)
    assert parsed is not None
    assert (parsed.origin, parsed.number, parsed.size_bytes, parsed.readouts) == (Origin.SCANNER, 0, 9, 0)


@given(st.integers(0, HEAD_BYTES - 1), st.integers(1, 255))
def test_a_head_with_any_byte_changed_is_none(place: int, change: int) -> None:
    damaged = bytearray(GOLDEN_HEAD)
    damaged[place] ^= change
    assert parse_head(damaged, NOTHING_BEFORE) is None


def test_a_head_in_another_place_is_none() -> None:
    assert parse_head(GOLDEN_HEAD, 1) is None
    assert parse_head(GOLDEN_HEAD[:-1], NOTHING_BEFORE) is None


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("a.open", State.OPEN),
        ("a.mrd", State.FINISHED),
        ("a.incomplete.mrd", State.INCOMPLETE),
        ("a.damaged", State.DAMAGED),
        (".mrd", None),
        ("notes.txt", None),
    ],
)
def test_a_name_says_what_became_of_the_scan(name: str, state: State | None) -> None:
    assert state_of(name) is state


@settings(max_examples=60)
@given(
    messages=st.lists(st.integers(1, 3), min_size=1, max_size=8),
    cut=st.integers(0, 8),
    survives=st.lists(st.booleans(), max_size=200),
    torn=st.sampled_from([b"", b"\0", b"\xff", GOLDEN_HEAD, b"edge-journal/1 from="]),
)
def test_what_was_acknowledged_survives_a_power_cut(
    messages: list[int], cut: int, survives: list[bool], torn: bytes
) -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    sent, promised = b"", 0
    for index, count in enumerate(messages):
        if index == cut:  # the power goes while this group is on its way from the kernel's cache to the disk
            promised = journal.flush()
            disk.power.clear()
            disk.syncing.clear()
        data = b"".join(readouts(count))
        journal.keep([data[:100], data[100:]], count)
        if index == cut:
            assert disk.syncing.wait(PATIENCE_S)
            break
        sent += data
    else:
        promised = journal.flush()
    disk.lose_power(survives, torn)
    journal.abandon()
    disk.broken = 0
    record = record_of(disk, "scan.open")
    assert not record.damage
    assert promised <= record.readouts
    survived = content_of(disk, record)
    assert survived[: len(sent)] == sent
    resumed = Journal(disk, AT_ONCE).resume(record)
    more = readouts(2)
    resumed.keep(more, 2)
    assert resumed.flush() == record.readouts + 2
    resumed.close(State.FINISHED)
    again = record_of(disk, "scan.mrd")
    assert again.torn_bytes == 0
    assert content_of(disk, again) == survived + b"".join(more)


@pytest.mark.parametrize("size", [1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES])
def test_messages_of_any_size_are_kept_whole(size: int) -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    data = np.random.default_rng(size).bytes(size)
    journal.keep([b"before"], 0)
    journal.keep([data], 1)
    journal.keep([b"after"], 0)
    assert journal.flush() == 1
    assert content_of(disk, record_of(disk, "scan.open")) == b"before" + data + b"after"
    journal.close(State.FINISHED)


def test_a_finished_scan_is_a_stream_that_any_reader_takes() -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    journal.keep([opening()], 0)
    for message in readouts(5):
        journal.keep([message], 1)
    journal.mark("made")
    journal.close(State.FINISHED)
    stream = io.BytesIO(bytes(disk.files["scan.mrd"].written))
    reader = MessageReader(stream.readinto)
    found = [message for message in reader if not isinstance(message, Text)]
    assert sum(len(message) for message in found if isinstance(message, ReadoutBatch)) == 5
    assert reader.closed_cleanly


def test_marks_are_told_apart_from_texts_of_a_scanner() -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    journal.keep([pack_text("edge-journal: delivered classical final 0 0 0 0 0")], 0)
    journal.mark("ours")
    journal.flush()
    record = record_of(disk, "scan.open")
    assert content_of(disk, record, Origin.RUNTIME) == pack_text("ours")
    journal.close(State.INCOMPLETE)


def test_damage_in_the_middle_is_no_torn_end() -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    for message in readouts(4):
        journal.keep([message], 1)
        journal.flush()
    journal.abandon()
    whole = record_of(disk, "scan.open")
    for place in (whole.groups[1].offset + 20, whole.groups[1].offset - 5):  # its messages, its head
        disk.files["scan.open"].written[place] ^= 1
        record = record_of(disk, "scan.open")
        assert "group 1" in record.damage
        assert "after 1 readouts" in record.damage
        assert record.readouts == 1
        with pytest.raises(JournalError, match="group 1"):
            Journal(disk, AT_ONCE).resume(record)
        disk.files["scan.open"].written[place] ^= 1
    disk.files["scan.open"].written[-1] ^= 1  # of the last group: that is how an unfinished one looks
    record = record_of(disk, "scan.open")
    assert (record.damage, record.readouts) == ("", 3)


@pytest.mark.parametrize("cause", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_acknowledges_nothing_more(cause: int) -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    told: list[str] = []
    journal.on_failed = told.append
    first, second = readouts(2)
    journal.keep([first], 1)
    assert journal.flush() == 1
    disk.broken = cause
    journal.keep([second], 1)
    with pytest.raises(JournalError):
        journal.flush()
    disk.broken = 0  # a later success proves nothing
    journal.keep([second], 1)
    with pytest.raises(JournalError):
        journal.flush()
    assert (journal.durable, len(told)) == (1, 1)
    journal.close(State.FINISHED)
    record = record_of(disk, "scan.incomplete.mrd")
    assert record.readouts == 1


def test_a_full_disk_leaves_what_was_acknowledged() -> None:
    disk = FailingDisk(capacity_bytes=20_000)
    journal = Journal(disk, AT_ONCE).begin("scan")
    with pytest.raises(JournalError, match="No space"):
        for message in readouts(40):
            journal.keep([message], 1)
            journal.flush()
    promised = journal.durable
    journal.close(State.FINISHED)
    assert record_of(disk, "scan.incomplete.mrd").readouts == promised > 0


def test_a_scan_that_must_be_journalled_is_refused_without() -> None:
    disk = FailingDisk()
    journal = Journal(disk, JournalPolicy(interval_ms=0, required=True)).begin("scan")
    failed = threading.Event()
    journal.on_failed = lambda reason: failed.set()
    disk.broken = errno.EIO
    with pytest.raises(JournalError, match=r"journal\.required"):
        journal.keep(readouts(1), 1)
        assert failed.wait(PATIENCE_S)
        journal.keep(readouts(1), 1)
    journal.close(State.INCOMPLETE)


def test_a_disk_that_takes_nothing_is_waited_for_and_then_given_up() -> None:
    disk = FailingDisk()
    journal = Journal(disk, JournalPolicy(interval_ms=0, patience_s=0.2)).begin("scan")
    disk.gate.clear()
    data = bytes(BUFFER_BYTES)
    for _ in range(3):  # one is being written, one waits, and there is no room for the third
        journal.keep([data], 1)
    assert "took nothing" in journal.failed
    journal.close(State.FINISHED)
    disk.gate.set()


def test_backpressure_ends_when_the_disk_goes_on() -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    disk.gate.clear()
    waiting = threading.Thread(target=lambda: [journal.keep([bytes(BUFFER_BYTES)], 1) for _ in range(4)])
    waiting.start()
    assert journal.durable == 0
    disk.gate.set()
    waiting.join(PATIENCE_S)
    assert journal.flush() == 4
    journal.close(State.FINISHED)


def closed(disk: FailingDisk, name: str, size: int, hours_ago: float) -> None:
    disk.create(name)
    disk.files[name].written = bytearray(size)
    disk.changed[name] = disk.now - hours_ago * 3600


def tidied(disk: FailingDisk, **wanted: float) -> list[str]:
    policy = JournalPolicy(**{"retention_h": 72, "most_mb": 100, "leave_free_mb": 0, **wanted})  # type: ignore[arg-type]
    return Journal(disk, policy, now=lambda: disk.now).tidy()


def test_closed_scans_go_by_age_then_by_room_oldest_first() -> None:
    disk = FailingDisk(capacity_bytes=12 << 20)
    for hour, name in enumerate(["f.mrd", "e.incomplete.mrd", "d.open", "c.damaged", "b.mrd", "a.incomplete.mrd"]):
        closed(disk, name, 1 << 20, 100 if name == "a.incomplete.mrd" else hour)
    assert tidied(disk) == ["a.incomplete.mrd"]
    assert tidied(disk, most_mb=2) == ["b.mrd"]
    assert tidied(disk, leave_free_mb=9) == ["e.incomplete.mrd"]
    assert tidied(disk, leave_free_mb=1000) == ["f.mrd"]
    assert sorted(disk.files) == ["c.damaged", "d.open"]


@pytest.mark.parametrize(("jump_h", "gone"), [(-24 * 365, []), (100, ["a.mrd", "b.mrd"])])
def test_a_clock_that_has_jumped_back_lets_nothing_go(jump_h: float, gone: list[str]) -> None:
    disk = FailingDisk()
    closed(disk, "a.mrd", 1, 1)
    closed(disk, "b.mrd", 1, 0)
    disk.now += jump_h * 3600
    assert tidied(disk) == gone


def test_a_clock_that_somebody_has_set_lets_nothing_go() -> None:
    disk = FailingDisk()
    policy = JournalPolicy(retention_h=72, most_mb=100, leave_free_mb=0)
    journal = Journal(disk, policy, now=lambda: disk.now)
    closed(disk, "a.mrd", 1, 0)
    disk.now += 100 * 3600  # and a moment later by any other clock
    assert journal.tidy() == []
    assert Journal(disk, policy, now=lambda: disk.now).tidy() == ["a.mrd"]
    closed(disk, "b.mrd", 1, disk.now / 3600)  # written in 1970, since nobody had set the clock
    assert Journal(disk, policy, now=lambda: disk.now).tidy() == []


def test_a_file_that_has_a_name_keeps_it(tmp_path, request: pytest.FixtureRequest) -> None:
    disk = RealDisk(tmp_path)
    request.addfinalizer(disk.close)
    for number in (5, 1):
        journal = Journal(disk, AT_ONCE).begin("scan")
        journal.keep(readouts(number), number)
        journal.close(State.FINISHED)
    assert read_record(disk, "scan.mrd", (tmp_path / "scan.mrd").stat().st_size).readouts == 5
    assert Journal(disk, AT_ONCE).has("scan")
    assert not Journal(disk, AT_ONCE).has("other")


def test_what_a_failed_sync_left_in_memory_is_not_taken_for_written() -> None:
    disk = FailingDisk()
    journal = Journal(disk, AT_ONCE).begin("scan")
    journal.keep(readouts(3), 3)
    assert journal.flush() == 3
    disk.broken = errno.EIO
    journal.keep(readouts(2), 2)
    with pytest.raises(JournalError):
        journal.flush()
    journal.abandon()
    disk.broken = 0  # the process is killed; the next one finds a disk that works
    (kept,) = Journal(disk, AT_ONCE).interrupted()
    record = Journal(disk, AT_ONCE).read(kept)
    assert record.readouts == 3
    Journal(disk, AT_ONCE).resume(record).abandon()
    assert read_record(disk, kept.name, len(disk.files[kept.name].durable)).readouts == 3


def test_room_is_made_while_a_scan_is_written() -> None:
    disk = FailingDisk(capacity_bytes=300 << 20)
    closed(disk, "old.mrd", 100 << 20, 0)
    policy = JournalPolicy(interval_ms=0, leave_free_mb=150, most_mb=1000)
    journal = Journal(disk, policy, now=lambda: disk.now).begin("scan")
    for _ in range(70):
        journal.keep([bytes(1 << 20)], 0)
    journal.flush()
    assert list(disk.files) == ["scan.open"]
    journal.abandon()


def test_a_folder_has_one_server(tmp_path, request: pytest.FixtureRequest) -> None:
    disk = RealDisk(tmp_path / "journal")
    request.addfinalizer(disk.close)
    with pytest.raises(JournalError, match="another server"):
        RealDisk(tmp_path / "journal")


def test_a_real_folder_does_what_the_other_does(tmp_path, request: pytest.FixtureRequest) -> None:
    disk = RealDisk(tmp_path)
    request.addfinalizer(disk.close)
    journal = Journal(disk, AT_ONCE).begin("scan")
    sent = readouts(3)
    for message in sent:
        journal.keep([message], 1)
    journal.flush()
    journal.abandon()
    with (tmp_path / "scan.open").open("ab") as file:
        file.write(b"torn")
    (kept,) = Journal(disk, AT_ONCE).interrupted()
    record = Journal(disk, AT_ONCE).read(kept)
    assert (record.readouts, record.torn_bytes) == (3, 4)
    resumed = Journal(disk, AT_ONCE).resume(record)
    resumed.keep(sent, 3)
    resumed.close(State.FINISHED)
    assert (tmp_path / "scan.mrd").stat().st_mode & 0o777 == 0o600
    again = read_record(disk, "scan.mrd", (tmp_path / "scan.mrd").stat().st_size)
    assert (again.readouts, again.torn_bytes, again.damage) == (6, 0, "")
