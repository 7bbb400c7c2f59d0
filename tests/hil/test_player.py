"""The simulated scanner against small servers that speak MRD over loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import RecordingError
from edge_runtime.hil import PlaybackError, play, reordered, undersampled
from edge_runtime.hil.player import Event, ReadoutsSent
from edge_runtime.links.files import Recording
from edge_runtime.links.files.slices import is_image
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_messages import Close, ConfigFile, HeaderText, MessageReader
from edge_runtime.links.mrd_pack import pack_close, pack_image, pack_text, parse_meta_attributes
from edge_runtime.modalities.mri.sampling import uniform
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
)

LINES, SAMPLES, COILS, SLICES = 16, 8, 2, 3
SPACE = EncodingSpace((SAMPLES, LINES, 1), (80.0, 160.0, 5.0))
HEADER = ScanHeader(MriEncoding(SPACE, SPACE, "cartesian", {"kspace_encoding_step_1": Limit(0, LINES - 1, LINES // 2)}))
LAST = np.uint64(ReadoutFlag.LAST_IN_SLICE)


def recording_of(interleaved: bool = False, noise: int = 2, slices: int = SLICES, lines: int = LINES) -> Recording:
    """Noise readouts, then slices line by line; the first sample of each readout is its number."""
    order = np.arange(slices * lines)
    header = np.zeros(noise + len(order), READOUT_DTYPE)
    header["flags"][:noise] = ReadoutFlag.IS_NOISE_MEASUREMENT
    header["phase_encode"][noise:] = order // slices if interleaved else order % lines
    header["slice"][noise:] = order % slices if interleaved else order // lines
    last = {int(head["slice"]): i for i, head in enumerate(header) if i >= noise}
    header["flags"][list(last.values())] |= LAST
    header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)
    header["scan_counter"] = header["time_stamp"] = np.arange(len(header))
    samples = np.zeros((len(header), COILS, SAMPLES), np.complex64)
    samples[:, 0, 0] = np.arange(len(header))

    def batches() -> Iterator[ReadoutBatch]:
        for first in range(0, len(header), 7):
            yield ReadoutBatch(header[first : first + 7].copy(), samples[first : first + 7].copy())

    return Recording(Path("made.mrd"), "made", HEADER, len(header), None, batches)


def everything(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Headers, and the number that each readout had in the original."""
    batches = list(recording.readouts())
    return (
        np.concatenate([batch.header for batch in batches]),
        np.concatenate([batch.samples[:, 0, 0].real.astype(int) for batch in batches]),
    )


