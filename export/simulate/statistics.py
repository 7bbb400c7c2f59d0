"""What noise and coils of a scan look like, measured alike on real and on simulated files.

Noise is taken from the corners of k-space, where there is least signal: the outermost eighth of the lines at either end, of these
the outermost eighth of the samples at either end. A bright object with sharp edges reaches even there, so that these figures bound
what the noise is; no file at hand has a noise scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from edge_runtime.errors import RecordingError
from edge_runtime.kernels import Plans, Workers
from edge_runtime.links.files import open_recording
from edge_runtime.links.files.slices import is_image
from edge_runtime.modalities.mri.coils import compression_matrix, estimate_sensitivities
from edge_runtime.modalities.mri.fourier import Complex, centre_slice, to_image, to_kspace
from export.foreground import foreground

CORNER_SHARE = 1 / 8
EDGE_SHARE = 1 / 8
"""Of the readout's field of view, at either end, where receivers filter."""

ACS_LINES = 24
"""Central lines and samples from which coils and phase are measured."""


@dataclass(frozen=True)
class FullScan:
    """A fully sampled scan.

    Attributes:
        kspace: ``(images, coils, phase_encodes, samples)``: slices and averages are images; readout oversampling is in it.
        columns: of the image.
        field_of_view_mm: of the image along readout and phase encode.
    """

    kspace: Complex
    columns: int
    field_of_view_mm: tuple[float, float]


@dataclass(frozen=True)
class NoiseStatistics:
    """Noise in the corners of k-space.

    Attributes:
        samples: complex samples of all coils and images that were looked at.
        excess_kurtosis: of real and imaginary parts, each coil and image at unit variance; 0 where they are Gaussian.
        gaussian_distance: largest difference between their distribution function and that of the Gaussian with their mean and
            deviation; for independent Gaussian samples the 95th percentile is about ``gaussian_limit``.
        real_over_imaginary: ratio of standard deviations.
        real_imaginary_correlation: between the two parts of a sample.
        corners: strongest of the four corners' levels over the weakest.
        edge_over_centre: level at the ends of the readout's field of view over that in its middle, of the outermost lines.
        correlation: root-mean-square magnitude between two coils, corrected for the number of samples; 0 for one coil.
        largest_correlation: between any two coils.
        spread: level of the loudest coil over that of the quietest.
        level: standard deviation of a complex sample, root-mean-square over coils, in the file's units.
    """

    samples: int
    excess_kurtosis: float
    gaussian_distance: float
    gaussian_limit: float
    real_over_imaginary: float
    real_imaginary_correlation: float
    corners: float
    edge_over_centre: float
    correlation: float
    largest_correlation: float
    spread: float
    level: float


@dataclass(frozen=True)
class CoilStatistics:
    """Coils and phase, from the central lines and samples.

    Attributes:
        snr: 99th percentile of the root-sum-of-squares image over the noise level, as `AcquisitionConfig.snr` defines it.
        coils: receive coils.
        coils_95, coils_99: virtual coils that hold 95 and 99 % of the energy.
        singular_values: of the coils' signal covariance, square roots of its eigenvalues, the largest at 1; at most eight.
        sensitivity_change: root-mean-square change of the sensitivities (unit root-sum-of-squares, all coils together) over a tenth
            of the field of view, within the object.
        phase_change_rad: median magnitude of the change of the combined image's phase over a tenth of the field of view.
        diameter_mm: of a disc with the object's area.
    """

    snr: float
    coils: int
    coils_95: int
    coils_99: int
    singular_values: tuple[float, ...]
    sensitivity_change: float
    phase_change_rad: float
    diameter_mm: float


def load_full_scan(path: Path) -> FullScan:
    """A recording of one or more fully sampled images; noise and calibration readouts are left out.

    Raises:
        RecordingError: it can't be read, or has not measured every line of every image.
    """
    recording = open_recording(path)
    encoded, recon = recording.header.encoding.encoded, recording.header.encoding.recon
    limits = recording.header.encoding.limits
    averages = limits["average"].maximum + 1 if "average" in limits else 1
    images = (limits["slice"].maximum + 1 if "slice" in limits else 1) * averages
    kspace: Complex | None = None
    found = 0
    for batch in recording.readouts():
        some = batch[is_image(batch.header)]
        if not len(some):
            continue
        if kspace is None:
            kspace = np.zeros((images, some.coils, encoded.matrix[1], encoded.matrix[0]), np.complex64)
        index = some.header["slice"].astype(int) * averages + some.header["average"]
        kspace[index, :, some.header["phase_encode"]] = some.samples
        found += len(some)
    if kspace is None or found != images * encoded.matrix[1]:
        raise RecordingError(f"{path}: {found} lines of {images} images; fully sampled scans are compared")
    return FullScan(kspace, recon.matrix[0], (recon.field_of_view_mm[0], recon.field_of_view_mm[1]))


