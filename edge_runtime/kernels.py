"""Native kernels: plans that are made once for a geometry and executed many times without allocation.

The code behind this face is in ``kernels/``; the processor's best instruction set is chosen at run time. While a plan executes the
GIL is released; two threads that execute one plan take turns, so a plan belongs to one owner. Arrays are NumPy's, or of any
library that speaks DLPack from CPU memory; nothing is ever converted or copied silently.

Raises, all of them: `ArgumentError`, naming the argument, what was expected and what came.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime._kernels import Workers
from edge_runtime.errors import ArgumentError

__all__ = ["IngestPlan", "Workers", "count_leading_finite", "instruction_set"]

Complex = npt.NDArray[np.complex64]
Lines = npt.NDArray[np.int64]


def instruction_set() -> str:
    """What the kernels use on this processor: ``avx512``, ``avx2`` or ``baseline`` (SSE2, NEON)."""
    return _kernels.instruction_set()


class IngestPlan:
    """Readouts into hybrid space: whitened, zero-padded, inverse-transformed along the readout, cropped, put in their places.

    The transform is centred and unitary, the crop keeps the centre (``n // 2``) on the centre.

    Args:
        workers: threads that batches are shared between.
        coils: of a readout.
        samples: length of the transform.
        columns: central ones that are kept, at most ``samples``.
    """

    def __init__(self, workers: Workers, coils: int, samples: int, columns: int) -> None:
        _at_least("coils", coils, 1)
        _at_least("columns", columns, 1)
        _at_least("samples", samples, columns)
        self.coils, self.samples, self.columns = coils, samples, columns
        self._plan = _kernels.IngestPlan(workers, coils, samples, columns)

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
            lines: which line of ``out`` each readout is, ``(readouts,)``.
            out: ``(lines, coils, columns)``, contiguous.
            first_sample: where the samples begin in the transform's length; the rest counts as zero.
            whitening: ``(coils, coils)``, multiplies the coils of every readout.
            add: to what ``out`` holds, in the order of the readouts; else lines must be unique and are replaced.
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
        out = _array("out", out, np.complex64, (None, self.coils, self.columns), writeable=True)
        if len(lines) and (lines.min() < 0 or lines.max() >= len(out)):
            raise ArgumentError("lines", f"{lines.min()} to {lines.max()}", f"0 to {len(out) - 1}")
        if whitening is not None:
            whitening = _array("whitening", whitening, np.complex64, (self.coils, self.coils))
        if count and len(lines):
            self._plan.execute(samples.view(np.uint8), first_sample, whitening, lines, out, add)


def count_leading_finite(samples: Complex) -> int:
    """How many readouts of ``(readouts, coils, samples)`` come before the first that holds a sample which is not finite.

    Every readout is contiguous, at any address.
    """
    samples = _array("samples", samples, np.complex64, (None, None, None), contiguous=False)
    readouts, coils, count = samples.shape
    if samples.strides[1:] != (count * samples.itemsize, samples.itemsize) and samples[:1].size > 1:
        raise ArgumentError("samples", f"strides {samples.strides}", "contiguous readouts")
    if not samples.size:
        return readouts
    return _kernels.count_leading_finite(samples.view(np.uint8).reshape(readouts, -1))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ArgumentError(name, value, f"at least {least}")


def _array(
    name: str,
    array: object,
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    *,
    contiguous: bool = True,
    writeable: bool = False,
) -> npt.NDArray[Any]:
    """The array itself, or a view of one of another library, if it is what the plan was made for."""
    if not isinstance(array, np.ndarray):
        try:
            array = np.from_dlpack(array)  # type: ignore[arg-type]  # whatever has no __dlpack__ is refused below
        except (AttributeError, BufferError, RuntimeError, TypeError) as error:
            raise ArgumentError(
                name, type(array).__name__, f"a NumPy array, or DLPack in CPU memory ({error})"
            ) from None
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
    return array
