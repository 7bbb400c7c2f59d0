"""The figures of `edge_runtime.hil.quality`, over the foreground of the reference; see ``docs/quality-metrics.md``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.hil.quality import Magnitude, Quality, compare_within
from export.foreground import foreground


def root_sum_of_squares(coil_images: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """``(coils, rows, columns)`` to ``(rows, columns)``; that of the fully sampled coil images is the reference."""
    return np.asarray(np.sqrt(np.sum(coil_images.real**2 + coil_images.imag**2, axis=0)), dtype=np.float32)


def compare(image: Magnitude, reference: Magnitude) -> Quality:
    """Quality of ``image`` against ``reference``, both ``(rows, columns)``; the image's scale does not matter."""
    return compare_within(image, reference, foreground(reference))
