"""The SENSE operator of slices and of volumes in hybrid space, and solves on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import _kernels
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels.backend import Backend, Workers, backend_of
from edge_runtime.kernels.checks import LARGEST_PLANE, checked, finite, positive, stopping
from edge_runtime.kernels.types import Complex, Mask, Reals, Where


class Operator:
    """What the plans of slices and of volumes have in common; images have the plan's ``shape``, hybrid arrays coils before it."""

    _plan: _kernels.SensePlan | _kernels.VolumeSensePlan

    def __init__(self, backend: Backend, coils: int, *shape: int) -> None:
        self._backend, self.coils, self.shape = backend, coils, shape
        self._has_maps = self._has_samples = False

    def set_maps(self, sensitivities: Complex) -> None:
        """Takes the sensitivities ``(coils, *shape)``; samples must be set anew."""
        self._has_samples = False
        self._plan.set_maps(self._hybrid("sensitivities", sensitivities))
        self._has_maps = True

    def set_samples(self, hybrid: Complex, mask: Mask) -> None:
        """Takes the samples ``(coils, *shape)`` that count by the mask, ``shape``."""
        self._with_maps()
        self._plan.set_samples(self._hybrid("hybrid", hybrid), self._mask("mask", mask))
        self._has_samples = True

    def normal(self, image: Complex, out: Complex | None = None) -> Complex:
        """``Aᴴ A x``; all ``shape``."""
        image, out = self._image("image", image), self._out(out)
        self._with_samples()
        self._plan.normal(image, out)
        return out

    def gradient(self, image: Complex, out: Complex | None = None) -> Complex:
        """``Aᴴ (A x - y)``, all ``shape``; of an image of zeros it is ``-Aᴴ y``."""
        image, out = self._image("image", image), self._out(out)
        self._with_samples()
        self._plan.gradient(image, out)
        return out

    def data_consistent(
        self, prior: Complex, weight: float, steps: int, out: Complex | None = None, *, tolerance: float = 0.0
    ) -> Complex:
        """``argmin |A x - y|² + weight |x - prior|²`` by conjugate gradients from ``prior`` (Hestenes and Stiefel, J Res Natl Bur
        Stand 49:409, 1952).

        Args:
            prior: ``shape``.
            weight: of the prior.
            steps: at most that many.
            tolerance: a column whose relative residual ``|b - (Aᴴ A + weight) x| / |b|``, with ``b = Aᴴ y + weight prior``, is no
                larger keeps its ``x``. The residual is carried along in single precision: below 1e-6 it says little. With 0 every
                step is made.
            out: ``shape``, may be ``prior``.
        """
        finite("weight", weight, least=0.0)
        stopping(steps, tolerance)
        prior, out = self._image("prior", prior), self._out(out)
        self._with_samples()
        self._plan.data_consistent(prior, weight, steps, tolerance, out)
        return out

    def _with_maps(self) -> None:
        if not self._has_maps:
            raise ArgumentError("sensitivities", "none", "those of set_maps, called first")

    def _with_samples(self) -> None:
        self._with_maps()
        if not self._has_samples:
            raise ArgumentError("hybrid", "no samples since the maps were set", "those of set_samples, called first")

    def _hybrid(self, name: str, array: Complex) -> Any:
        return self._backend.array(name, array, np.complex64, (self.coils, *self.shape))

    def _image(self, name: str, array: Any, dtype: type[np.generic] = np.complex64) -> Any:
        return self._backend.array(name, array, dtype, self.shape)

    def _mask(self, name: str, array: Mask) -> Mask:
        return checked(name, array, np.bool_, self.shape)

    def _out(self, out: Any, dtype: type[np.generic] = np.complex64) -> Any:
        return self._backend.out("out", out, dtype, self.shape)


