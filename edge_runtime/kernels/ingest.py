"""Readouts into hybrid space, line by line."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime._kernels import Placed, Survey
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels.backend import Workers, backend_of
from edge_runtime.kernels.checks import LARGEST, checked, positive, whole
from edge_runtime.kernels.types import Complex, Lines, Where
from edge_runtime.scan import READOUT_DTYPE, SLICE_COUNTERS, ReadoutFlag

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
    if not isinstance(header, np.ndarray) or header.ndim != 1:
        raise ArgumentError("header", type(header).__name__, "an array of headers, (readouts,)")
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
        positive(lines=lines)
        whole("averages", averages, 0)
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
        positive(coils=coils, columns=columns)
        whole("samples", samples, columns, LARGEST)
        self.coils, self.samples, self.columns = coils, samples, columns
        self._backend = backend_of(workers, device)
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
        counts = checked("counts", counts, np.int32, (len(sums),))
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
        samples = checked("samples", samples, np.complex64, (None, self.coils, None), contiguous=False)
        if samples.strides[2] != samples.itemsize and samples.shape[2] > 1:
            raise ArgumentError("samples", f"strides {samples.strides}", "samples of a readout that lie side by side")
        count = samples.shape[2]
        self._check_first(first_sample, count)
        lines = checked("lines", lines, np.int64, (samples.shape[0],))
        out = self._backend.array("out", out, np.complex64, (None, self.coils, self.columns), writeable=True)
        if not (count and len(lines)):
            return
        lowest, highest, ascending = _kernels.lines_of(lines)
        if lowest < 0 or highest >= len(out):
            raise ArgumentError("lines", f"{lowest} to {highest}", f"0 to {len(out) - 1}")
        if not (add or ascending) and len(np.unique(lines)) != len(lines):
            raise ArgumentError("lines", "one line more than once", "each line once, or add=True")
        if whitening is not None:
            whitening = checked("whitening", whitening, np.complex64, (self.coils, self.coils))
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
        samples = checked("samples", samples, np.complex64, (len(header), self.coils, None), contiguous=False)
        if samples.strides[2] != samples.itemsize and samples.shape[2] > 1:
            raise ArgumentError("samples", f"strides {samples.strides}", "samples of a readout that lie side by side")
        whole("begin", begin, 0, len(header) - 1)
        start, stop = used if used is not None else (0, samples.shape[2])
        whole("used", stop, 1, samples.shape[2])
        whole("used", start, 0, stop - 1)
        self._check_first(first_sample, stop - start)
        out = self._backend.array(
            "out", out, np.complex64, (len(book.counts), self.coils, self.columns), writeable=True
        )
        if whitening is not None:
            whitening = checked("whitening", whitening, np.complex64, (self.coils, self.coils))
        fields = _header_fields(header.dtype)
        raw = samples.view(np.uint8)
        return self._plan.place(
            header, fields, raw, begin, start, stop - start, first_sample, whitening, book._book, out
        )

    def _check_first(self, first_sample: int, count: int) -> None:
        whole("first_sample", first_sample, 0)
        if first_sample + count > self.samples:
            raise ArgumentError(
                "first_sample", f"{first_sample} with {count} samples", f"samples within the {self.samples} planned"
            )
