"""Scans that outlive their connection, and their server: real sockets, real files."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S, Client, Replies, RunningServer, attribute, profile_of
from failing_disk import FailingDisk
from simulated import header_of, opening, readouts_of, scan_bytes, usual_kspace

from edge_runtime import session
from edge_runtime.cli import main
from edge_runtime.hil import PlaybackError, play
from edge_runtime.journal.disk import Disk, JournalFile, RealDisk
from edge_runtime.journal.folder import Journal
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.journal.record import read_record
from edge_runtime.links.files import open_recording
from edge_runtime.links.mrd_messages import ImageMessage, Text
from edge_runtime.links.mrd_pack import pack_close, pack_readouts, pack_text
from edge_runtime.runtime import open_runtime
from edge_runtime.scan import ReadoutBatch

LINES = 32
POLICY = JournalPolicy(interval_ms=0, grace_s=PATIENCE_S, patience_s=PATIENCE_S)
KSPACE = usual_kspace()
READOUTS = readouts_of(KSPACE)
BEGINNING = pack_text("durable scan-1") + opening()


def some(first: int, last: int) -> bytes:
    """Messages of readouts, the first of which is number 0."""
    return pack_readouts(ReadoutBatch(READOUTS.header[first:last], READOUTS.samples[first:last]))


StartServer = Callable[..., RunningServer]


@pytest.fixture
def serve_with_journal(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers, one after the other, with one folder for journals and one for images."""
    with contextlib.ExitStack() as everything:

        def start(policy: JournalPolicy = POLICY, disk: Disk | None = None) -> RunningServer:
            stack = everything.enter_context(contextlib.ExitStack())
            if disk is None:
                disk = RealDisk(tmp_path / "journal")
                stack.callback(disk.close)
            journal = Journal(disk, policy)
            runtime = open_runtime(
                replace(profile_of(), journal=policy), bundle=None, output=tmp_path / "out", journal=journal
            )
            running = RunningServer(stack.enter_context(runtime))
            stack.callback(running.stop)
            running.end = stack.close  # type: ignore[attr-defined]
            return running

        yield start


def acknowledged(client: Client, readouts: int) -> list[ImageMessage]:
    """Waits until so many are durable; returns the images that came meanwhile."""
    images = []
    while True:
        message = client.receive()
        assert message is not None, "the server closed"
        if isinstance(message, ImageMessage):
            images.append(message)
        elif isinstance(message, Text) and message.text.startswith("durable_through"):
            if int(message.text.split()[1]) == readouts:
                return images
        else:
            assert not str(message).startswith("error"), message


def journals(tmp_path: Path, pattern: str) -> list[Path]:
    return sorted((tmp_path / "journal").glob(pattern))


def appears(tmp_path: Path, pattern: str) -> Path:
    """A journal's file, once there is one; closing goes on after a client has gone."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := journals(tmp_path, pattern)):
        assert time.monotonic() < deadline, f"no {pattern}: {journals(tmp_path, '*')}"
        time.sleep(0.02)
    return found[0]


def gone(tmp_path: Path, pattern: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while journals(tmp_path, pattern):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def first_acknowledgement(client: Client) -> int:
    """What a scanner that comes back is told first of all."""
    while True:
        message = client.receive()
        assert message is not None, "the server closed"
        assert not str(message).startswith("error"), message
        if isinstance(message, Text) and message.text.startswith("durable_through"):
            return int(message.text.split()[1])


def ended(replies: Replies) -> int:
    """Of a scan of which a scanner is told that it has ended: how many readouts are on disk."""
    assert "has ended" in replies.text, replies.texts
    return int(replies.texts[0].removeprefix("durable_through "))


def told_of_the_end(server: RunningServer) -> int:
    """The same, asked until the scan has ended: its images are on disk before its end is known."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with server.connect() as client:
            client.send(BEGINNING)
            replies = client.replies()
        if "has ended" in replies.text or time.monotonic() > deadline:
            return ended(replies)
        time.sleep(0.02)