class SensePlan(Operator):
    """The SENSE operator ``A = M F S`` of one slice in hybrid space, and solves on it: sensitivities, phase-encode transform, mask.

    Along the readout the data are measured whole and already transformed, so every image column is a problem of its own with
    one Fourier axis, the phase encodes (Pruessmann et al., Magn Reson Med 42:952, 1999, in its Cartesian hybrid form). Every
    column has its own step lengths, so results do not depend on the number of threads. Arrays are C-contiguous, k-space and
    images centred at ``n // 2``, transforms unitary. `set_maps` and `set_samples` come first.

    Args:
        workers: threads that the columns are shared between.
        coils, phase_encodes, columns: the geometry; an image's ``shape`` is ``(phase_encodes, columns)``.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self, workers: Workers, coils: int, phase_encodes: int, columns: int, *, device: Where = "cpu"
    ) -> None:
        positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        super().__init__(backend_of(workers, device), coils, phase_encodes, columns)
        self.phase_encodes, self.columns = phase_encodes, columns
        self._plan: _kernels.SensePlan = self._backend.plan("SensePlan", coils, phase_encodes, columns)

    def regularised(
        self, spectral_weight: Reals, steps: int, out: Complex | None = None, *, tolerance: float = 0.0
    ) -> Complex:
        """``argmin |A x - y|² + Σ w |F x|²`` by preconditioned conjugate gradients from zero.

        Args:
            spectral_weight: ``w``, positive and finite, ``(phase_encodes, columns)``.
            steps: at most that many.
            tolerance: of a column's relative residual as in `data_consistent`, here of the preconditioned equations for ``F x``.
            out: ``(phase_encodes, columns)``.
        """
        stopping(steps, tolerance)
        spectral_weight, out = self._image("spectral_weight", spectral_weight, np.float32), self._out(out)
        if not _kernels.all_positive(np.asarray(spectral_weight)):
            raise ArgumentError(
                "spectral_weight",
                f"{np.min(spectral_weight)} to {np.max(spectral_weight)}",
                "positive and finite weights",
            )
        self._with_samples()
        self._plan.regularised(spectral_weight, steps, tolerance, out)
        return out

    def substituted(
        self, image: Complex, hybrid: Complex, measured: Mask, out: tuple[Reals, Reals] | None = None
    ) -> tuple[Reals, Reals]:
        """The magnitude image that agrees with every measured sample: in each coil's k-space the model's samples give way to the
        measured ones, and the coil images are combined by root-sum-of-squares. Needs maps only.

        Args:
            image: ``(phase_encodes, columns)``.
            hybrid: ``(coils, phase_encodes, columns)``.
            measured: which samples take their place, ``(phase_encodes, columns)``.
            out: for both that are returned.

        Returns:
            the image, and ``|F S x - y|²`` where samples were measured, mean over the coils; both ``(phase_encodes, columns)``.
        """
        magnitude, power = (self._out(array, np.float32) for array in out or (None, None))
        self._with_maps()
        self._plan.substituted(
            self._image("image", image),
            self._hybrid("hybrid", hybrid),
            self._mask("measured", measured),
            magnitude,
            power,
        )
        return magnitude, power

    def between(self, image: Complex, towards: Complex, share: float, out: Complex | None = None) -> Complex:
        """``image + share (towards - image)``, all ``(phase_encodes, columns)``."""
        finite("share", share)
        image, towards, out = self._image("image", image), self._image("towards", towards), self._out(out)
        self._plan.between(image, towards, share, out)
        return out

    def sample_power(self, hybrid: Complex, out: Reals | None = None) -> Reals:
        """``Σ |y|²`` over the coils of ``(coils, phase_encodes, columns)``."""
        out = self._out(out, np.float32)
        self._plan.sample_power(self._hybrid("hybrid", hybrid), out)
        return out

    def line_search(self, image: Complex, towards: Complex, hybrid: Complex, mask: Mask) -> float | None:
        """The share of the way from one image to another at which the samples under a mask agree best, whatever mask is set: the α
        that makes ``|M (F S (image + α (towards - image)) - y)|²`` least; ``None`` where both have the same such samples, not
        finite where they or their squares are not. Needs maps only.

        Args:
            image, towards: ``(phase_encodes, columns)``.
            hybrid: ``(coils, phase_encodes, columns)``.
            mask: ``(phase_encodes, columns)``.
        """
        self._with_maps()
        agreement, power = self._plan.line_search(
            self._image("image", image),
            self._image("towards", towards),
            self._hybrid("hybrid", hybrid),
            self._mask("mask", mask),
        )
        return agreement / power if power != 0 else None


class VolumeSensePlan(Operator):
    """The SENSE operator ``A = M F S`` of one volume in hybrid space, and data consistency on it: as `SensePlan`, with two Fourier
    axes, partitions and phase encodes.

    Every readout plane (a column of the arrays) is a problem of its own, and is done in one pass over the coils: no image of all
    coils is made. A plan of 8 coils and 64 x 128 x 32 holds 20 MB and 3 MB a thread.

    Args:
        workers: threads that the planes are shared between.
        coils, partitions, phase_encodes, columns: the geometry; an image's ``shape`` is ``(partitions, phase_encodes, columns)``.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self,
        workers: Workers,
        coils: int,
        partitions: int,
        phase_encodes: int,
        columns: int,
        *,
        device: Where = "cpu",
    ) -> None:
        positive(coils=coils, partitions=partitions, phase_encodes=phase_encodes, columns=columns)
        if partitions * phase_encodes > LARGEST_PLANE:
            raise ArgumentError(
                "partitions, phase_encodes", f"{partitions} x {phase_encodes}", f"at most {LARGEST_PLANE} of a plane"
            )
        super().__init__(backend_of(workers, device), coils, partitions, phase_encodes, columns)
        self.partitions, self.phase_encodes, self.columns = partitions, phase_encodes, columns
        self._plan: _kernels.VolumeSensePlan = self._backend.plan(
            "VolumeSensePlan", coils, partitions, phase_encodes, columns
        )
