"""Siemens twix files (``.dat``): the last measurement, as a Recording.

Directions. Siemens' quaternion holds the phase, read and slice axes as its columns, in patient coordinates. Siemens'
samples have the opposite sign of phase to the one that `fourier.to_image` undoes, so columns and rows of that image run
*against* the read and phase axes: the directions given here are negated. twixtools' geometry says the same, and
python-ismrmrd-server flips both axes of such data. Seen in `twixtools_gre.dat`: both air bubbles of the ACR phantom,
which rise to the front, lie where rows end, and its resolution insert is mirrored unless columns run to the left.
Pulseq sequences choose their own signs, which the file does not hold: their readouts have no directions.

twixtools (0.24) parses the bytes. Its own walk over the readouts never ends where a damaged one has the length 0, so
`_blocks` takes its steps. Its parser of the text trusts every number: open only files whose origin is known.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError
from edge_runtime.links.files.pulseq_order import EPI_SECONDS, Order, infer_order
from edge_runtime.links.files.recording import Recording, finite, optional_package, readouts_per_batch
from edge_runtime.links.files.slices import is_image, mark_last_in_slice
from edge_runtime.links.files.twix_protocol import Protocol
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    Patient,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Scanner,
    Sequence,
    Study,
)

TICK_SECONDS = 0.0025
"""Unit of Siemens time stamps."""

COUNTER_NAMES = {
    "phase_encode": "Lin",
    "partition": "Par",
    "average": "Ave",
    "slice": "Sli",
    "contrast": "Eco",
    "phase": "Phs",
    "repetition": "Rep",
    "set": "Set",
    "segment": "Seg",
}

_PATREFSCAN, _PATREFANDIMASCAN = 1 << 22, 1 << 23

FLAG_NAMES = {
    1 << 1: ReadoutFlag.IS_RTFEEDBACK_DATA,
    1 << 2: ReadoutFlag.IS_HPFEEDBACK_DATA,
    1 << 11: ReadoutFlag.LAST_IN_MEASUREMENT,
    1 << 14: ReadoutFlag.IS_PHASE_STABILIZATION_REFERENCE,
    1 << 15: ReadoutFlag.IS_PHASE_STABILIZATION,
    1 << 21: ReadoutFlag.IS_PHASECORR_DATA,
    _PATREFANDIMASCAN: ReadoutFlag.IS_PARALLEL_CALIBRATION_AND_IMAGING,
    1 << 24: ReadoutFlag.IS_REVERSE,
    1 << 25: ReadoutFlag.IS_NOISE_MEASUREMENT,
    1 << 28: ReadoutFlag.FIRST_IN_SLICE,
    1 << 51: ReadoutFlag.IS_DUMMYSCAN_DATA,
    1 << 60: ReadoutFlag.IS_DUMMYSCAN_DATA,
}
"""Bits of Siemens' evaluation mask; LAST_IN_SLICE is assigned anew, PATREFSCAN depends on PATREFANDIMASCAN."""

SEX = {1: "F", 2: "M", 3: "O"}
TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "propeller"}

FIRST_ENTRY_END = 160
"""A table of measurements has at least one entry before its first measurement."""

SHORTEST_READOUT_BYTES = 128
"""Header of a readout before software VD."""


@dataclass(frozen=True)
class Measurement:
    """The last measurement of a file.

    Attributes:
        count: measurements in the file.
        protocol: its text header.
        blocks: its readouts, `twixtools.mdb.Mdb` each.
        heads: ``(readouts,)``, their headers (``mdh`` of twixtools) as one array.
    """

    count: int
    protocol: Protocol
    blocks: list[Any]
    heads: npt.NDArray[np.void]


def looks_like_twix(first: bytes, size: int) -> bool:
    """Whether the first bytes of a file of ``size`` bytes can begin a twix file: a table of measurements (from software
    VD on) or the length, the count and the name of text buffers (VB)."""
    if len(first) < 24:
        return False
    length, count, _, _, offset = struct.unpack_from("<IIIIQ", first)
    if length < 10000:
        return bool(1 <= count <= 64 and FIRST_ENTRY_END <= offset < size)
    return bool(length <= size and 1 <= count <= 64 and first[8:].split(b"\0", 1)[0].isalnum())


