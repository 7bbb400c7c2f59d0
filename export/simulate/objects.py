"""The object in the scanner: a complex image finer than any matrix it will be measured with.

What a first trial of training on magnitude pictures never showed a network, and what real scans have, is drawn here: phase that
depends on tissue and on field inhomogeneity, a fat rim out of phase with the brain, contrast unlike the source's, lesions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from export.simulate.volumes import Magnitude, Volume

ComplexObject = npt.NDArray[np.complex64]


PhaseGenerator = Callable[[Magnitude, np.random.Generator], ComplexObject]


def draw_anatomy(
    volumes: list[Volume], size: tuple[int, int], rng: np.random.Generator, phase: PhaseGenerator
) -> ComplexObject:
    """A complex object ``size = (rows, columns)`` from a random slice: placed, recoloured, given lesions and phase."""
    weights = np.sqrt([float(volume.slice_count()) for volume in volumes])
    volume = volumes[int(rng.choice(len(volumes), p=weights / weights.sum()))]
    plane, aspect = volume.draw(rng)
    magnitude = _place(plane, aspect, size, rng)
    magnitude = _suppress_background(magnitude)
    if rng.random() < 0.6:
        magnitude = _recolour(magnitude, rng)
    if rng.random() < 0.4:
        magnitude = _add_lesions(magnitude, rng)
    return phase(magnitude, rng)


def draw_phantom(size: tuple[int, int], rng: np.random.Generator, phase: PhaseGenerator) -> ComplexObject:
    """A complex object ``size`` of random ellipses and bars, as quality phantoms have."""
    y, x = _grid(size)
    magnitude = np.zeros(size, np.float32)
    body = (y / rng.uniform(0.6, 0.9)) ** 2 + (x / rng.uniform(0.6, 0.9)) ** 2 < 1
    magnitude[body] = 0.7
    for _ in range(int(rng.integers(3, 25))):
        angle = rng.uniform(0, np.pi)
        u = (y - rng.uniform(-0.6, 0.6)) * np.cos(angle) + (x - rng.uniform(-0.6, 0.6)) * np.sin(angle)
        v = -(y - rng.uniform(-0.6, 0.6)) * np.sin(angle) + (x - rng.uniform(-0.6, 0.6)) * np.cos(angle)
        a, b = np.exp(rng.uniform(np.log(0.01), np.log(0.3), 2))
        inside = (np.abs(u) < a) & (np.abs(v) < b) if rng.random() < 0.4 else (u / a) ** 2 + (v / b) ** 2 < 1
        magnitude[inside & body] = rng.uniform(0, 1.2)
    return phase(magnitude, rng)


def _grid(size: tuple[int, int]) -> tuple[Magnitude, Magnitude]:
    """Coordinates -1..1, ``(rows, 1)`` and ``(1, columns)``."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return y, x


def _place(plane: Magnitude, aspect: float, size: tuple[int, int], rng: np.random.Generator) -> Magnitude:
    """Rotates, mirrors, scales and shifts the slice into the field of view."""
    foreground = np.argwhere(plane > 0.15)
    low, high = np.percentile(foreground, 1, axis=0), np.percentile(foreground, 99, axis=0)
    centre = (low + high) / 2
    extent = (high - low + 1) * (aspect, 1.0)
    quarter = int(rng.integers(0, 4)) * np.pi / 2
    angle = quarter + rng.normal(0, 0.15)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        rotation = rotation @ np.diag([1.0, -1.0])
    turned = np.abs(rotation.T) @ extent  # the head's extent in the rotated frame, in source pixels
    fill = rng.uniform(0.55, 0.98, 2) if rng.random() < 0.5 else np.full(2, rng.uniform(0.55, 0.95))
    step = turned / (fill * size)
    if rng.random() < 0.35:
        step[:] = step.max()  # isotropic pixels
    matrix = np.diag([1.0 / aspect, 1.0]) @ rotation @ np.diag(step)
    middle = np.array(size) / 2 + rng.uniform(-0.04, 0.04, 2) * size
    placed = ndimage.affine_transform(
        plane, matrix, centre - matrix @ middle, output_shape=size, order=1, mode="constant"
    )
    return np.asarray(placed, dtype=np.float32)


def _suppress_background(magnitude: Magnitude) -> Magnitude:
    """Fades the source's own noise floor out of the air, so that noise comes from the simulator alone."""
    low, high = 0.02, 0.07
    smoothed = ndimage.uniform_filter(magnitude, 5)
    return np.asarray(magnitude * np.clip((smoothed - low) / (high - low), 0, 1), dtype=np.float32)


