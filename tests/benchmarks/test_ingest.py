"""The receiver in plain C takes in what was sent, and our share of its rate is that of the same turns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ingest
from benchmarks.peers import plain_receiver
from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_readouts, pack_text
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.scan import READOUT_DTYPE, ReadoutBatch

LINES, COILS, SAMPLES = SHAPE = (6, 2, 5)
OPENING = pack_config_file("edge") + pack_header(b"<ismrmrdHeader/>") + pack_text("a text on the way")


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with plain_receiver.compiled() as found:
        assert found is not None, "building the package takes a compiler; cc is its name on every Debian"
        yield found


def slice_of(seed: int, lines: int = LINES) -> Complex:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal((lines, COILS, SAMPLES)) + 1j, np.complex64)


def readouts(samples: Complex, order: list[int] | None = None) -> bytes:
    """Messages of the lines of a slice, in some order."""
    places = list(range(len(samples))) if order is None else order
    header = np.zeros(len(places), READOUT_DTYPE)
    header["phase_encode"] = places
    return bytes(pack_readouts(ReadoutBatch(header, np.ascontiguousarray(samples[places]))))


def received(program: Path, data: bytes, piece: int = 1 << 20, buffer_bytes: int = 1 << 12) -> plain_receiver.Received:
    """What the program makes of bytes that are sent in pieces."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with ours:
            for start in range(0, len(data), piece):
                try:
                    ours.sendall(data[start : start + piece])
                except OSError:  # it has refused what came before
                    return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with theirs:
            return plain_receiver.receive(program, theirs, SHAPE, buffer_bytes)
    finally:
        sender.join()


@pytest.mark.parametrize("piece", [1, 97, 1 << 20])
def test_every_readout_is_counted_and_put_in_its_line(program: Path, piece: int) -> None:
    first, last = slice_of(1), slice_of(2)
    data = OPENING + readouts(first) + readouts(last, [5, 0, 3, 1, 4, 2]) + pack_close()
    found = received(program, data, piece)
    assert (found.readouts, found.slice_sum) == (2 * LINES, plain_receiver.slice_sum(last))


def test_a_slice_with_two_lines_exchanged_has_another_sum() -> None:
    samples = slice_of(1)
    assert plain_receiver.slice_sum(samples) != plain_receiver.slice_sum(samples[[1, 0, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (OPENING + readouts(slice_of(1)), "without CLOSE"),
        (OPENING + b"\x63\x00" + pack_close(), "unknown message"),
        (OPENING + readouts(slice_of(1, lines=7)) + pack_close(), "another geometry"),
        (OPENING + readouts(slice_of(1)[:, :1]) + pack_close(), "another geometry"),
        (OPENING + pack_text("x" * 5000) + pack_close(), "larger than the buffer"),
    ],
)
def test_what_it_cannot_take_ends_it(program: Path, data: bytes, why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        received(program, data)


def test_server_and_plain_c_take_in_the_same_scan(program: Path) -> None:
    assert ingest.assembled_rate(repetitions=2) > 0  # it raises where a readout is missing
    assert ingest.plain_c_rate(repetitions=2, program=program, buffer_bytes=1 << 20) > 0


def test_the_share_is_that_of_the_faster_form_turn_by_turn() -> None:
    small, large = (ingest._plain_c(size) for size in ingest.PLAIN_C_BUFFERS_BYTES)
    record = ingest.share_of_plain_c(
        {
            "assembled": [50.0, 90.0, 80.0],
            "parsed": [90.0, 95.0, 180.0],
            small: [10.0, 10.0, 10.0],
            large: [100.0, 100.0, 200.0],
        }
    )
    assert (record.value, record.n, record.target, record.met) == (0.5, 3, 0.8, False)
    assert "(ingest.parsed_readouts_per_s): 0.90" in record.note


def test_without_a_compiler_there_is_a_record_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_receiver.shutil, "which", lambda name: None)
    with plain_receiver.compiled() as program:
        assert program is None
    record = ingest.share_of_plain_c({"assembled": [50.0]})
    assert (record.n, record.met) == (0, None)
    assert "no C compiler" in record.note
