"""A series as one object: valid, with the frames where they belong, and made once whatever crashes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from delivery_objects import DIMSE, settings_of
from dicom_check import complaints
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.delivery import under_way
from edge_runtime.delivery.enhanced import enhanced_series
from edge_runtime.delivery.files import SeriesWriter
from edge_runtime.delivery.handover import Handover
from edge_runtime.delivery.outbox.retention import purge
from edge_runtime.delivery.outbox.states import Urgency
from edge_runtime.delivery.outbox.store import Outbox, Sent
from edge_runtime.errors import DeliveryError
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
    Scanner,
    Sequence,
    SliceKey,
)

ROWS, COLUMNS, GAP_MM = 5, 7, 6.0
SPACE = EncodingSpace((COLUMNS, ROWS, 1), (140.0, 125.0, 5.0))
HEADER = ScanHeader(
    encoding=MriEncoding(SPACE, SPACE, "cartesian", {}),
    scanner=Scanner("Maker", field_strength_t=0.055),
    patient=Patient("P-1", "Doe^Jane"),
    sequence=Sequence((500.0,), (20.0,), (), (90.0,), "TSE"),
    body_part="Head",
    parameters={"edge_urgency": "urgent"},
)
EVIDENCE = Evidence(0.11, 0.09, 0.1, 120, 2400, "noise scan")


def image(slice_: int, repetition: int = 0, method: Method = Method.LEARNED, tilt: float = 0.3) -> Image:
    """Of noise; slices are stacked along the normal of a tilted plane."""
    row = np.array([np.cos(tilt), np.sin(tilt), 0.0])
    column = np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    pixels = np.random.default_rng([slice_, repetition]).random((ROWS, COLUMNS)).astype(np.float32)
    return Image(
        pixels=pixels,
        method=method,
        completeness=Completeness.FINAL,
        key=SliceKey(slice=slice_, repetition=repetition),
        geometry=Geometry(
            tuple(normal * GAP_MM * slice_), tuple(row), tuple(column), tuple(normal), (140.0, 125.0, 5.0)
        ),
        provenance=Provenance("1", "net", "2", "ab" * 32, "engine", "fp32"),
        measured_share=0.5,
        acceleration=2.0,
        acquired_at=1.7e9 + slice_,
        evidence=EVIDENCE if slice_ else None,
        notes=(f"slice {slice_} is special",),
    )


def written(folder: Path, images: list[Image]) -> list[Path]:
    writer = SeriesWriter(folder, HEADER, scan_id="scan")
    return [writer.write(one, number + 1) for number, one in enumerate(images)]


def stored(path: Path, classic: list[Path]) -> pydicom.Dataset:
    path.write_bytes(b"".join(enhanced_series(classic).content()))
    return pydicom.dcmread(path)


@pytest.mark.parametrize("bare", [False, True])
def test_it_is_valid(tmp_path: Path, bare: bool) -> None:
    header = ScanHeader(encoding=HEADER.encoding) if bare else HEADER
    writer = SeriesWriter(tmp_path, header, scan_id="scan")
    paths = [writer.write(image(s, r), 1 + s) for s in range(3) for r in range(2)]
    stored(tmp_path / "enhanced.dcm", paths)
    assert complaints(tmp_path / "enhanced.dcm", "EnhancedMRImage") == []


def test_one_frame_is_enough(tmp_path: Path) -> None:
    dataset = stored(tmp_path / "enhanced.dcm", written(tmp_path, [image(0)]))
    assert dataset.NumberOfFrames == 1
    assert complaints(tmp_path / "enhanced.dcm", "EnhancedMRImage") == []


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=10, unique=True), st.randoms())
def test_frames_are_where_they_belong(keys: list[tuple[int, int]], draw: object) -> None:
    """Whatever the order in which images came and files are listed."""
    import random
    import tempfile

    assert isinstance(draw, random.Random)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {key: image(*key) for key in keys}
        paths = written(folder, list(images.values()))
        by_key = dict(zip(images, paths))
        draw.shuffle(paths)
        dataset = stored(folder / "enhanced.dcm", paths)
        again = b"".join(enhanced_series(sorted(paths)).content())
        assert again == (folder / "enhanced.dcm").read_bytes()
        pixels = dataset.pixel_array.reshape(len(keys), ROWS, COLUMNS)
        indices = []
        slices = sorted({key[0] for key in keys})
        moments = sorted({key[1] for key in keys})
        for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence):
            record = json.loads(groups.private_block(0x0021, "EDGE RUNTIME")[0x10].value)
            key = record["key"]["slice"], record["key"]["repetition"]
            classic = pydicom.dcmread(by_key[key])
            content = groups.FrameContentSequence[0]
            np.testing.assert_array_equal(frame, classic.pixel_array)
            shared = dataset.SharedFunctionalGroupsSequence[0]
            position = groups.get("PlanePositionSequence") or shared.PlanePositionSequence
            assert position[0].ImagePositionPatient == classic.ImagePositionPatient
            assert content.FrameComments == classic.ImageComments
            assert content.DimensionIndexValues[1] == 1 + slices.index(key[0])
            assert content.DimensionIndexValues[2] == 1 + moments.index(key[1])
            indices.append(tuple(content.DimensionIndexValues))
        assert indices == sorted(set(indices)) and len(indices) == len(keys)


def test_another_library_reads_the_volume(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    paths = written(tmp_path, [image(s) for s in (2, 0, 1, 3)])
    stored(tmp_path / "enhanced.dcm", paths)
    volume = highdicom.imread(tmp_path / "enhanced.dcm").get_volume(
        apply_real_world_transform=False, apply_voi_transform=False
    )
    assert volume.spatial_shape == (4, ROWS, COLUMNS)
    np.testing.assert_allclose(volume.spacing, (GAP_MM, 125.0 / ROWS, 140.0 / COLUMNS), atol=1e-6)
    for path in paths:
        classic = pydicom.dcmread(path)
        centre = np.array(classic.ImagePositionPatient, float)
        index = np.rint(volume.map_reference_to_indices(centre[np.newaxis])[0]).astype(int)
        np.testing.assert_allclose(volume.map_indices_to_reference(index[np.newaxis])[0], centre, atol=1e-6)
        assert (index[1], index[2]) == (0, 0)


def test_identifiers_stand_for_frames(tmp_path: Path) -> None:
    one = written(tmp_path / "a", [image(0), image(1)])
    again = written(tmp_path / "b", [image(0), image(1)])
    more = written(tmp_path / "c", [image(0), image(1), image(2)])
    other = written(tmp_path / "d", [image(0), dataclasses.replace(image(1), pixels=image(3).pixels)])
    made = [enhanced_series(paths).dataset for paths in (one, again, more, other)]
    assert made[0].SOPInstanceUID == made[1].SOPInstanceUID
    assert len({str(one.SOPInstanceUID) for one in made}) == 3
    assert len({str(one.SeriesInstanceUID) for one in made}) == 1
    classic = pydicom.dcmread(one[0])
    assert made[0].SeriesInstanceUID != classic.SeriesInstanceUID
    assert made[0].SeriesNumber == classic.SeriesNumber + 5
    assert made[0].StudyInstanceUID == classic.StudyInstanceUID


def test_what_can_not_be_one_object_is_refused(tmp_path: Path) -> None:
    learned, classical = written(tmp_path / "a", [image(0), image(0, method=Method.CLASSICAL)])
    with pytest.raises(DeliveryError, match="differ in SeriesInstanceUID"):
        enhanced_series([learned, classical])
    lost = dataclasses.replace(image(0), geometry=dataclasses.replace(image(0).geometry, read_direction=None))
    with pytest.raises(DeliveryError, match="lies is not known"):
        enhanced_series(written(tmp_path / "b", [lost]))
    flat = dataclasses.replace(image(0).geometry, field_of_view_mm=(140.0, 125.0, 0.0))
    with pytest.raises(DeliveryError, match="thickness is not known"):
        enhanced_series(written(tmp_path / "c", [dataclasses.replace(image(0), geometry=flat)]))
    (tmp_path / "no.dcm").write_bytes(b"nothing")
    with pytest.raises(DeliveryError, match="can't be read"):
        enhanced_series([tmp_path / "no.dcm"])
    with pytest.raises(DeliveryError, match="without images"):
        enhanced_series([])


# Handed over


BOTH = DIMSE + DIMSE.replace('"pacs"', '"modern"', 1) + 'objects = "enhanced"\n'


@contextlib.contextmanager
def handing_over(folder: Path, destinations: str) -> Iterator[tuple[Handover, Outbox]]:
    wanted = settings_of(folder, destinations)
    with Outbox(wanted.outbox.folder) as outbox:
        yield Handover(wanted, outbox, lambda: None), outbox


def hand_over(handover: Handover, images: list[Image], folder: Path) -> None:
    handover.scan_begins(folder, HEADER)
    writer = SeriesWriter(folder, HEADER, scan_id="scan")
    for number, one in enumerate(images):
        handover.image(writer.write(one, number + 1), one, HEADER)


SCAN = [image(s, method=method) for s in range(3) for method in (Method.LEARNED, Method.CLASSICAL)]


def test_each_destination_gets_the_form_that_it_wants(tmp_path: Path) -> None:
    with handing_over(tmp_path, BOTH) as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN, scan)
        assert {one.destination for one in outbox.deliveries()} == {"pacs"}
        handover.scan_ended(scan)
        handover.scan_ended(scan)  # again is no harm
        modern = outbox.deliveries(destination="modern")
        assert [one.identity.label for one in modern] == ["classical final, enhanced", "learned final, enhanced"]
        assert {one.urgency for one in modern} == {Urgency.URGENT}
        assert len(outbox.deliveries(destination="pacs")) == len(SCAN)
        for one in modern:
            assert one.path is not None
            assert complaints(one.path, "EnhancedMRImage") == []
            assert pydicom.dcmread(one.path).NumberOfFrames == 3
        assert len(list(scan.rglob("*.dcm"))) == len(SCAN) + 2  # the classic ones still go to somebody
    assert list((tmp_path / "outbox" / "under_way").iterdir()) == []


def test_frames_that_nobody_wants_by_themselves_go(tmp_path: Path) -> None:
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN, scan)
        handover.scan_ended(scan)
        assert {path.parent.name for path in scan.rglob("*.dcm")} == {"enhanced"}
        assert len(outbox.deliveries()) == 2


def test_what_can_not_be_one_object_goes_as_it_is(tmp_path: Path) -> None:
    lost = [dataclasses.replace(one, geometry=dataclasses.replace(one.geometry, read_direction=None)) for one in SCAN]
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, lost, scan)
        handover.scan_ended(scan)
        assert len(outbox.deliveries()) == len(SCAN)


@pytest.mark.parametrize("crash_after", [0, 1, 2, 3])
def test_a_crash_loses_no_object_and_makes_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int
) -> None:
    """The process ends after all images, or after it has taken in so many of the objects."""

    class Crash(BaseException):
        pass

    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN, scan)
        honest, calls = handover.object, itertools.count()

        def crashing(*arguments: object, **named: object) -> None:
            if next(calls) == crash_after - 1:
                raise Crash
            honest(*arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(handover, "object", crashing)
        if crash_after:
            with contextlib.suppress(Crash):
                handover.scan_ended(scan)
    monkeypatch.setattr(under_way, "is_running", lambda process: False)
    for _ in range(2):
        with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
            handover.make_up()
            found = outbox.deliveries()
            assert [one.identity.label for one in found] == ["classical final, enhanced", "learned final, enhanced"]
            for one in found:
                assert one.path is not None and pydicom.dcmread(one.path).NumberOfFrames == 3


def test_a_scan_that_somebody_goes_on_with_is_left_until_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN[:4], scan)
    monkeypatch.setattr(under_way, "is_running", lambda process: False)
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        handover.make_up(going_on=["scan"])
        assert outbox.deliveries() == []
        handover.scan_begins(scan, HEADER)  # as a session does that goes on behind a crash
        writer = SeriesWriter(scan, HEADER, scan_id="scan")
        for one in SCAN[4:]:
            handover.image(writer.write(one, 3), one, HEADER)
        handover.scan_ended(scan)
        frames = [pydicom.dcmread(one.path).NumberOfFrames for one in outbox.deliveries() if one.path is not None]
        assert frames == [3, 3]


def test_no_file_of_a_scan_goes_before_its_objects_are_made(tmp_path: Path) -> None:
    """Frames may be confirmed, and so might be purged, while the scan goes on."""
    with handing_over(tmp_path, BOTH) as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN, scan)
        claimed = outbox.claim("pacs", "test/1", most=100, lease_s=60, least=Urgency.ROUTINE)
        outbox.settle("test/1", {one.id: Sent(kept=True) for one in claimed}, 3)
        eager = settings_of(tmp_path, BOTH)
        eager = dataclasses.replace(eager, outbox=dataclasses.replace(eager.outbox, keep_committed_s=0.0))
        assert purge(outbox, eager) == 0
        handover.scan_ended(scan)
        frames = [
            pydicom.dcmread(one.path).NumberOfFrames for one in outbox.deliveries(destination="modern") if one.path
        ]
        assert frames == [3, 3]
        assert purge(outbox, eager) == len(SCAN)


def test_a_scan_that_can_not_be_noted_is_handed_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_notes: object, _note: object) -> None:
        raise DeliveryError("no space left on device")

    monkeypatch.setattr(under_way.UnderWay, "write", full)
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        scan = handover.folder / "scan"
        hand_over(handover, SCAN, scan)
        handover.scan_ended(scan)
        assert len(outbox.deliveries()) == 2


def test_scans_of_processes_that_run_are_left_to_them(tmp_path: Path) -> None:
    with handing_over(tmp_path, DIMSE + 'objects = "enhanced"\n') as (handover, outbox):
        hand_over(handover, SCAN, handover.folder / "scan")
        handover.make_up()
        assert outbox.deliveries() == []
