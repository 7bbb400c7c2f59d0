"""The largest thing in an image that neither its reference nor the classical image of the same samples shows.

Scanning Fourier ring correlation (`rings`) asks whether a patch has the reference's structure; one small structure more or less
hardly changes that. Here the error itself is looked at, averaged over a disc as large as a small structure, so that noise and
blurred edges average out, and less the classical image's at the same place, since both miss what was not measured. A structure
that was put in or taken out stands there with its own contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edge_runtime.hil.quality import Magnitude, Mask, scale_to

RADIUS_PIXELS = 2.5
"""Of the disc: structures of five pixels count in full, smaller ones less."""


@dataclass(frozen=True)
class StructureError:
    """The largest local error of an image beyond the classical one's.

    Attributes:
        share: of the foreground's median brightness; 0 of the classical image itself.
        row, column: where, in pixels.
    """

    share: float
    row: int
    column: int


def structure_error(image: Magnitude, classical: Magnitude, reference: Magnitude, where: Mask) -> StructureError:
    """Of the pixels of the foreground, that at which the image errs most beyond the classical one; all ``(rows, columns)``."""
    beyond = _local_error(image, reference, where) - _local_error(classical, reference, where)
    row, column = np.unravel_index(np.argmax(np.where(where, beyond, -np.inf)), where.shape)
    return StructureError(float(beyond[row, column] / np.median(reference[where])), int(row), int(column))


def _local_error(image: Magnitude, reference: Magnitude, where: Mask) -> npt.NDArray[np.float64]:
    """Magnitude of the mean error in a disc around every pixel."""
    error = scale_to(image, reference, where) * np.asarray(image, np.float64) - reference
    return np.asarray(np.abs(ndimage.convolve(error, _disc(), mode="nearest")))


def _disc() -> npt.NDArray[np.float64]:
    reach = np.arange(-int(RADIUS_PIXELS), int(RADIUS_PIXELS) + 1)
    inside = np.hypot(reach[:, None], reach[None, :]) <= RADIUS_PIXELS
    return np.asarray(inside / np.count_nonzero(inside))
