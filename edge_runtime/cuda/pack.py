"""`PackPlan` on a GPU: launches of ``kernels/cuda/pack.cu``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan

Complex = npt.NDArray[np.complex64] | DeviceArray
Planes = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8] | DeviceArray

PLANES = np.dtype(
    [
        ("phase_encodes", np.int32),
        ("columns", np.int32),
        ("plane_lines", np.int32),
        ("plane_columns", np.int32),
        ("step", np.float32),
        ("zero_point", np.int32),
    ],
    align=True,
)
"""As ``kernels/cuda/pack.cu`` has it."""

ELEMENTS = tuple(np.dtype(dtype) for dtype in (np.float32, np.int8, np.uint8))
"""Of a tensor."""

THREADS = 128
"""Pixels of a line that a block does."""


class PackPlan(DevicePlan):
    """What `edge_runtime.kernels.PackPlan` needs of a GPU; arguments have been checked there.

    Args:
        device: which one.
        phase_encodes, columns: of the image.
        plane_lines, plane_columns: of an engine's tensor.

    Raises:
        DeviceUnsupported: no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, phase_encodes: int, columns: int, plane_lines: int, plane_columns: int) -> None:
        super().__init__(device)
        self._geometry = phase_encodes, columns, plane_lines, plane_columns
        with device.use():
            self._image, self._phase, self._out = (self._port((phase_encodes, columns), np.complex64) for _ in range(3))
            self._planes, self._plane = (
                {dtype: self._port((*planes, plane_lines, plane_columns), dtype) for dtype in ELEMENTS}
                for planes in ((2,), ())
            )
            self._kernels = {
                (work, dtype): device.kernel("pack", f"{work}_{dtype.name}", 0)
                for work in ("pack", "fill", "unpack")
                for dtype in ELEMENTS
            }

    def pack(
        self, image: Complex, phase: Complex | None, scale: float, planes: Planes, step: float, zero_point: int
    ) -> None:
        port = self._planes[planes.dtype]
        with self._turn():
            arguments = *self._sent(image, phase), np.float32(scale), port.target(planes)
            self._launch("pack", planes.dtype, step, zero_point, *arguments)
            self._return((port, planes))

    def fill(self, value: float, plane: Planes, step: float, zero_point: int) -> None:
        port = self._plane[plane.dtype]
        with self._turn():
            self._launch("fill", plane.dtype, step, zero_point, np.float32(value), port.target(plane))
            self._return((port, plane))

    def unpack(
        self,
        image: Complex,
        phase: Complex | None,
        scale: float,
        planes: Planes,
        out: Complex,
        step: float,
        zero_point: int,
    ) -> None:
        port = self._planes[planes.dtype]
        with self._turn():
            source, turned_by = self._sent(image, phase)
            arguments = source, turned_by, port.send(planes, self._stream), np.float32(scale), self._out.target(out)
            self._launch("unpack", planes.dtype, step, zero_point, *arguments)
            self._return((self._out, out))

    def _sent(self, image: Complex, phase: Complex | None) -> tuple[Any, Any]:
        """Where both are on the device; without a phase the second is no address."""
        source = self._image.send(image, self._stream)
        return source, np.uint64(0) if phase is None else self._phase.send(phase, self._stream)

    def _launch(self, work: str, dtype: np.dtype[Any], step: float, zero_point: int, *arguments: Any) -> None:
        _, _, lines, columns = self._geometry
        planes = np.array((*self._geometry, step, zero_point), PLANES)[()]
        grid, block = (-(-columns // THREADS), lines, 1), (THREADS, 1, 1)
        self._kernels[work, dtype](planes, *arguments, grid=grid, block=block, stream=self._stream)
