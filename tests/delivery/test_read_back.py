"""What a PACS gives back by WADO-RS, tag by tag and pixel by pixel: classic, enhanced, compressed and raw objects."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from delivery_objects import DIMSE, settings_of
from delivery_parts import all_are, sending, until
from pacs_fixtures import StartStoreScp
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RawDataStorage,
)

from benchmarks.peers.pacs import EDGE_PORT, STORESCP_AE, STORESCP_PORT, Orthanc
from edge_runtime.delivery.destinations.callback import listening
from edge_runtime.delivery.files import SeriesWriter
from edge_runtime.delivery.handover import Handover, identity_of
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Delivery, Outbox, Wanted
from edge_runtime.delivery.raw import owner_of_images, pack, unpack
from edge_runtime.scan import (
    Completeness,
    EncodingSpace,
    Evidence,
    Geometry,
    Image,
    Method,
    MriEncoding,
    Patient,
    Provenance,
    ScanHeader,
    SliceKey,
    Study,
)

pytest_plugins = ["pacs_fixtures"]

pytestmark = pytest.mark.full

SIDE, SLICES = 96, 5
SPACE = EncodingSpace((SIDE, SIDE, 1), (240.0, 240.0, 5.0))
HEADER = ScanHeader(
    encoding=MriEncoding(SPACE, SPACE, "cartesian", {}),
    patient=Patient("P-1", "Müller^Änne", "19800229", "F"),
    study=Study("1.2.826.0.1.3680043.8.498.77", "S-1", "Brain", "A-1", "20260102", "101112"),
    body_part="Brain",
)
DESTINATIONS = "".join(
    DIMSE.replace('"pacs"', f'"{name}"', 1) + options
    for name, options in {
        "classic": 'methods = ["classical"]\n',
        "classic-small": 'methods = ["learned"]\ncompress = "always"\n',
        "enhanced": 'methods = ["classical"]\nobjects = "enhanced"\n',
        "enhanced-small": 'methods = ["learned"]\nobjects = "enhanced"\ncompress = "always"\n',
    }.items()
)


def image(slice_: int, method: Method) -> Image:
    """A bright disk with a little noise, each another."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    noise = np.random.default_rng([slice_, len(method.value)]).standard_normal((SIDE, SIDE, 2)) * 0.01
    disk = (rows**2 + columns**2 < (20 + 3 * slice_) ** 2) * 1.0
    return Image(
        pixels=np.hypot(disk + noise[..., 0], noise[..., 1]).astype(np.float32),
        method=method,
        completeness=Completeness.FINAL,
        key=SliceKey(slice_),
        geometry=Geometry(
            (0.0, 0.0, 6.0 * slice_), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (240.0, 240.0, 5.0)
        ),
        provenance=Provenance("1", "net", "2", "ab" * 32),
        measured_share=0.5,
        acceleration=2.0,
        acquired_at=1.7e9 + slice_,
        evidence=Evidence(0.1, 0.09, 0.1, 12, 240, "noise scan"),
    )


def retrieved(orthanc: Orthanc, one: Delivery) -> Dataset:
    identity = one.identity
    path = f"/studies/{identity.study_uid}/series/{identity.series_uid}/instances/{identity.sop_instance_uid}"
    (part,) = orthanc.retrieved(path, 'type="application/dicom"; transfer-syntax=*')
    return dcmread(io.BytesIO(part))


def frames(orthanc: Orthanc, one: Delivery, count: int) -> list[bytes]:
    """Pixels as the PACS itself decodes them."""
    identity = one.identity
    path = f"/studies/{identity.study_uid}/series/{identity.series_uid}/instances/{identity.sop_instance_uid}"
    numbers = ",".join(str(number + 1) for number in range(count))
    return orthanc.retrieved(
        f"{path}/frames/{numbers}", f'type="application/octet-stream"; transfer-syntax={ExplicitVRLittleEndian}'
    )


