"""Coil sensitivities from the autocalibration lines."""

from __future__ import annotations

import numpy as np

from edge_runtime import _kernels
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels.backend import Workers, backend_of
from edge_runtime.kernels.checks import divisor, pair, positive
from edge_runtime.kernels.types import Complex, Reals, Size, Where


class SensitivityPlan:
    """Coil sensitivities from the ACS of one slice, as `edge_runtime.modalities.mri.coils` describes and sets them up.

    In double precision up to the signal subspace's projection, in single precision from there. Results do not depend on the number
    of threads. Arrays are C-contiguous.

    Args:
        workers: threads that rows and pixels are shared between.
        coils: virtual ones.
        acs: lines and columns of the calibration samples.
        kernel: lines and columns of a calibration kernel, at most those of the ACS.
        grid: lines and columns on which maps are computed before interpolation, at most those of the image.
        image: phase encodes and columns.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used, or matrices of so many coils do not fit it.
    """

    def __init__(
        self,
        workers: Workers,
        coils: int,
        acs: Size,
        kernel: Size,
        grid: Size,
        image: Size,
        *,
        device: Where = "cpu",
    ) -> None:
        positive(coils=coils)
        for name, size in (("acs", acs), ("image", image), ("kernel", kernel), ("grid", grid)):
            pair(name, size)
        for name, size, of, most in (("kernel", kernel, "ACS", acs), ("grid", grid, "image", image)):
            if size[0] > most[0] or size[1] > most[1]:
                raise ArgumentError(name, size, f"at least 1, at most the {of}'s {most}")
        self._acs, self._image = (coils, *acs), image
        self._backend = backend_of(workers, device)
        self._plan: _kernels.SensitivityPlan = self._backend.plan("SensitivityPlan", coils, acs, kernel, grid, image)

    def estimate(
        self, acs: Complex, threshold: float, weight: Reals | None = None, out: Complex | None = None
    ) -> Complex:
        """Maps ``(coils, phase_encodes, columns)`` with unit root-sum-of-squares, the first coil's real; zero without any signal.

        Args:
            acs: ``(coils, lines, columns)``, both axes in k-space.
            threshold: share of the largest singular value of the calibration matrix at which a kernel counts half.
            weight: multiplies the maps, ``(phase_encodes, columns)``.
        """
        acs = self._backend.array("acs", acs, np.complex64, self._acs)
        divisor("threshold", threshold)
        if threshold > 1:
            raise ArgumentError("threshold", threshold, "a share above 0, at most 1")
        if weight is not None:
            weight = self._backend.array("weight", weight, np.float32, self._image)
        shape = (self._acs[0], *self._image)
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.estimate(acs, threshold, weight, out)
        return out
