"""DICOM files: valid by an independent validator, placed where the scanner said, and labelled as what they are."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_check import complaints
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from edge_runtime.delivery.dicom import build_dataset, series_number
from edge_runtime.delivery.files import SeriesWriter
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.plane import plane_of
from edge_runtime.delivery.uids import ScanUids, scan_uids, series_uid
from edge_runtime.errors import DeliveryError
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
    Scanner,
    Sequence,
    SliceKey,
    Study,
)
from edge_runtime.trust.heldout import CHOSEN, NONE_HELD_OUT

ROWS, COLUMNS = 12, 16
FIELD_OF_VIEW_MM = (240.0, 150.0, 5.0)
DIGEST = "0123456789abcdef" * 4
STUDY_UID = "1.2.826.0.1.3680043.8.498.1234"

ENCODING = MriEncoding(
    encoded=EncodingSpace((2 * COLUMNS, ROWS, 1), (480.0, 150.0, 5.0)),
    recon=EncodingSpace((COLUMNS, ROWS, 1), FIELD_OF_VIEW_MM),
    trajectory="cartesian",
    limits={"kspace_encoding_step_1": Limit(0, ROWS - 1, ROWS // 2)},
)
HEADER = ScanHeader(
    encoding=ENCODING,
    scanner=Scanner("Maker", "Portable 55", "Clinic", "CART1", "SN 7", 0.055, 8, 2_342_000),
    patient=Patient("P-1", "Doe^Jane", "19800229", "F", 61.5),
    study=Study(STUDY_UID, "S-1", "Brain", "ACC-1", "20250102", "101112.5", "House^Gregory"),
    sequence=Sequence((500.0,), (20.0, 60.0), (), (90.0,), "TSE"),
    measurement_id="M-1",
    protocol_name="T2 axial",
    series_description="T2 axial",
    body_part="Head",
    patient_position="HFS",
    frame_of_reference_uid="1.2.3.4",
)
EMPTY_HEADER = ScanHeader(encoding=ENCODING)

LONG = "L" * 500
HOSTILE = "\\a\0b\nc\x1bd\u202ee\ud800f\u2028=^^^^^^= \U0001f9e0 "
HOSTILE_HEADERS = {
    name: ScanHeader(
        encoding=ENCODING,
        scanner=Scanner(text, text, text, text, text, float("nan"), 8, -1),
        patient=Patient(text, text, text, text, -1.0),
        study=Study(text, text, text, text, text, text, text),
        sequence=Sequence((-1.0,), (float("inf"),), (float("nan"),), (float("nan"),), text),
        measurement_id=text,
        protocol_name=text,
        series_description=text,
        body_part=text,
        patient_position=text,
        frame_of_reference_uid=text,
        parameters={text: text},
        notes=(text,),
    )
    for name, text in {"long": LONG, "hostile": HOSTILE, "empty": "", "spaces": "   ", "huge": "h" * 20_000}.items()
}

EVIDENCE = Evidence(0.11, 0.09, 0.1, 120, 2400, "noise scan", held_out_rms=0.13)
PROVENANCE = Provenance("0.1.0", "lowfield-brain", "2.3", DIGEST, "onnxruntime", "fp16", "x86-cpu")


def phantom(rows: int = ROWS, columns: int = COLUMNS, peak: float = 7.0) -> npt.NDArray[np.float32]:
    """A ramp that is different in every pixel, so that any flip or transposition shows; (rows, columns)."""
    return (np.arange(1, rows * columns + 1).reshape(rows, columns) * (peak / (rows * columns))).astype(np.float32)


GEOMETRY = Geometry((10.0, -20.0, 30.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), FIELD_OF_VIEW_MM)
NO_DIRECTIONS = Geometry((10.0, -20.0, 30.0), None, None, None, FIELD_OF_VIEW_MM)
IMAGE = Image(
    pixels=phantom(),
    method=Method.LEARNED,
    completeness=Completeness.FINAL,
    key=SliceKey(),
    geometry=GEOMETRY,
    provenance=PROVENANCE,
    measured_share=0.5,
    acceleration=2.0,
    acquired_at=1_735_800_000.25,
    evidence=EVIDENCE,
    notes=("phase encode 3 was missing",),
)


def dataset_of(image: Image = IMAGE, header: ScanHeader = HEADER, uids: ScanUids | None = None) -> Dataset:
    return build_dataset(header, image, uids=uids or scan_uids(header, "scan"), instance_number=1)


def kind_of(image: Image) -> Kind:
    return Kind.of(image, plane_of(image))


def changed(**fields: object) -> Image:
    return dataclasses.replace(IMAGE, **fields)  # type: ignore[arg-type]


def test_the_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    dataset = dataset_of()
    del dataset.PixelSpacing
    dataset.save_as(tmp_path / "wrong.dcm", enforce_file_format=True)
    assert any("PixelSpacing" in line for line in complaints(tmp_path / "wrong.dcm"))


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("geometry", [GEOMETRY, NO_DIRECTIONS], ids=["placed", "unplaced"])
def test_every_kind_of_image_is_valid(tmp_path: Path, geometry: Geometry, simulated: bool) -> None:
    writer = SeriesWriter(tmp_path, dataclasses.replace(HEADER, simulated=simulated))
    paths = {
        writer.write(changed(method=method, completeness=completeness, evidence=evidence, geometry=geometry), 1)
        for method, completeness, evidence in itertools.product(Method, Completeness, (EVIDENCE, None))
    }
    assert len(paths) == len(Method) * len(Completeness)
    for path in paths:
        assert complaints(path) == []


@pytest.mark.parametrize("header", [EMPTY_HEADER, *HOSTILE_HEADERS.values()], ids=["bare", *HOSTILE_HEADERS])
def test_headers_that_carry_anything_give_valid_files(tmp_path: Path, header: ScanHeader) -> None:
    text = header.protocol_name
    image = changed(
        provenance=Provenance(text, text, text, text, text, text, text),
        notes=(text,),
        evidence=dataclasses.replace(EVIDENCE, noise_source=text, held_out_residual=float("nan")),
    )
    assert complaints(SeriesWriter(tmp_path, header).write(image, 1)) == []


@pytest.mark.parametrize("body_part", ["Head", "knee", "", "something else entirely"])
@pytest.mark.parametrize("sequence_type", ["SpinEcho", "tse", "FLASH", "?"])
def test_body_parts_and_sequences_are_valid(tmp_path: Path, body_part: str, sequence_type: str) -> None:
    for inversion_time_ms in ((), (0.0,), (150.0,)):
        sequence = Sequence((500.0,), (20.0,), inversion_time_ms, (90.0,), sequence_type)
        header = dataclasses.replace(HEADER, body_part=body_part, sequence=sequence)
        assert complaints(SeriesWriter(tmp_path, header).write(IMAGE, 1)) == []


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300), st.text(alphabet="A^=\\ \n0.9é\U0001f9e0", max_size=100))
@example("a" * 65, "^" * 6)
def test_any_text_makes_values_that_dicom_allows(text: str, odd: str) -> None:
    header = dataclasses.replace(
        HEADER,
        scanner=Scanner(text, odd, text, odd, text),
        patient=Patient(odd, odd, text, text),
        study=Study(text, odd, text, text, odd, odd, text),
        protocol_name=odd,
        body_part=text,
        patient_position=odd,
        frame_of_reference_uid=odd,
        notes=(text, odd),
    )
    dataset = dataset_of(header=header)
    longest = {"SH": 16, "CS": 16, "LO": 64}
    for element in dataset:
        for value in element.value if element.VM > 1 else [element.value]:
            if element.VR in longest:
                assert len(str(value)) <= longest[element.VR], element
            if element.VR in ("SH", "CS", "LO", "PN"):
                assert str(value).isprintable() or not any(ord(c) < 32 for c in str(value)), element
    for name in (dataset.PatientName, dataset.ReferringPhysicianName):
        assert all(len(group) <= 64 and group.count("^") <= 4 for group in str(name).split("="))
    assert len(dataset.ImageComments) <= 10240


def test_values_that_do_not_fit_are_told_and_identifiers_are_never_altered() -> None:
    header = dataclasses.replace(
        HEADER,
        patient=Patient(identifier="P" * 65, name="N" * 70, birth_date="1980-02-29", sex="x"),
        study=Study(instance_uid="no uid", accession_number="A" * 17, description="a\\b"),
    )
    dataset = dataset_of(header=header)
    assert dataset.PatientID == dataset.AccessionNumber == dataset.PatientBirthDate == dataset.PatientSex == ""
    assert dataset.PatientName == "N" * 64
    assert dataset.StudyDescription == "a_b"
    for name in (
        "Patient ID",
        "Accession number",
        "Patient's name",
        "birth date",
        "sex",
        "Study description",
        "Study Instance",
    ):
        assert name in dataset.ImageComments
    assert "P" * 10 not in dataset.ImageComments, "a comment must not repeat an identifier"


def test_length_is_counted_in_characters_not_bytes() -> None:
    """PS3.5 6.2. dciodvfy counts bytes, so it is not asked: half of every Cyrillic name would be lost to please it."""
    name = "Константинопольский^Александр^Владимирович"
    assert dataset_of(header=dataclasses.replace(HEADER, patient=Patient(name=name))).PatientName == name


def test_comments_that_are_too_long_keep_the_labels_and_say_so() -> None:
    dataset = dataset_of(
        changed(notes=tuple(f"{number:n>100}" for number in range(200)), completeness=Completeness.PREVIEW)
    )
    assert len(dataset.ImageComments) <= 10240
    assert "PARTIAL PREVIEW: 50 % of phase encodes measured" in dataset.ImageComments
    assert "did not fit" in dataset.ImageComments
    assert len(json.loads(dataset.private_block(0x21, "EDGE RUNTIME")[0x10].value)["notes"]) == 200


def voxel_centre_by_dicom(dataset: Dataset, row: int, column: int) -> npt.NDArray[np.float64]:
    """PS3.3 equation C.7.6.2.1-1: its index i is the column, its first spacing lies between rows."""
    along_row, along_column = np.reshape([float(value) for value in dataset.ImageOrientationPatient], (2, 3))
    row_spacing, column_spacing = (float(value) for value in dataset.PixelSpacing)
    position = np.array([float(value) for value in dataset.ImagePositionPatient])
    return np.asarray(position + along_row * column_spacing * column + along_column * row_spacing * row)


def rotation(quaternion: tuple[float, float, float, float]) -> npt.NDArray[np.float64]:
    """Three orthonormal rows."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def vector(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """As the wire carries it, in float32."""
    x, y, z = (float(value) for value in values.astype(np.float32))
    return x, y, z


@settings(deadline=None, max_examples=100)
@given(
    quaternion=st.tuples(*[st.floats(-1, 1) for _ in range(4)]).filter(lambda q: np.linalg.norm(q) > 0.1),
    centre=st.tuples(*[st.floats(-300, 300, width=32) for _ in range(3)]),
    field_of_view=st.tuples(*[st.floats(10, 500, width=32) for _ in range(3)]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_oblique_voxels_lie_where_the_scanner_said(
    quaternion: tuple[float, float, float, float],
    centre: tuple[float, float, float],
    field_of_view: tuple[float, float, float],
    shape: tuple[int, int],
) -> None:
    rows, columns = shape
    read, phase, normal = rotation(quaternion)
    geometry = Geometry(centre, vector(read), vector(phase), vector(normal), field_of_view)
    dataset = dataset_of(changed(pixels=phantom(rows, columns), geometry=geometry))
    # Independently: the image is cut into equal voxels, and the middle of the grid is the image's centre.
    for row, column in itertools.product({0, rows // 2, rows - 1}, {0, columns // 2, columns - 1}):
        along_read = (column + 0.5 - columns / 2) * field_of_view[0] / columns
        along_phase = (row + 0.5 - rows / 2) * field_of_view[1] / rows
        expected = np.array(centre) + along_read * read + along_phase * phase
        np.testing.assert_allclose(voxel_centre_by_dicom(dataset, row, column), expected, atol=1e-3)
    assert float(dataset.SliceLocation) == pytest.approx(float(normal @ np.array(centre)), abs=1e-3)
    assert "GEOMETRY UNKNOWN" not in dataset.SeriesDescription
    orientation = np.reshape([float(value) for value in dataset.ImageOrientationPatient], (2, 3))
    np.testing.assert_allclose(orientation @ orientation.T, np.eye(2), atol=1e-12)


BENT = (0.6, 0.8, 0.0)


@pytest.mark.parametrize(
    "geometry",
    [
        NO_DIRECTIONS,
        dataclasses.replace(GEOMETRY, phase_direction=None),
        dataclasses.replace(GEOMETRY, read_direction=(0.0, 0.0, 0.0)),
        dataclasses.replace(GEOMETRY, read_direction=(2.0, 0.0, 0.0)),
        dataclasses.replace(GEOMETRY, read_direction=(float("nan"), 0.0, 0.0)),
        dataclasses.replace(GEOMETRY, phase_direction=BENT),
        dataclasses.replace(GEOMETRY, centre_mm=(float("inf"), 0.0, 0.0)),
    ],
)
def test_a_place_that_is_not_known_is_not_claimed(tmp_path: Path, geometry: Geometry) -> None:
    writer = SeriesWriter(tmp_path, HEADER, scan_id="scan")
    path = writer.write(changed(geometry=geometry), 1)
    dataset = pydicom.dcmread(path)
    placed = dataset_of()
    assert "GEOMETRY UNKNOWN" in dataset.SeriesDescription
    assert dataset.ImageComments.splitlines()[1].startswith("GEOMETRY UNKNOWN")
    assert "Geometry unknown because" in dataset.ImageComments
    assert dataset.PatientPosition == ""
    assert "SliceLocation" not in dataset
    assert dataset.FrameOfReferenceUID != placed.FrameOfReferenceUID
    assert dataset.SeriesInstanceUID != placed.SeriesInstanceUID
    assert complaints(path) == []


@pytest.mark.parametrize(
    ("slice_direction", "note"),
    [
        ((0.0, 0.0, 1.0), ""),
        ((0.0, 0.0, -1.0), "opposes read x phase"),
        ((1.0, 0.0, 0.0), "not perpendicular"),
        (None, ""),
    ],
)
def test_handedness_is_checked(slice_direction: tuple[float, float, float] | None, note: str) -> None:
    dataset = dataset_of(changed(geometry=dataclasses.replace(GEOMETRY, slice_direction=slice_direction)))
    assert ("Slice direction" in dataset.ImageComments) == bool(note)
    assert note in dataset.ImageComments
    assert "GEOMETRY UNKNOWN" not in dataset.ImageComments


def test_labels_say_what_the_image_is() -> None:
    learned = dataset_of(changed(completeness=Completeness.PREVIEW), dataclasses.replace(HEADER, simulated=True))
    assert list(learned.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "LEARNED", "PREVIEW"]
    assert learned.SeriesDescription == "SIMULATED AI recon (learned) PREVIEW: T2 axial"
    assert learned[0x0008, 0x001C].value == "YES"
    assert learned.ContentQualification == "RESEARCH"
    comments = learned.ImageComments.splitlines()
    assert comments[1].startswith("SIMULATED DATA")
    assert comments[2].startswith("AI image")
    assert comments[3].startswith("PARTIAL PREVIEW: 50 % of phase encodes measured")
    assert comments[4].startswith("EVIDENCE: held-out residual 0.11 = 1.10 x noise (an empty image: 0.13) over 120")
    assert "perfect" not in learned.ImageComments
    assert "Note: phase encode 3 was missing" in comments
    runtime, model = learned.ContributingEquipmentSequence
    assert (runtime.ManufacturerModelName, runtime.SoftwareVersions) == ("edge-runtime", "0.1.0")
    assert (model.ManufacturerModelName, model.SoftwareVersions) == ("lowfield-brain", "2.3")
    assert all(part in model.ContributionDescription for part in (DIGEST, "onnxruntime", "fp16"))
    assert model.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"

    classical = dataset_of(changed(method=Method.CLASSICAL, completeness=Completeness.INCOMPLETE))
    assert classical.SeriesDescription == "Classical recon INCOMPLETE: T2 axial"
    assert "INCOMPLETE SCAN" in classical.ImageComments
    assert "AI" not in classical.ImageComments
    assert len(classical.ContributingEquipmentSequence) == 1
    assert (0x0008, 0x001C) not in classical


def test_almost_all_is_not_all() -> None:
    preview = changed(completeness=Completeness.PREVIEW, measured_share=0.999)
    assert "99 % of phase encodes" in dataset_of(preview).ImageComments


def test_evidence_is_machine_readable(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(SeriesWriter(tmp_path, HEADER).write(IMAGE, 1))
    block = dataset.private_block(0x0021, "EDGE RUNTIME")
    assert [block[element].value for element in range(1, 8)] == [0.11, 0.09, 0.1, 120, 2400, "noise scan", 0.13]
    record = json.loads(block[0x10].value)
    assert record["evidence"] == dataclasses.asdict(EVIDENCE)
    assert record["provenance"] == dataclasses.asdict(PROVENANCE)
    assert (record["method"], record["completeness"]) == ("learned", "final")

    unknown = dataset_of(changed(evidence=dataclasses.replace(EVIDENCE, held_out_residual=None, noise_floor=None)))
    block = unknown.private_block(0x0021, "EDGE RUNTIME")
    assert 0x01 not in block and 0x03 not in block
    assert "no samples held out" in unknown.ImageComments and "noise floor unknown" in unknown.ImageComments
    assert "EVIDENCE: none" in dataset_of(changed(evidence=None)).ImageComments


def test_only_what_held_out_samples_chose_is_called_confirmed() -> None:
    chosen = dataclasses.replace(EVIDENCE, learned_share=0.8, learned_share_source=CHOSEN)
    assert (
        "80% of the network's correction applied, as they chose" in dataset_of(changed(evidence=chosen)).ImageComments
    )

    nothing = dataclasses.replace(
        EVIDENCE, held_out_residual=None, held_out_samples=0, learned_share_source=NONE_HELD_OUT
    )
    dataset = dataset_of(changed(evidence=nothing, notes=(nothing.unconfirmed,)))
    (line,) = (line for line in dataset.ImageComments.splitlines() if "unconfirmed" in line)
    assert line.startswith(f"EVIDENCE: the network's correction was {NONE_HELD_OUT}; fitted residual")
    assert "confirmed by" not in line
    record = json.loads(dataset.private_block(0x0021, "EDGE RUNTIME")[0x10].value)
    assert (record["evidence"]["learned_share"], record["evidence"]["learned_share_source"]) == (None, NONE_HELD_OUT)


def test_sequence_values_are_those_of_the_contrast() -> None:
    first, second, third = (dataset_of(changed(key=SliceKey(contrast=contrast))) for contrast in range(3))
    assert [first.EchoTime, second.EchoTime, third.EchoTime] == [20.0, 60.0, None]
    assert [first.RepetitionTime, second.RepetitionTime, third.RepetitionTime] == [500.0] * 3
    assert [first.EchoNumbers, second.EchoNumbers] == [1, 2]
    assert len({first.SeriesInstanceUID, second.SeriesInstanceUID, third.SeriesInstanceUID}) == 3
    assert (first.ScanningSequence, first.SequenceVariant) == ("SE", "SK")
    assert (first.ImagingFrequency, first.MagneticFieldStrength) == (2.342, 0.055)


def test_acquisition_time_is_unambiguous() -> None:
    assert dataset_of().AcquisitionDateTime == "20250102064000.250000+0000"
    unknown = dataset_of(changed(acquired_at=float("nan")))
    assert "AcquisitionDateTime" not in unknown and "Acquisition time" in unknown.ImageComments


def restored(dataset: Dataset) -> npt.NDArray[np.float64]:
    mapping = dataset.RealWorldValueMappingSequence[0]
    return np.asarray(dataset.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-30, 1e30), st.integers(0, 2**32 - 1))
@example(1.0, 0)
def test_pixels_return_within_the_quantisation(peak: float, seed: int) -> None:
    pixels = (np.random.default_rng(seed).random((ROWS, COLUMNS)) * peak).astype(np.float32)
    dataset = dataset_of(changed(pixels=pixels))
    step = dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope
    assert step <= float(pixels.max()) / 4096
    np.testing.assert_allclose(restored(dataset), pixels, atol=step / 2)


def test_pixels_are_not_flipped(tmp_path: Path) -> None:
    stored = pydicom.dcmread(SeriesWriter(tmp_path, HEADER).write(IMAGE, 1)).pixel_array
    assert stored.shape == (ROWS, COLUMNS)
    assert np.all(np.diff(stored.ravel().astype(int)) > 0)


def test_a_series_shares_its_scale_even_across_a_restart(tmp_path: Path) -> None:
    def slope(path: Path) -> float:
        return float(pydicom.dcmread(path).RealWorldValueMappingSequence[0].RealWorldValueSlope)

    def image(slice_index: int, peak: float) -> Image:
        return changed(pixels=phantom(peak=peak), key=SliceKey(slice=slice_index))

    writer = SeriesWriter(tmp_path, HEADER, scan_id="scan")
    black = writer.write(image(0, 0.0), 1)
    first = slope(writer.write(image(1, 7.0), 2))
    assert slope(writer.write(image(2, 40.0), 3)) == first
    assert slope(writer.write(image(3, 0.5), 4)) == first
    bright = writer.write(image(4, 1000.0), 5)
    assert slope(bright) > first
    assert "Stored values are not scaled" in pydicom.dcmread(bright).ImageComments
    assert not pydicom.dcmread(black).pixel_array.any()
    np.testing.assert_allclose(restored(pydicom.dcmread(bright)), phantom(peak=1000.0), atol=slope(bright))
    assert slope(SeriesWriter(tmp_path, HEADER, scan_id="scan").write(image(5, 30.0), 6)) == first
    assert slope(SeriesWriter(tmp_path / "elsewhere", HEADER).write(image(5, 30.0), 6)) != first


@pytest.mark.parametrize("header", [HEADER, EMPTY_HEADER], ids=["named", "bare"])
def test_writing_again_after_a_crash_makes_no_duplicate(tmp_path: Path, header: ScanHeader) -> None:
    first = SeriesWriter(tmp_path, header, scan_id="journal 7").write(IMAGE, 1)
    again = SeriesWriter(tmp_path, header, scan_id="journal 7").write(changed(acquired_at=0.0), 2)
    assert first == again
    assert len(list(tmp_path.rglob("*.dcm"))) == 1


def test_other_images_have_other_uids() -> None:
    brighter = phantom()
    brighter[0, 0] += 1.0
    flipped = dataclasses.replace(GEOMETRY, read_direction=(-1.0, 0.0, 0.0))
    variants = [
        IMAGE,
        changed(pixels=brighter),
        changed(pixels=phantom() * 2),  # the same stored values under another slope
        changed(pixels=phantom().reshape(COLUMNS, ROWS)),
        changed(key=SliceKey(slice=1)),
        changed(key=SliceKey(repetition=1)),
        changed(method=Method.CLASSICAL),
        changed(completeness=Completeness.PREVIEW),
        changed(geometry=flipped),
        changed(provenance=dataclasses.replace(PROVENANCE, bundle_digest="f" * 64)),
    ]
    uids = {dataset_of(image).SOPInstanceUID for image in variants}
    uids.add(dataset_of(uids=scan_uids(HEADER, "another scan")).SOPInstanceUID)
    assert len(uids) == len(variants) + 1
    assert all(uid.is_valid for uid in uids)


def test_study_uid_joins_what_belongs_together_and_nothing_else() -> None:
    def study(header: ScanHeader, scan_id: str = "") -> str:
        return scan_uids(header, scan_id).study

    assert study(HEADER) == STUDY_UID
    assert scan_uids(HEADER) == scan_uids(HEADER)
    assert scan_uids(HEADER).frame_of_reference == "1.2.3.4"
    unnamed = dataclasses.replace(HEADER, study=Study(accession_number="ACC-1"))
    other_scan = dataclasses.replace(unnamed, measurement_id="M-2", protocol_name="T1")
    other_patient = dataclasses.replace(unnamed, patient=Patient("P-2"))
    assert study(unnamed) == study(other_scan) != study(other_patient)
    assert scan_uids(unnamed).seed != scan_uids(other_scan).seed
    assert study(EMPTY_HEADER) != study(EMPTY_HEADER), "scans of nobody in particular must never share a study"
    assert study(EMPTY_HEADER, "a") == study(EMPTY_HEADER, "a") != study(EMPTY_HEADER, "b")
    for text in ("1.2.3\n", "1.02", "9.1", "1.2.", "1" * 70, "1." + "2" * 63):
        assert study(dataclasses.replace(HEADER, study=Study(text))) != text


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", no_space)
        with pytest.raises(DeliveryError, match=r"\.dcm.*No space left on device"):
            SeriesWriter(tmp_path, HEADER).write(IMAGE, 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert SeriesWriter(tmp_path, HEADER).write(IMAGE, 1).is_file()
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeliveryError, match=str(tmp_path / "file")):
        SeriesWriter(tmp_path / "file", HEADER).write(IMAGE, 1)


def test_a_stranger_in_the_folder_does_no_harm(tmp_path: Path) -> None:
    path = SeriesWriter(tmp_path, HEADER).write(IMAGE, 1)
    path.write_bytes(b"not DICOM")
    assert SeriesWriter(tmp_path, HEADER).write(IMAGE, 1) == path
    assert pydicom.dcmread(path).Rows == ROWS


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (changed(pixels=np.full((ROWS, COLUMNS), np.nan, np.float32)), "not finite"),
        (changed(pixels=-phantom()), "negative"),
        (changed(pixels=np.zeros((0, 4), np.float32)), "shape"),
        (changed(pixels=np.zeros((2, 2, 2), np.float32)), "shape"),
        (changed(geometry=dataclasses.replace(GEOMETRY, field_of_view_mm=(0.0, 1.0, 1.0))), "field of view"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, image: Image, message: str) -> None:
    with pytest.raises(DeliveryError, match=message):
        SeriesWriter(tmp_path, HEADER).write(image, 1)
    assert list(tmp_path.iterdir()) == []


def test_series_uid_is_the_one_in_the_file() -> None:
    uids = scan_uids(HEADER)
    assert dataset_of(uids=uids).SeriesInstanceUID == series_uid(uids, kind_of(IMAGE))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 65535), st.data())
def test_no_two_series_of_a_scan_have_one_number(most_contrasts: int, data: st.DataObject) -> None:
    limits = {"contrast": Limit(0, most_contrasts)}
    header = dataclasses.replace(HEADER, encoding=dataclasses.replace(ENCODING, limits=limits))
    kinds = st.tuples(
        st.integers(0, most_contrasts + 2),
        st.integers(0, 65535),
        st.sampled_from(Method),
        st.sampled_from(Completeness),
    )
    one, other = data.draw(kinds), data.draw(kinds)

    def number(kind: tuple[int, int, Method, Completeness]) -> int | None:
        contrast, of_set, method, completeness = kind
        image = changed(key=SliceKey(contrast=contrast, set=of_set), method=method, completeness=completeness)
        return series_number(header, kind_of(image))

    if number(one) is not None and number(one) == number(other):
        assert one == other


def test_a_scan_of_eleven_contrasts_numbers_its_series_apart() -> None:
    encoding = dataclasses.replace(ENCODING, limits={"contrast": Limit(0, 10)})
    header = dataclasses.replace(HEADER, encoding=encoding)
    numbers = [series_number(header, kind_of(changed(key=SliceKey(contrast=c, set=s)))) for c, s in ((10, 0), (0, 1))]
    assert numbers == [1010, 10010]
