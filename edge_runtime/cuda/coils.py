"""`CoilPlan` on a GPU: launches of ``kernels/cuda/coils.cu``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan, Port
from edge_runtime.cuda.groups import GEOMETRY, Groups
from edge_runtime.cuda.samples import SamplesPort

Complex = npt.NDArray[np.complex64] | DeviceArray
Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float32] | DeviceArray

ARRAYS = 2
"""Of a group that a combination has in shared memory."""

PAIRS_OF_A_BLOCK = 64
"""Neighbouring pairs of columns that a block compresses."""


class CoilPlan(DevicePlan):
    """What `edge_runtime.kernels.CoilPlan` needs of a GPU; arguments have been checked there.

    Args:
        device: which one.
        coils, phase_encodes, columns: the geometry.

    Raises:
        DeviceUnsupported: the phase encodes do not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        super().__init__(device)
        self._shape = coils, phase_encodes, columns
        groups = self._groups = Groups(device, phase_encodes, columns, ARRAYS)
        memory = self._memory
        with device.use():
            self._geometry = np.array(groups.geometry(memory, coils), GEOMETRY)[()]
            self._samples = SamplesPort(device, *self._shape)
            self._combined = self._port((phase_encodes, columns), np.float32)
            self._compress = device.kernel("coils", "coils_compress", 0)
            self._combine = device.kernel("coils", "coils_root_sum_of_squares", groups.shared_bytes(ARRAYS))
        self._virtual: tuple[Port, Port] | None = None

    def compress(self, hybrid: Complex, measured: Mask, matrix: Complex, out: Complex) -> None:
        _, phase_encodes, columns = self._shape
        blocks = -(-columns // (2 * PAIRS_OF_A_BLOCK))
        with self._turn():
            factors, compressed = self._ports_of_virtual(len(matrix))
            self._compress(
                self._geometry,
                self._samples.send(hybrid, measured, self._stream),
                factors.send(matrix, self._stream),
                np.int32(len(matrix)),
                compressed.target(out),
                grid=(blocks, phase_encodes, 1),
                block=(PAIRS_OF_A_BLOCK, 1, 1),
                stream=self._stream,
            )
            self._return((compressed, out))

    def combine(self, hybrid: Complex, measured: Mask, out: Reals) -> None:
        groups = self._groups
        with self._turn():
            self._combine(
                self._geometry,
                self._samples.send(hybrid, measured, self._stream),
                self._combined.target(out),
                grid=groups.grid,
                block=groups.block,
                shared=groups.shared_bytes(ARRAYS),
                stream=self._stream,
            )
            self._return((self._combined, out))

    def _ports_of_virtual(self, virtual_coils: int) -> tuple[Port, Port]:
        """For the matrix and what it makes; kept, since scans keep their number of virtual coils."""
        coils, *image = self._shape
        if self._virtual is None or self._virtual[0].shape[0] != virtual_coils:
            factors = self._port((virtual_coils, coils), np.complex64)
            self._virtual = factors, self._port((virtual_coils, *image), np.complex64)
        return self._virtual
