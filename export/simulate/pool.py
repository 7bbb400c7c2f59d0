"""A pool of noise-free simulated acquisitions on disk, from which training draws masks, noise and coil subsets.

The slow part (anatomy, coils, Fourier transform of the fine object) happens once here; the fast part (noise, undersampling,
calibration) is drawn anew at every training step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.modalities.mri.coils import compression_matrix
from export.simulate.objects import draw_anatomy, draw_phantom, random_field_phase, tissue_phase
from export.simulate.receive import KSpace, gaussian_coils, loop_coils, measure
from export.simulate.volumes import Volume

COIL_COUNTS = (1, 2, 2, 3, 4, 4, 6, 8, 8, 12)
COILS_AFTER_COMPRESSION = 8


def simulate_acquisition(
    volumes: list[Volume],
    rng: np.random.Generator,
    *,
    phantom_share: float,
    phase_encodes: tuple[int, int] = (96, 224),
    samples: tuple[int, int] = (96, 192),
    validation: bool = False,
) -> KSpace:
    """One fully sampled, noise-free multi-coil k-space ``(coils, phase_encodes, samples)``, compressed to at most eight coils.

    ``validation`` draws coils and phase from generators that training never uses. Magnitudes are scaled so that the
    root-sum-of-squares image has its 99th percentile at 1.
    """
    matrix = (
        2 * int(rng.integers(phase_encodes[0] // 2, phase_encodes[1] // 2 + 1)),
        2 * int(rng.integers(samples[0] // 2, samples[1] // 2 + 1)),
    )
    finer = rng.uniform(1.5, 2.2)
    size = (_even(matrix[0] * finer), _even(matrix[1] * finer))
    phase = random_field_phase if validation else tissue_phase
    complex_object = (
        draw_phantom(size, rng, phase) if rng.random() < phantom_share else draw_anatomy(volumes, size, rng, phase)
    )
    coils = int(rng.choice(COIL_COUNTS))
    make_coils = gaussian_coils if validation else loop_coils
    kspace = measure(complex_object, make_coils(size, coils, rng), matrix)
    if coils > COILS_AFTER_COMPRESSION:
        kspace = np.einsum("vc,cyx->vyx", compression_matrix(kspace, COILS_AFTER_COMPRESSION), kspace)
    image = np.fft.ifft2(kspace, norm="ortho")
    rss = np.sqrt(np.sum(np.abs(image) ** 2, axis=0))
    return np.asarray(kspace / np.percentile(rss, 99), dtype=np.complex64)


def write_pool(
    folder: Path,
    volumes: list[Volume],
    count: int,
    seed: int,
    phantom_share: float,
    progress: Callable[[int, int], None],
) -> None:
    """Writes ``count`` acquisitions as ``NNNNN.npy``; those that exist are kept, so an interrupted run resumes."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / f"{index:05d}.npy"
        if not path.exists():
            rng = np.random.default_rng([seed, index])
            kspace = simulate_acquisition(volumes, rng, phantom_share=phantom_share)
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, kspace)
            partial.rename(path)
        progress(index + 1, count)


def _even(value: float) -> int:
    return 2 * round(value / 2)
