"""Native kernels: plans that are made once for a geometry and executed many times without allocation.

The code behind this face is in ``kernels/``; the processor's best instruction set is chosen at run time. While a plan executes the
GIL is released; two threads that execute one plan take turns, so a plan belongs to one owner. Arrays are NumPy's, or of any
library that speaks DLPack from CPU memory; nothing is ever converted or copied silently.

Plans with ``device="cuda"`` take a `DeviceArray` wherever they take an array that is not a mask, and make one where no ``out`` is
given: what one leaves in the GPU's memory, the next finds there.

Raises, all of them: `ArgumentError`, naming the argument, what was expected and what came.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime._kernels import Placed, Stop, Survey
from edge_runtime.arrays import DeviceArray
from edge_runtime.errors import ArgumentError
from edge_runtime.scan import READOUT_DTYPE, SLICE_COUNTERS, ReadoutFlag

__all__ = [
    "AdaptivePlan",
    "CoilPlan",
    "IngestPlan",
    "LineBook",
    "PackPlan",
    "Placed",
    "Plans",
    "Quantization",
    "SensePlan",
    "SensitivityPlan",
    "Stop",
    "Survey",
    "VolumeSensePlan",
    "Workers",
    "instruction_set",
    "survey",
]

Complex = npt.NDArray[np.complex64]
Lines = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Planes = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.float32]
Size = tuple[int, int]
"""Lines (phase encodes) and columns."""

Where = Literal["cpu", "cuda"]
"""What a plan runs on."""


class Workers(_kernels.Workers):
    """Threads that sleep until a plan has work for them; the caller counts as one. Several plans and callers may share them.

    Args:
        threads: 1 to 1024.
    """

    def __init__(self, threads: int) -> None:
        _whole("threads", threads, 1, 1024)
        super().__init__(threads)


def instruction_set() -> str:
    """What the kernels use on this processor: ``avx512``, ``avx2`` or ``baseline`` (SSE2, NEON)."""
    return _kernels.instruction_set()


PLACEMENT = ("position", "read_direction", "phase_direction", "slice_direction")


LOOKED_AT = (
    "flags",
    *SLICE_COUNTERS,
    "phase_encode",
    "partition",
    "average",
    "centre_sample",
    "discard_pre",
    "discard_post",
    "encoding_space",
    *PLACEMENT,
)
"""The fields of a header that kernels look at, in the order of ``HeaderFields`` in ``kernels/cpu/lines.hpp``."""


@functools.lru_cache(maxsize=8)
def _header_fields(dtype: np.dtype[np.void]) -> tuple[int, ...]:
    """Where the fields are that the kernels look at; they need not be aligned."""
    fields: Mapping[str, Any] = dtype.fields or {}
    for name in LOOKED_AT:
        if name not in fields or fields[name][0] != READOUT_DTYPE[name]:
            raise ArgumentError("header", f"dtype {dtype}", f"a field {name} of type {READOUT_DTYPE[name]}")
    return tuple(fields[name][1] for name in LOOKED_AT)


def survey(header: npt.NDArray[np.void]) -> Survey:
    """What readouts say of themselves, all in all: ``flags`` that any of them has, ``one_space`` where all are of the first
    encoding space, ``one_slice`` where all have the counters of one `SliceKey`.

    Args:
        header: ``(readouts,)``, with at least the fields of `READOUT_DTYPE`.
    """
    return _kernels.survey(header, _header_fields(header.dtype))


class LineBook:
    """The lines of one slice: which have come, and by which rules more may.

    It grows with the averages that come, and to the longest batch; nothing else is allocated while readouts are placed.

    Args:
        lines: of the slice.
        first_phase_encode: the counter of its first line.
        final_flags: with any of which a readout ends the slice,
        end_flags: or with any of these,
        averages: if it is of the last of so many.
        placement: where the slice lies, the `PLACEMENT` of a header: millimetres, and unit vectors.
        tolerances: by the names of `PLACEMENT`; from which differences on a readout lies elsewhere.

    Attributes:
        counts: averages that have come of each line, ``(lines,)``, read-only; follows `IngestPlan.place`.
    """

    def __init__(
        self,
        lines: int,
        first_phase_encode: int,
        *,
        final_flags: ReadoutFlag,
        end_flags: ReadoutFlag,
        averages: int,
        placement: np.void,
        tolerances: Mapping[str, float],
    ) -> None:
        _positive(lines=lines)
        _whole("averages", averages, 0)
        self._book = _kernels.LineBook(
            lines=lines,
            first=first_phase_encode,
            final_flags=int(final_flags),
            end_flags=int(end_flags),
            averages=averages,
            tolerances=tuple(tolerances[name] for name in PLACEMENT),
            placement=tuple(float(value) for name in PLACEMENT for value in placement[name]),
        )
        self.counts = self._book.counts


class IngestPlan:
    """Readouts into hybrid space: whitened, zero-padded, inverse-transformed along the readout, cropped, put in their places.

    The transform is centred and unitary, the crop keeps the centre (``n // 2``) on the centre.

    Args:
        workers: threads that batches are shared between.
        coils: of a readout.
        samples: length of the transform.
        columns: central ones that are kept, at most ``samples``.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(self, workers: Workers, coils: int, samples: int, columns: int, *, device: Where = "cpu") -> None:
        _positive(coils=coils, columns=columns)
        _whole("samples", samples, columns, LARGEST)
        self.coils, self.samples, self.columns = coils, samples, columns
        self._backend = _backend(workers, device)
        self._plan: _kernels.IngestPlan = self._backend.plan("IngestPlan", coils, samples, columns)

    def empty(self, lines: int) -> Complex:
        """An array for lines, ``(lines, coils, columns)``, that holds anything; where the plan can fill it without a copy."""
        array: Complex = self._backend.empty((lines, self.coils, self.columns), np.complex64)
        return array

    def mean(self, sums: Complex, counts: npt.NDArray[np.int32], out: Complex | None = None) -> Complex:
        """Of lines that several readouts were added to, their means; zeros where none came.

        Args:
            sums: ``(lines, coils, columns)``; may be ``out`` as well.
            counts: readouts of each line, ``(lines,)``.
        """
        sums = self._backend.array("sums", sums, np.complex64, (None, self.coils, self.columns))
        counts = _array("counts", counts, np.int32, (len(sums),))
        out = self._backend.out("out", out, np.complex64, sums.shape)
        self._plan.mean(sums, counts, out)
        return out

    def execute(
        self,
        samples: Complex,
        lines: Lines,
        out: Complex,
        *,
        first_sample: int = 0,
        whitening: Complex | None = None,
        add: bool = False,
    ) -> None:
        """Transforms a batch.

        Args:
            samples: ``(readouts, coils, count)`` with ``first_sample + count <= samples``; every readout contiguous along its
                samples, at any address: readouts may lie in a receive buffer.
            lines: which line of ``out`` each readout is, ``(readouts,)``; unique unless added to.
            out: ``(lines, coils, columns)``, contiguous.
            first_sample: where the samples begin in the transform's length; the rest counts as zero.
            whitening: ``(coils, coils)``, multiplies the coils of every readout.
            add: to what ``out`` holds, in the order of the readouts; else lines are replaced.
        """
        samples = _array("samples", samples, np.complex64, (None, self.coils, None), contiguous=False)
        if samples.strides[2] != samples.itemsize and samples.shape[2] > 1:
            raise ArgumentError("samples", f"strides {samples.strides}", "samples of a readout that lie side by side")
        count = samples.shape[2]
        if first_sample < 0 or first_sample + count > self.samples:
            raise ArgumentError(
                "first_sample", f"{first_sample} with {count} samples", f"samples within the {self.samples} planned"
            )
        lines = _array("lines", lines, np.int64, (samples.shape[0],))
        out = self._backend.array("out", out, np.complex64, (None, self.coils, self.columns), writeable=True)
        if not (count and len(lines)):
            return
        lowest, highest, ascending = _kernels.lines_of(lines)
        if lowest < 0 or highest >= len(out):
            raise ArgumentError("lines", f"{lowest} to {highest}", f"0 to {len(out) - 1}")
        if not (add or ascending) and len(np.unique(lines)) != len(lines):
            raise ArgumentError("lines", "one line more than once", "each line once, or add=True")
        if whitening is not None:
            whitening = _array("whitening", whitening, np.complex64, (self.coils, self.coils))
        self._plan.execute(samples.view(np.uint8), first_sample, whitening, lines, out, add)

    def place(
        self,
        header: npt.NDArray[np.void],
        samples: Complex,
        book: LineBook,
        out: Complex,
        *,
        begin: int = 0,
        used: tuple[int, int] | None = None,
        first_sample: int = 0,
        whitening: Complex | None = None,
    ) -> Placed:
        """Transforms readouts of one slice into the lines that their headers say, and counts those lines. A line's first average
        replaces what is there, others are added.

        The readout at ``begin`` says which slice it is; the following go with it as long as their slice, centre and discards are
        the same, none ends the slice, and nothing is wrong. `Placed.stop` says why it stopped at the readout ``begin + count``;
        with ``SLICE_ENDS``, the last one that was placed ends the slice. Samples are checked in passing, also those not used.

        Args:
            header: ``(readouts,)``, with at least the fields of `READOUT_DTYPE`.
            samples: ``(readouts, coils, count)``, as `execute` takes them.
            book: of the slice.
            out: ``(lines, coils, columns)``, contiguous; lines that have not come hold anything.
            used: which samples are, first and last but one more; without, all.
            first_sample: where the used ones begin in the transform's length.
            whitening: ``(coils, coils)`` and regular, multiplies the coils of every readout.

        Returns:
            How many readouts were placed (``count``), and why no more (``stop``); ``moved``, a bit for each of `PLACEMENT` that
            differs from the slice's; the lowest and the highest average of those placed.
        """
        samples = _array("samples", samples, np.complex64, (len(header), self.coils, None), contiguous=False)
        if samples.strides[2] != samples.itemsize and samples.shape[2] > 1:
            raise ArgumentError("samples", f"strides {samples.strides}", "samples of a readout that lie side by side")
        if not 0 <= begin < len(header):
            raise ArgumentError("begin", begin, f"0 to {len(header) - 1}")
        start, stop = used if used is not None else (0, samples.shape[2])
        if not 0 <= start < stop <= samples.shape[2]:
            raise ArgumentError("used", f"{start} to {stop}", f"some of {samples.shape[2]} samples")
        if first_sample < 0 or first_sample + stop - start > self.samples:
            raise ArgumentError(
                "first_sample",
                f"{first_sample} with {stop - start} samples",
                f"samples within the {self.samples} planned",
            )
        out = self._backend.out("out", out, np.complex64, (len(book.counts), self.coils, self.columns))
        if whitening is not None:
            whitening = _array("whitening", whitening, np.complex64, (self.coils, self.coils))
        fields = _header_fields(header.dtype)
        raw = samples.view(np.uint8)
        return self._plan.place(
            header, fields, raw, begin, start, stop - start, first_sample, whitening, book._book, out
        )


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
        _positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        self._geometry = coils, phase_encodes, columns
        self._backend = _backend(workers, device)
        self._plan: _kernels.CoilPlan = self._backend.plan("CoilPlan", coils, phase_encodes, columns)

    def compress(self, hybrid: Complex, measured: Mask, matrix: Complex, out: Complex | None = None) -> Complex:
        """Virtual coils ``(virtual_coils, phase_encodes, columns)``, zero where nothing was measured.

        Args:
            hybrid: ``(coils, phase_encodes, columns)``, contiguous along the columns only; other lines than the measured ones are
                not looked at.
            measured: ``(phase_encodes,)``.
            matrix: ``(virtual_coils, coils)``.
        """
        matrix = _array("matrix", matrix, np.complex64, (None, self._geometry[0]))
        shape = (len(matrix), *self._geometry[1:])
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.compress(*_sampled(self._backend, hybrid, measured, self._geometry), matrix, out)
        return out

    def root_sum_of_squares(self, hybrid: Complex, measured: Mask, out: Reals | None = None) -> Reals:
        """Magnitude image ``(phase_encodes, columns)`` of all coils (Roemer et al., Magn Reson Med 16:192, 1990); what was not
        measured counts as zero. Arguments as `compress`'s."""
        shape = self._geometry[1:]
        out = self._backend.out("out", out, np.float32, shape)
        self._plan.combine(*_sampled(self._backend, hybrid, measured, self._geometry), out)
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
        _positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        self._geometry = coils, phase_encodes, columns
        self._backend = _backend(workers, device)
        self._plan: _kernels.AdaptivePlan = self._backend.plan("AdaptivePlan", coils, phase_encodes, columns)

    def combine(self, hybrid: Complex, measured: Mask, out: Complex | None = None) -> Complex:
        """Complex image ``(phase_encodes, columns)``; what was not measured counts as zero. Arguments as those of
        `CoilPlan.compress`."""
        shape = self._geometry[1:]
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.combine(*_sampled(self._backend, hybrid, measured, self._geometry), out)
        return out


class _Operator:
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
        _finite("weight", weight, least=0.0)
        _stopping(steps, tolerance)
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
        return _array(name, array, np.bool_, self.shape)

    def _out(self, out: Any, dtype: type[np.generic] = np.complex64) -> Any:
        return self._backend.out("out", out, dtype, self.shape)


class SensePlan(_Operator):
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
        _positive(coils=coils, phase_encodes=phase_encodes, columns=columns)
        super().__init__(_backend(workers, device), coils, phase_encodes, columns)
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
        _stopping(steps, tolerance)
        spectral_weight, out = self._image("spectral_weight", spectral_weight, np.float32), self._out(out)
        if not _kernels.all_positive(spectral_weight):
            raise ArgumentError(
                "spectral_weight", f"{spectral_weight.min()} to {spectral_weight.max()}", "positive and finite weights"
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
        _finite("share", share)
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
        that makes ``|M (F S (image + α (towards - image)) - y)|²`` least; ``None`` where both have the same such samples. Needs
        maps only.

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
        return agreement / power if power > 0 else None


class VolumeSensePlan(_Operator):
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
        _positive(coils=coils, partitions=partitions, phase_encodes=phase_encodes, columns=columns)
        if partitions * phase_encodes > LARGEST_PLANE:
            raise ArgumentError(
                "partitions, phase_encodes", f"{partitions} x {phase_encodes}", f"at most {LARGEST_PLANE} of a plane"
            )
        super().__init__(_backend(workers, device), coils, partitions, phase_encodes, columns)
        self.partitions, self.phase_encodes, self.columns = partitions, phase_encodes, columns
        self._plan: _kernels.VolumeSensePlan = self._backend.plan(
            "VolumeSensePlan", coils, partitions, phase_encodes, columns
        )


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
        _positive(coils=coils)
        for name, size in (("acs", acs), ("image", image)):
            for points in size:
                _positive(**{name: points})
        for name, size, of, most in (("kernel", kernel, "ACS", acs), ("grid", grid, "image", image)):
            if not all(1 <= points <= limit for points, limit in zip(size, most, strict=True)):
                raise ArgumentError(name, size, f"at least 1, at most the {of}'s {most}")
        self._acs, self._image = (coils, *acs), image
        self._backend = _backend(workers, device)
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
        if not 0 < threshold <= 1:  # nor is NaN
            raise ArgumentError("threshold", threshold, "a share above 0, at most 1")
        if weight is not None:
            weight = self._backend.array("weight", weight, np.float32, self._image)
        shape = (self._acs[0], *self._image)
        out = self._backend.out("out", out, np.complex64, shape)
        self._plan.estimate(acs, threshold, weight, out)
        return out


@dataclass(frozen=True)
class Quantization:
    """How an integer ``q`` of a tensor stands for a number: ``scale * (q - zero_point)``, as ONNX's QuantizeLinear has it."""

    scale: float
    zero_point: int


class PackPlan:
    """Complex images into planes of an engine's input tensor, and corrections from planes of its output back onto an image.

    Planes are ``float32``, or ``int8`` or ``uint8`` with their `Quantization`: rounded half to even, out of range the nearest there
    is. Their axes are padded at the end to a multiple that the network takes; the padding stands for zero. Arrays are C-contiguous.

    Args:
        workers: threads that lines are shared between.
        phase_encodes, columns: of an image.
        multiple: of which both axes of a plane are one.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self, workers: Workers, phase_encodes: int, columns: int, multiple: int, *, device: Where = "cpu"
    ) -> None:
        _positive(phase_encodes=phase_encodes, columns=columns)
        _whole("multiple", multiple, 1, LARGEST)
        self.shape = phase_encodes, columns
        self.plane = -(-phase_encodes // multiple) * multiple, -(-columns // multiple) * multiple
        """Shape of a plane."""
        self._backend = _backend(workers, device)
        self._plan: _kernels.PackPlan = self._backend.plan("PackPlan", *self.shape, *self.plane)

    def empty(self, planes: int) -> Tensor:
        """A batch of one, ``(1, planes, *plane)``, that holds anything; where the plan can fill it without a copy."""
        tensor: Tensor = self._backend.empty((1, planes, *self.plane), np.float32)
        return tensor

    def pack(self, image: Complex, scale: float, planes: Planes, quantization: Quantization | None = None) -> None:
        """Writes ``image / scale`` as two planes.

        Args:
            image: ``(phase_encodes, columns)``.
            scale: positive.
            planes: real and imaginary part, ``(2, *plane)``.
        """
        image = self._backend.array("image", image, np.complex64, self.shape)
        planes, levels = self._planes("planes", planes, (2, *self.plane), quantization, writeable=True)
        if not 0 < scale < math.inf:  # nor is NaN
            raise ArgumentError("scale", scale, "a positive number")
        self._plan.pack(image, scale, planes, *levels)

    def fill(self, value: float, plane: Planes, quantization: Quantization | None = None) -> None:
        """Writes one value for every pixel of the image; ``plane`` has the shape `plane`."""
        _finite("value", value)
        plane, levels = self._planes("plane", plane, self.plane, quantization, writeable=True)
        self._plan.fill(value, plane, *levels)

    def add(
        self,
        image: Complex,
        planes: Planes,
        scale: float,
        quantization: Quantization | None = None,
        out: Complex | None = None,
    ) -> Complex:
        """``image + scale * planes``, ``(phase_encodes, columns)``; rounded once where the processor has a fused multiply-add.

        Args:
            image: ``(phase_encodes, columns)``; may be ``out`` as well.
            planes: real and imaginary part of a correction, ``(2, *plane)``.
        """
        image = self._backend.array("image", image, np.complex64, self.shape)
        planes, levels = self._planes("planes", planes, (2, *self.plane), quantization)
        _finite("scale", scale)
        out = self._backend.out("out", out, np.complex64, self.shape)
        self._plan.unpack(image, scale, planes, out, *levels)
        return out

    def _planes(
        self,
        name: str,
        planes: Any,
        shape: tuple[int, ...],
        quantization: Quantization | None,
        *,
        writeable: bool = False,
    ) -> tuple[Any, tuple[float, int]]:
        """The planes, and the quantization's step and zero point."""
        if quantization is None:
            return self._backend.array(name, planes, np.float32, shape, writeable=writeable), (1.0, 0)
        dtype: type[np.int8 | np.uint8] = np.uint8 if getattr(planes, "dtype", None) == np.uint8 else np.int8
        levels = np.iinfo(dtype)
        if not levels.min <= quantization.zero_point <= levels.max:
            raise ArgumentError(
                "quantization", f"zero point {quantization.zero_point}", f"one that {levels.dtype} holds"
            )
        if not (np.isfinite(quantization.scale) and quantization.scale > 0):
            raise ArgumentError("quantization", f"scale {quantization.scale}", "a positive scale")
        planes = self._backend.array(name, planes, dtype, shape, writeable=writeable)
        return planes, (quantization.scale, quantization.zero_point)


PlanOf = TypeVar("PlanOf", CoilPlan, PackPlan, SensePlan, SensitivityPlan)


class Plans:
    """Plans ready to be used again: whoever needs one takes it and gives it back, so that reconstructions that run at the same time
    never share one.

    Args:
        workers: threads that all of them share.
        device: that all of them are for; ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    KEPT = 8
    """Plans not in use that are remembered; of 8 coils and 256 x 256 a SENSE plan holds 5 MB, one of sensitivities 3 MB, the others
    next to nothing."""

    def __init__(self, workers: Workers, device: Where = "cpu") -> None:
        _backend(workers, device)  # what is missing is told here
        self._workers, self.device = workers, device
        self._lock = threading.Lock()
        self._spare: list[tuple[tuple[Any, ...], Any]] = []

    def coils(self, coils: int, phase_encodes: int, columns: int) -> AbstractContextManager[CoilPlan]:
        """A coil plan of this geometry."""
        return self._borrowed(CoilPlan, coils, phase_encodes, columns)

    def pack(self, phase_encodes: int, columns: int, multiple: int) -> AbstractContextManager[PackPlan]:
        """A plan of an engine's tensors of this geometry."""
        return self._borrowed(PackPlan, phase_encodes, columns, multiple)

    def sense(self, coils: int, phase_encodes: int, columns: int) -> AbstractContextManager[SensePlan]:
        """A SENSE plan of this geometry; what it held before is there still."""
        return self._borrowed(SensePlan, coils, phase_encodes, columns)

    def sensitivities(
        self, coils: int, acs: Size, kernel: Size, grid: Size, image: Size
    ) -> AbstractContextManager[SensitivityPlan]:
        """A plan of sensitivities of this geometry."""
        return self._borrowed(SensitivityPlan, coils, acs, kernel, grid, image)

    @contextlib.contextmanager
    def _borrowed(self, kind: type[PlanOf], *geometry: Any) -> Iterator[PlanOf]:
        plan: PlanOf | None = None
        with self._lock:
            for index, (made_for, spare) in enumerate(self._spare):
                if isinstance(spare, kind) and made_for == geometry:
                    plan = spare
                    del self._spare[index]
                    break
        plan = plan or kind(self._workers, *geometry, device=self.device)
        try:
            yield plan
        finally:
            with self._lock:
                self._spare = [*self._spare, (geometry, plan)][-self.KEPT :]


class Backend(NamedTuple):
    """What plans are made of on one device, and the arrays that they take there.

    Attributes:
        plans: holds their classes.
        executor: the first argument of each.
        empty: makes an array of a shape and type that holds anything.
        resident: whether arrays may be in a GPU's memory.
    """

    plans: Any
    executor: Any
    empty: Callable[[tuple[int, ...], Any], Any]
    resident: bool

    def plan(self, name: str, *geometry: Any) -> Any:
        """One of a class."""
        return getattr(self.plans, name)(self.executor, *geometry)

    def array(
        self, name: str, array: Any, dtype: type[np.generic], shape: tuple[int | None, ...], **wanted: bool
    ) -> Any:
        """The array itself, or a view of one of another library, if it is what the plan was made for; see `_check`."""
        if self.resident and isinstance(array, DeviceArray):
            _check(name, array.layout, dtype, shape, **wanted)
            return array
        return _array(name, array, dtype, shape, **wanted)

    def out(self, name: str, out: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> Any:
        """Where results go: the array given, or a new one."""
        return self.empty(shape, dtype) if out is None else self.array(name, out, dtype, shape, writeable=True)


def _backend(workers: Workers, device: Where) -> Backend:
    if device == "cpu":
        return Backend(_kernels, workers, np.empty, resident=False)
    if device != "cuda":
        raise ArgumentError("device", device, "cpu or cuda")
    from edge_runtime import cuda  # PyCUDA is an extra

    gpu = cuda.open_device()
    return Backend(cuda, gpu, gpu.array, resident=True)


def _sampled(backend: Backend, hybrid: Complex, measured: Mask, shape: tuple[int, int, int]) -> tuple[Complex, Mask]:
    """Samples as they are assembled, contiguous along the columns only, and which lines of them count."""
    hybrid = backend.array("hybrid", hybrid, np.complex64, shape, contiguous=False)
    layout: npt.NDArray[Any] = hybrid.layout if isinstance(hybrid, DeviceArray) else hybrid
    if (layout.strides[2] != layout.itemsize and shape[2] > 1) or not layout.flags.aligned:
        raise ArgumentError("hybrid", f"strides {layout.strides}", "columns that lie side by side in aligned memory")
    return hybrid, _array("measured", measured, np.bool_, (shape[1],))


LARGEST = 2**20
"""Of any axis; MRD counts samples and lines in 16 bits."""

LARGEST_PLANE = 2**26
"""Partitions x phase encodes, whose packed elements kernels count in 32 bits."""


def _whole(name: str, value: int, least: int, most: int = 2**31 - 1) -> None:
    try:
        within = least <= operator.index(value) <= most
    except TypeError:
        within = False
    if not within:
        raise ArgumentError(name, value, f"a whole number, {least} to {most}")


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        _whole(name, size, 1, LARGEST)


def _finite(name: str, value: float, least: float = -math.inf) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ArgumentError(name, value, "a finite number" if least < 0 else "0 or more, finite")


def _stopping(steps: int, tolerance: float) -> None:
    _whole("steps", steps, 0)
    _finite("tolerance", tolerance, least=0.0)


def _array(
    name: str, array: object, dtype: type[np.generic], shape: tuple[int | None, ...], **wanted: bool
) -> npt.NDArray[Any]:
    """The array itself, or a view of one of another library, if it is what is wanted; see `_check`."""
    if not isinstance(array, np.ndarray):
        try:
            array = np.from_dlpack(array, copy=False)  # type: ignore[arg-type]  # what has no __dlpack__ is refused below
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ArgumentError(
                name, type(array).__name__, f"a NumPy array, or DLPack in CPU memory ({error})"
            ) from None
    _check(name, array, dtype, shape, **wanted)
    return array


def _check(
    name: str,
    array: npt.NDArray[Any],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    *,
    contiguous: bool = True,
    writeable: bool = False,
) -> None:
    if array.dtype != dtype:
        raise ArgumentError(name, f"dtype {array.dtype}", f"dtype {np.dtype(dtype)}")
    if array.ndim != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ArgumentError(name, f"shape {array.shape}", f"shape ({wanted}{',' * (len(shape) == 1)})")
    if contiguous and not array.flags.c_contiguous:
        raise ArgumentError(name, f"strides {array.strides}", "C order without gaps")
    if contiguous and not array.flags.aligned:
        raise ArgumentError(name, "an address that is not a multiple of its number's size", "aligned memory")
    if writeable and not array.flags.writeable:
        raise ArgumentError(name, "a read-only array", "one that can be written")
