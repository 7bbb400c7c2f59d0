"""A simulated scan as a file that an MRD client plays: header, noise scan, readouts in the order of time."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.links.files import write_ismrmrd_hdf5, write_mrd_stream
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Sequence,
)
from edge_runtime.scan import Scanner as ScannerDescription
from export.config import ConfigError
from export.keys import check_no_key
from export.simulate.acquisition import Progress, Scanner
from export.simulate.receive import KSpace
from export.simulate.settings import PARAMETER_PREFIX, to_parameters
from export.simulate.source import slice_centre_mm

GYROMAGNETIC_RATIO_HZ_PER_T = 42_577_478.5
TICKS_PER_S = 400
"""MRD's customary clock, 2.5 ms."""

SEQUENCE_TYPES = {"gradient_echo": "GRE", "spin_echo": "SE"}

WRITERS = {".mrd": write_mrd_stream, ".h5": write_ismrmrd_hdf5}
"""By suffix."""


def write_scan(scanner: Scanner, path: Path, progress: Progress = lambda done, total: None) -> int:
    """Measures and writes a ``.mrd`` stream or an ISMRMRD ``.h5`` file; returns the number of readouts.

    Raises:
        ConfigError: another suffix.
        RecordingError: the file can't be written.
    """
    check_name(path)
    return WRITERS[path.suffix](path, header_of(scanner), readouts(scanner, progress))


def check_name(path: Path) -> None:
    """Refuses, before any work, a file whose name tells no known format or whose folder is missing.

    Raises:
        ConfigError: names what is expected.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: the name decides the format; {' or '.join(WRITERS)} is expected")
    check_place(path)


def check_place(path: Path) -> None:
    """Refuses, before any work, a file that could not be written in the end.

    Raises:
        ConfigError: its folder is missing, or it is a folder itself.
        SigningKeyError: it holds a private key.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file to write")
    check_no_key(path)


def write_reference(scanner: Scanner, path: Path) -> None:
    """Writes ``images`` ``(slices, phase_encodes, columns)``, float32, as `Scanner.reference` defines them, to an ``.npz``."""
    images = np.stack([scanner.reference(index) for index in range(scanner.config.slices)])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images)
    path.write_bytes(buffer.getvalue())


