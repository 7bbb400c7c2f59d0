"""Whole coils of one slice in hybrid space: mixed into virtual ones, and combined."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime.arrays import DeviceArray
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels.backend import Backend, Workers, backend_of
from edge_runtime.kernels.checks import checked, positive
from edge_runtime.kernels.types import Complex, Mask, Reals, Where


class CoilPlan:
    """What is done with whole coils of one slice in hybrid space: compression into virtual coils, and combination of coil images.

    Args:
        workers: threads that lines and columns are shared between.
        coils, phase_encodes, columns: the geometry.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self, workers: Workers, coils: int, phase_encodes: int, columns: int, *, device: Where = "cpu"
    ) -> None:
        positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        self._geometry = coils, phase_encodes, columns
        self._backend = backend_of(workers, device)
        self._plan: _kernels.CoilPlan = self._backend.plan("CoilPlan", coils, phase_encodes, columns)

    def compress(self, hybrid: Complex, measured: Mask, matrix: Complex, out: Complex | None = None) -> Complex:
        """Virtual coils ``(virtual_coils, phase_encodes, columns)``, zero where nothing was measured.

        Args:
            hybrid: ``(coils, phase_encodes, columns)``, contiguous along the columns only; other lines than the measured ones are
                not looked at.
            measured: ``(phase_encodes,)``.
            matrix: ``(virtual_coils, coils)``.
        """
        matrix = checked("matrix", matrix, np.complex64, (None, self._geometry[0]))
        shape = (len(matrix), *self._geometry[1:])
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.compress(*sampled(self._backend, hybrid, measured, self._geometry), matrix, out)
        return out

    def root_sum_of_squares(self, hybrid: Complex, measured: Mask, out: Reals | None = None) -> Reals:
        """Magnitude image ``(phase_encodes, columns)`` of all coils (Roemer et al., Magn Reson Med 16:192, 1990); what was not
        measured counts as zero. Arguments as `compress`'s."""
        shape = self._geometry[1:]
        out = self._backend.out("out", out, np.float32, shape)
        self._plan.combine(*sampled(self._backend, hybrid, measured, self._geometry), out)
        return out


class AdaptivePlan:
    """Adaptive combination of coil images (Walsh et al., Magn Reson Med 43:682, 2000) of one slice in hybrid space.

    The dominant eigenvector of the coils' covariance in every cell of 8 x 8 pixels stands for their sensitivities there, those of a
    pixel are interpolated between cells. Samples are whitened, so the noise's covariance is the identity. Noise adds up less than
    in a `CoilPlan`'s root-sum-of-squares, and the image has a phase: that of the coil with the most signal. Results do not depend
    on the number of threads.

    Args:
        workers: threads that lines and columns are shared between.
        coils, phase_encodes, columns: the geometry.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self, workers: Workers, coils: int, phase_encodes: int, columns: int, *, device: Where = "cpu"
    ) -> None:
        positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        self._geometry = coils, phase_encodes, columns
        self._backend = backend_of(workers, device)
        self._plan: _kernels.AdaptivePlan = self._backend.plan("AdaptivePlan", coils, phase_encodes, columns)

    def combine(self, hybrid: Complex, measured: Mask, out: Complex | None = None) -> Complex:
        """Complex image ``(phase_encodes, columns)``; what was not measured counts as zero. Arguments as those of
        `CoilPlan.compress`."""
        shape = self._geometry[1:]
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.combine(*sampled(self._backend, hybrid, measured, self._geometry), out)
        return out


def sampled(backend: Backend, hybrid: Complex, measured: Mask, shape: tuple[int, int, int]) -> tuple[Complex, Mask]:
    """Samples as they are assembled, contiguous along the columns only, and which lines of them count."""
    hybrid = backend.array("hybrid", hybrid, np.complex64, shape, contiguous=False)
    layout: npt.NDArray[Any] = hybrid.layout if isinstance(hybrid, DeviceArray) else hybrid
    if (layout.strides[2] != layout.itemsize and shape[2] > 1) or not layout.flags.aligned:
        raise ArgumentError("hybrid", f"strides {layout.strides}", "columns that lie side by side in aligned memory")
    return hybrid, checked("measured", measured, np.bool_, (shape[1],))
