"""Where an image lies, in DICOM's terms (PS3.3 C.7.6.2): the first voxel's centre, two directions, two spacings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DeliveryError
from edge_runtime.scan import Image, Vector

_MOST_ROWS = 0xFFFF  # Rows and Columns are US


@dataclass(frozen=True, slots=True)
class Plane:
    """An image's place, PS3.3 C.7.6.2. Lengths in mm, unit vectors float64 ``(3,)``."""

    position: Vector  # centre of the first voxel
    row: Vector  # direction of increasing column
    column: Vector  # direction of increasing row
    row_spacing: float
    column_spacing: float
    known: bool
    notes: tuple[str, ...]


def plane_of(image: Image) -> Plane:
    """Where an image lies.

    Raises:
        DeliveryError: no pixels, or a field of view that is not positive.
    """
    geometry = image.geometry
    if image.pixels.ndim != 2 or not all(0 < count <= _MOST_ROWS for count in image.pixels.shape):
        raise DeliveryError(
            f"image pixels have shape {image.pixels.shape}: expected (rows, columns), 1 to {_MOST_ROWS} each"
        )
    rows, columns = image.pixels.shape
    read_mm, phase_mm, _ = geometry.field_of_view_mm
    if not (math.isfinite(read_mm) and math.isfinite(phase_mm) and min(read_mm, phase_mm) > 0):
        raise DeliveryError(
            f"image field of view is {geometry.field_of_view_mm} mm: expected positive lengths in plane"
        )
    row_spacing, column_spacing = phase_mm / rows, read_mm / columns

    centre = np.array(geometry.centre_mm, dtype=np.float64)
    row, column, problem = geometry.axes()
    notes: list[str] = []
    if not np.all(np.isfinite(centre)):
        centre, problem = np.zeros(3), problem or "the position that the scanner sent is not finite"
    if problem:
        row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
        notes.append(f"Geometry unknown because {problem}")
    elif geometry.slice_direction is not None:
        along = float(np.dot(np.cross(row, column), geometry.slice_direction))
        if abs(along + 1) < 0.01:
            notes.append("Slice direction opposes read x phase: placed by read and phase, slices may run backwards")
        elif not abs(along - 1) < 0.01:
            notes.append("Slice direction is not perpendicular to the image: placed by read and phase direction alone")
    position = centre - (columns - 1) / 2 * column_spacing * row - (rows - 1) / 2 * row_spacing * column
    return Plane(position, row, column, row_spacing, column_spacing, not problem, tuple(notes))