def open_twix(path: Path) -> Recording:
    """Open the last measurement of a twix file.

    Raises:
        RecordingError: twixtools is missing, or the file is damaged or truncated, with what was found.
    """
    if not path.suffix:
        raise RecordingError(f"{path}: twixtools reads only files with an extension; rename it to {path.name}.dat")
    measurement = _read(path)
    protocol = measurement.protocol
    notes: list[str] = []
    if measurement.count > 1:
        notes.append(f"the last of {measurement.count} measurements in the file; the others (adjustments) are not read")
    pulseq = "pulseq" in protocol.text("tSequenceFileName").lower()
    readouts = _readout_headers(measurement.heads, pulseq)
    image = is_image(readouts)
    if not image.any():
        raise RecordingError(f"{path}: {len(readouts)} readouts and none of an image; replay an imaging measurement")
    seconds = measurement.heads["TimeStamp"].astype(np.float64) * TICK_SECONDS
    order: Order | None = None
    if pulseq:
        order = _apply_order(path, measurement, readouts, image, seconds, notes)
    pace = _pace(seconds, None if order is None else order.lines)
    mark_last_in_slice(readouts)
    header = _scan_header(measurement, readouts, image, order, pace, notes)
    dwell = protocol.value("sRXSPEC", "alDwellTime", 0)
    if dwell and not pulseq:
        readouts["sample_time_us"] = dwell / 1000.0
    return Recording(
        path,
        f"Siemens twix ({'VD' if measurement.blocks[0].version_is_ve else 'VB'})",
        header,
        len(readouts),
        pace,
        lambda: _batches(path, measurement, readouts),
    )


def directions(quaternion: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], ...]:
    """Directions of increasing column, row and slice, ``(readouts, 3)`` each, in patient coordinates (LPS).

    Args:
        quaternion: ``(readouts, 4)``, scalar first; normalised here. Zeros give zeros.
    """
    norm = np.linalg.norm(quaternion.astype(np.float64), axis=1, keepdims=True)
    known = (norm[:, 0] > 0.5) & (norm[:, 0] < 2.0)
    w, x, y, z = (quaternion / np.where(norm > 0, norm, 1.0)).T
    phase = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=1)
    read = np.stack([2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)], axis=1)
    normal = np.stack([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)], axis=1)
    return tuple(
        np.where(known[:, None], axis, 0.0) + 0.0 for axis in (-read, -phase, normal)
    )  # + 0.0: no negative zeros


def _read(path: Path) -> Measurement:
    """The last measurement of a file."""
    twixtools = optional_package(path, "twixtools", "twix")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it repairs
            scans = twixtools.read_twix(
                str(path), parse_data=False, parse_pmu=False, parse_geometry=False, verbose=False
            )
        blocks = _blocks(path, scans[-1], twixtools.mdb.Mdb)
        heads = np.frombuffer(b"".join(bytes(block.mdh) for block in blocks), np.dtype(type(blocks[0].mdh)))
        if min(heads["UsedChannels"].min(), heads["SamplesInScan"].min()) < 1:
            raise ValueError("a readout without samples")
        return Measurement(len(scans), Protocol(scans[-1]["hdr"]), blocks, heads)
    except Exception as error:  # twixtools fails in any way on damaged bytes
        raise RecordingError(
            f"{path}: no complete Siemens twix file ({type(error).__name__}: {error}); copy it again from the scanner"
        ) from None