Behaviour = Callable[[socket.socket, MessageReader], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], int]]:
    """Starts a server of one connection and returns its port."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []
    listeners: list[socket.socket] = []

    def start(behaviour: Behaviour) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(10)
        listeners.append(listener)

        def run() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    behaviour(connection, MessageReader(connection.recv_into))
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(10)
    for listener in listeners:
        listener.close()
    if errors:
        raise errors[0]


def image_bytes(index: int) -> bytes:
    attributes = "<ismrmrdMeta><meta><name>Role</name><value>preview</value></meta></ismrmrdMeta>"
    return pack_image(np.full((1, 1, 4, 5), index, np.float32), {"image_index": index}, attributes)


class Recorder:
    """A server that answers every last line of a slice with an image."""

    def __init__(self, linger_s: float = 0.0) -> None:
        self.config = ""
        self.header: ScanHeader | None = None
        self.numbers: list[int] = []
        self.arrivals: list[float] = []
        self.linger_s = linger_s

    def __call__(self, connection: socket.socket, reader: MessageReader) -> None:
        images = 0
        for message in reader:
            if isinstance(message, ConfigFile):
                self.config = message.name
                connection.sendall(pack_text("welcome"))
            elif isinstance(message, HeaderText):
                self.header = parse_header(message.xml)
            elif isinstance(message, ReadoutBatch):
                self.numbers += message.samples[:, 0, 0].real.astype(int).tolist()
                self.arrivals += [time.perf_counter()] * len(message)
                for _ in range(int(np.count_nonzero(message.header["flags"] & LAST))):
                    connection.sendall(image_bytes(images))
                    images += 1
            elif isinstance(message, Close):
                time.sleep(self.linger_s)
                connection.sendall(image_bytes(images))
                connection.sendall(pack_close())


# ---------------------------------------------------------------------------------------------------------- playing


def test_a_scan_is_sent_whole_and_every_reply_collected(serve: Callable[[Behaviour], int]) -> None:
    server = Recorder(linger_s=0.05)
    events: list[Event] = []
    result = play(recording_of(), "127.0.0.1", serve(server), config="some", on_event=events.append)
    assert server.config == "some"
    assert server.header is not None and server.header.encoding.encoded == SPACE
    assert server.numbers == list(range(50))
    assert [text.text for text in result.texts] == ["welcome"]
    assert [int(image.message.header["image_index"]) for image in result.images] == list(range(SLICES + 1))
    assert parse_meta_attributes(result.images[0].message.attributes) == {"Role": ["preview"]}
    assert result.images[-1].since_last_readout_s >= 0.05
    assert result.images[-1].since_start_s >= result.images[-1].since_last_readout_s
    assert (result.readouts_sent, result.readout_count, result.closed_early) == (50, 50, False)
    assert events[-1] == result.images[-1].message or isinstance(events[-1], ReadoutsSent)
    assert max(event.sent for event in events if isinstance(event, ReadoutsSent)) == 50


def test_readouts_leave_at_times_fixed_in_advance(serve: Callable[[Behaviour], int]) -> None:
    server = Recorder()

    def slow_listener(event: Event) -> None:
        if isinstance(event, ReadoutsSent) and event.sent == 5:
            time.sleep(0.05)  # the sixth is late; those after it catch up

    result = play(recording_of(), "127.0.0.1", serve(server), repetition_time_ms=10.0, on_event=slow_listener)
    assert 0.48 <= server.arrivals[-1] - server.arrivals[0] < 0.9
    assert result.images[0].since_last_readout_s < 0  # a preview: while the scan went on
    assert 35 <= result.pacing.max_lateness_ms < 400
    assert 0 < result.pacing.p99_lateness_ms <= result.pacing.max_lateness_ms


def test_a_refusal_by_the_server_is_a_result_and_not_an_error(serve: Callable[[Behaviour], int]) -> None:
    def refuse(connection: socket.socket, reader: MessageReader) -> None:
        messages = iter(reader)
        next(messages), next(messages)
        connection.sendall(pack_text("refused: no such scan") + pack_close())
        for _ in messages:
            pass  # until the scanner hangs up

    result = play(recording_of(), "127.0.0.1", serve(refuse), repetition_time_ms=20.0)
    assert result.closed_early and result.readouts_sent < result.readout_count
    assert [text.text for text in result.texts] == ["refused: no such scan"]


def test_a_server_that_vanishes_is_named(serve: Callable[[Behaviour], int]) -> None:
    def vanish(connection: socket.socket, reader: MessageReader) -> None:
        connection.sendall(image_bytes(0))
        for message in reader:
            if isinstance(message, ReadoutBatch):
                return

    port = serve(vanish)
    with pytest.raises(PlaybackError, match=rf"127\.0\.0\.1:{port}: it (vanished|closed)") as caught:
        play(recording_of(), "127.0.0.1", port, repetition_time_ms=10.0)
    assert caught.value.result is not None
    assert len(caught.value.result.images) == 1
    assert 0 < caught.value.result.readouts_sent < 50


def test_a_server_that_never_closes_runs_into_the_timeout(serve: Callable[[Behaviour], int]) -> None:
    def silent(connection: socket.socket, reader: MessageReader) -> None:
        for message in reader:
            if isinstance(message, Close):
                connection.sendall(image_bytes(0))
                break
        assert connection.recv(1) == b""  # until the scanner gives up

    start = time.perf_counter()
    with pytest.raises(PlaybackError, match=r"it sent no CLOSE and nothing else for 0\.3 s .* 1 images") as caught:
        play(recording_of(), "127.0.0.1", serve(silent), reply_timeout_s=0.3)
    assert time.perf_counter() - start < 3
    assert caught.value.result is not None and caught.value.result.readouts_sent == 50


def test_a_server_that_takes_nothing_runs_into_the_timeout(serve: Callable[[Behaviour], int]) -> None:
    done = threading.Event()

    def deaf(connection: socket.socket, reader: MessageReader) -> None:
        assert done.wait(10)

    big = np.zeros((1, 32, 65535), np.complex64)
    endless = Recording(
        Path("big"),
        "made",
        HEADER,
        100,
        None,
        lambda: (ReadoutBatch(np.zeros(1, READOUT_DTYPE), big) for _ in range(100)),
    )
    with pytest.raises(PlaybackError, match=r"it took nothing for 0\.3 s"):
        play(endless, "127.0.0.1", serve(deaf), send_timeout_s=0.3)
    done.set()


def test_a_server_that_speaks_something_else_is_named(serve: Callable[[Behaviour], int]) -> None:
    def web(connection: socket.socket, reader: MessageReader) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass

    with pytest.raises(PlaybackError, match="what it sent is no MRD"):
        play(recording_of(), "127.0.0.1", serve(web), repetition_time_ms=5.0)


def test_no_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PlaybackError, match=rf"no MRD server at 127\.0\.0\.1:{port}") as caught:
        play(recording_of(), "127.0.0.1", port)
    assert caught.value.result is None


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), RecordingError("damaged")])
def test_an_interrupted_scan_ends_its_connection(serve: Callable[[Behaviour], int], raised: BaseException) -> None:
    ended = threading.Event()

    def listen(connection: socket.socket, reader: MessageReader) -> None:
        for _ in reader:
            pass
        assert not reader.closed_cleanly
        ended.set()

    def interrupt(event: Event) -> None:
        if isinstance(event, ReadoutsSent) and event.sent == 3:
            raise raised

    with pytest.raises(type(raised)):
        play(recording_of(), "127.0.0.1", serve(listen), repetition_time_ms=1.0, on_event=interrupt)
    assert ended.wait(5)
    assert not [thread for thread in threading.enumerate() if thread.name == "edge-hil-receiver"]


def test_an_error_of_the_listener_reaches_the_caller(serve: Callable[[Behaviour], int]) -> None:
    def broken(event: Event) -> None:
        if not isinstance(event, ReadoutsSent):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(recording_of(), "127.0.0.1", serve(Quitter()), repetition_time_ms=2.0, on_event=broken)


class Quitter:
    """Sends a text, then reads until the scanner hangs up."""

    def __call__(self, connection: socket.socket, reader: MessageReader) -> None:
        connection.sendall(pack_text("hello"))
        with contextlib.suppress(OSError):
            for _ in reader:
                pass


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_repetition_time_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match="repetition_time_ms"):
        play(recording_of(), "127.0.0.1", 1, repetition_time_ms=value)


# --------------------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize("interleaved", [False, True])
def test_undersampling_drops_image_lines_and_moves_the_end_of_each_slice(interleaved: bool) -> None:
    whole = recording_of(interleaved)
    keep = uniform(LINES, 4, 0.2)
    keep[-1] = False
    plan = undersampled(whole, keep)
    header, numbers = everything(plan)
    original, _ = everything(whole)
    assert plan.readout_count == len(header) == 2 + SLICES * keep.sum()
    image = is_image(header)
    assert numbers[:2].tolist() == [0, 1] and not image[:2].any()
    assert np.all(np.diff(numbers) > 0)
    for name in ("phase_encode", "slice", "time_stamp", "scan_counter"):
        np.testing.assert_array_equal(header[name], original[name][numbers])
    ends = np.flatnonzero(header["flags"] & LAST)
    assert header["slice"][ends].tolist() == [0, 1, 2]
    assert set(header["phase_encode"][ends]) == {np.flatnonzero(keep)[-1]}
    assert header["flags"][-1] & np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)
    assert plan.header.encoding.acceleration == (round(LINES / keep.sum()), 1)
    assert plan.header.parameters["retrospective_acceleration"] == f"{LINES / keep.sum():.4g}"
    assert plan.header.parameters["edge_expected_lines"] == str(keep.sum())


def test_undersampling_what_is_undersampled_declares_the_lines_that_are_left() -> None:
    once = undersampled(recording_of(), uniform(LINES, 2, 0.0))
    twice = undersampled(once, uniform(LINES, 4, 0.5))
    header, _ = everything(twice)
    left = len(set(header["phase_encode"][is_image(header)].tolist()))
    assert left < uniform(LINES, 4, 0.5).sum()
    assert twice.header.parameters["edge_expected_lines"] == str(left)
    assert f"{left} of {LINES} phase encodes are played" in twice.header.notes[-1]
    with pytest.raises(ValueError, match="none of the phase encodes that were recorded"):
        undersampled(once, ~uniform(LINES, 2, 0.0))


@pytest.mark.parametrize("interleaved", [False, True])
def test_centre_out_begins_in_the_centre_of_every_slice(interleaved: bool) -> None:
    plan = reordered(recording_of(interleaved), "centre-out")
    header, numbers = everything(plan)
    whole, _ = everything(recording_of(interleaved))
    np.testing.assert_array_equal(np.sort(numbers), np.arange(50))
    np.testing.assert_array_equal(header["phase_encode"], whole["phase_encode"][numbers])
    np.testing.assert_array_equal(header["slice"], whole["slice"])  # slices keep their places
    np.testing.assert_array_equal(header["scan_counter"], np.arange(50))
    for key in range(SLICES):
        lines = header[(header["slice"] == key) & is_image(header)]
        assert lines["phase_encode"][:5].tolist() == [8, 7, 9, 6, 10]
        assert np.flatnonzero(lines["flags"] & LAST).tolist() == [LINES - 1]
        assert np.flatnonzero(lines["flags"] & np.uint64(ReadoutFlag.FIRST_IN_SLICE)).tolist() == [0]


def test_linear_undoes_centre_out_and_as_recorded_is_nothing() -> None:
    whole = recording_of()
    _, numbers = everything(reordered(reordered(whole, "centre-out"), "linear"))
    np.testing.assert_array_equal(numbers, np.arange(50))
    assert reordered(whole, "as recorded") is whole
    with pytest.raises(ValueError, match="known are as recorded, centre-out, linear"):
        reordered(whole, "backwards")  # type: ignore[arg-type]


def test_a_mask_must_fit_the_matrix() -> None:
    for keep in (np.ones(LINES - 1, bool), np.zeros(LINES, bool)):
        with pytest.raises(ValueError, match="16 phase encodes, some kept, are needed"):
            undersampled(recording_of(), keep)


def test_a_plan_is_played(serve: Callable[[Behaviour], int]) -> None:
    server = Recorder()
    keep = uniform(LINES, 2, 0.0)
    result = play(recording_of(), "127.0.0.1", serve(server), keep=keep, order="centre-out")
    assert result.readout_count == result.readouts_sent == 2 + SLICES * 8
    assert server.header is not None and server.header.encoding.acceleration == (2, 1)
    assert server.numbers[2:5] == [10, 8, 12]  # lines 8, 6, 10 of slice 0 behind two noise readouts
    assert len(result.images) == SLICES + 1