def pixels(replies: Replies) -> list[np.ndarray]:
    return [image.pixels for image in replies.images if attribute(image, "EdgeCompleteness") == "final"]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    """The final images of the scan where nothing breaks, and where nothing is kept."""
    with open_runtime(profile_of(), bundle=None, output=None) as runtime:
        server = RunningServer(runtime)
        try:
            return pixels(server.exchange(scan_bytes(READOUTS)))
        finally:
            server.stop()


def same(images: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(images) == len(others) > 0 and all(map(np.array_equal, images, others))


def test_a_scanner_that_knows_nothing_of_journals_is_journalled(serve_with_journal, tmp_path, expected) -> None:
    replies = serve_with_journal().exchange(scan_bytes(READOUTS))
    assert same(pixels(replies), expected)
    assert not any("durable" in text for text in replies.texts)
    kept = appears(tmp_path, "*.mrd")
    again = open_recording(kept, None)
    batches = list(again.readouts())
    assert again.readout_count == LINES
    np.testing.assert_array_equal(np.concatenate([batch.samples for batch in batches]), READOUTS.samples)
    assert main(["journal", "verify", str(tmp_path / "journal")]) == 0


def test_a_scan_goes_on_over_another_connection(serve_with_journal, tmp_path, expected) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 0)
        client.send(some(0, 20))
        acknowledged(client, 20)
        client.send(some(20, 21)[:500])  # in the middle of a readout
        client.vanish()
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 20)
        client.send(some(20, LINES) + pack_close())
        replies = client.replies()
    assert same(pixels(replies), expected)
    assert open_recording(appears(tmp_path, "*.mrd"), None).readout_count == LINES
    assert len(server.files("*/report.json")) == 1


def test_a_half_open_connection_is_taken_over(serve_with_journal, expected) -> None:
    server = serve_with_journal()
    with server.connect() as silent, server.connect() as client:
        silent.send(BEGINNING + some(0, 9))
        acknowledged(silent, 9)
        client.send(BEGINNING)
        acknowledged(client, 9)
        client.send(some(9, LINES) + pack_close())
        assert same(pixels(client.replies()), expected)
        silent.replies()  # it is told that nothing more comes


@pytest.mark.parametrize("claim", ["another header", "another configuration", "readouts at once"])
def test_who_claims_a_scan_that_is_not_theirs_does_not_harm_it(claim, serve_with_journal, expected) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING + some(0, 9))
        acknowledged(client, 9)
    wrong = {
        "another header": opening(header_of(acceleration=2)),
        "another configuration": opening(configuration="edge"),
        "readouts at once": some(9, 10),
    }[claim]
    with server.connect() as client:
        client.send(pack_text("durable scan-1") + wrong)
        assert "error:" in client.replies().text
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 9)
        client.send(some(9, LINES) + pack_close())
        assert same(pixels(client.replies()), expected)


@pytest.mark.parametrize(
    "claim",
    [pack_close(), b"\xff\xff" * 40, pack_text("durable scan-1"), opening()[:-100]],
    ids=["close", "garbage", "its name twice", "half its opening"],
)
def test_who_knows_only_the_name_of_a_scan_does_not_end_it(claim, serve_with_journal, expected) -> None:
    server = serve_with_journal()
    with server.connect() as owner, server.connect() as visitor:
        owner.send(BEGINNING + some(0, 9))
        acknowledged(owner, 9)
        visitor.send(pack_text("durable scan-1") + claim)
        visitor.half_close()
        assert "error:" in visitor.replies().text
        owner.send(some(9, LINES) + pack_close())
        assert same(pixels(owner.replies()), expected)