def _blocks(path: Path, scan: dict[str, Any], mdb: Any) -> list[Any]:
    """All readouts of a measurement up to the mark of its end; synchronisation data is passed over."""
    size, entry = os.path.getsize(path), scan.get("raidfile_hdr")
    start, length = (0, size) if entry is None else (int(entry["off_"]), int(entry["len_"]))
    stop = start + length
    position = start + len(scan["hdr_str"])
    blocks: list[Any] = []
    with open(path, "rb") as file:
        while position + SHORTEST_READOUT_BYTES <= stop <= size:
            file.seek(position)
            block = mdb(file, entry is not None)
            if block.is_flag_set("ACQEND"):
                if not blocks:
                    raise ValueError("no readouts")
                return blocks
            if not block.is_flag_set("SYNCDATA"):
                blocks.append(block)
            if block.dma_len < SHORTEST_READOUT_BYTES:
                raise ValueError(f"a readout of {block.dma_len} bytes at byte {position}")
            position += int(block.dma_len)
    raise ValueError(f"{size} bytes end within readout {len(blocks)} or before the mark of the end: it is truncated")


def _samples(path: Path, blocks: list[Any], first: int) -> npt.NDArray[np.complex64]:
    """``(readouts, coils, samples)`` of readouts of one size, the first of them number ``first`` of the file."""
    try:
        samples = np.stack([block.data for block in blocks])
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: changed while it was read: {error}") from None
    return finite(samples, path, first)


def _readout_headers(heads: npt.NDArray[np.void], pulseq: bool) -> npt.NDArray[np.void]:
    """What every readout says of itself, in the runtime's words."""
    readouts = np.zeros(len(heads), READOUT_DTYPE)
    evaluation = heads["EvalInfoMask"]
    for bit, flag in FLAG_NAMES.items():
        readouts["flags"] |= np.where(evaluation & np.uint64(bit), np.uint64(flag), np.uint64(0))
    reference_only = (evaluation & np.uint64(_PATREFSCAN | _PATREFANDIMASCAN)) == _PATREFSCAN
    readouts["flags"] |= np.where(reference_only, np.uint64(ReadoutFlag.IS_PARALLEL_CALIBRATION), np.uint64(0))
    for name, siemens in COUNTER_NAMES.items():
        readouts[name] = heads["Counter"][siemens]
    readouts["scan_counter"] = heads["ScanCounter"]
    readouts["time_stamp"] = heads["TimeStamp"]
    readouts["centre_sample"] = np.minimum(heads["CenterCol"], heads["SamplesInScan"] - 1)
    before, after = (heads["CutOff"][name].astype(np.int64) for name in ("Pre", "Post"))
    keep = before + after < heads["SamplesInScan"]
    readouts["discard_pre"] = np.where(keep, before, 0)
    readouts["discard_post"] = np.where(keep, after, 0)
    place = heads["SliceData"]
    position = np.stack([place["SlicePos"][name] for name in ("Sag", "Cor", "Tra")], axis=1)
    readouts["position"] = np.where(np.isfinite(position), position, 0.0)
    if not pulseq:
        quaternion = np.where(np.isfinite(place["Quaternion"]), place["Quaternion"], 0.0).astype(np.float32)
        for name, axis in zip(
            ("read_direction", "phase_direction", "slice_direction"), directions(quaternion), strict=True
        ):
            readouts[name] = axis
    return readouts


def _apply_order(
    path: Path,
    measurement: Measurement,
    readouts: npt.NDArray[np.void],
    image: npt.NDArray[np.bool_],
    seconds: npt.NDArray[np.float64],
    notes: list[str],
) -> Order | None:
    """Write inferred line numbers and repetitions where the sequence set no counter but the line; None where it set
    others."""
    lines = readouts["phase_encode"]
    others = any(readouts[name].any() for name in COUNTER_NAMES if name != "phase_encode")
    if others or not image.all() or not np.array_equal(lines, np.arange(len(lines))):
        notes.append("a Pulseq sequence with labels: its counters are taken as they are")
        return None
    strength = np.array(
        [np.abs(_samples(path, [block], i)).max() for i, block in enumerate(measurement.blocks)], np.float32
    )
    order = infer_order(strength, seconds)
    readouts["phase_encode"] = order.phase_encode
    readouts["repetition"] = order.repetition
    notes.extend(order.notes)
    return order


def _pace(seconds: npt.NDArray[np.float64], lines: int | None) -> float | None:
    """Mean seconds between readouts of one image; None where the time stamps stand still."""
    span = seconds[: lines or len(seconds)]
    if len(span) < 2 or span[-1] <= span[0]:
        return None
    return float((span[-1] - span[0]) / (len(span) - 1))


