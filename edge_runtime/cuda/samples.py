"""Samples of all coils of one slice on a GPU, as ``kernels/cuda/samples.cuh`` is told of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, Port

Complex = npt.NDArray[np.complex64] | DeviceArray
Mask = npt.NDArray[np.bool_]

SAMPLES = np.dtype(
    [
        ("array", np.uint64),
        ("measured", np.uint64),
        ("coil_stride", np.int64),
        ("line_stride", np.int64),
        ("wide", np.int32),
    ],
    align=True,
)
"""As ``kernels/cuda/samples.cuh`` has it."""


class SamplesPort:
    """Where samples, and which lines of them count, come to a plan; in `Device.use`.

    Args:
        device: which one.
        coils, phase_encodes, columns: the geometry.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        self._shape = coils, phase_encodes, columns
        self._hybrid = Port(device, (coils * phase_encodes * columns,), np.complex64)
        self._measured = Port(device, (phase_encodes,), np.bool_)

    def send(self, hybrid: Complex, measured: Mask, stream: Any) -> Any:
        """A `SAMPLES` for what follows in the stream. They are taken as they lie: mostly line by line, as readouts came."""
        coils, phase_encodes, columns = self._shape
        if isinstance(hybrid, DeviceArray):
            item = hybrid.dtype.itemsize
            coil_stride, line_stride = (stride // item for stride in hybrid.layout.strides[:2])
            array = self._hybrid.send(hybrid, stream)
            wide = columns % 2 == 0 and all(number % 16 == 0 for number in (hybrid.address, *hybrid.layout.strides[:2]))
        else:
            by_lines = hybrid.transpose(1, 0, 2).flags.c_contiguous
            flat = hybrid.transpose(1, 0, 2) if by_lines else hybrid
            coil_stride, line_stride = (columns, coils * columns) if by_lines else (phase_encodes * columns, columns)
            array = self._hybrid.send(flat.reshape(-1), stream)
            wide = columns % 2 == 0
        return np.array((array, self._measured.send(measured, stream), coil_stride, line_stride, wide), SAMPLES)[()]
