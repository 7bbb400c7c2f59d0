"""What an inhomogeneous field does to a Cartesian readout: it moves, dephases and dims.

While a readout lasts, spins off resonance by f go on turning, and the transform along the readout takes that for position: they
appear moved by f over the bandwidth per pixel, towards higher columns where f is positive. At the echo of a gradient echo they have
turned by 2π f TE, and where the field changes across the thickness of the slice they cancel each other. A spin echo undoes both of
these at its centre; the move remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.simulate.objects import ComplexObject
from export.simulate.settings import AcquisitionConfig

FieldMap = npt.NDArray[np.float32]
KSpace = npt.NDArray[np.complex64]

DEGREE = 3
"""Of the polynomial that a smooth field is made of: what first and second order shims leave is mostly of third order and local."""

BLOCK = 32
"""Samples whose phases are computed from one another: exponentials cost more than products."""


@dataclass(frozen=True)
class SmoothField:
    """A random polynomial over position, with a bump such as air cavities cause.

    Attributes:
        reach_mm: at which a coordinate is 1; beyond it the field stays what it is there.
        terms: coefficient of ``x^i y^j z^k`` for each ``(i, j, k)``.
        bump: centre (columns, rows, slices) in units of reach, width, height.
    """

    reach_mm: float
    terms: tuple[tuple[tuple[int, int, int], float], ...]
    bump: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 1.0, 0.0)

    @classmethod
    def draw(cls, reach_mm: float, degree: int, rng: np.random.Generator, *, bump: bool) -> SmoothField:
        """A polynomial without constant term; coefficients are Gaussian and of equal weight."""
        powers = [(i, j, k) for i in range(degree + 1) for j in range(degree + 1) for k in range(degree + 1)]
        terms = tuple((p, float(rng.standard_normal())) for p in powers if 0 < sum(p) <= degree)
        x, y, z = (float(v) for v in rng.uniform(-0.5, 0.5, 3))
        width, height = float(rng.uniform(0.15, 0.35)), float(rng.choice((-2.0, 2.0)))
        return cls(reach_mm, terms, (x, y, z, width, height if bump else 0.0))

    def at(self, columns_mm: npt.ArrayLike, rows_mm: npt.ArrayLike, slice_mm: float) -> FieldMap:
        """Values ``(rows, columns)``."""
        x, y, z = self._scaled(columns_mm, rows_mm, slice_mm)
        value = np.zeros((y.shape[0], x.shape[1]))
        for (i, j, k), weight in self.terms:
            value += weight * x**i * y**j * z**k
        return np.asarray(value + self._bump(x, y, z), dtype=np.float32)

    def slice_gradient(self, columns_mm: npt.ArrayLike, rows_mm: npt.ArrayLike, slice_mm: float) -> FieldMap:
        """Change a millimetre along the slice direction, ``(rows, columns)``."""
        x, y, z = self._scaled(columns_mm, rows_mm, slice_mm)
        value = np.zeros((y.shape[0], x.shape[1]))
        for (i, j, k), weight in self.terms:
            if k:
                value += weight * x**i * y**j * k * z ** (k - 1)
        width = self.bump[3]
        value -= self._bump(x, y, z) * (z - self.bump[2]) / width**2
        return np.asarray(value / self.reach_mm, dtype=np.float32)

    def _scaled(
        self, columns_mm: npt.ArrayLike, rows_mm: npt.ArrayLike, slice_mm: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
        x = np.clip(np.asarray(columns_mm, np.float64) / self.reach_mm, -1, 1)[None, :]
        y = np.clip(np.asarray(rows_mm, np.float64) / self.reach_mm, -1, 1)[:, None]
        return x, y, slice_mm / self.reach_mm

    def _bump(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], z: float) -> npt.NDArray[np.float64]:
        x0, y0, z0, width, height = self.bump
        distance = ((x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2) / width**2
        return np.asarray(height * np.exp(-distance / 2))


def dephased(
    complex_object: ComplexObject, off_resonance_hz: FieldMap, gradient_hz_per_mm: FieldMap, config: AcquisitionConfig
) -> ComplexObject:
    """The object at the centre of the echo, ``(rows, columns)``.

    Across the slice the field is taken for linear: what is left of the signal is a sinc of how often it turns over the thickness.
    """
    if config.sequence == "spin_echo":
        return complex_object
    echo_time_s = config.echo_time_ms / 1000
    phase = np.exp(-2j * np.pi * echo_time_s * off_resonance_hz)
    left = np.sinc(gradient_hz_per_mm * config.slice_thickness_mm * echo_time_s)
    return np.asarray(complex_object * phase * left, dtype=np.complex64)


def transform_readout(
    images: KSpace, off_resonance_hz: FieldMap, samples: int, bandwidth_per_pixel_hz: float
) -> KSpace:
    """k-space along the readout of an object off resonance, cropped to ``samples``; brightness is kept as in
    `export.simulate.receive.measure`, whose transform along this axis it equals where the map is zero.

    With F columns, each at a fraction ``u = (column - F // 2) / F`` of the field of view, sample n has the phase
    ``exp(-2πi n (u + f / (samples * bandwidth per pixel)))``: the field's turning is one more bit of position.

    Args:
        images: ``(coils, rows, columns)``.
        off_resonance_hz: ``(rows, columns)``.
        samples: of the readout, centred at ``samples // 2``.
        bandwidth_per_pixel_hz: of one of ``samples`` points of the transformed readout and of a pixel of the image alike, since
            oversampling adds points and not bandwidth to each.

    Returns:
        ``(coils, rows, samples)``.
    """
    coils, rows, columns = images.shape
    position = (np.arange(columns) - columns // 2) / columns
    out = np.zeros((coils, rows, samples), np.complex64)
    first = -(samples // 2)
    blocks = -(-samples // BLOCK)
    for row in range(rows):
        seen = np.flatnonzero(np.any(images[:, row] != 0, axis=0))
        if seen.size == 0:
            continue
        turns = -2j * np.pi * (position[seen] + off_resonance_hz[row, seen] / (samples * bandwidth_per_pixel_hz))
        coarse = np.exp(turns[:, None] * (first + BLOCK * np.arange(blocks)))
        fine = np.exp(turns[:, None] * np.arange(BLOCK))
        phases = (coarse[:, :, None] * fine[:, None, :]).reshape(seen.size, -1)[:, :samples].astype(np.complex64)
        out[:, row] = images[:, row, seen] @ phases
    return np.asarray(out * np.float32(np.sqrt(samples) / columns), dtype=np.complex64)
