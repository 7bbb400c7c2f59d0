"""What surrounds a graph: normalisation, padding and constant planes.

NumPy, not a `PackPlan`: that divides by one number and pads at the end, these networks were trained with a mean and a deviation of
each plane and with padding on both sides. Means and deviations are summed in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.program.stages import Shaping

Planes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shaped:
    """Planes as the graph takes them ``(batch, channels, rows, columns)``, and what brings its output back."""

    planes: Planes
    mean: Planes | float
    deviation: Planes | float
    rows: slice
    columns: slice

    def undo(self, output: Planes) -> Planes:
        """The graph's output in the size and scale of the planes that went in."""
        return np.asarray(output[:, :, self.rows, self.columns] * self.deviation + self.mean, np.float32)


def shape(planes: Planes, shaping: Shaping) -> Shaped:
    """Planes ``(batch, channels, rows, columns)`` made ready for a graph."""
    rows, columns = planes.shape[2:]
    mean: Planes | float = 0.0
    deviation: Planes | float = 1.0
    if shaping.normalise != "none":
        spread = 1 if shaping.normalise == "sample" else 0
        mean = planes.mean((2, 3), np.float64, keepdims=True).astype(np.float32)
        deviation = planes.std((2, 3), np.float64, ddof=spread, keepdims=True).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):  # an empty plane: the engine refuses what is not finite
            planes = (planes - mean) / deviation
    before = (0, 0)
    padding = shaping.padding
    if padding is not None:
        missing = tuple(-size % padding.multiple for size in (rows, columns))
        before = (missing[0] // 2, missing[1] // 2) if padding.place == "centre" else (0, 0)
        widths = [(0, 0), (0, 0), *((start, all_ - start) for start, all_ in zip(before, missing, strict=True))]
        planes = np.pad(planes, widths, mode="edge" if padding.fill == "edge" else "constant")
    if shaping.planes:
        constant = np.asarray(shaping.planes, np.float32)[None, :, None, None]
        constant = np.broadcast_to(constant, (len(planes), len(shaping.planes), *planes.shape[2:]))
        planes = np.concatenate([planes, constant], axis=1)
    kept = tuple(slice(start, start + size) for start, size in zip(before, (rows, columns), strict=True))
    return Shaped(np.ascontiguousarray(planes, np.float32), mean, deviation, kept[0], kept[1])
