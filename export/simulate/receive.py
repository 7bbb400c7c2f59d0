"""Receive coils and the measured k-space.

Training and validation draw their coils from different generators, so that a validation figure can't be earned by learning the
generator: training sees loops by the law of Biot and Savart reduced to the plane, validation sees Gaussian profiles with
polynomial phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.simulate.objects import ComplexObject

CoilMaps = npt.NDArray[np.complex64]
KSpace = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Ring:
    """How loops stand around the head, in halves of the field of view: the least and the largest of each.

    Attributes:
        distance: of a loop from the centre.
        radius: of a loop.
    """

    distance: tuple[float, float] = (0.95, 1.5)
    radius: tuple[float, float] = (0.5, 1.3)


def loop_coils(size: tuple[int, int], coils: int, rng: np.random.Generator, ring: Ring = Ring()) -> CoilMaps:
    """Coil maps ``(coils, rows, columns)`` of loops around the head: a ring's field, falling with distance."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    start = rng.uniform(0, 2 * np.pi)
    maps = np.empty((coils, *size), np.complex64)
    for coil in range(coils):
        angle = start + 2 * np.pi * coil / coils + rng.normal(0, 0.1)
        distance = rng.uniform(*ring.distance)
        radius = rng.uniform(*ring.radius)
        dy, dx = y - distance * np.sin(angle), x - distance * np.cos(angle)
        along = -(dy * np.sin(angle) + dx * np.cos(angle))  # towards the centre
        across = dy * np.cos(angle) - dx * np.sin(angle)
        fall = (along**2 + across**2 + radius**2) ** -1.5
        axial, transverse = (
            radius**2 * fall,
            1.5 * radius**2 * along * across * fall / (along**2 + across**2 + radius**2),
        )
        field = (axial + 1j * transverse) * np.exp(-1j * angle)
        wave = rng.normal(0, 0.4, 2)  # dielectric phase at high field
        maps[coil] = (
            field * np.exp(1j * (wave[0] * y + wave[1] * x + rng.uniform(0, 2 * np.pi))) * rng.uniform(0.7, 1.3)
        )
    return np.asarray(maps / np.sqrt(np.mean(np.sum(np.abs(maps) ** 2, axis=0))))


def gaussian_coils(size: tuple[int, int], coils: int, rng: np.random.Generator) -> CoilMaps:
    """Coil maps ``(coils, rows, columns)`` of Gaussian profiles with polynomial phase; for validation."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    maps = np.empty((coils, *size), np.complex64)
    for coil in range(coils):
        angle = 2 * np.pi * (coil + rng.uniform(-0.2, 0.2)) / coils
        where = rng.uniform(0.8, 1.1) * np.array([np.sin(angle), np.cos(angle)])
        width = rng.uniform(0.8, 1.2)
        profile = np.exp(-((y - where[0]) ** 2 + (x - where[1]) ** 2) / (2 * width**2))
        terms = rng.normal(0, 0.5, 4)
        maps[coil] = profile * np.exp(1j * (terms[0] + terms[1] * y + terms[2] * x + terms[3] * x * y))
    return np.asarray(maps / np.sqrt(np.mean(np.sum(np.abs(maps) ** 2, axis=0))))


def measure(complex_object: ComplexObject, maps: CoilMaps, matrix: tuple[int, int]) -> KSpace:
    """Noise-free k-space ``(coils, phase_encodes, samples)``: the finer object's spectrum, cropped to the matrix.

    Cropping is what a scanner does, and what gives a real image its signed Gibbs side lobes.
    """
    rows, columns = complex_object.shape
    spectrum = np.fft.ifftshift(complex_object * maps, axes=(1, 2))
    spectrum = np.fft.fftshift(np.fft.fft2(spectrum, norm="ortho"), axes=(1, 2))
    top, left = rows // 2 - matrix[0] // 2, columns // 2 - matrix[1] // 2
    cropped = spectrum[:, top : top + matrix[0], left : left + matrix[1]]
    return np.asarray(cropped * np.sqrt(matrix[0] * matrix[1] / (rows * columns)), dtype=np.complex64)


def complex_noise(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """White complex Gaussian noise of unit variance per complex sample."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32)
    return np.asarray((pairs[..., 0] + 1j * pairs[..., 1]) * np.float32(np.sqrt(0.5)), dtype=np.complex64)
