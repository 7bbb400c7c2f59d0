"""`SensitivityPlan` on a GPU: launches of ``kernels/cuda/sensitivity.cu``."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan
from edge_runtime.cuda.graph import Graphs
from edge_runtime.errors import DeviceUnsupported

Complex = npt.NDArray[np.complex64] | DeviceArray
Reals = npt.NDArray[np.float32] | DeviceArray
Size = tuple[int, int]

# As kernels/cuda/sensitivity.cu and kernels/include have them.
SIZES = np.dtype(
    [
        (name, np.int32)
        for name in (
            "coils",
            "acs_lines",
            "acs_columns",
            "kernel_lines",
            "kernel_columns",
            "grid_lines",
            "grid_columns",
            "phase_encodes",
            "columns",
        )
    ],
    align=True,
)
SENSITIVITY = np.dtype(
    [
        ("geometry", SIZES),
        *(
            (name, np.uint64)
            for name in (
                "gram",
                "square",
                "inverse",
                "floor",
                "lags",
                "maps",
                "line_waves",
                "column_waves",
                "lines",
                "columns",
            )
        ),
    ],
    align=True,
)
BETWEEN = np.dtype([("left", np.int32), ("right", np.int32), ("weight", np.float32)], align=True)

PANEL = 4
"""Of whose multiple matrices have rows."""

TILE = 16
"""Rows and columns of a matrix that a block does."""

WARP = 32
THREADS = 256
MOST_PIXELS = 8
"""Of the grid that a block does at a time, a warp each: six such blocks fill one of Orin's multiprocessors."""

PAIRS_OF_A_BLOCK = 64
"""Neighbouring pairs of the image's columns."""

PIVOTS_BYTES = 8 * PANEL * (1 + 2 * PANEL)


class SensitivityPlan(DevicePlan):
    """What `edge_runtime.kernels.SensitivityPlan` needs of a GPU; arguments have been checked there.

    Seven launches, of which the five in the middle touch no array of callers and are one graph from the second estimate on.

    Args:
        device: which one.
        coils, acs, kernel, grid, image: the geometry.

    Raises:
        DeviceUnsupported: matrices of so many coils do not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, acs: Size, kernel: Size, grid: Size, image: Size) -> None:
        super().__init__(device)
        padded = -(-coils * kernel[0] * kernel[1] // PANEL) * PANEL
        pairs, lags = coils * (coils + 1) // 2, (2 * kernel[0] - 1, 2 * kernel[1] - 1)
        pixels, shared = self._pixels_of_a_block(coils, 8 * pairs * lags[1], 16 * coils**2)
        vectors = 32 * padded + 16 * THREADS // WARP
        if vectors > device.shared_bytes:
            raise self._too_large(f"{coils} coils with kernels of {kernel[0]} x {kernel[1]}")
        tiles, blocks = -(-padded // TILE), -(-image[1] // (2 * PAIRS_OF_A_BLOCK))
        self._launches = {
            "gram": ((tiles, tiles, 1), (TILE, TILE, 1), 2 * 16 * TILE**2),
            "square": ((tiles, tiles, 1), (TILE, TILE, 1), 0),
            "floor": ((1, 1, 1), (THREADS, 1, 1), vectors),
            "factor": ((1, 1, 1), (THREADS, 1, 1), PIVOTS_BYTES),
            "lags": ((coils, coils, 1), (THREADS, 1, 1), 0),
            "maps_of_grid": ((grid[0], 1, 1), (WARP, pixels, 1), shared),
            "maps_of_image": ((image[0], blocks, 1), (PAIRS_OF_A_BLOCK, 1, 1), 0),
        }
        memory = self._memory
        with device.use():
            self._plan = np.array(
                (
                    (coils, *acs, *kernel, *grid, *image),
                    *(memory.room(16 * padded**2) for _ in range(3)),
                    memory.room(8),
                    memory.room(16 * pairs * lags[0] * lags[1]),
                    memory.room(8 * coils * grid[0] * grid[1]),
                    memory.holding(_waves(grid[0], kernel[0])),
                    memory.holding(_waves(grid[1], kernel[1]).astype(np.complex64)),
                    *(memory.holding(_between(*sizes)) for sizes in zip(image, grid, strict=True)),
                ),
                SENSITIVITY,
            )[()]
            self._acs = self._port((coils, *acs), np.complex64)
            self._weight = self._port(image, np.float32)
            self._out = self._port((coils, *image), np.complex64)
            self._kernels = {
                name: device.kernel("sensitivity", f"sensitivity_{name}", shared)
                for name, (_, _, shared) in self._launches.items()
            }
        self._graphs = Graphs(device)

    def estimate(self, acs: Complex, threshold: float, weight: Reals | None, out: Complex) -> None:
        none = np.uint64(0)
        with self._turn():
            self._launch("gram", self._acs.send(acs, self._stream))
            self._graphs.launch(threshold, functools.partial(self._maps_of_grid, threshold))
            weights = none if weight is None else self._weight.send(weight, self._stream)
            self._launch("maps_of_image", weights, self._out.target(out))
            self._return((self._out, out))

    def _maps_of_grid(self, threshold: float, stream: Any) -> None:
        """From the Gram matrix to the maps of the grid, all in the plan's memory."""
        self._launch("square", stream=stream)
        self._launch("floor", np.float64(threshold), stream=stream)
        self._launch("factor", stream=stream)
        self._launch("lags", stream=stream)
        self._launch("maps_of_grid", stream=stream)

    def _launch(self, name: str, *arguments: Any, stream: Any = None) -> None:
        """Without a stream, in the device's."""
        grid, block, shared = self._launches[name]
        self._kernels[name](
            self._plan, *arguments, grid=grid, block=block, shared=shared, stream=stream or self._stream
        )

    def _pixels_of_a_block(self, coils: int, line_bytes: int, pixel_bytes: int) -> tuple[int, int]:
        """How many pixels of the grid a block does at a time, and the shared memory that it needs."""
        pixels = min(MOST_PIXELS, (self._device.shared_bytes - line_bytes) // pixel_bytes)
        if pixels < 1:
            raise self._too_large(f"{coils} coils")
        return pixels, line_bytes + pixels * pixel_bytes

    def _too_large(self, what: str) -> DeviceUnsupported:
        return DeviceUnsupported(
            f"{what}: more than a block of {self._device.name} holds; compress into fewer virtual coils, or take a profile "
            "whose kernels run on the CPU"
        )


def _waves(grid: int, kernel: int) -> npt.NDArray[np.complex128]:
    """``exp(2 pi i position lag)`` of a centred grid's points, ``(grid, lags)``."""
    position = (np.arange(grid) - grid // 2) / grid
    waves: npt.NDArray[np.complex128] = np.exp(2j * np.pi * position[:, None] * np.arange(1 - kernel, kernel))
    return waves


def _between(size: int, grid: int) -> npt.NDArray[np.void]:
    """Where an image's points lie between those of a grid."""
    return np.array(_kernels.between_centred(size, grid), BETWEEN)