def header_of(scanner: Scanner) -> ScanHeader:
    """The MRD header; its user parameters carry the whole configuration, the source and its digest, and the noise."""
    config, source = scanner.config, scanner.source
    lines = config.phase_encodes
    image_mm = (config.read_mm, config.phase_mm, config.slice_thickness_mm)
    encoded_mm = (config.read_mm * config.readout_oversampling, *image_mm[1:])
    steps = Limit(round((1 - config.partial_fourier) * lines), lines - 1, lines // 2)
    parameters = {
        "edge_expected_lines": str(len(scanner.schedule.planned)),
        **to_parameters(config),
        PARAMETER_PREFIX + "source": source.name,
        PARAMETER_PREFIX + "source_sha256": source.digest,
        PARAMETER_PREFIX + "noise_level": repr(scanner.noise_level),
        PARAMETER_PREFIX + "version": importlib.metadata.version("edge-runtime"),
    }
    notes = (
        () if source.oriented else ("the source volume does not say where its axes point: the image has no directions",)
    )
    return ScanHeader(
        encoding=MriEncoding(
            encoded=EncodingSpace((scanner.samples, lines, 1), encoded_mm),
            recon=EncodingSpace((config.columns, lines, 1), image_mm),
            trajectory="cartesian",
            limits={"kspace_encoding_step_1": steps, "slice": Limit(0, config.slices - 1, 0)},
            acceleration=(1 if config.mask == "full" else max(1, round(config.acceleration)), 1),
        ),
        scanner=ScannerDescription(
            manufacturer="edge-export",
            model="simulator",
            field_strength_t=config.field_strength_t,
            receiver_coils=config.coils,
            resonance_frequency_hz=round(GYROMAGNETIC_RATIO_HZ_PER_T * config.field_strength_t),
        ),
        sequence=Sequence(
            repetition_time_ms=(config.repetition_time_ms,),
            echo_time_ms=(config.echo_time_ms,),
            flip_angle_deg=(config.flip_angle_deg,),
            sequence_type=SEQUENCE_TYPES[config.sequence],
        ),
        measurement_id=f"simulated-{source.digest[:8]}-{config.seed}",
        protocol_name=f"Simulated {config.plane} {SEQUENCE_TYPES[config.sequence]}",
        series_description="Simulated",
        patient_position="HFS",
        parameters=parameters,
        simulated=True,
        notes=notes,
    )


def readouts(scanner: Scanner, progress: Progress = lambda done, total: None) -> Iterator[ReadoutBatch]:
    """The noise scan and every readout that arrives, in the order of time.

    Slices in sequence are measured one by one; where they are interleaved all of them are held in memory.
    """
    noise = scanner.noise_scan()
    sent = 0
    if noise is not None:
        header = _blank(scanner, np.arange(len(noise)))
        header["flags"] = ReadoutFlag.IS_NOISE_MEASUREMENT
        sent = len(noise)
        yield ReadoutBatch(header, noise)
    schedule = scanner.schedule
    header = _blank(scanner, sent + schedule.times)
    header["phase_encode"], header["slice"] = schedule.lines, schedule.slices
    _flag_ends(scanner, header, schedule.times)
    _place(scanner, header)
    if scanner.config.slice_order == "sequential":
        for index, kspace in scanner.measure(progress):
            mine = schedule.slices == index
            yield ReadoutBatch(header[mine], _lines(kspace, schedule.lines[mine]))
        return
    slices = dict(scanner.measure(progress))
    for start in range(0, len(header), 64):
        part = slice(start, start + 64)
        pairs = zip(schedule.slices[part], schedule.lines[part])
        yield ReadoutBatch(header[part], np.stack([slices[int(index)][:, line] for index, line in pairs]))


def _lines(kspace: KSpace, lines: npt.NDArray[np.intp]) -> npt.NDArray[np.complex64]:
    """``(readouts, coils, samples)``."""
    return np.ascontiguousarray(kspace[:, lines].transpose(1, 0, 2))


def _blank(scanner: Scanner, counters: npt.NDArray[np.intp]) -> npt.NDArray[np.void]:
    config = scanner.config
    header = np.zeros(len(counters), READOUT_DTYPE)
    header["scan_counter"] = counters
    together = config.slices if config.slice_order == "interleaved" else 1
    header["time_stamp"] = np.round(counters * config.repetition_time_ms / together * TICKS_PER_S / 1000)
    header["centre_sample"] = scanner.samples // 2 - scanner.first_sample
    header["sample_time_us"] = 1e6 / (config.bandwidth_per_pixel_hz * scanner.samples)
    if scanner.source.oriented:
        names = ("read_direction", "phase_direction", "slice_direction")
        for name, direction in zip(names, scanner.plane.directions(scanner.source.axes)):
            header[name] = direction
    return header


def _flag_ends(scanner: Scanner, header: npt.NDArray[np.void], times: npt.NDArray[np.intp]) -> None:
    """First and last of slice and measurement: those of the protocol, so that a lost or stopped end is not flagged."""
    config, schedule = scanner.config, scanner.schedule
    count = len(schedule.planned)
    if config.slice_order == "sequential":
        first, last = times % count == 0, times % count == count - 1
    else:
        first, last = times < config.slices, times >= schedule.total - config.slices
    header["flags"][first] |= np.uint64(ReadoutFlag.FIRST_IN_SLICE)
    header["flags"][last] |= np.uint64(ReadoutFlag.LAST_IN_SLICE)
    header["flags"][times == schedule.total - 1] |= np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)


def _place(scanner: Scanner, header: npt.NDArray[np.void]) -> None:
    """Positions of the slices' centres in patient coordinates; without known axes along the scanner's, from its centre."""
    source = scanner.source
    along = scanner.plane.directions(source.axes)[2] if source.oriented else np.array([0.0, 0.0, 1.0])
    centre = source.centre_mm if source.oriented else np.zeros(3)
    for index in range(scanner.config.slices):
        header["position"][header["slice"] == index] = centre + along * slice_centre_mm(scanner.config, index)