def test_images_that_wait_for_their_scanner_are_shown_to_nobody_else(serve_with_journal, monkeypatch) -> None:
    gone = threading.Event()
    made = session.reconstruct

    def once_it_is_gone(*arguments, **options):  # a client that still listened would be sent the image
        gone.wait(PATIENCE_S)
        return made(*arguments, **options)

    monkeypatch.setattr(session, "reconstruct", once_it_is_gone)
    slices = [readouts_of(KSPACE * (1 + index), last=True, slice=index) for index in range(2)]
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 0)
        client.send(pack_readouts(slices[0])[:-100])
        time.sleep(0.2)
        client.send(pack_readouts(slices[0])[-100:])
        client.vanish()
    gone.set()
    server.wait_for_files("*/classical_final*/*.dcm")
    with server.connect() as visitor:
        visitor.send(pack_text("durable scan-1") + opening(header_of(acceleration=2)))
        assert not visitor.replies().images
    with server.connect() as client:
        client.send(BEGINNING)
        images = acknowledged(client, LINES)
        client.send(pack_readouts(slices[1]) + pack_close())
        images += client.replies().images
    shown = {int(image.header["slice"]) for image in images if attribute(image, "EdgeMethod") == "classical"}
    assert shown == {0, 1}


def test_who_comes_back_is_told_of_all_that_the_scan_has_and_not_of_less(serve_with_journal, expected) -> None:
    """The disk is slow: readouts are with the server that are not on it, when another connection takes the scan over."""
    disk = FailingDisk()
    server = serve_with_journal(disk=disk)
    with server.connect() as old, server.connect() as new:
        old.send(BEGINNING + some(0, 5))
        acknowledged(old, 5)
        disk.power.clear()
        disk.syncing.clear()
        old.send(some(5, 10))
        assert disk.syncing.wait(PATIENCE_S)
        old.send(some(10, 15))
        time.sleep(0.3)
        new.send(BEGINNING)
        time.sleep(0.3)
        disk.power.set()
        assert first_acknowledgement(new) == 15
        new.send(some(15, LINES) + pack_close())
        assert same(pixels(new.replies()), expected)
    (file,) = disk.files.items()
    assert read_record(disk, file[0], len(file[1].durable)).readouts == LINES


@pytest.mark.parametrize("when", ["while the last sync hangs", "when the disk has failed"])
def test_of_a_scan_that_has_ended_what_is_on_disk_is_told(when, serve_with_journal) -> None:
    disk = FailingDisk()
    server = serve_with_journal(replace(POLICY, patience_s=1.0), disk=disk)
    with server.connect() as client:
        client.send(BEGINNING + some(0, 20))
        acknowledged(client, 20)
        if when.startswith("while"):
            disk.power.clear()
        else:
            disk.broken = errno.EIO
        client.send(some(20, LINES) + pack_close())
        client.replies()
    with server.connect() as client:
        client.send(BEGINNING)
        replies = client.replies()
    assert ended(replies) == 20
    assert any(text.startswith("not durable:") for text in replies.texts)
    disk.power.set()


def test_a_scan_whose_journal_failed_while_it_waited_is_shown_and_no_more_of_it_acknowledged(
    serve_with_journal,
) -> None:
    disk = FailingDisk()
    server = serve_with_journal(disk=disk)
    with server.connect() as client:
        client.send(BEGINNING + some(0, 20))
        acknowledged(client, 20)
        disk.power.clear()
        disk.syncing.clear()
        client.send(some(20, 25))
        assert disk.syncing.wait(PATIENCE_S)
        client.vanish()
        time.sleep(0.3)
        disk.broken = errno.EIO
        disk.power.set()
    server.wait_for_files("*/classical_incomplete*/*.dcm")
    assert told_of_the_end(server) == 20


def test_a_scan_that_no_journal_keeps_is_taken_from_nobody(serve, expected) -> None:
    server = serve()
    with server.connect() as owner, server.connect() as other:
        owner.send(BEGINNING + some(0, 9))
        while not (isinstance(message := owner.receive(), Text) and message.text.startswith("not durable:")):
            assert message is not None
        other.send(BEGINNING)
        assert "no journal is kept of it" in other.replies().text
        owner.send(some(9, LINES) + pack_close())
        assert same(pixels(owner.replies()), expected)


class NoResume(RealDisk):
    """Its files can be read and not gone on with."""

    def resume(self, name: str, size_bytes: int) -> JournalFile:
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_scan_that_can_be_read_but_not_gone_on_with_gets_its_image(serve_with_journal, tmp_path) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING + some(0, 20))
        acknowledged(client, 20)
        server.end()
    disk = NoResume(tmp_path / "journal")
    server = serve_with_journal(disk=disk)
    server.wait_for_files("*/classical_incomplete*/*.dcm")
    assert told_of_the_end(server) == 20
    server.end()
    disk.close()


