"""What a split program is given and what it makes, as arrays and as the planes of one tensor.

As one tensor they are the golden input and output of a bundle: ``(1, planes, phase_encodes, columns)``, the mask first, then real
and imaginary part of every coil's samples, then of every coil's sensitivities where the program is given them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.engines import Tensor
from edge_runtime.errors import ProgramRefused
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.shaping import Planes
from edge_runtime.program.stages import Program

Mask = npt.NDArray[np.bool_]
Value = npt.NDArray[np.complex64] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Acquisition:
    """What a program of domain ``kspace`` takes.

    Attributes:
        hybrid: samples ``(batch, coils, phase_encodes, columns)``; what the mask leaves out is not looked at.
        mask: measured lines ``(phase_encodes,)``, or measured samples ``(phase_encodes, columns)``: every column of hybrid space is
            a problem of its own. Lines that are measured in every column calibrate.
        maps: sensitivities ``(batch, coils, phase_encodes, columns)`` where the program is given them.
    """

    hybrid: Complex
    mask: Mask
    maps: Complex | None = None


Given = Acquisition | Planes
"""What a program is given: samples, or planes ``(batch, channels, rows, columns)``."""


def given_as_tensor(given: Given) -> Tensor:
    """One slice's input as planes of one tensor."""
    if not isinstance(given, Acquisition):
        return given
    mask = given.mask if given.mask.ndim == 2 else np.repeat(given.mask[:, None], given.hybrid.shape[3], axis=1)
    arrays = [given.hybrid[0]] if given.maps is None else [given.hybrid[0], given.maps[0]]
    return np.concatenate([mask[None].astype(np.float32), *(_parts(array) for array in arrays)])[None]


def given_of_tensor(program: Program, tensor: Tensor) -> Given:
    """Undoes `given_as_tensor`.

    Raises:
        ProgramRefused: it has not the planes that the program's input has.
    """
    if program.domain == "image":
        return tensor
    arrays = 2 if program.maps_given else 1
    planes = tensor.shape[1] - 1
    if len(tensor) != 1 or planes < 1 or planes % (2 * arrays):
        raise ProgramRefused(
            f"a tensor {tensor.shape}: (1, planes, phase_encodes, columns) is expected, a mask and {2 * arrays} planes a coil"
        )
    whole = tensor[0, 1::2] + 1j * tensor[0, 2::2]
    hybrid, *maps = (np.ascontiguousarray(part[None], np.complex64) for part in np.split(whole, arrays))
    return Acquisition(hybrid, tensor[0, 0] != 0, maps[0] if maps else None)


def value_as_tensor(value: Value) -> Tensor:
    """What a program made, ``(batch, phase_encodes, columns)`` or planes, as planes."""
    if value.ndim == 4:
        return np.asarray(value, np.float32)
    if np.iscomplexobj(value):
        return np.ascontiguousarray(np.stack([value.real, value.imag], axis=1), np.float32)
    return np.ascontiguousarray(value[:, None], np.float32)


def _parts(array: Complex) -> Tensor:
    """Real and imaginary part of ``(coils, phase_encodes, columns)`` in turn."""
    return np.stack([array.real, array.imag], axis=1).reshape(-1, *array.shape[1:])
