"""The slow phase of an image: what field inhomogeneity and coils turn it by, over stretches much longer than a pixel.

A network does least where it knows least, and of phase no training shows all: air in the sinuses turns the brain above by several
turns at 3 T and next to nothing at 0.05 T. Taken out of what the network is shown, and put back into what it answers, the slow part
costs it nothing; data consistency sees the image as it is. So a network that has been trained with every phase is shown nearly
none, and refined on that. The phase is that of the lowest spatial frequencies of the image that the network starts from, as
homodyne detection takes it (Noll, Nishimura and Macovski, IEEE Trans Med Imaging 10:154, 1991).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.fourier import Complex

WIDTH = 4.0
"""Standard deviation, in spatial frequencies (lines of k-space), of the Gaussian window on them. Chosen on simulated scans of
training volumes: with 2.5 strong phases stay, with 6.5 and more aliasing counts as phase. So it does beyond the calibration
lines where they are few: half their number bounds it."""

REACH = 3.0
"""Widths at which the window ends."""


def slow_phase(image: Complex, acs_lines: int) -> Complex:
    """The phase of an image's lowest spatial frequencies as numbers of modulus one, ``(phase_encodes, columns)``.

    Args:
        image: complex ``(phase_encodes, columns)``. Where its lowest frequencies hold nothing, the phase is none.
        acs_lines: that its sensitivities were estimated from.
    """
    image, width = np.asarray(image), min(WIDTH, acs_lines / 2)  # a copy where it lies in a GPU's memory
    (analysis, synthesis), (analysis_columns, synthesis_columns) = (_low_pass(size, width) for size in image.shape)
    spectrum = analysis @ (image @ analysis_columns.T)
    low = synthesis @ (spectrum @ synthesis_columns.T)
    magnitude = np.abs(low)
    phase: Complex = np.divide(low, magnitude, out=np.ones_like(low), where=magnitude > np.finfo(np.float32).tiny)
    return phase


@functools.lru_cache(maxsize=64)
def _low_pass(size: int, width: float) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.complex64]]:
    """What takes the windowed lowest frequencies out of an axis, ``(frequencies, size)``, and what makes the axis of them."""
    reach = min(int(REACH * width), (size - 1) // 2)
    frequencies = np.arange(-reach, reach + 1)
    waves = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(size)) / size)
    window = np.exp(-((frequencies / width) ** 2) / 2) / size
    return (window[:, None] * waves).astype(np.complex64), np.ascontiguousarray(waves.conj().T, dtype=np.complex64)