def test_a_scan_that_had_ended_is_remembered_by_the_next_server(serve_with_journal, tmp_path) -> None:
    server = serve_with_journal(replace(POLICY, grace_s=0.2))
    with server.connect() as client:
        client.send(BEGINNING + some(0, 20))
        acknowledged(client, 20)
        client.vanish()
    appears(tmp_path, "*.incomplete.mrd")
    server.end()
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING)
        assert ended(client.replies()) == 20
    assert len(journals(tmp_path, "*")) == 1


def test_who_comes_back_while_the_scan_ends_is_told_when_it_has(serve_with_journal) -> None:
    disk = FailingDisk()
    server = serve_with_journal(disk=disk)
    with server.connect() as client, server.connect() as other:
        client.send(BEGINNING + some(0, 9))
        acknowledged(client, 9)
        disk.power.clear()
        client.send(pack_close())
        time.sleep(0.3)
        other.send(BEGINNING)
        time.sleep(0.3)
        disk.power.set()
        assert ended(other.replies()) == 9
        client.replies()


def test_a_scanner_that_does_not_come_back_gets_its_incomplete_image(serve_with_journal, tmp_path) -> None:
    server = serve_with_journal(replace(POLICY, grace_s=0.3))
    with server.connect() as client:
        client.send(BEGINNING + some(0, 28))
        acknowledged(client, 28)
        client.vanish()
    server.wait_for_files("*/classical_incomplete*/*.dcm")
    assert open_recording(appears(tmp_path, "*.incomplete.mrd"), None).readout_count == 28


def test_who_comes_back_to_an_ended_scan_is_told_so(serve_with_journal) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING + some(0, LINES) + pack_close())
        client.replies()
    with server.connect() as client:
        client.send(BEGINNING)
        replies = client.replies()
    assert replies.texts[0] == f"durable_through {LINES}"
    assert "has ended" in replies.texts[1]
    assert replies.closed
    assert len(server.files("*/report.json")) == 1


def test_a_scan_goes_on_after_its_server_was_restarted(serve_with_journal, tmp_path, expected) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING + some(0, 20))
        acknowledged(client, 20)
        server.end()
    assert len(journals(tmp_path, "*.open")) == 1
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 20)
        client.send(some(20, LINES) + pack_close())
        assert same(pixels(client.replies()), expected)
    assert open_recording(appears(tmp_path, "*.mrd"), None).readout_count == LINES
    assert not journals(tmp_path, "*.open")


def test_an_image_that_was_delivered_before_a_restart_is_not_made_twice(serve_with_journal, tmp_path) -> None:
    slices = [readouts_of(KSPACE * (1 + index), last=True, slice=index) for index in range(2)]
    scan = pack_text("durable two-slices") + opening()
    server = serve_with_journal()
    with server.connect() as client:
        client.send(scan + pack_readouts(slices[0]))
        acknowledged(client, LINES)
        made = server.wait_for_files("*/classical_final*/*.dcm")
        server.end()
    server = serve_with_journal()
    with server.connect() as client:
        client.send(scan)
        images = acknowledged(client, LINES)
        client.send(pack_readouts(slices[1]) + pack_close())
        images += client.replies().images
    kinds = ((attribute(image, "EdgeMethod"), attribute(image, "EdgeCompleteness"), image) for image in images)
    shown = [image for method, completeness, image in kinds if (method, completeness) == ("classical", "final")]
    assert sorted(int(image.header["slice"]) for image in shown) == [0, 1]
    assert len(server.files("*/classical_final*/*.dcm")) == 2
    assert set(made) <= set(server.files("*/classical_final*/*.dcm"))