def _scan_header(
    measurement: Measurement,
    readouts: npt.NDArray[np.void],
    image: npt.NDArray[np.bool_],
    order: Order | None,
    pace: float | None,
    notes: list[str],
) -> ScanHeader:
    protocol = measurement.protocol
    pulseq = "pulseq" in protocol.text("tSequenceFileName").lower()
    encoding = _encoding(measurement, readouts, image, pulseq, order, pace, notes)
    frequency = protocol.value("sTXSPEC", "asNucleusInfo", 0, "lFrequency")
    sequence = Sequence(sequence_type=protocol.text("tSequenceFileName").rsplit("\\", 1)[-1])
    if pulseq:
        notes.append(
            "a Pulseq sequence: field of view and thickness are the protocol card's and may not be the sequence's; "
            "repetition time, echo time and flip angle are not known"
        )
        notes.append("a Pulseq sequence: the signs of its axes are not recorded, so the image has no orientation")
    else:
        contrasts = max(1, protocol.whole("lContrasts") or 1)
        sequence = Sequence(
            repetition_time_ms=_milliseconds(protocol, "alTR", 1),
            echo_time_ms=_milliseconds(protocol, "alTE", contrasts),
            inversion_time_ms=_milliseconds(protocol, "alTI", 1)
            if protocol.whole("sPrepPulses", "ucInversion") in (1, 2)
            else (),
            flip_angle_deg=tuple(v for v in [protocol.value("adFlipAngleDegree", 0)] if v is not None),
            sequence_type=sequence.sequence_type,
        )
    birth = protocol.text("PatientBirthDay").split(".")[0]
    return ScanHeader(
        encoding=encoding,
        scanner=Scanner(
            manufacturer=protocol.text("Manufacturer") or "SIEMENS",
            model=protocol.text("ManufacturersModelName"),
            institution=protocol.text("InstitutionName"),
            device_serial_number=protocol.text("DeviceSerialNumber"),
            field_strength_t=protocol.number("flMagneticFieldStrength")
            or protocol.value("sProtConsistencyInfo", "flNominalB0"),
            receiver_coils=int(measurement.heads["UsedChannels"][image].max()),
            resonance_frequency_hz=int(frequency) if frequency else None,
        ),
        patient=Patient(
            identifier=protocol.text("PatientID"),
            name=protocol.text("tPatientName", "PatientName"),
            birth_date=birth if len(birth) == 8 and birth.isdigit() else "",
            sex=SEX.get(int(protocol.number("PatientSex") or 0), ""),
            weight_kg=protocol.number("flUsedPatientWeight"),
        ),
        study=Study(description=protocol.text("tStudyDescription")),
        sequence=sequence,
        measurement_id=protocol.text("MeasUID"),
        protocol_name=protocol.text("tProtocolName"),
        body_part=protocol.text("tBodyPartExamined"),
        patient_position=protocol.text("tPatientPosition", "PatientPosition", "sPatPosition"),
        frame_of_reference_uid=protocol.text("tFrameOfReference", "FrameOfReference"),
        notes=tuple(notes),
    )


def _milliseconds(protocol: Protocol, name: str, count: int) -> tuple[float, ...]:
    values = (protocol.value(name, i) for i in range(min(count, 64)))
    return tuple(v / 1000.0 for v in values if v is not None)


