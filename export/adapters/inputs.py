"""What programs and originals are compared on: random numbers and measured k-space."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.coils import estimate_sensitivities
from edge_runtime.modalities.mri.fourier import Complex, centre_slice, to_image, to_kspace
from edge_runtime.modalities.mri.given import Acquisition, Given, Mask
from edge_runtime.modalities.mri.reconstruct import calibration_lines
from edge_runtime.program.stages import Graph, shapings_of
from export.adapters.program import SplitProgram
from export.recordings import open_fully_sampled

SEED = 20190710
RANDOM_INPUTS = (
    (1, 4, 48, 40, 1.0),
    (2, 3, 37, 45, 1.0),
    (3, 1, 64, 33, 1.0),
    (1, 2, 40, 56, 0.01),
    (1, 2, 288, 256, 100.0),
)
"""Batch, coils, phase encodes, columns and size of the numbers of random input: odd sizes, one coil, more than one slice, a usual
matrix, faint and strong signals. Where a network's code decides by sizes or values, most of what it could decide comes."""

LARGEST_REAL = 128
"""Lines and columns that a measured slice is cut to, in image space: enough to look at, and seconds on one core."""

SIMULATED_SIZE, SIMULATED_COILS, SIMULATED_NOISE = (64, 48), 3, 1e-4
"""Lines and columns, where a program takes any; coils; noise of a sample as a share of the largest one."""

RECORDING = Path("raw") / "siemens_twix" / "tutorials_04_hardware_and_imprefections_data_2024-02-06-164120.dat"
"""The real two-channel head, in the data folder."""


@dataclass(frozen=True)
class Case:
    """One input; ``origin`` is ``random``, ``simulated`` or the recording's name."""

    name: str
    origin: str
    given: Given