@pytest.mark.parametrize("beginning", [BEGINNING, opening()], ids=["durable", "standard"])
def test_a_scan_that_a_power_cut_interrupted_gets_its_incomplete_image(beginning, serve_with_journal, tmp_path) -> None:
    disk = RealDisk(tmp_path / "journal")
    journal = Journal(disk, POLICY).begin("20261127T180000Z-0001")
    journal.keep([beginning], 0)
    journal.keep([some(0, 28)], 28)
    journal.flush()
    journal.abandon()
    disk.close()
    with (tmp_path / "journal" / "20261127T180000Z-0001.open").open("ab") as file:
        file.write(bytes(5000))  # a group that had not reached the disk
    server = serve_with_journal(replace(POLICY, grace_s=0.1))
    server.wait_for_files("20261127T180000Z-0001/classical_incomplete*/*.dcm")
    assert open_recording(appears(tmp_path, "*.incomplete.mrd"), None).readout_count == 28


@pytest.mark.parametrize("sent", [pack_text("durable scan-1"), BEGINNING[:-10]], ids=["its name", "half its header"])
@pytest.mark.parametrize("broke", ["the link", "the server"])
def test_a_scan_that_had_not_begun_begins_anew(broke, sent, serve_with_journal, tmp_path, expected) -> None:
    if broke == "the server":
        disk = RealDisk(tmp_path / "journal")
        journal = Journal(disk, POLICY).begin("20261127T180000Z-0001")
        journal.keep([pack_text("durable scan-1")], 0)
        journal.flush()
        journal.abandon()
        disk.close()
    server = serve_with_journal()
    if broke == "the link":
        with server.connect() as client:
            client.send(sent)
            client.half_close()
            client.replies()
    else:
        gone(tmp_path, "*.open")
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 0)
        client.send(some(0, LINES) + pack_close())
        assert same(pixels(client.replies()), expected)
    assert any(open_recording(kept, None).readout_count == LINES for kept in journals(tmp_path, "*Z-0*[0-9].mrd"))


def test_a_damaged_journal_is_kept_for_a_person_and_its_sound_part_shown(serve_with_journal, tmp_path, capsys) -> None:
    server = serve_with_journal()
    with server.connect() as client:
        client.send(BEGINNING)
        acknowledged(client, 0)
        for first in range(0, LINES - 1):
            client.send(some(first, first + 1))
            acknowledged(client, first + 1)
        server.end()
    (kept,) = journals(tmp_path, "*.open")
    content = bytearray(kept.read_bytes())
    content[content.index(b"readouts=0000000000029") + 200] ^= 1
    kept.write_bytes(content)
    assert main(["journal", "verify", str(tmp_path / "journal")]) == 1
    assert "after 28 readouts" in capsys.readouterr().out
    server = serve_with_journal()
    server.wait_for_files("*/classical_incomplete*/*.dcm")
    damaged = appears(tmp_path, "*.damaged")
    assert damaged.read_bytes() == bytes(content)
    assert main(["journal", "export", str(damaged), str(tmp_path / "rescued.mrd")]) == 1
    assert open_recording(tmp_path / "rescued.mrd", None).readout_count == 28


@pytest.mark.parametrize("when", ["at its begin", "in its middle"])
def test_a_broken_disk_stops_no_scan_and_acknowledges_nothing(when, serve_with_journal, expected) -> None:
    disk = FailingDisk(broken=errno.EIO if when == "at its begin" else 0)
    server = serve_with_journal(disk=disk)
    with server.connect() as client:
        client.send(BEGINNING)
        if when == "in its middle":
            acknowledged(client, 0)
            disk.broken = errno.EIO
        client.send(some(0, 9))
        while not (isinstance(message := client.receive(), Text) and message.text.startswith("not durable:")):
            assert message is not None
            assert not str(message).startswith("durable_through")
        client.send(some(9, LINES) + pack_close())
        replies = client.replies()
    assert same(pixels(replies), expected)
    assert not any(text.startswith("durable_through") for text in replies.texts)
    if when == "in its middle":
        assert "not journalled" in str([attribute(image, "EdgeNotes") for image in replies.images])


def test_a_scan_that_must_be_journalled_is_refused_by_a_broken_disk(serve_with_journal) -> None:
    server = serve_with_journal(replace(POLICY, required=True), disk=FailingDisk(broken=errno.EROFS))
    replies = server.exchange(scan_bytes(READOUTS))
    assert "JournalError" in replies.text
    assert not replies.images


