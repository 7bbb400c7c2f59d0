"""Pixels that are compressed on the way arrive as they were, and only where the receiver takes that and the link is slow."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delivery_objects import DIMSE, add_images, settings_of, write_images
from delivery_parts import Link, all_are, sending, until
from hypothesis import given, settings
from hypothesis import strategies as st
from pacs_fixtures import StartStoreScp
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
)
from pynetdicom import AE, evt

from benchmarks.peers.pacs import PACS_PORT, STORESCP_AE, STORESCP_PORT, Orthanc
from edge_runtime.delivery.destinations import compression
from edge_runtime.delivery.destinations.compression import SYNTAXES, LinkSpeed, compressed, offered
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox
from edge_runtime.errors import DeliveryConfigurationError

pytest_plugins = ["pacs_fixtures"]

UNCONFIRMED = 'confirm = "none"\n'


def smooth_images(folder: Path, count: int, side: int = 64) -> list[Path]:
    """Images that can be made smaller."""
    paths = write_images(folder, count, side)
    for number, path in enumerate(paths):
        dataset = dcmread(path)
        ramp = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint16) + number
        dataset.PixelData = ramp.tobytes()
        dataset.save_as(path)
    return paths


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SYNTAXES),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([1, 4000, 65535]),
    st.integers(0, 99),
)
def test_no_pixel_is_lost(syntax: str, rows: int, columns: int, frames: int, peak: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_images(Path(folder), 1)
        dataset = dcmread(path)
        pixels = np.random.default_rng(seed).integers(0, peak + 1, (frames, rows, columns), np.uint16)
        pixels = np.repeat(pixels, 9, axis=2)  # something to gain
        dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, 9 * columns, frames
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path)
        smaller = compressed(path, {syntax, str(ExplicitVRLittleEndian)})
        if smaller is None:
            return  # nothing gained
        assert smaller.file_meta.TransferSyntaxUID == syntax
        assert smaller.SOPInstanceUID == dataset.SOPInstanceUID
        assert len(smaller.PixelData) < len(dataset.PixelData)
        np.testing.assert_array_equal(smaller.pixel_array.reshape(pixels.shape), pixels)


def test_ordinary_images_become_smaller(tmp_path: Path) -> None:
    (path,) = smooth_images(tmp_path, 1)
    for syntax in SYNTAXES:
        smaller = compressed(path, {syntax})
        assert smaller is not None and len(smaller.PixelData) < 64 * 64


def test_what_does_not_come_back_the_same_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = smooth_images(tmp_path, 1)
    honest = Dataset.compress

    def altering(self: Dataset, *arguments: Any, **named: Any) -> None:
        pixels = bytearray(self.PixelData)
        pixels[100] ^= 1
        self.PixelData = bytes(pixels)
        honest(self, *arguments, **named)

    assert compressed(path, SYNTAXES) is not None
    monkeypatch.setattr(Dataset, "compress", altering)
    assert compressed(path, SYNTAXES) is None


def test_what_gains_nothing_goes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (noise,) = write_images(tmp_path, 1)
    assert compressed(noise, SYNTAXES) is None
    (smooth,) = smooth_images(tmp_path / "smooth", 1)
    assert compressed(smooth, {str(ExplicitVRLittleEndian)}) is None
    monkeypatch.setattr(compression, "LARGEST_BYTES", 1000)
    assert compressed(smooth, SYNTAXES) is None


def test_a_link_is_slow_only_once_that_is_known() -> None:
    speed = LinkSpeed()
    assert not speed.is_slow(1000)
    speed.sent(100, 1.0)
    assert speed.is_slow(1000)
    for _ in range(20):
        speed.sent(50_000, 1.0)
    assert not speed.is_slow(1000)
    assert LinkSpeed(100).is_slow(1000)


def test_the_policy_is_checked(tmp_path: Path) -> None:
    (destination,) = settings_of(tmp_path, DIMSE + 'compress = "slow-link"\nslow_link_kbit_s = 800\n').destinations
    assert (destination.compress, destination.slow_link_bytes_per_s) == ("slow-link", 100_000)
    assert offered(destination) == SYNTAXES
    assert offered(settings_of(tmp_path, DIMSE).destinations[0]) == ()
    folder = '[[destination]]\nname = "usb"\nkind = "folder"\npath = "x"\ncompress = "always"\n'
    for wrong in (DIMSE + 'compress = "lossy"\n', DIMSE + "slow_link_kbit_s = 800\n", folder):
        with pytest.raises(DeliveryConfigurationError, match=r"compress|slow_link_kbit_s"):
            settings_of(tmp_path, wrong)


class Storing:
    """A receiver that takes MR images in some transfer syntaxes and keeps what comes."""

    def __init__(self, *syntaxes: str) -> None:
        entity = AE(ae_title="TESTPACS")
        entity.add_supported_context(MRImageStorage, list(syntaxes))
        self.received: list[Dataset] = []
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = int(self._server.server_address[1])

    def _store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        return 0x0000

    def syntaxes(self) -> list[str]:
        return [str(one.file_meta.TransferSyntaxUID) for one in self.received]

    def close(self) -> None:
        self._server.shutdown()


def deliver(folder: Path, paths: list[Path], port: int, options: str) -> None:
    text = DIMSE.replace(str(PACS_PORT), str(port)) + UNCONFIRMED + "associations = 1\n" + options
    wanted = settings_of(folder, text)
    with Outbox(wanted.outbox.folder) as outbox:
        add_images(outbox, paths)
        with sending(wanted, outbox):
            until(all_are(outbox, State.SENT))


@pytest.fixture
def storing() -> Iterator[type[Storing]]:
    made: list[Storing] = []

    class Tracked(Storing):
        def __init__(self, *syntaxes: str) -> None:
            super().__init__(*syntaxes)
            made.append(self)

    yield Tracked
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("policy", "taken", "syntax"),
    [
        ("always", (ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless), JPEGLSLossless),
        ("always", (ExplicitVRLittleEndian, JPEG2000Lossless), JPEG2000Lossless),
        ("always", (ExplicitVRLittleEndian,), ExplicitVRLittleEndian),
        ("always", (ImplicitVRLittleEndian,), ImplicitVRLittleEndian),
        ("slow-link", (JPEGLSLossless,), JPEGLSLossless),  # it takes nothing else
        ("never", (ExplicitVRLittleEndian, JPEGLSLossless), ExplicitVRLittleEndian),
    ],
)
def test_objects_go_in_what_the_receiver_takes(
    tmp_path: Path, storing: type[Storing], policy: str, taken: tuple[str, ...], syntax: str
) -> None:
    receiver = storing(*taken)
    paths = smooth_images(tmp_path / "images", 2)
    deliver(tmp_path, paths, receiver.port, f'compress = "{policy}"\n')
    assert receiver.syntaxes() == [syntax] * 2
    by_uid = {one.SOPInstanceUID: one for one in receiver.received}
    for path in paths:
        sent = dcmread(path)
        np.testing.assert_array_equal(by_uid[sent.SOPInstanceUID].pixel_array, sent.pixel_array)


def test_a_slow_link_is_noticed(tmp_path: Path, storing: type[Storing]) -> None:
    receiver = storing(ExplicitVRLittleEndian, JPEGLSLossless)
    paths = smooth_images(tmp_path / "images", 4, 256)  # more than the sockets' buffers hold back
    with Link(0, receiver.port, bytes_per_s=400_000) as link:
        deliver(tmp_path / "slow", paths, link.port, 'compress = "slow-link"\nslow_link_kbit_s = 16000\n')
    assert receiver.syntaxes() == [ExplicitVRLittleEndian, *[JPEGLSLossless] * 3]  # the first one is the measurement
    receiver.received.clear()
    deliver(tmp_path / "fast", paths, receiver.port, 'compress = "slow-link"\nslow_link_kbit_s = 8\n')
    assert receiver.syntaxes() == [ExplicitVRLittleEndian] * 4


def test_a_capped_link_is_known_to_be_slow(tmp_path: Path, storing: type[Storing]) -> None:
    receiver = storing(ExplicitVRLittleEndian, JPEGLSLossless)
    paths = smooth_images(tmp_path / "images", 2)
    deliver(tmp_path, paths, receiver.port, 'compress = "slow-link"\nbandwidth_kbit_s = 4000\n')
    assert receiver.syntaxes() == [JPEGLSLossless] * 2


@pytest.mark.full
def test_storescp_and_orthanc_keep_what_was_compressed(
    orthanc: Orthanc, start_storescp: StartStoreScp, tmp_path: Path
) -> None:
    paths = smooth_images(tmp_path / "images", 3, 128)
    deliver(tmp_path / "to orthanc", paths, PACS_PORT, 'compress = "always"\n')
    with start_storescp("+xa") as pacs:
        text = DIMSE.replace(str(PACS_PORT), str(STORESCP_PORT)).replace("TESTPACS", STORESCP_AE)
        wanted = settings_of(tmp_path / "to storescp", text + UNCONFIRMED + 'compress = "always"\n')
        with Outbox(wanted.outbox.folder) as outbox:
            add_images(outbox, paths)
            with sending(wanted, outbox):
                until(all_are(outbox, State.SENT))
        stored = [dcmread(path) for path in sorted(pacs.folder.iterdir())]
    assert len(stored) == 3
    held = {one.SOPInstanceUID: one for one in stored}
    for path in paths:
        sent = dcmread(path)
        at_orthanc = dcmread(io.BytesIO(orthanc.file(sent.SOPInstanceUID)))
        for kept in (held[sent.SOPInstanceUID], at_orthanc):
            assert kept.file_meta.TransferSyntaxUID == JPEGLSLossless
            np.testing.assert_array_equal(kept.pixel_array, sent.pixel_array)
            assert {e.tag for e in sent} == {e.tag for e in kept}
