"""`IngestPlan` on a GPU: launches of ``kernels/cuda/ingest.cu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan, Port
from edge_runtime.cuda.groups import LINES, Groups

Bytes = npt.NDArray[np.uint8]
Complex = npt.NDArray[np.complex64]
OnEither = Complex | DeviceArray
Lines = npt.NDArray[np.int64]

INGEST = np.dtype(
    [
        ("samples", LINES),
        ("position", np.uint64),
        ("coils", np.int32),
        ("columns", np.int32),
        ("staging", np.int32),
    ],
    align=True,
)
"""As ``kernels/cuda/ingest.cu`` has it."""

READOUTS_AT_ONCE = 32
"""Of a launch. Two of them are on their way at a time: while one is transformed, the next is written to pinned memory."""

THREADS = 128
"""Numbers of a line that a block averages."""


class IngestPlan(DevicePlan):
    """What `edge_runtime.kernels.IngestPlan` needs of a GPU; arguments have been checked there. What headers say is read on the
    processor, and so is whether samples are finite.

    Args:
        device: which one.
        coils: of a readout.
        samples: length of the transform.
        columns: that are kept.

    Raises:
        DeviceUnsupported: a readout does not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, samples: int, columns: int) -> None:
        super().__init__(device)
        self._coils, self._columns = coils, columns
        groups = self._groups = Groups(device, samples, coils, 1, slices=READOUTS_AT_ONCE, axis="samples of a readout")
        memory = self._memory
        with device.use():
            lines, _, _, staging = groups.geometry(memory, coils)
            position = memory.holding(groups.positions())
            self._ingest = np.array((lines, position, coils, columns, staging), INGEST)[()]
            self._readouts = [self._port((READOUTS_AT_ONCE * coils * samples,), np.complex64) for _ in range(2)]
            self._lines = [self._port((READOUTS_AT_ONCE,), np.int64) for _ in range(2)]
            self._whitening = self._port((coils, coils), np.complex64)
            for port in (*self._readouts, *self._lines, self._whitening):
                port.make()  # not while a scan runs, when lines have been counted already
            self._transform = device.kernel("ingest", "ingest_readouts", groups.shared_bytes(1))
            self._mean = device.kernel("ingest", "ingest_mean", 0)
        self._turns = 0
        self._whole: dict[int, tuple[Port, Port, Port]] = {}

    def execute(
        self, samples: Bytes, offset: int, whitening: Complex | None, lines: Lines, out: OnEither, add: bool
    ) -> None:
        with self._turn():
            self._run(samples, offset, whitening, [(lines, add)], out)

    def place(
        self,
        header: npt.NDArray[np.void],
        fields: tuple[int, ...],
        samples: Bytes,
        begin: int,
        skipped: int,
        count: int,
        offset: int,
        whitening: Complex | None,
        book: _kernels.LineBook,
        out: OnEither,
    ) -> _kernels.Placed:
        with self._turn():
            placed, lines, adds = _kernels.sort_readouts(header, fields, samples, begin, book)
            if lines:
                item = np.dtype(np.complex64).itemsize
                used = samples[begin : begin + len(lines), :, item * skipped : item * (skipped + count)]
                self._run(used, offset, whitening, _runs(np.array(lines), np.array(adds)), out)
            return placed

    def mean(self, sums: OnEither, counts: npt.NDArray[np.int32], out: OnEither) -> None:
        lines = len(counts)
        numbers = self._coils * self._columns
        with self._turn():
            sums_port, counts_port, out_port = self._ports(lines)
            self._mean(
                sums_port.send(sums, self._stream),
                counts_port.send(counts, self._stream),
                np.int32(numbers),
                out_port.target(out),
                grid=(-(-numbers // THREADS), lines, 1),
                block=(THREADS, 1, 1),
                stream=self._stream,
            )
            self._return((out_port, out))

    def _run(
        self,
        samples: Bytes,
        offset: int,
        whitening: Complex | None,
        runs: list[tuple[Lines, bool]],
        out: OnEither,
    ) -> None:
        """Transforms readouts, run by run, into their lines."""
        stream = self._stream
        port = self._ports(len(out))[2]
        if isinstance(out, np.ndarray):  # what no readout goes to stays as it is
            port.send(out, stream)
        factors = np.uint64(0) if whitening is None else self._whitening.send(whitening, stream)
        begin = 0
        for run, add in runs:
            for lines in _unique(run):
                self._launch(samples[begin : begin + len(lines)], offset, factors, lines, add, port.target(out))
                begin += len(lines)
        self._return((port, out))

    def _launch(
        self, samples: Bytes, offset: int, whitening: np.uint64, lines: Lines, add: bool, out: np.uint64
    ) -> None:
        self._turns = 1 - self._turns
        readouts, places, stream = self._readouts[self._turns], self._lines[self._turns], self._stream
        count = samples.shape[2] // np.dtype(np.complex64).itemsize
        groups, blocks = self._groups, len(lines)
        self._transform(
            self._ingest,
            readouts.send_part(samples, stream),
            np.int32(count),
            np.int32(offset),
            whitening,
            places.send_part(lines, stream),
            np.int32(add),
            out,
            grid=(blocks, groups.count, 1),
            block=groups.block,
            shared=groups.shared_bytes(1),
            stream=stream,
        )

    def _ports(self, lines: int) -> tuple[Port, Port, Port]:
        """For sums, counts and results of so many lines; slices of a plan mostly have as many, calibrations fewer."""
        if lines not in self._whole:
            shape = lines, self._coils, self._columns
            self._whole = {} if len(self._whole) > 1 else self._whole
            self._whole[lines] = (
                self._port(shape, np.complex64),
                self._port((lines,), np.int32),
                self._port(shape, np.complex64),
            )
        return self._whole[lines]


def _runs(lines: Lines, adds: npt.NDArray[np.bool_]) -> list[tuple[Lines, bool]]:
    """Neighbours that are all added, or all not."""
    cuts = np.flatnonzero(np.diff(adds)) + 1
    return [(part, bool(add[0])) for part, add in zip(np.split(lines, cuts), np.split(adds, cuts), strict=True)]


def _unique(lines: Lines) -> Iterator[Lines]:
    """As many neighbours as a launch takes, none of a line that another of them is of: blocks have no order."""
    begin = 0
    seen: set[Any] = set()
    for at, line in enumerate(lines.tolist()):
        if line in seen or at - begin == READOUTS_AT_ONCE:
            yield lines[begin:at]
            begin, seen = at, set()
        seen.add(line)
    yield lines[begin:]
