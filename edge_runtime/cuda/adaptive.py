"""`AdaptivePlan` on a GPU: launches of ``kernels/cuda/adaptive.cu``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan
from edge_runtime.cuda.groups import ELEMENT_BYTES, GEOMETRY, WARP, Groups
from edge_runtime.cuda.samples import SamplesPort
from edge_runtime.errors import DeviceUnsupported

Complex = npt.NDArray[np.complex64] | DeviceArray
Mask = npt.NDArray[np.bool_]

ADAPTIVE = np.dtype(
    [
        ("geometry", GEOMETRY),
        ("images", np.uint64),
        ("powers", np.uint64),
        ("maps", np.uint64),
        ("groups", np.int32),
        ("pairs", np.int32),
    ],
    align=True,
)
"""As ``kernels/cuda/adaptive.cu`` has it."""

ARRAYS = 1
"""Of a group that images are made in."""

CELL = 8
"""Pixels along both axes of what has one eigenvector."""

MOST_CELLS, BLOCKS = 4, 4
"""That a block maps, a warp each; as many blocks shall find room on a multiprocessor."""

PAIRS_OF_A_BLOCK = 64
"""Neighbouring pairs of columns that a block combines."""


class AdaptivePlan(DevicePlan):
    """What `edge_runtime.kernels.AdaptivePlan` needs of a GPU; arguments have been checked there.

    Args:
        device: which one.
        coils, phase_encodes, columns: the geometry.

    Raises:
        DeviceUnsupported: the phase encodes or the coils do not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        super().__init__(device)
        groups = self._groups = Groups(device, phase_encodes, columns, ARRAYS)
        pairs = groups.count * groups.block[0]
        cells = -(-columns // CELL), -(-phase_encodes // CELL)
        matrix, pixels = -(-coils * coils // 2), coils * (CELL * CELL // 2 | 1)
        of_cell = ELEMENT_BYTES * (matrix + max(matrix, pixels))
        if of_cell > device.shared_bytes:
            raise DeviceUnsupported(
                f"{coils} coils: their covariance does not fit the {device.shared_bytes} bytes that a block of {device.name} has; "
                "compress them, or take a profile whose kernels run on the CPU"
            )
        together = min(max(device.shared_bytes // (BLOCKS * of_cell), 1), MOST_CELLS)
        of_block = together * of_cell
        memory = self._memory
        with device.use():
            self._slice = np.array(
                (
                    groups.geometry(memory, coils),
                    memory.room(ELEMENT_BYTES * coils * phase_encodes * pairs),
                    memory.room(4 * coils * groups.count),
                    memory.room(ELEMENT_BYTES // 2 * coils * cells[0] * cells[1]),
                    groups.count,
                    pairs,
                ),
                ADAPTIVE,
            )[()]
            self._samples = SamplesPort(device, coils, phase_encodes, columns)
            self._combined = self._port((phase_encodes, columns), np.complex64)
            of_groups = groups.shared_bytes(ARRAYS)
            self._images = device.kernel("adaptive", "adaptive_images", of_groups)
            self._of_images = {"grid": (groups.count, coils, 1), "block": groups.block, "shared": of_groups}
            self._maps = device.kernel("adaptive", "adaptive_maps", of_block)
            grid = -(-cells[0] // together), cells[1], 1
            self._of_maps = {"grid": grid, "block": (WARP, together, 1), "shared": of_block}
            self._combine = device.kernel("adaptive", "adaptive_combine", 0)
            blocks = -(-columns // (2 * PAIRS_OF_A_BLOCK))
            self._of_combine = {"grid": (blocks, phase_encodes, 1), "block": (PAIRS_OF_A_BLOCK, 1, 1)}

    def combine(self, hybrid: Complex, measured: Mask, out: Complex) -> None:
        with self._turn():
            stream = self._stream
            self._images(self._slice, self._samples.send(hybrid, measured, stream), **self._of_images, stream=stream)
            self._maps(self._slice, **self._of_maps, stream=stream)
            self._combine(self._slice, self._combined.target(out), **self._of_combine, stream=stream)
            self._return((self._combined, out))
