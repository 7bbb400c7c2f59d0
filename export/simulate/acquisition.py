"""A simulated scanner: from a volume and a configuration to readouts, slice by slice.

In this order: the slab's brightness, recoloured and placed on a grid twice as fine as the matrix; its phase; where it is in each
shot; dephasing; coils; the readout off resonance; the phase encode, aliased where the object is larger than the field of view; the
lines that are measured and arrive; noise; the receiver's filter. Each ingredient draws from a random stream of its own, so that
changing one leaves the others as they are: a line's noise is the same whichever other lines are measured.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from export.simulate import contrast, lines, motion, off_resonance
from export.simulate.objects import ComplexObject, tissue_phase
from export.simulate.off_resonance import FieldMap, SmoothField
from export.simulate.receive import CoilMaps, KSpace, complex_noise, gaussian_coils, loop_coils, measure
from export.simulate.settings import AcquisitionConfig
from export.simulate.source import Plane, Source, Vector, plane_of, resample, slab, slice_centre_mm
from export.simulate.volume_coils import uniform_coil, volume_coils
from export.simulate.volumes import Magnitude

FINER = 2
"""The object's grid over the matrix, along both axes."""

OBJECT_LEVEL = 0.1
"""Brightness, the volume's brightest voxels at 1, from which on a pixel counts as object where a field or phase is scaled."""

FILTER_FLAT = 0.44
"""Share of the readout's field of view that the receiver's filter leaves alone; so it looks in the noise of 3 T scanners."""

FAMILIES = {"loops": loop_coils, "gaussian": gaussian_coils, "volume": volume_coils, "uniform": uniform_coil}
"""Generators of sensitivities, by the name that the configuration gives them."""

COILS_AT_ONCE = 8
"""Coils whose fine images are held in memory together."""

Progress = Callable[[int, int], None]


class Stream(enum.IntEnum):
    """What each random stream of a scan is for; the numbers are part of the seed and never change."""

    COILS = 1
    PHASE = 2
    FIELD = 3
    MOTION = 4
    MASK = 5
    LOSSES = 6
    NOISE_COVARIANCE = 7
    NOISE_SCAN = 8
    NOISE = 9


@dataclass(frozen=True)
class Grid:
    """The fine grid of the object: where its pixels are, in millimetres from the centre of the field of view.

    Attributes:
        columns_mm, rows_mm: positions; rows may reach beyond the field of view, columns over the oversampled one.
        folds: fields of view that the rows span.
    """

    columns_mm: Vector
    rows_mm: Vector
    folds: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows_mm), len(self.columns_mm)