def test_without_a_journal_nothing_is_promised(serve, expected) -> None:
    with serve().connect() as client:
        client.send(BEGINNING + some(0, LINES) + pack_close())
        replies = client.replies()
    assert same(pixels(replies), expected)
    assert "not durable: this server keeps no journal" in replies.texts


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65])
def test_a_name_that_can_be_none_is_refused(name, serve_with_journal) -> None:
    replies = serve_with_journal().exchange(pack_text(f"durable {name}") + opening())
    assert "1 to 64" in replies.text


class CuttingProxy:
    """Between scanner and server; cuts each connection after so many bytes, the last one never."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._server_port = port
        self._cuts = iter(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                threading.Thread(target=self._forward, args=(server, peer, None), daemon=True).start()
                threading.Thread(target=self._forward, args=(peer, server, next(self._cuts, None)), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, to: socket.socket, most: int | None) -> None:
        left = most
        with contextlib.suppress(OSError):
            while data := source.recv(65536 if left is None else min(65536, left)):
                to.sendall(data)
                if left is not None and (left := left - len(data)) <= 0:
                    break
            for end in (source, to):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def test_the_simulated_scanner_goes_on_where_its_connection_broke(serve_with_journal, tmp_path, expected) -> None:
    path = tmp_path / "scan.mrd"
    path.write_bytes(scan_bytes(READOUTS))
    server = serve_with_journal()
    begun = len(BEGINNING)
    proxy = CuttingProxy(server.server.port, [begun + 5000, begun + 11000, begun - 3, begun + 1])
    try:
        result = play(
            open_recording(path, None), "127.0.0.1", proxy.port,
            config="edge-classical", repetition_time_ms=2.0, durable="scan-1",
        )  # fmt: skip
    finally:
        proxy.close()
    assert (result.connections, result.readouts_sent) == (5, LINES)
    kept = open_recording(appears(tmp_path, "*.mrd"), None)
    np.testing.assert_array_equal(np.concatenate([batch.samples for batch in kept.readouts()]), READOUTS.samples)
    final = [image.message for image in result.images if attribute(image.message, "EdgeCompleteness") == "final"]
    assert same([image.pixels for image in final], expected)


def test_a_second_simulated_scanner_goes_on_where_the_first_was_stopped(serve_with_journal, tmp_path, expected) -> None:
    path = tmp_path / "scan.mrd"
    path.write_bytes(scan_bytes(READOUTS))
    server = serve_with_journal()
    recording, port = open_recording(path, None), server.server.port

    class Stopped(Exception):
        pass

    def stop(event: object) -> None:
        if getattr(event, "sent", 0) >= 20:
            raise Stopped

    with pytest.raises(Stopped):
        play(
            recording,
            "127.0.0.1",
            port,
            config="edge-classical",
            repetition_time_ms=5.0,
            durable="scan-1",
            on_event=stop,
        )
    result = play(open_recording(path, None), "127.0.0.1", port, config="edge-classical", durable="scan-1")
    assert result.durable_through == LINES
    assert open_recording(appears(tmp_path, "*.mrd"), None).readout_count == LINES
    final = [image.message for image in result.images if attribute(image.message, "EdgeCompleteness") == "final"]
    assert same([image.pixels for image in final], expected)


def test_the_simulated_scanner_gives_up_a_server_that_has_gone(serve_with_journal, tmp_path) -> None:
    path = tmp_path / "scan.mrd"
    path.write_bytes(scan_bytes(READOUTS))
    server = serve_with_journal()
    port, ended = server.server.port, threading.Event()

    def stop(event: object) -> None:
        if not ended.is_set():
            ended.set()
            threading.Thread(target=server.stop).start()

    with pytest.raises(PlaybackError, match="no MRD server") as told:
        play(
            open_recording(path, None), "127.0.0.1", port,
            config="edge-classical", repetition_time_ms=20.0, durable="scan-1", resume_s=1.0, on_event=stop,
        )  # fmt: skip
    assert told.value.result is not None
    assert told.value.result.durable_through is not None