def _encoding(
    measurement: Measurement,
    readouts: npt.NDArray[np.void],
    image: npt.NDArray[np.bool_],
    pulseq: bool,
    order: Order | None,
    pace: float | None,
    notes: list[str],
) -> MriEncoding:
    protocol, heads = measurement.protocol, measurement.heads[image]
    samples = int(heads["SamplesInScan"].max())
    measured = int(readouts["phase_encode"][image].max()) + 1
    partitions = int(readouts["partition"][image].max()) + 1

    oversampling = protocol.number("flReadoutOSFactor") or 0.0
    if pulseq or oversampling < 1:
        oversampling = 1.0
        notes.append("the readout is taken for not oversampled")
    columns = max(1, round(samples / oversampling))

    declared = 0 if pulseq else (protocol.whole("sKSpace", "lPhaseEncodingLines") or 0)
    phase_oversampling = 0.0 if pulseq else max(0.0, protocol.value("sKSpace", "dPhaseOversamplingForDialog") or 0.0)
    rows = declared if 0 < declared <= 65535 else measured
    encoded_rows = max(measured, round(rows * (1 + phase_oversampling)))
    if encoded_rows != rows and not phase_oversampling:
        notes.append(f"{measured} phase encodes were measured where the protocol says {rows}: taken for the matrix")
        rows = encoded_rows
    first_slice = ("sSliceArray", "asSlice", 0)
    read_mm = protocol.value(*first_slice, "dReadoutFOV") or 0.0
    phase_mm = protocol.value(*first_slice, "dPhaseFOV") or 0.0
    thickness_mm = protocol.value(*first_slice, "dThickness") or 0.0
    if min(read_mm, phase_mm, thickness_mm) <= 0:
        notes.append("field of view or slice thickness is not in the file: 1 mm a voxel is written in its place")
        read_mm, phase_mm, thickness_mm = read_mm or float(columns), phase_mm or float(rows), thickness_mm or 1.0

    centres = {
        "kspace_encoding_step_1": (heads["CenterLin"], encoded_rows),
        "kspace_encoding_step_2": (heads["CenterPar"], partitions),
    }
    limits: dict[str, Limit] = {}
    names = {"phase_encode": "kspace_encoding_step_1", "partition": "kspace_encoding_step_2"}
    for counter in COUNTER_NAMES:
        values = readouts[counter][image]
        name = names.get(counter, counter)
        centre = 0
        if name in centres:
            stated, count = centres[name]
            centre = int(stated[0]) if not pulseq and int(stated[0]) > 0 else count // 2
            if centre >= count:
                notes.append(f"the centre {centre} of {name} lies outside its {count} steps: {count // 2} is taken")
                centre = count // 2
            elif pulseq and name == "kspace_encoding_step_1":
                notes.append(f"the file names no centre of k-space: phase encode {centre} of {count} is taken")
        limits[name] = Limit(int(values.min()), int(values.max()), centre)

    trajectory = TRAJECTORIES.get(protocol.whole("sKSpace", "ucTrajectory") or 1, "other")
    if np.any(readouts["flags"][image] & np.uint64(ReadoutFlag.IS_REVERSE)):
        trajectory = "epi"
    elif pulseq and pace is not None and pace < EPI_SECONDS:
        trajectory = "epi"
        notes.append(
            "readouts follow each other too fast for single excitations: taken for an echo-planar scan, whose reversed "
            "readouts have no flag"
        )
    factors = [protocol.whole("sPat", f"lAccelFact{axis}") or 1 for axis in ("PE", "3D")]
    return MriEncoding(
        encoded=EncodingSpace(
            (samples, encoded_rows, partitions),
            (read_mm * oversampling, phase_mm * encoded_rows / rows, thickness_mm),
        ),
        recon=EncodingSpace((columns, rows, partitions), (read_mm, phase_mm, thickness_mm)),
        trajectory=trajectory,
        limits=limits,
        acceleration=(max(1, factors[0]), max(1, factors[1])) if not pulseq else (1, 1),
    )


def _batches(path: Path, measurement: Measurement, readouts: npt.NDArray[np.void]) -> Iterator[ReadoutBatch]:
    sizes = np.stack([measurement.heads["UsedChannels"], measurement.heads["SamplesInScan"]], axis=1)
    changes = [0, *(np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1).tolist(), len(sizes)]
    for start, stop in zip(changes[:-1], changes[1:], strict=True):
        step = readouts_per_batch(*sizes[start].tolist())
        for first in range(start, stop, step):
            last = min(first + step, stop)
            yield ReadoutBatch(readouts[first:last].copy(), _samples(path, measurement.blocks[first:last], first))