class Scanner:
    """A scan that can be measured; the volume and the configuration decide everything.

    Attributes:
        plane: how the images lie in the volume.
        schedule: which lines arrive, and when.
        poses: of the head, one a shot.
        noise_level: standard deviation of a complex sample, root-mean-square over coils; 0 without noise.
        brightness: what samples are divided by: the 99th percentile of the reference of the middle slice, which becomes 1.
    """

    def __init__(self, source: Source, config: AcquisitionConfig) -> None:
        """Plans the scan and looks at its middle slice.

        Raises:
            ValueError: there is nothing in the field of view, the volume can't be recoloured, or the head can't move as it should.
        """
        self.source, self.config = source, config
        self.plane: Plane = plane_of(config)
        self.schedule = lines.schedule(config, self._rng(Stream.MASK), self._rng(Stream.LOSSES))
        self._grid = self._make_grid()
        self._maps = self._make_maps()
        self._recolour = contrast.recolouring(source.voxels, config)
        self._phase = SmoothField.draw(self._reach_mm, 2, self._rng(Stream.PHASE), bump=False)
        self._field = SmoothField.draw(self._reach_mm, off_resonance.DEGREE, self._rng(Stream.FIELD), bump=True)
        shots = int(lines.shots_of(np.array([self.schedule.total - 1]), config)[0]) + 1
        arriving = np.unique(lines.shots_of(self.schedule.times, config))
        self.poses = motion.draw_poses(shots, arriving, config, self._rng(Stream.MOTION))
        self._mixing = coil_noise_mixing(config, self._rng(Stream.NOISE_COVARIANCE))
        self.noise_level = 1 / config.snr if config.snr else 0.0
        self._phase_scale, self._field_scale = self._scales_over_objects()
        self.brightness = 1.0
        self.brightness = float(np.percentile(self.reference(config.slices // 2), 99))
        if not self.brightness > 0:
            raise ValueError(
                f"slice_offset_mm = {config.slice_offset_mm}: the middle slice is empty; the volume reaches "
                f"{self._half_depth_mm():.0f} mm to either side of its centre"
            )

    # ------------------------------------------------------------------------------------------------- what it gives

    def noise_scan(self) -> KSpace | None:
        """Readouts of noise alone, ``(readouts, coils, samples)``; None where there is no noise or no noise scan."""
        config = self.config
        if not self.noise_level or not config.noise_readouts:
            return None
        shape = (config.coils, config.noise_readouts, self.samples)
        noise = self._mixed(complex_noise(shape, self._rng(Stream.NOISE_SCAN)))
        return self._received(np.ascontiguousarray(noise.transpose(1, 0, 2)))

    def measure(self, progress: Progress = lambda done, total: None) -> Iterator[tuple[int, KSpace]]:
        """The index of every slice that readouts arrive from, and its samples ``(coils, phase_encodes, samples)``, noise included.

        Lines that do not arrive hold what they would have been had the head lain still.
        """
        reached = sorted(set(self.schedule.slices.tolist()))
        for done, index in enumerate(reached, start=1):
            kspace = self.noise_free(index)
            if self.noise_level:
                kspace = kspace + self._mixed(complex_noise(kspace.shape, self._rng(Stream.NOISE, index)))
            yield index, self._received(kspace)
            progress(done, len(reached))

    def noise_free(self, index: int) -> KSpace:
        """A slice with field and motion but without noise, whole readouts: ``(coils, phase_encodes, samples)``."""
        complex_object, field, gradient = self.object_at_rest(index)
        kspace = self._kspace(complex_object, field, gradient)
        mine = self.schedule.slices == index
        shots = lines.shots_of(self.schedule.times[mine], self.config)
        measured = self.schedule.lines[mine]
        movable = motion.Movable(complex_object, self._pixel_mm(), self._centre())
        for shot in np.unique(shots):
            pose = self.poses[int(shot)]
            if pose != motion.AT_REST:
                moved = self._kspace(movable.at(pose), field, gradient)
                kspace[:, measured[shots == shot]] = moved[:, measured[shots == shot]]
        return kspace

    def reference(self, index: int) -> Magnitude:
        """The slice as it is: the root-sum-of-squares of all lines, on resonance, at rest, without noise and filter.

        Returns:
            float32 ``(phase_encodes, columns)``.
        """
        complex_object, _, _ = self.object_at_rest(index)
        none = np.zeros(self._grid.shape, np.float32)
        kspace = self._kspace(complex_object, none, none)
        start = self.samples // 2 - self.config.columns // 2
        hybrid = to_image(kspace, axis=2)[:, :, start : start + self.config.columns]
        return np.asarray(np.sqrt(np.sum(np.abs(to_image(hybrid, axis=1)) ** 2, axis=0)), dtype=np.float32)

    @property
    def samples(self) -> int:
        """Of a whole readout."""
        return self.config.columns * self.config.readout_oversampling

    @property
    def first_sample(self) -> int:
        """Of a readout, where the echo is measured in part: the first that is measured."""
        return round((1 - self.config.partial_echo) * self.samples)

    # ---------------------------------------------------------------------------------------------------- ingredients

    def _rng(self, stream: Stream, index: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, int(stream), index])

    def _make_grid(self) -> Grid:
        config = self.config
        folds = max(1, int(np.ceil(self._extent_mm(self.plane.row_axis) / config.phase_mm - 1e-9)))
        columns = FINER * config.columns * config.readout_oversampling
        rows = FINER * config.phase_encodes * folds

        # The transform's centre, pixel n // 2 of the image, lies half a pixel beside the centre of an even field of view.
        def positions(fine: int, pixels: int, length_mm: float) -> Vector:
            pixel = length_mm / pixels
            return (np.arange(fine) - fine // 2) * pixel / FINER + (pixels // 2 - (pixels - 1) / 2) * pixel

        return Grid(
            positions(columns, config.columns, config.read_mm),
            positions(rows, config.phase_encodes, config.phase_mm),
            folds,
        )

    def _make_maps(self) -> CoilMaps:
        """Sensitivities on the grid of the image's field of view; what lies outside has those of its edge."""
        config = self.config
        size = (FINER * config.phase_encodes, FINER * config.columns)
        return FAMILIES[config.coil_family](size, config.coils, self._rng(Stream.COILS))

    def _maps_on_grid(self, coils: slice) -> CoilMaps:
        some, (rows, columns) = self._maps[coils], self._grid.shape
        top, left = rows // 2 - some.shape[1] // 2, columns // 2 - some.shape[2] // 2
        below, right = rows - some.shape[1] - top, columns - some.shape[2] - left
        return np.pad(some, ((0, 0), (top, below), (left, right)), mode="edge")

    def _magnitude(self, index: int) -> Magnitude:
        centre = slice_centre_mm(self.config, index)
        plane = slab(self.source, self.plane, centre, self.config.slice_thickness_mm)
        if self._recolour is not None:
            plane = self._recolour(plane)
        pixel = (self.source.voxel_mm[self.plane.row_axis], self.source.voxel_mm[self.plane.column_axis])
        return resample(plane, pixel, self._grid.rows_mm, self._grid.columns_mm)

    def object_at_rest(self, index: int) -> tuple[ComplexObject, FieldMap, FieldMap]:
        """The object at rest and before it dephases, its off-resonance in Hz, and that one's slope in Hz a millimetre."""
        config, grid = self.config, self._grid
        magnitude = self._magnitude(index)
        z = slice_centre_mm(config, index) - config.slice_offset_mm
        if config.phase == "tissue":
            complex_object = tissue_phase(magnitude, self._rng(Stream.PHASE, index))
        elif config.phase == "smooth":
            offset, scale = self._phase_scale
            phase = config.phase_rad * scale * (self._phase.at(grid.columns_mm, grid.rows_mm, z) - offset)
            complex_object = np.asarray(magnitude * np.exp(1j * phase), dtype=np.complex64)
        else:
            complex_object = magnitude.astype(np.complex64)
        if config.off_resonance_hz == 0 or config.off_resonance_shape == "constant":
            constant = np.full(grid.shape, config.off_resonance_hz, np.float32)
            return complex_object, constant, np.zeros(grid.shape, np.float32)
        offset, scale = self._field_scale
        strength = config.off_resonance_hz * scale
        field = strength * (self._field.at(grid.columns_mm, grid.rows_mm, z) - offset)
        gradient = strength * self._field.slice_gradient(grid.columns_mm, grid.rows_mm, z)
        return complex_object, np.asarray(field, np.float32), np.asarray(gradient, np.float32)

    def _kspace(self, complex_object: ComplexObject, field: FieldMap, gradient: FieldMap) -> KSpace:
        """Noise-free k-space of an object where it lies, ``(coils, phase_encodes, samples)``."""
        config, grid = self.config, self._grid
        on_resonance = not field.any()
        if not on_resonance:
            complex_object = off_resonance.dephased(complex_object, field, gradient, config)
        wide = grid.folds * config.phase_encodes
        first = wide // 2 - grid.folds * (config.phase_encodes // 2)
        kspace = np.empty((config.coils, config.phase_encodes, self.samples), np.complex64)
        for start in range(0, config.coils, COILS_AT_ONCE):
            maps = self._maps_on_grid(slice(start, start + COILS_AT_ONCE))
            if on_resonance:
                whole = measure(complex_object, maps, (wide, self.samples))
            else:
                images = complex_object * maps
                hybrid = off_resonance.transform_readout(images, field, self.samples, config.bandwidth_per_pixel_hz)
                whole = _encode(hybrid, wide)
            kspace[start : start + COILS_AT_ONCE] = whole[:, first :: grid.folds][:, : config.phase_encodes]
        return np.asarray(kspace * np.float32(np.sqrt(grid.folds) / self.brightness), dtype=np.complex64)

    def _mixed(self, noise: KSpace) -> KSpace:
        """White noise ``(coils, …, samples)`` made that of the coils."""
        coloured = np.tensordot(self._mixing, noise, axes=1)
        return np.asarray(np.float32(self.noise_level) * coloured, dtype=np.complex64)

    def _received(self, readouts: KSpace) -> KSpace:
        """Whole readouts ``(…, samples)`` as the receiver hands them on: filtered, and without what a partial echo leaves out."""
        if self.config.filter_edge < 1:
            gain = receiver_filter(self.samples, self.config.filter_edge)
            readouts = to_kspace(to_image(readouts, axis=-1) * gain, axis=-1)
        return np.ascontiguousarray(readouts[..., self.first_sample :])

    def _scales_over_objects(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """For phase and field: what to subtract and then to multiply with, so that over the objects of all slices the median is 0
        and the largest magnitude 1. Of each slice every other pixel along both axes counts."""
        config, grid = self.config, self._grid
        needed = config.phase == "smooth", config.off_resonance_hz != 0 and config.off_resonance_shape == "smooth"
        if not any(needed):
            return (0.0, 0.0), (0.0, 0.0)
        found: tuple[list[FieldMap], list[FieldMap]] = [], []
        for index in range(config.slices):
            z = slice_centre_mm(config, index) - config.slice_offset_mm
            magnitude = self._magnitude(index)[::2, ::2]
            inside = magnitude > OBJECT_LEVEL
            for values, field in zip(found, (self._phase, self._field)):
                values.append(field.at(grid.columns_mm[::2], grid.rows_mm[::2], z)[inside])
        phase, off = (_centre_and_scale(np.concatenate(values)) for values in found)
        return phase, off

    @property
    def _reach_mm(self) -> float:
        return max(self.config.read_mm, self.config.phase_mm) / 2

    def _extent_mm(self, axis: int) -> float:
        return float(self.source.voxels.shape[axis] * self.source.voxel_mm[axis])

    def _half_depth_mm(self) -> float:
        return self._extent_mm(self.plane.slice_axis) / 2

    def _pixel_mm(self) -> tuple[float, float]:
        grid = self._grid
        return float(grid.rows_mm[1] - grid.rows_mm[0]), float(grid.columns_mm[1] - grid.columns_mm[0])

    def _centre(self) -> tuple[float, float]:
        """Index of the middle of the field of view on the fine grid."""
        row_mm, column_mm = self._pixel_mm()
        return -float(self._grid.rows_mm[0]) / row_mm, -float(self._grid.columns_mm[0]) / column_mm


def receiver_filter(samples: int, edge: float) -> Magnitude:
    """Gain over the readout's field of view, ``(samples,)``: 1 in the middle `FILTER_FLAT`, a raised cosine down to ``edge``."""
    from_centre = np.abs((np.arange(samples) - samples // 2) / samples)
    falling = np.clip((from_centre - FILTER_FLAT / 2) / (0.5 - FILTER_FLAT / 2), 0, 1)
    return np.asarray(edge + (1 - edge) * np.cos(np.pi / 2 * falling) ** 2, dtype=np.float32)


def _centre_and_scale(values: FieldMap) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    centre = float(np.median(values))
    largest = float(np.max(np.abs(values - centre)))
    return centre, 1 / largest if largest > 0 else 0.0


def coil_noise_mixing(config: AcquisitionConfig, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Maps white noise to that of the coils, ``(coils, coils)``: a factor of the covariance.

    Coils sit on a ring; the magnitude of the correlation of two of them is ``noise_correlation`` to the power of their distance in
    coils, its phase is random. Their standard deviations spread evenly on a logarithmic scale, shuffled, with the ratio
    ``noise_spread`` of largest to smallest and a mean square of 1.
    """
    coils = config.coils
    apart = np.abs(np.arange(coils)[:, None] - np.arange(coils)[None, :])
    correlation = config.noise_correlation ** np.minimum(apart, coils - apart)
    turns = np.exp(2j * np.pi * rng.random(coils))
    levels = rng.permutation(config.noise_spread ** np.linspace(0, 1, coils)) if coils > 1 else np.ones(1)
    levels = levels / np.sqrt(np.mean(levels**2))
    factors = levels * turns
    covariance = correlation * factors[:, None] * factors.conj()[None, :]
    return np.asarray(np.linalg.cholesky(covariance), dtype=np.complex64)


def _encode(hybrid: KSpace, phase_encodes: int) -> KSpace:
    """k-space along the phase encode, cropped to the matrix, brightness kept: `measure` along one axis."""
    rows = hybrid.shape[1]
    spectrum = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(hybrid, axes=1), axis=1, norm="ortho"), axes=1)
    top = rows // 2 - phase_encodes // 2
    cropped = spectrum[:, top : top + phase_encodes]
    return np.asarray(cropped * np.sqrt(phase_encodes / rows), dtype=np.complex64)