def expect_same_elements(ours: Dataset, theirs: Dataset) -> None:
    assert {one.tag for one in ours} == {one.tag for one in theirs}
    for element in ours:
        if element.keyword != "PixelData":
            assert theirs[element.tag].value == element.value, element.tag


def test_everything_comes_back_as_it_was(orthanc: Orthanc, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, DESTINATIONS, callback=True)
    assert settings.device.callback is not None and settings.device.callback.port == EDGE_PORT
    recording = tmp_path / "scan.mrd"
    recording.write_bytes(np.random.default_rng(0).bytes((16 << 20) + 1235))
    with Outbox(settings.outbox.folder) as outbox, listening(settings, settings.device.callback, outbox):
        handover = Handover(settings, outbox, lambda: None)
        handover.scan_begins(tmp_path / "scan", HEADER)
        writer = SeriesWriter(tmp_path / "scan", HEADER, scan_id="scan")
        paths = []
        for method in (Method.CLASSICAL, Method.LEARNED):
            for slice_ in range(SLICES):
                one = image(slice_, method)
                paths.append(writer.write(one, slice_ + 1))
                handover.image(paths[-1], one, HEADER)
        handover.scan_ended(tmp_path / "scan")
        for path in pack(recording, owner_of_images(paths), tmp_path / "raw"):
            outbox.add(path, identity_of(path, "raw data"), [Wanted("classic")])
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))

        deliveries = outbox.deliveries()
        assert orthanc.instances() == {one.identity.sop_instance_uid for one in deliveries}
        kinds = []
        raw_files = []
        for one in deliveries:
            assert one.path is not None
            ours, theirs = dcmread(one.path), retrieved(orthanc, one)
            expect_same_elements(ours, theirs)
            syntax = theirs.file_meta.TransferSyntaxUID
            kinds.append((str(ours.SOPClassUID), str(syntax)))
            assert (syntax == JPEGLSLossless) == (one.destination.endswith("small"))
            if ours.SOPClassUID == RawDataStorage:
                raw_files.append(tmp_path / f"back{len(raw_files)}.dcm")
                theirs.save_as(raw_files[-1])
                continue
            np.testing.assert_array_equal(theirs.pixel_array, ours.pixel_array)
            decoded = frames(orthanc, one, int(ours.get("NumberOfFrames", 1)))
            assert b"".join(decoded) == ours.PixelData
        explicit, small = str(ExplicitVRLittleEndian), str(JPEGLSLossless)
        assert sorted(set(kinds)) == sorted(
            [
                (str(MRImageStorage), explicit),
                (str(MRImageStorage), small),
                (str(EnhancedMRImageStorage), explicit),
                (str(EnhancedMRImageStorage), small),
                (str(RawDataStorage), explicit),
            ]
        )
        unpack(raw_files, tmp_path / "back.mrd")
        assert (tmp_path / "back.mrd").read_bytes() == recording.read_bytes()


def test_raw_data_survives_a_receiver_that_forgets_private_representations(
    start_storescp: StartStoreScp, tmp_path: Path
) -> None:
    """In implicit VR nothing says that private elements are text or bytes."""
    recording = tmp_path / "scan.mrd"
    recording.write_bytes(np.random.default_rng(0).bytes(100_001))
    writer = SeriesWriter(tmp_path / "scan", HEADER, scan_id="scan")
    images = [writer.write(image(0, Method.CLASSICAL), 1)]
    text = DIMSE.replace("14242", str(STORESCP_PORT)).replace("TESTPACS", STORESCP_AE)
    settings = settings_of(tmp_path, text + 'confirm = "none"\n')
    with start_storescp("+xi") as pacs, Outbox(settings.outbox.folder) as outbox:
        for path in pack(recording, owner_of_images(images), tmp_path / "raw"):
            outbox.add(path, identity_of(path, "raw data"), [Wanted("pacs")])
        with sending(settings, outbox):
            until(all_are(outbox, State.SENT))
        unpack(sorted(pacs.folder.iterdir()), tmp_path / "back.mrd")
    assert (tmp_path / "back.mrd").read_bytes() == recording.read_bytes()
