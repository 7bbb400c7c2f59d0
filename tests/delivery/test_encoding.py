"""Images that share elements are written as each of them would be alone, under identifiers that stand for their pixels."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.delivery.dicom import build_dataset
from edge_runtime.delivery.files import SeriesWriter
from edge_runtime.delivery.pixels import window_of
from edge_runtime.delivery.uids import scan_uids
from edge_runtime.scan import (
    Completeness,
    EncodingSpace,
    Evidence,
    Geometry,
    Image,
    Limit,
    Method,
    MriEncoding,
    Patient,
    Provenance,
    ScanHeader,
    Sequence,
    SliceKey,
)

SPACE = EncodingSpace((8, 6, 1), (240.0, 180.0, 5.0))
HEADER = ScanHeader(
    encoding=MriEncoding(SPACE, SPACE, "cartesian", {"contrast": Limit(0, 2)}),
    patient=Patient("P 1", "Müller^Änne", "1980"),  # a date that is none: noted in every image
    sequence=Sequence((500.0,), (20.0, 60.0), sequence_type="TSE"),
    series_description="T2",
    body_part="Head",
)
GEOMETRY = Geometry((1.0, -2.0, 3.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (240.0, 180.0, 5.0))

peaks = st.sampled_from([0.0, 0.03, 1.0, 7.5, 9000.0])
images = st.builds(
    lambda seed, peak, method, completeness, slice_, contrast, repetition, engine, placed, at, evidence: Image(
        pixels=(np.random.default_rng(seed).random((6, 8)) * peak).astype(np.float32),
        method=method,
        completeness=completeness,
        key=SliceKey(slice_, contrast, 0, repetition),
        geometry=dataclasses.replace(
            GEOMETRY, centre_mm=(0.0, 0.0, 5.0 * slice_), read_direction=(1.0, 0.0, 0.0) if placed else None
        ),
        provenance=Provenance("1", "net", "2", "ab" * 32, engine),
        measured_share=0.5,
        acceleration=2.0,
        acquired_at=at,
        evidence=evidence,
        notes=("a note",) * (slice_ == 1),
    ),
    st.integers(0, 3),
    peaks,
    st.sampled_from(Method),
    st.sampled_from(Completeness),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from(["one", "other"]),
    st.booleans(),
    st.sampled_from([1.7e9, float("nan")]),
    st.sampled_from([None, Evidence(0.1, 0.09, None, 12, 240, "noise scan")]),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(images, min_size=1, max_size=8))
def test_a_file_is_the_same_whatever_was_written_before(written: list[Image]) -> None:
    uids = scan_uids(HEADER, "scan")
    with tempfile.TemporaryDirectory() as folder:
        writer = SeriesWriter(Path(folder), HEADER, scan_id="scan")
        slopes: dict[str, float] = {}
        for number, image in enumerate(written):
            path = writer.write(image, number + 1)
            stored = pydicom.dcmread(path)
            alone = build_dataset(
                HEADER, image, uids=uids, instance_number=number + 1, slope=slopes.get(stored.SeriesInstanceUID)
            )
            encoded = io.BytesIO()
            alone.save_as(encoded, enforce_file_format=True)
            assert path.read_bytes() == encoded.getvalue()
            if image.pixels.any():
                first = stored.private_block(0x0021, "EDGE RUNTIME")[0x11].value
                assert slopes.setdefault(stored.SeriesInstanceUID, first) == first


@settings(deadline=None, max_examples=60)
@given(st.lists(images, min_size=1, max_size=10), st.data())
def test_a_retry_makes_no_duplicate_and_reuses_no_identifier_for_other_pixels(
    written: list[Image], data: st.DataObject
) -> None:
    """Crashes come between any two images; afterwards some are written again, perhaps with other pixels."""
    with tempfile.TemporaryDirectory() as folder:
        held: dict[str, tuple[object, ...]] = {}
        by_image: dict[int, set[str]] = {}
        writer = SeriesWriter(Path(folder), HEADER, scan_id="scan")
        for number in range(2 * len(written)):
            if data.draw(st.booleans()):
                writer = SeriesWriter(Path(folder), HEADER, scan_id="scan")  # another process
            index = number if number < len(written) else data.draw(st.integers(0, len(written) - 1))
            stored = pydicom.dcmread(writer.write(written[index], data.draw(st.integers(1, 50))))
            mapping = stored.RealWorldValueMappingSequence[0]
            meant = (
                stored.PixelData, stored.Rows, stored.Columns, mapping.RealWorldValueSlope, stored.SeriesInstanceUID,
                str(stored.ImagePositionPatient), str(stored.ImageOrientationPatient), stored.AcquisitionNumber,
            )  # fmt: skip
            assert held.setdefault(str(stored.SOPInstanceUID), meant) == meant
            by_image.setdefault(index, set()).add(str(stored.SOPInstanceUID))
        # Nothing but the slope that a series begins with, which a crash before its first bright image may change, tells two apart.
        assert len(list(Path(folder).rglob("*.dcm"))) == len(held)
        for index, uids in by_image.items():
            assert len(uids) == 1 or len({held[uid][3] for uid in uids}) == len(uids), index


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=300))
def test_a_window_spans_its_percentiles(values: list[int]) -> None:
    centre, width = window_of(np.array([values], np.uint16))
    low, high = np.percentile(values, (1.0, 99.5))
    np.testing.assert_allclose(width, max(1.0, high - low), atol=1e-6)
    np.testing.assert_allclose(centre - width / 2, low, atol=1e-6)