def noise_statistics(scan: FullScan) -> NoiseStatistics:
    """Measures the corners; see the module."""
    kspace = scan.kspace.astype(np.complex128)
    images, coils, lines, samples = kspace.shape
    high, wide = max(1, round(CORNER_SHARE * lines)), max(1, round(CORNER_SHARE * samples))
    rows, across = (slice(high), slice(-high, None)), (slice(wide), slice(-wide, None))
    corners = [kspace[:, :, some, ends] for some in rows for ends in across]
    noise = np.concatenate([corner.reshape(images, coils, -1) for corner in corners], axis=2)
    level = np.sqrt(np.mean(np.abs(noise) ** 2, axis=2, keepdims=True))
    unit = noise / level * np.sqrt(2)
    parts = np.concatenate([unit.real.ravel(), unit.imag.ravel()])
    parts = (parts - np.mean(parts)) / np.std(parts)
    flat = noise.transpose(1, 0, 2).reshape(coils, -1)
    covariance = flat @ flat.conj().T / flat.shape[1]
    levels = np.sqrt(covariance.diagonal().real)
    between = np.abs(covariance / np.outer(levels, levels))[~np.eye(coils, dtype=bool)]
    corner_levels = [float(np.sqrt(np.mean(np.abs(corner) ** 2))) for corner in corners]
    outer = to_image(np.concatenate([scan.kspace[:, :, :high], scan.kspace[:, :, -high:]], axis=2), axis=3)
    edge = max(1, round(EDGE_SHARE * samples))
    ends = np.concatenate([outer[..., :edge], outer[..., -edge:]], axis=3)
    middle = outer[..., centre_slice(samples, samples // 2)]
    return NoiseStatistics(
        samples=noise.size,
        excess_kurtosis=float(stats.kurtosis(parts)),
        gaussian_distance=float(stats.kstest(parts, "norm").statistic),
        gaussian_limit=0.886
        / float(np.sqrt(parts.size)),  # Lilliefors, J Am Stat Assoc 62:399, 1967: mean and deviation estimated
        real_over_imaginary=float(np.std(unit.real) / np.std(unit.imag)),
        real_imaginary_correlation=float(np.corrcoef(unit.real.ravel(), unit.imag.ravel())[0, 1]),
        corners=max(corner_levels) / min(corner_levels),
        edge_over_centre=float(np.median(np.abs(ends)) / np.median(np.abs(middle))),
        correlation=float(np.sqrt(max(0.0, np.mean(between**2) - 1 / flat.shape[1]))) if coils > 1 else 0.0,
        largest_correlation=float(between.max(initial=0.0)),
        spread=float(levels.max() / levels.min()),
        level=float(np.sqrt(np.mean(levels**2))),
    )


def coil_statistics(scan: FullScan, noise_level: float) -> CoilStatistics:
    """Measures coils and phase of the middle image.

    Raises:
        ValueError: nothing in the image stands out as an object.
    """
    kspace = _cropped(scan.kspace[len(scan.kspace) // 2], scan.columns)
    coils, lines, columns = kspace.shape
    images = to_image(to_image(kspace, axis=2), axis=1)
    rss = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    inside = foreground(rss.astype(np.float32))
    acs = np.ascontiguousarray(kspace[:, centre_slice(lines, ACS_LINES)])
    centre = acs[:, :, centre_slice(columns, ACS_LINES)]
    mixing = compression_matrix(centre, coils)
    energy = np.linalg.eigvalsh(_covariance(centre))[::-1].clip(0)
    share = np.cumsum(energy) / energy.sum()
    virtual = np.ascontiguousarray(np.einsum("vc,cyx->vyx", mixing, acs))
    maps = estimate_sensitivities(virtual, lines, columns, Plans(Workers(threads=1)))
    smooth = np.zeros((coils, lines, columns), np.complex64)
    rows, across = centre_slice(lines, ACS_LINES), centre_slice(columns, ACS_LINES)
    taper = np.hanning(ACS_LINES + 2)[1:-1].astype(np.float32)
    smooth[:, rows, across] = np.einsum("vc,cyx->vyx", mixing, centre) * taper[:, None] * taper[None, :]
    combined = np.sum(maps.conj() * to_image(to_image(smooth, axis=2), axis=1), axis=0)
    pixel_mm = scan.field_of_view_mm[0] / columns * scan.field_of_view_mm[1] / lines
    return CoilStatistics(
        snr=float(np.percentile(rss, 99) / noise_level),
        coils=coils,
        coils_95=int(np.searchsorted(share, 0.95)) + 1,
        coils_99=int(np.searchsorted(share, 0.99)) + 1,
        singular_values=tuple(float(value) for value in np.sqrt(energy / energy[0])[:8]),
        sensitivity_change=_change(maps, inside),
        phase_change_rad=_phase_change(combined, inside),
        diameter_mm=float(2 * np.sqrt(np.count_nonzero(inside) * pixel_mm / np.pi)),
    )


def _covariance(centre: Complex) -> npt.NDArray[np.complex128]:
    flat = centre.reshape(centre.shape[0], -1).astype(np.complex128)
    return np.asarray(flat @ flat.conj().T)


def _cropped(kspace: Complex, columns: int) -> Complex:
    """Without readout oversampling."""
    if kspace.shape[2] == columns:
        return kspace
    return to_kspace(to_image(kspace, axis=2)[:, :, centre_slice(kspace.shape[2], columns)], axis=2)


def _change(maps: Complex, inside: npt.NDArray[np.bool_]) -> float:
    """Root-mean-square over both directions of the maps' change over a tenth of the field of view."""
    squares = []
    for axis in (1, 2):
        step = np.sum(np.abs(np.diff(maps, axis=axis)) ** 2, axis=0) * (maps.shape[axis] / 10) ** 2
        squares.append(step[_both(inside, axis - 1)])
    return float(np.sqrt(np.mean(np.concatenate(squares))))


def _phase_change(image: Complex, inside: npt.NDArray[np.bool_]) -> float:
    changes = []
    for axis in (0, 1):
        after = np.take(image, np.arange(1, image.shape[axis]), axis)
        before = np.take(image, np.arange(image.shape[axis] - 1), axis)
        changes.append(np.abs(np.angle(after * before.conj()))[_both(inside, axis)] * image.shape[axis] / 10)
    return float(np.median(np.concatenate(changes)))


def _both(inside: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """Pairs of neighbours that both lie inside."""
    length = inside.shape[axis]
    after, before = (np.take(inside, np.arange(start, length - 1 + start), axis) for start in (1, 0))
    return np.asarray(after & before)