def _recolour(magnitude: Magnitude, rng: np.random.Generator) -> Magnitude:
    """Another contrast: a random smooth curve through intensity, not always monotone; air stays dark."""
    knots = np.linspace(0, 1.5, 6)
    values = rng.uniform(0.05, 1.2, 6)
    if rng.random() < 0.4:
        values = np.sort(values)
    values[0] = 0.0
    curve = np.interp(magnitude, knots, values)
    mixing = rng.uniform(0.3, 1.0)
    return np.asarray(mixing * curve + (1 - mixing) * magnitude, dtype=np.float32)


def _add_lesions(magnitude: Magnitude, rng: np.random.Generator) -> Magnitude:
    y, x = _grid((magnitude.shape[0], magnitude.shape[1]))
    out: Magnitude = magnitude.copy()
    inside = np.argwhere(magnitude > 0.2)
    if len(inside) == 0:
        return out
    for _ in range(int(rng.integers(1, 6))):
        row, column = inside[int(rng.integers(len(inside)))]
        radius = np.exp(rng.uniform(np.log(0.008), np.log(0.12), 2))
        distance = ((y - y[row, 0]) / radius[0]) ** 2 + ((x - x[0, column]) / radius[1]) ** 2
        weight = np.clip((1.2 - distance) / 0.4, 0, 1) * (magnitude > 0.05)
        out = out * (1 - weight) + weight * out * rng.uniform(0.2, 1.8)
    return np.asarray(out, dtype=np.float32)


def random_field_phase(magnitude: Magnitude, rng: np.random.Generator) -> ComplexObject:
    """Phase of a smooth Gaussian random field; for validation, since training never sees one."""
    field = ndimage.gaussian_filter(rng.standard_normal(magnitude.shape), max(magnitude.shape) / rng.uniform(5, 12))
    phase = rng.uniform(0.3, 1.5) * field / np.std(field)
    return np.asarray(magnitude * np.exp(1j * phase), dtype=np.complex64)


def tissue_phase(magnitude: Magnitude, rng: np.random.Generator) -> ComplexObject:
    """Background field, local susceptibility fields, tissue-dependent phase and a fat rim out of phase."""
    size = (magnitude.shape[0], magnitude.shape[1])
    y, x = _grid(size)
    phase = rng.uniform(-np.pi, np.pi) + np.zeros(size, np.float32)
    strength = rng.choice([0.3, 1.0, 2.0])
    linear = rng.normal(0, strength, 5)
    phase = phase + linear[0] * y + linear[1] * x + linear[2] * y * y + linear[3] * x * x + linear[4] * x * y
    for _ in range(int(rng.integers(0, 5))):
        width = np.exp(rng.uniform(np.log(0.08), np.log(0.5), 2))
        where = rng.uniform(-0.9, 0.9, 2)
        bump = np.exp(-(((y - where[0]) / width[0]) ** 2) - ((x - where[1]) / width[1]) ** 2)
        phase = phase + rng.normal(0, 1.5) * bump
    if rng.random() < 0.7:
        blurred = ndimage.gaussian_filter(magnitude, rng.uniform(0.5, 3.0))
        phase = phase + rng.normal(0, 0.6) * blurred
    complex_object = magnitude * np.exp(1j * phase)
    if rng.random() < 0.5:
        complex_object = _fat_rim(complex_object, magnitude, rng)
    return np.asarray(complex_object, dtype=np.complex64)


def _fat_rim(complex_object: ComplexObject, magnitude: Magnitude, rng: np.random.Generator) -> ComplexObject:
    """Turns the scalp's phase and shifts it along the readout (axis 1), as the chemical shift of fat does."""
    head = ndimage.binary_fill_holes(ndimage.gaussian_filter(magnitude, 2) > 0.08)
    depth = ndimage.distance_transform_edt(head)
    thickness = rng.uniform(0.01, 0.05) * max(magnitude.shape)
    rim = np.clip((thickness - depth) / 2 + 0.5, 0, 1) * head
    fat = complex_object * rim * np.exp(1j * rng.uniform(0, 2 * np.pi)) * rng.uniform(0.5, 2.0)
    fat = np.roll(fat, int(rng.integers(-4, 5)), axis=1)
    return np.asarray(complex_object * (1 - rim) + fat, dtype=np.complex64)
