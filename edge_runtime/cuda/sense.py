"""`SensePlan` on a GPU: launches of ``kernels/cuda/sense.cu``."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime.cuda.device import Device, Memory, Port, new_stream
from edge_runtime.errors import DeviceUnsupported

Complex = npt.NDArray[np.complex64]
Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float32]

ELEMENT_BYTES = 16
"""Of a pair of columns' complex numbers."""

MOST_ARRAYS = 4
"""Arrays of a group that a kernel has in shared memory, at most."""

LARGEST_RADIX = 8
WARP = 32
MOST_THREADS = 256

# As kernels/cuda has them; the compiler aligns both the same way, and the tests compare with the cubins.
LINES = np.dtype(
    [
        ("passes", np.uint64),
        ("tables", np.uint64),
        ("frequency", np.uint64),
        ("count", np.int32),
        ("length", np.int32),
        ("scale", np.float32),
        ("pad", np.int32),
    ],
    align=True,
)
SLICE = np.dtype(
    [
        ("lines", LINES),
        ("maps", np.uint64),
        ("mask", np.uint64),
        ("adjoint", np.uint64),
        ("coils", np.int32),
        ("columns", np.int32),
        ("staging", np.int32),
        ("pad", np.int32),
    ],
    align=True,
)


class SensePlan:
    """What `edge_runtime.kernels.SensePlan` needs of a GPU; arguments have been checked there.

    Args:
        device: which one.
        coils, phase_encodes, columns: the geometry.

    Raises:
        DeviceUnsupported: the phase encodes do not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        self._device, self._busy = device, threading.Lock()
        passes, tables, frequency = _kernels.transform_tables(phase_encodes)
        staging = any(radix > LARGEST_RADIX for radix, *_ in passes)
        self._arrays_of_staging = int(staging)
        self._pairs = self._choose_pairs(phase_encodes, columns)
        granularity = WARP // self._pairs
        wanted = -(-phase_encodes // LARGEST_RADIX)
        self._threads = min(-(-wanted // granularity) * granularity, MOST_THREADS // self._pairs)
        self._groups = -(-columns // (2 * self._pairs))
        self._array_bytes = ELEMENT_BYTES * phase_encodes * self._pairs
        whole = self._groups * self._array_bytes
        with device.use():
            memory = self._memory = Memory()
            self._stream = new_stream()
            lines = (
                memory.holding(np.array(passes, np.int32)),
                memory.holding(np.array(tables, np.float32)),
                memory.holding(np.array(frequency, np.int32)),
                len(passes),
                phase_encodes,
                1.0 / np.sqrt(phase_encodes),
                0,
            )
            maps, mask, adjoint = memory.room(coils * whole), memory.room(whole // 2), memory.room(whole)
            self._slice = np.array((lines, maps, mask, adjoint, coils, columns, staging, 0), SLICE)[()]
            self._solution, self._residual = memory.room(whole), memory.room(whole)
            shape = phase_encodes, columns
            self._hybrid = Port.of(memory, (coils, *shape), np.complex64)
            self._measured = Port.of(memory, shape, np.bool_)
            self._first, self._second = (Port.of(memory, shape, np.complex64) for _ in range(2))
            self._out = Port.of(memory, shape, np.complex64)
            self._magnitude, self._power = (Port.of(memory, shape, np.float32) for _ in range(2))
            self._agreement, self._column_power = (Port.of(memory, (columns,), np.float32) for _ in range(2))
            self._kernels = {
                name: (device.kernel("sense", f"sense_{name}", self._shared(arrays)), self._shared(arrays))
                for name, arrays in (
                    ("set_maps", 0),
                    ("set_samples", 1),
                    ("normal", 3),
                    ("gradient", 3),
                    ("data_consistent", 3),
                    ("regularised", 4),
                    ("substituted", 3),
                    ("line_search", 2),
                )
            }

    def set_maps(self, maps: Complex) -> None:
        with self._busy, self._device.use():
            self._launch("set_maps", self._hybrid.send(maps, self._stream))
            self._stream.synchronize()

    def set_samples(self, hybrid: Complex, measured: Mask) -> None:
        with self._busy, self._device.use():
            stream = self._stream
            self._launch("set_samples", self._hybrid.send(hybrid, stream), self._measured.send(measured, stream))
            stream.synchronize()

    def normal(self, image: Complex, out: Complex) -> None:
        with self._busy, self._device.use():
            self._launch("normal", self._first.send(image, self._stream), self._out.address)
            self._return((self._out, out))

    def gradient(self, image: Complex, out: Complex) -> None:
        with self._busy, self._device.use():
            self._launch("gradient", self._first.send(image, self._stream), self._out.address)
            self._return((self._out, out))

    def data_consistent(self, prior: Complex, weight: float, steps: int, tolerance: float, out: Complex) -> None:
        with self._busy, self._device.use():
            self._launch(
                "data_consistent",
                self._first.send(prior, self._stream),
                np.float32(weight),
                np.int32(steps),
                np.float32(tolerance),
                self._solution,
                self._residual,
                self._out.address,
            )
            self._return((self._out, out))

    def regularised(self, weight: Reals, steps: int, tolerance: float, out: Complex) -> None:
        with self._busy, self._device.use():
            self._launch(
                "regularised",
                self._power.send(weight, self._stream),
                np.int32(steps),
                np.float32(tolerance),
                self._solution,
                self._residual,
                self._out.address,
            )
            self._return((self._out, out))

    def substituted(self, image: Complex, hybrid: Complex, measured: Mask, out: Reals, power: Reals) -> None:
        with self._busy, self._device.use():
            stream = self._stream
            self._launch(
                "substituted",
                self._first.send(image, stream),
                self._hybrid.send(hybrid, stream),
                self._measured.send(measured, stream),
                self._magnitude.address,
                self._power.address,
            )
            self._return((self._magnitude, out), (self._power, power))

    def line_search(
        self, image: Complex, direction: Complex, hybrid: Complex, measured: Mask, agreement: Reals, power: Reals
    ) -> None:
        with self._busy, self._device.use():
            stream = self._stream
            self._launch(
                "line_search",
                self._first.send(image, stream),
                self._second.send(direction, stream),
                self._hybrid.send(hybrid, stream),
                self._measured.send(measured, stream),
                self._agreement.address,
                self._column_power.address,
            )
            self._return((self._agreement, agreement), (self._column_power, power))

    def _choose_pairs(self, phase_encodes: int, columns: int) -> int:
        """Pairs of columns of a block: as many as its shared memory takes, unless multiprocessors would go without work.

        One that moves 64 bytes of a line at once uses whole memory transactions; two blocks a multiprocessor hide each other's
        waits.
        """
        fitting = [pairs for pairs in (4, 2, 1) if self._fits(phase_encodes, pairs)]
        if not fitting:
            most = self._device.shared_bytes // (ELEMENT_BYTES * (MOST_ARRAYS + self._arrays_of_staging))
            raise DeviceUnsupported(
                f"{phase_encodes} phase encodes: a block of {self._device.name} holds about {most}; take a profile whose kernels "
                "run on the CPU"
            )
        busy = 2 * self._device.multiprocessors
        return next((pairs for pairs in fitting if columns >= 2 * pairs * busy), fitting[-1])

    def _fits(self, phase_encodes: int, pairs: int) -> bool:
        arrays = MOST_ARRAYS + self._arrays_of_staging
        sums = ELEMENT_BYTES // 2 * MOST_THREADS // WARP * pairs
        return ELEMENT_BYTES * phase_encodes * pairs * arrays + sums <= self._device.shared_bytes

    def _shared(self, arrays: int) -> int:
        """Bytes of shared memory of a kernel with so many arrays of a group."""
        if arrays == 0:
            return 0
        warps = self._pairs * self._threads // WARP
        return (arrays + self._arrays_of_staging) * self._array_bytes + ELEMENT_BYTES // 2 * warps * self._pairs

    def _launch(self, name: str, *arguments: Any) -> None:
        function, shared = self._kernels[name]
        grid, block = (self._groups, 1, 1), (self._pairs, self._threads, 1)
        function(self._slice, *arguments, grid=grid, block=block, shared=shared, stream=self._stream)

    def _return(self, *results: tuple[Port, npt.NDArray[Any]]) -> None:
        """Waits for what was launched and hands its results on."""
        for port, _ in results:
            port.fetch(self._stream)
        self._stream.synchronize()
        for port, out in results:
            np.copyto(out, port.pinned)
