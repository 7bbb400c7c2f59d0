"""A head that moves within the slice while it is measured: rigid poses, one a shot.

Object and its phase move; coils and the field's inhomogeneity stay with the scanner. Within a shot nothing moves, and nothing moves
through the plane, so that spin history and slice crosstalk are not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from export.simulate.objects import ComplexObject
from export.simulate.settings import AcquisitionConfig


@dataclass(frozen=True)
class Pose:
    """Where the object is: turned about the centre of the field of view, then moved.

    Attributes:
        columns_mm, rows_mm: towards higher columns and rows.
        rotation_deg: from increasing columns towards increasing rows (clockwise as displayed).
    """

    columns_mm: float = 0.0
    rows_mm: float = 0.0
    rotation_deg: float = 0.0


AT_REST = Pose()


def draw_poses(
    shots: int, arriving: npt.NDArray[np.intp], config: AcquisitionConfig, rng: np.random.Generator
) -> tuple[Pose, ...]:
    """One pose a shot; the first is `AT_REST`. The largest translation and rotation over the shots that readouts arrive from are
    exactly those of the configuration.

    A walk adds Gaussian steps; a step is one movement, at a shot of the middle half of those that arrive.

    Args:
        shots: how many are planned.
        arriving: the numbers of those that readouts arrive from, ascending.

    Raises:
        ValueError: the head is to move, and no two shots arrive between which it could.
    """
    if config.motion_mm == 0 and config.motion_deg == 0:
        return (AT_REST,) * shots
    if len(arriving) < 2:
        raise ValueError(
            f"motion_mm = {config.motion_mm}, motion_deg = {config.motion_deg}: the head moves between shots only, and all "
            f"readouts arrive from one; more lines than lines_per_shot = {config.lines_per_shot} have to arrive"
        )
    moves = rng.standard_normal((shots, 3))
    if config.motion_pattern == "step":
        count = len(arriving)
        at = int(rng.integers(count // 4, max(count // 4 + 1, 3 * count // 4)))
        moves[:] = np.where(np.arange(shots)[:, None] == arriving[max(1, at)], moves, 0.0)
    moves[0] = 0.0
    path = np.cumsum(moves, axis=0)
    far = np.hypot(path[arriving, 0], path[arriving, 1]).max()
    turned = np.abs(path[arriving, 2]).max()
    path[:, :2] *= config.motion_mm / far if far > 0 else 0.0
    path[:, 2] *= config.motion_deg / turned if turned > 0 else 0.0
    return tuple(Pose(*(float(value) for value in row)) for row in path)


@dataclass(frozen=True)
class Movable:
    """An object that is taken to poses; its splines are fitted once.

    Attributes:
        still: at rest, complex64 ``(rows, columns)``; dark at its rim, since what leaves on one side comes back on the other.
        pixel_mm: size of a pixel along rows and columns.
        centre: index of the axis of rotation, along rows and columns.
    """

    still: ComplexObject
    pixel_mm: tuple[float, float]
    centre: tuple[float, float]

    def at(self, pose: Pose) -> ComplexObject:
        """The object there; at rest, itself. Rotation by cubic splines, translation exactly, by a linear phase."""
        moved = self.still
        if pose.rotation_deg:
            moved = self._turned(np.deg2rad(pose.rotation_deg))
        if pose.columns_mm or pose.rows_mm:
            moved = self._shifted(moved, pose)
        return moved

    def _turned(self, angle: float) -> ComplexObject:
        row, column = self.pixel_mm
        # Where a pixel of the turned object was before: turned back, in millimetres.
        back = np.array([[np.cos(angle), -np.sin(angle) * column / row], [np.sin(angle) * row / column, np.cos(angle)]])
        offset = np.array(self.centre) - back @ self.centre
        parts = [ndimage.affine_transform(part, back, offset, order=3) for part in (self.still.real, self.still.imag)]
        return np.asarray(parts[0] + 1j * parts[1], dtype=np.complex64)

    def _shifted(self, image: ComplexObject, pose: Pose) -> ComplexObject:
        shift = np.array([pose.rows_mm, pose.columns_mm]) / self.pixel_mm
        spectrum = np.fft.fft2(image)
        for axis, pixels in enumerate(shift):
            turns = np.fft.fftfreq(image.shape[axis]) * pixels
            phase = np.exp(-2j * np.pi * turns).astype(np.complex64)
            spectrum = spectrum * (phase[:, None] if axis == 0 else phase[None, :])
        return np.asarray(np.fft.ifft2(spectrum), dtype=np.complex64)
