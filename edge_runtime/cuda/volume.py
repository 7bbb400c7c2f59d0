"""`VolumeSensePlan` on a GPU: launches of ``kernels/cuda/volume.cu``."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan
from edge_runtime.cuda.graph import Graphs
from edge_runtime.cuda.groups import ELEMENT_BYTES, GEOMETRY, MOST_THREADS, WARP, Groups

Complex = npt.NDArray[np.complex64] | DeviceArray
Mask = npt.NDArray[np.bool_]

VOLUME = np.dtype(
    [
        ("along", GEOMETRY),
        ("through", GEOMETRY),
        ("maps", np.uint64),
        ("mask", np.uint64),
        ("work", np.uint64),
        ("columns", np.int32),
        ("pairs", np.int32),
    ],
    align=True,
)
"""As ``kernels/cuda/volume.cu`` has it."""

SOLVE = np.dtype(
    [
        ("x", np.uint64),
        ("residual", np.uint64),
        ("direction", np.uint64),
        ("product", np.uint64),
        ("right", np.uint64),
        ("curvature", np.uint64),
        ("lambda", np.float32),
        ("tolerance", np.float32),
    ],
    align=True,
)
"""As ``kernels/cuda/volume.cu`` has it."""

ARRAYS = {
    "along": {"forward_along": 1, "inverse_along": 2},
    "through": {"set_samples": 1, "mask_through": 1},
}
"""Arrays of a group of phase encodes, or of one of partitions, that each kernel has in shared memory."""

ROWS = ("pack", "unpack", "begin", "curvature", "step", "turn")
"""Kernels that go through packed arrays row by row."""

WORK_BYTES = 32 << 20
"""Of the coils' images that are transformed at a time; one coil's at least."""

PARTS = 128
"""Of the rows, at most, that blocks share."""


class Rows:
    """How the rows of packed arrays are shared between blocks: the launches that ``kernels/cuda/volume.cu`` describes.

    Args:
        count: of rows.
        pairs: of columns.

    Attributes:
        grid, block: of a launch.
        shared_bytes: for sums over the rows.
    """

    def __init__(self, count: int, pairs: int) -> None:
        width = min(1 << (pairs - 1).bit_length(), WARP)
        granularity = WARP // width
        threads = min(-(-count // granularity) * granularity, MOST_THREADS // width)
        self.grid = min(-(-count // threads), PARTS), -(-pairs // width), 1
        self.block = width, threads, 1
        self.shared_bytes = ELEMENT_BYTES // 2 * (width * threads // WARP) * width


class VolumeSensePlan(DevicePlan):
    """What `edge_runtime.kernels.VolumeSensePlan` needs of a GPU; arguments have been checked there.

    How many launches there are depends on the geometry and the steps alone: a column that is solved takes steps of length zero.
    With 8 coils and 64 x 128 x 32 a step is 6 launches; the plan holds 66 MB of the device's memory. Solves of the same weight,
    steps and tolerance are one graph from the second on, but for what touches arrays of callers.

    Args:
        device: which one.
        coils, partitions, phase_encodes, columns: the geometry.

    Raises:
        DeviceUnsupported: an axis does not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, partitions: int, phase_encodes: int, columns: int) -> None:
        super().__init__(device)
        pairs = -(-columns // 2)
        whole = ELEMENT_BYTES * partitions * phase_encodes * pairs
        self._coils, self._partitions, self._count = coils, partitions, partitions * phase_encodes
        self._batch = max(1, min(coils, WORK_BYTES // whole))
        axes = {
            "along": (phase_encodes, pairs, self._batch * partitions, "phase encodes"),
            "through": (partitions, phase_encodes * pairs, self._batch, "partitions"),
        }
        self._groups = {
            name: Groups(device, length, 2 * wide, max(ARRAYS[name].values()), slices, most_pairs=WARP, axis=axis)
            for name, (length, wide, slices, axis) in axes.items()
        }
        self._rows = Rows(self._count, pairs)
        memory = self._memory
        with device.use():
            self._maps, mask, work = (
                memory.room(nbytes) for nbytes in (coils * whole, whole // 2, self._batch * whole)
            )
            self._adjoint, self._x, self._residual, self._direction, self._product = (
                memory.room(whole) for _ in range(5)
            )
            sums = ELEMENT_BYTES // 2 * self._rows.grid[0] * pairs
            self._right, self._curvature, *self._energies = (memory.room(sums) for _ in range(4))
            geometries = (groups.geometry(memory, coils) for groups in self._groups.values())
            self._volume = np.array((*geometries, self._maps, mask, work, columns, pairs), VOLUME)[()]
            shape = partitions, phase_encodes, columns
            self._hybrid = self._port((coils, *shape), np.complex64)
            self._measured = self._port(shape, np.bool_)
            self._image, self._out = (self._port(shape, np.complex64) for _ in range(2))
            self._kernels: dict[str, Any] = {}
            for name, kernels in ARRAYS.items():
                for kernel, arrays in kernels.items():
                    self._prepare(kernel, self._groups[name].block, self._groups[name].shared_bytes(arrays))
            for kernel in ROWS:
                self._prepare(kernel, self._rows.block, self._rows.shared_bytes)
        self._graphs = Graphs(device)

    def set_maps(self, maps: Complex) -> None:
        with self._turn():
            self._pack(self._hybrid.send(maps, self._stream), self._coils * self._count, self._maps)

    def set_samples(self, hybrid: Complex, measured: Mask) -> None:
        with self._turn():
            samples = self._hybrid.send(hybrid, self._stream), self._measured.send(measured, self._stream)
            for first, count in self._batches():
                self._launch("set_samples", np.int32(first), *samples, grid=(self._groups["through"].count, count, 1))
                self._combine(first, count, self._adjoint, centred=True, stream=self._stream)

    def normal(self, image: Complex, out: Complex) -> None:
        self._applied(image, np.uint64(0), out)

    def gradient(self, image: Complex, out: Complex) -> None:
        self._applied(image, self._adjoint, out)

    def data_consistent(self, prior: Complex, weight: float, steps: int, tolerance: float, out: Complex) -> None:
        arrays = self._x, self._residual, self._direction, self._product, self._right, self._curvature
        solve = np.array((*arrays, weight, tolerance), SOLVE)[()]
        with self._turn():
            self._pack(self._image.send(prior, self._stream), self._count, self._x)
            self._graphs.launch(("solve", solve.tobytes(), steps), functools.partial(self._solve, solve, steps))
            self._launch("unpack", self._x, np.uint64(0), self._out.target(out))
            self._return((self._out, out))

    def _applied(self, image: Complex, less: np.uint64, out: Complex) -> None:
        """The normal operator of an image, less a packed one if it is not 0."""
        with self._turn():
            self._pack(self._image.send(image, self._stream), self._count, self._x)
            self._graphs.launch("normal", functools.partial(self._normal, self._x))
            self._launch("unpack", self._product, less, self._out.target(out))
            self._return((self._out, out))

    def _solve(self, solve: Any, steps: int, stream: Any) -> None:
        """Conjugate gradients from the packed prior in ``x`` on, which ends there."""
        energy, left = self._energies
        self._normal(self._x, stream)
        self._launch("begin", solve, self._adjoint, energy, stream=stream)
        for _ in range(steps):
            self._normal(self._direction, stream)
            self._launch("curvature", solve, stream=stream)
            self._launch("step", solve, energy, left, stream=stream)
            self._launch("turn", solve, energy, left, stream=stream)
            energy, left = left, energy

    def _normal(self, image: np.uint64, stream: Any) -> None:
        """``product`` of a packed image."""
        along, through = (groups.count for groups in self._groups.values())
        for first, count in self._batches():
            forward = along, self._partitions, count
            self._launch("forward_along", np.int32(first), image, grid=forward, stream=stream)
            self._launch("mask_through", grid=(through, count, 1), stream=stream)
            self._combine(first, count, self._product, centred=False, stream=stream)

    def _combine(self, first: int, count: int, to: np.uint64, *, centred: bool, stream: Any) -> None:
        """The batch of coils in ``work``, into a packed image or onto what is there of the coils before."""
        numbers = np.int32(first), np.int32(count), np.int32(centred)
        grid = self._groups["along"].count, self._partitions, 1
        self._launch("inverse_along", *numbers, to, grid=grid, stream=stream)

    def _batches(self) -> list[tuple[int, int]]:
        """Of coils: the first, and how many."""
        return [(first, min(self._batch, self._coils - first)) for first in range(0, self._coils, self._batch)]

    def _pack(self, array: np.uint64, rows: int, to: np.uint64) -> None:
        self._launch("pack", np.int64(rows), array, to)

    def _prepare(self, name: str, block: tuple[int, int, int], shared: int) -> None:
        kernel = self._device.kernel("volume", f"volume_{name}", shared)
        self._kernels[name] = functools.partial(kernel, self._volume, block=block, shared=shared)

    def _launch(self, name: str, *arguments: Any, grid: tuple[int, int, int] | None = None, stream: Any = None) -> None:
        """Without a grid, over rows; without a stream, in the device's."""
        self._kernels[name](*arguments, grid=grid or self._rows.grid, stream=stream or self._stream)