def default_recording() -> Path | None:
    """The head of the data folder, which ``EDGE_DATA`` names or which lies in ``../shared/data``; None where it isn't."""
    root = Path(os.environ.get("EDGE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    return root / RECORDING if (root / RECORDING).is_file() else None


def random_cases(program: SplitProgram) -> Iterator[Case]:
    """Random numbers in the program's sizes; a run repeats them exactly."""
    rng = np.random.default_rng(SEED)
    for batch, coils, lines, columns, scale in RANDOM_INPUTS:
        times = "" if scale == 1 else f", times {scale:g}"
        if program.domain == "image":
            size = _allowed(program, batch, lines, columns)
            planes = np.float32(scale) * rng.standard_normal((size[0], program.input_channels, *size[1:])).astype(
                np.float32
            )
            yield Case(f"random, batch {size[0]}, {size[1]} x {size[2]}{times}", "random", planes)
            continue
        _, lines, columns = _allowed(program, batch, lines, columns)
        hybrid = np.float32(scale) * _noise(rng, (batch, coils, lines, columns))
        maps = None
        if program.maps_given:
            maps = _noise(rng, hybrid.shape)
            maps /= np.sqrt(np.square(np.abs(maps)).sum(1, keepdims=True))
        name = f"random, batch {batch}, {coils} coils, {lines} x {columns}{times}"
        yield Case(name, "random", Acquisition(hybrid, _mask(rng, lines), maps))


def measured_case(program: SplitProgram, recording: Path) -> Case:
    """One measured slice, undersampled; its root-sum-of-squares where the program takes images.

    Raises:
        RecordingError: the recording can't be read, or has no fully measured slice.
    """
    (first,) = open_fully_sampled(recording).kspaces([0])
    hybrid = _cut(to_image(first, axis=2))
    return _undersampled(program, hybrid, recording.name)


def simulated_case(program: SplitProgram) -> Case:
    """A small simulated slice, undersampled, the same every time; for golden inputs, where nothing measured is at hand."""
    from export.simulate.objects import draw_phantom, random_field_phase  # with SciPy, which comparisons go without
    from export.simulate.receive import complex_noise, gaussian_coils, measure

    rng = np.random.default_rng(SEED)
    _, lines, columns = _allowed(program, 1, *SIMULATED_SIZE)
    finer = (2 * lines, 2 * columns)
    coils = gaussian_coils(finer, SIMULATED_COILS, rng)
    kspace = measure(draw_phantom(finer, rng, random_field_phase), coils, (lines, columns))
    kspace = kspace + np.float32(SIMULATED_NOISE * np.abs(kspace).max()) * complex_noise(kspace.shape, rng)
    return _undersampled(program, to_image(np.asarray(kspace, np.complex64), axis=2), "simulated")


def _undersampled(program: SplitProgram, hybrid: Complex, origin: str) -> Case:
    """A fully measured slice as a program is given it."""
    hybrid = hybrid / np.abs(to_image(hybrid, axis=1)).max()
    coils, lines, columns = hybrid.shape
    if program.domain == "image":
        size = _allowed(program, 1, lines, columns)
        images = _resized(to_image(hybrid, axis=1), size[1:])
        magnitude = np.sqrt(np.square(np.abs(images)).sum(0))
        # a network of complex images gets real and imaginary part of the first coil, in turn over its planes
        parts = (magnitude,) if program.input_channels == 1 else (images[0].real, images[0].imag)
        planes = np.stack([parts[channel % len(parts)] for channel in range(program.input_channels)])[None]
        planes = np.repeat(planes, size[0], axis=0).astype(np.float32)
        return Case(f"{origin}, {size[1]} x {size[2]}", origin, planes)
    _, wanted_lines, wanted_columns = _allowed(program, 1, lines, columns)
    hybrid = np.ascontiguousarray(hybrid[:, centre_slice(lines, wanted_lines), centre_slice(columns, wanted_columns)])
    mask = _mask(np.random.default_rng(SEED), wanted_lines)
    maps = _estimated(hybrid, mask) if program.maps_given else None
    name = f"{origin}, {coils} coils, {wanted_lines} x {wanted_columns}, {int(mask.sum())} lines measured"
    return Case(name, origin, Acquisition(hybrid[None], mask, maps))


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Complex:
    numbers = rng.standard_normal((*shape, 2)).astype(np.float32)
    return np.ascontiguousarray(numbers.view(np.complex64)[..., 0])


def _mask(rng: np.random.Generator, lines: int) -> Mask:
    """Every third line at random, and a centre of about an eighth, which lies off the middle by a line."""
    mask = rng.random(lines) < 1 / 3
    half = max(lines // 16, 2)
    mask[lines // 2 - half : lines // 2 + half + 1] = True
    mask[[0, lines // 2 - half - 1, lines // 2 + half + 2, lines - 1]] = False
    return mask


def _allowed(program: SplitProgram, batch: int, rows: int, columns: int) -> tuple[int, int, int]:
    """The nearest batch and size that the program's graphs take without padding of the caller's."""
    for graph in program.graphs:
        if _is_padded(program, graph):
            rows, columns = max(rows, graph.least), max(columns, graph.least)
            continue
        batch = graph.batch or batch
        rows, columns = (
            fixed or max(-(-size // graph.multiple), -(-graph.least // graph.multiple)) * graph.multiple
            for fixed, size in ((graph.rows, rows), (graph.columns, columns))
        )
    return batch, rows, columns


def _is_padded(program: SplitProgram, graph: Graph) -> bool:
    """Whether planes are padded to what the graph takes wherever it is run."""
    paddings = [shaping.padding for shaping in shapings_of(program, graph)]
    return all(one is not None and one.multiple % graph.multiple == 0 for one in paddings)


def _cut(hybrid: Complex) -> Complex:
    """At most `LARGEST_REAL` lines around the centre of k-space, and columns of the image."""
    _, lines, columns = hybrid.shape
    kept = centre_slice(lines, min(lines, LARGEST_REAL)), centre_slice(columns, min(columns, LARGEST_REAL))
    return np.ascontiguousarray(hybrid[:, kept[0], kept[1]])


def _resized(images: Complex, size: tuple[int, int]) -> Complex:
    """Images ``(coils, rows, columns)`` cut, or padded with zeros at the end."""
    rows, columns = size
    images = images[:, :rows, :columns]
    return np.pad(images, ((0, 0), (0, rows - images.shape[1]), (0, columns - images.shape[2])))


def _estimated(hybrid: Complex, mask: Mask) -> Complex:
    """Sensitivities ``(1, coils, phase_encodes, columns)`` as the runtime estimates them, without compression of coils."""
    _, lines, columns = hybrid.shape
    acs = np.ascontiguousarray(to_kspace(hybrid[:, calibration_lines(mask)], axis=2))
    return estimate_sensitivities(acs, lines, columns, Plans(Workers(1)))[None]
