"""The raw scan as DICOM objects: valid, in its images' study, and back byte for byte."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pydicom
import pytest
from delivery_objects import DIMSE, settings_text
from dicom_check import complaints
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.cli import main
from edge_runtime.delivery import raw
from edge_runtime.delivery.configuration import load_delivery
from edge_runtime.delivery.files import SeriesWriter
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox
from edge_runtime.delivery.raw import Owner, owner_of_header, owner_of_images, pack, unpack
from edge_runtime.delivery.uids import scan_uids
from edge_runtime.errors import DeliveryError
from edge_runtime.links.files import open_recording
from edge_runtime.scan import (
    Completeness,
    EncodingSpace,
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

DEMO = Path(raw.__file__).parent.parent / "demo" / "colin27.mrd"
SPACE = EncodingSpace((8, 6, 1), (240.0, 180.0, 5.0))
HEADER = ScanHeader(
    encoding=MriEncoding(SPACE, SPACE, "cartesian", {}),
    patient=Patient("P-1", "Müller^Änne"),
    study=Study("1.2.3.4", "S-1", date="20260102", time="101112"),
    protocol_name="T2 axial",
)


def write_images(folder: Path, header: ScanHeader = HEADER) -> list[Path]:
    import numpy as np

    writer = SeriesWriter(folder, header, scan_id="scan")
    place = Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (240.0, 180.0, 5.0))
    return [
        writer.write(
            Image(
                np.full((6, 8), 1.0 + slice_, np.float32), method, Completeness.FINAL, SliceKey(slice_), place,
                Provenance("1"), 1.0, 1.0, 1.7e9,
            ),
            slice_ + 1,
        )
        for slice_ in range(3)
        for method in (Method.CLASSICAL, Method.ZERO_FILLED)
    ]  # fmt: skip


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "PART_BYTES", 1000)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 20), st.randoms())
def test_it_comes_back_byte_for_byte(content: bytes, part: int, draw: object) -> None:
    import random

    assert isinstance(draw, random.Random)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(raw, "PART_BYTES", part)
        folder = Path(name)
        (folder / "scan.mrd").write_bytes(content)
        paths = list(pack(folder / "scan.mrd", owner_of_header(HEADER, scan_uids(HEADER)), folder / "objects"))
        assert len(paths) == -(-len(content) // part) == len(set(paths))
        draw.shuffle(paths)
        assert unpack(paths, folder / "back.mrd") == len(content)
        assert (folder / "back.mrd").read_bytes() == content


def test_it_is_valid_and_refers_to_its_images(tmp_path: Path, small_parts: None) -> None:
    images = write_images(tmp_path / "images")
    (tmp_path / "scan.mrd").write_bytes(os.urandom(2501))  # the last part is odd
    paths = list(pack(tmp_path / "scan.mrd", owner_of_images(images), tmp_path / "objects"))
    assert len(paths) == 3
    for number, path in enumerate(paths):
        assert complaints(path, "RawData") == []
        dataset = pydicom.dcmread(path)
        image = pydicom.dcmread(images[0])
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "StudyDate", "ProtocolName"):
            assert dataset[keyword].value == image[keyword].value, keyword
        assert dataset.InstanceNumber == number + 1
        referred = {
            (str(series.SeriesInstanceUID), str(one.ReferencedSOPInstanceUID))
            for series in dataset.ReferencedSeriesSequence
            for one in series.ReferencedInstanceSequence
        }
        assert referred == {
            (str(one.SeriesInstanceUID), str(one.SOPInstanceUID)) for one in map(pydicom.dcmread, images)
        }
    assert len({str(pydicom.dcmread(path).SeriesInstanceUID) for path in paths}) == 1


@pytest.mark.parametrize("header", [HEADER, ScanHeader(encoding=HEADER.encoding)], ids=["named", "bare"])
def test_a_header_will_do(tmp_path: Path, header: ScanHeader) -> None:
    (tmp_path / "scan.mrd").write_bytes(b"12345")
    (path,) = pack(tmp_path / "scan.mrd", owner_of_header(header, scan_uids(header, "scan")), tmp_path)
    assert complaints(path, "RawData") == []
    image = pydicom.dcmread(write_images(tmp_path / "images", header)[0])
    assert pydicom.dcmread(path).StudyInstanceUID == image.StudyInstanceUID


def test_identifiers_stand_for_bytes(tmp_path: Path, small_parts: None) -> None:
    owner = owner_of_header(HEADER, scan_uids(HEADER))

    def packed(content: bytes, folder: str, whose: Owner = owner) -> list[bytes]:
        (tmp_path / "scan").write_bytes(content)
        return [path.read_bytes() for path in pack(tmp_path / "scan", whose, tmp_path / folder)]

    assert packed(bytes(2000), "a") == packed(bytes(2000), "a")
    assert len(list((tmp_path / "a").iterdir())) == 2  # the same names
    packed(bytes(1999) + b"1", "a")
    assert len(list((tmp_path / "a").iterdir())) == 4  # of another recording, even the part whose bytes are the same
    named = ScanHeader(encoding=HEADER.encoding, study=Study("1.2.3.5"))
    packed(bytes(2000), "a", owner_of_header(named, scan_uids(named, "x")))
    assert len(list((tmp_path / "a").iterdir())) == 6


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, small_parts: None) -> None:
    owner = owner_of_header(HEADER, scan_uids(HEADER))
    (tmp_path / "scan").write_bytes(os.urandom(2500))
    paths = list(pack(tmp_path / "scan", owner, tmp_path / "objects"))
    with pytest.raises(DeliveryError, match="part 2 of 3 is missing"):
        unpack([paths[0], paths[2]], tmp_path / "back")
    (tmp_path / "scan").write_bytes(os.urandom(100))
    (other,) = pack(tmp_path / "scan", owner, tmp_path / "others")
    with pytest.raises(DeliveryError, match="of another recording"):
        unpack([*paths, other], tmp_path / "back")
    damaged = bytearray(paths[1].read_bytes())
    damaged[-500] ^= 1
    paths[1].write_bytes(damaged)
    with pytest.raises(DeliveryError, match="not those that were packed"):
        unpack(paths, tmp_path / "back")
    with pytest.raises(DeliveryError, match="no raw data"):
        unpack(write_images(tmp_path / "images"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    (tmp_path / "empty").write_bytes(b"")
    for wrong in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DeliveryError, match=str(wrong)):
            list(pack(wrong, owner, tmp_path / "objects"))


def test_a_recording_that_still_grows_is_refused(tmp_path: Path, small_parts: None) -> None:
    (tmp_path / "scan").write_bytes(os.urandom(2500))
    objects = pack(tmp_path / "scan", owner_of_header(HEADER, scan_uids(HEADER)), tmp_path / "objects")
    next(objects)
    (tmp_path / "scan").write_bytes(os.urandom(2500))
    with pytest.raises(DeliveryError, match="changes while it is read"):
        list(objects)
    assert len(list((tmp_path / "objects").iterdir())) == 1


def test_images_of_two_studies_are_nobody_s(tmp_path: Path) -> None:
    one = write_images(tmp_path / "a")
    other = write_images(tmp_path / "b", ScanHeader(encoding=HEADER.encoding))
    with pytest.raises(DeliveryError, match="another study"):
        owner_of_images([*one, *other])
    with pytest.raises(DeliveryError, match="no images"):
        owner_of_images([])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "scan"
    scan.mkdir()
    (scan / "colin27.mrd").write_bytes(DEMO.read_bytes())
    images = write_images(scan / "images")
    assert main(["raw", "pack", str(scan), "--out", str(tmp_path / "objects"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["objects"], said["images"], said["study_instance_uid"]) == (1, len(images), "1.2.3.4")
    assert main(["raw", "unpack", str(tmp_path / "objects"), "--out", str(tmp_path / "back.mrd")]) == 0
    assert (tmp_path / "back.mrd").read_bytes() == DEMO.read_bytes()
    assert open_recording(tmp_path / "back.mrd").readout_count > 0

    # Without images what its header says; into the outbox, and again is no harm.
    capsys.readouterr()
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(DIMSE + DIMSE.replace('"pacs"', '"other"', 1)))
    for new in (1, 0):
        assert main(["raw", "pack", str(DEMO), "--config", str(configuration), "--to", "other", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["objects"] == new
    with Outbox(load_delivery(configuration).outbox.folder) as outbox:
        (delivery,) = outbox.deliveries()
        assert (delivery.destination, delivery.state) == ("other", State.QUEUED)
        assert delivery.path is not None and complaints(delivery.path, "RawData") == []
    assert main(["raw", "pack", str(DEMO), "--config", str(configuration), "--to", "nobody"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["raw", "pack", str(tmp_path / "objects"), "--out", str(tmp_path)])


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Packs and unpacks 240 MB with 160 MB of address space beside what the program itself takes."""
    scan = tmp_path / "scan"
    with scan.open("wb") as file:
        file.truncate(240 << 20)
    program = f"""
import resource, sys
from pathlib import Path
from edge_runtime.delivery.raw import owner_of_header, pack, unpack
from edge_runtime.delivery.uids import scan_uids
from edge_runtime.scan import EncodingSpace, MriEncoding, ScanHeader
import pydicom.pixels, numpy
space = EncodingSpace((8, 6, 1), (240.0, 180.0, 5.0))
header = ScanHeader(encoding=MriEncoding(space, space, "cartesian", {{}}))
little = Path({str(tmp_path / "little")!r})
little.write_bytes(bytes(1000))
owner = owner_of_header(header, scan_uids(header, "y"))
(Path({str(tmp_path)!r}) / "first").mkdir()
unpack(list(pack(little, owner, Path({str(tmp_path)!r}) / "first")), Path({str(tmp_path / "little back")!r}))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (taken + (160 << 20),) * 2)
paths = list(pack(Path({str(scan)!r}), owner_of_header(header, scan_uids(header, "x")), Path({str(tmp_path)!r})))
print(len(paths), unpack(paths, Path({str(tmp_path / "back")!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["15", str(240 << 20)], done.stderr
    assert (tmp_path / "back").stat().st_size == 240 << 20
