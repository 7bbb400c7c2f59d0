"""The scan of the speed figures: 256 x 256, 8 coils, R = 4 variable density, of a drawn head. Needs no data files; says nothing of
image quality, which `benchmarks.quality` measures on real scans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.metrics import root_sum_of_squares
from edge_runtime.hil.plan import undersampled
from edge_runtime.links.files.recording import Recording
from edge_runtime.modalities.mri.fourier import Complex, to_image
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, Mask, variable_density
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Scanner,
)
from export.simulate.receive import complex_noise, gaussian_coils, measure

MATRIX, COILS, ACCELERATION = 256, 8, 4
FINE = 2 * MATRIX
"""Grid of the object: a scanner measures a part of the spectrum of something finer."""

FIELD_OF_VIEW_MM = 230.0
NOISE = 0.02
SEED = 5

ELLIPSES = (
    # value, half-axes along rows and columns, centre row, centre column; of a field of view from -1 to 1
    (1.00, 0.92, 0.70, 0.00, 0.00),  # scalp
    (-0.85, 0.87, 0.65, 0.00, 0.00),  # skull
    (0.45, 0.82, 0.60, 0.00, 0.00),  # brain
    (0.12, 0.55, 0.22, 0.05, -0.28),
    (0.12, 0.55, 0.22, 0.05, 0.28),
    (-0.35, 0.28, 0.07, 0.00, -0.10),  # ventricles
    (-0.35, 0.28, 0.07, 0.00, 0.10),
    (0.25, 0.05, 0.05, -0.45, 0.20),
    (0.25, 0.03, 0.03, 0.50, -0.15),
)


@dataclass(frozen=True)
class Phantom:
    """The scan in two forms.

    Attributes:
        recording: what the simulated scanner plays, lines from edge to edge.
        kspace: the same samples, ``(coils, phase_encodes, samples)``, zero where not measured.
        mask: measured lines ``(phase_encodes,)``.
        reference: root-sum-of-squares of the fully sampled coil images, ``(phase_encodes, samples)``.
    """

    recording: Recording
    kspace: Complex
    mask: Mask
    reference: npt.NDArray[np.float32]


def phantom() -> Phantom:
    """The scan; the same every time."""
    rng = np.random.default_rng(SEED)
    kspace = measure(head(FINE), gaussian_coils((FINE, FINE), COILS, rng), (MATRIX, MATRIX))
    kspace = np.asarray(kspace + np.float32(NOISE) * complex_noise(kspace.shape, rng), np.complex64)
    mask = variable_density(MATRIX, ACCELERATION, ACS_FRACTION_BY_ACCELERATION[ACCELERATION], rng)
    recording = Recording(Path("phantom"), "simulated", _header(), MATRIX, None, lambda: _readouts(kspace))
    images = to_image(to_image(kspace, axis=1), axis=2)
    reference = root_sum_of_squares(np.asarray(images, np.complex64))
    return Phantom(undersampled(recording, mask), np.asarray(kspace * mask[:, None], np.complex64), mask, reference)


def slices(scan: Phantom, count: int, *, interleaved: bool) -> Recording:
    """The scan so many times over, as slices of one.

    Args:
        interleaved: a line of each slice in turn, so that all are open to the end; else one slice after another.
    """
    (batch,) = scan.recording.readouts()
    header = scan.recording.header
    limits = {**header.encoding.limits, "slice": Limit(0, count - 1, 0)}
    lines = len(batch)
    batch.header["flags"] &= ~np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)

    def readouts() -> Iterator[ReadoutBatch]:
        for first in range(count) if not interleaved else range(lines):
            picked = np.full(count, first) if interleaved else np.arange(lines)
            part = batch[picked]
            part.header["slice"] = np.arange(count) if interleaved else first
            part.header["scan_counter"] = first * len(picked) + np.arange(len(picked))
            if first == (lines if interleaved else count) - 1:
                part.header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT)
            yield part

    header = replace(header, encoding=replace(header.encoding, limits=limits))
    return Recording(Path("phantom"), "simulated", header, count * lines, None, readouts)


def head(size: int) -> npt.NDArray[np.complex64]:
    """The object on a grid of ``(size, size)``."""
    y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size, dtype=np.float32)[None, :]
    magnitude = np.zeros((size, size), np.float32)
    for value, height, width, row, column in ELLIPSES:
        magnitude += np.float32(value) * (((y - row) / height) ** 2 + ((x - column) / width) ** 2 < 1)
    phase = 0.8 * x * x - 0.6 * y + 0.4 * x * y
    return np.asarray(magnitude * np.exp(1j * phase), np.complex64)


def _header() -> ScanHeader:
    space = EncodingSpace((MATRIX, MATRIX, 1), (FIELD_OF_VIEW_MM, FIELD_OF_VIEW_MM, 5.0))
    limits = {"kspace_encoding_step_1": Limit(0, MATRIX - 1, MATRIX // 2)}
    scanner = Scanner(manufacturer="benchmarks", field_strength_t=1.5, receiver_coils=COILS)
    return ScanHeader(MriEncoding(space, space, "cartesian", limits), scanner, patient_position="HFS", simulated=True)


def _readouts(kspace: Complex) -> Iterator[ReadoutBatch]:
    header = np.zeros(MATRIX, READOUT_DTYPE)
    header["scan_counter"] = header["phase_encode"] = np.arange(MATRIX)
    header["centre_sample"] = MATRIX // 2
    header["sample_time_us"] = 10.0
    header["read_direction"], header["phase_direction"], header["slice_direction"] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    header["flags"][0] |= np.uint64(ReadoutFlag.FIRST_IN_SLICE)
    header["flags"][-1] |= np.uint64(ReadoutFlag.LAST_IN_SLICE | ReadoutFlag.LAST_IN_MEASUREMENT)
    yield ReadoutBatch(header, np.ascontiguousarray(kspace.transpose(1, 0, 2)))
