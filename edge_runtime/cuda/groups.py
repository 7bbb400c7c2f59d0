"""How the columns of a slice are shared between blocks of threads: the launches that ``kernels/cuda/group.cuh`` describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import _kernels
from edge_runtime.cuda.device import Device, Memory
from edge_runtime.errors import DeviceUnsupported

ELEMENT_BYTES = 16
"""Of a pair of columns' complex numbers."""

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
    ],
    align=True,
)
GEOMETRY = np.dtype([("lines", LINES), ("coils", np.int32), ("columns", np.int32), ("staging", np.int32)], align=True)


class Groups:
    """Of neighbouring columns; a block does one of them, with a transform along the phase encodes in its shared memory.

    Args:
        phase_encodes, columns: the geometry.
        most_arrays: of a group that a kernel has in shared memory.
        slices: of this geometry that a launch does.
        most_pairs: of columns in a group.
        axis: what the transform is along.

    Attributes:
        count: of groups.
        grid, block: of a launch.
        array_bytes: of one group's array of complex numbers.

    Raises:
        DeviceUnsupported: the phase encodes do not fit the shared memory of a block.
    """

    def __init__(
        self,
        device: Device,
        phase_encodes: int,
        columns: int,
        most_arrays: int,
        slices: int = 1,
        *,
        most_pairs: int = 4,
        axis: str = "phase encodes",
    ) -> None:
        self._device, self._phase_encodes, self._columns = device, phase_encodes, columns
        self._most_pairs, self._axis = most_pairs, axis
        self._passes, self._tables, self._frequency = _kernels.transform_tables(phase_encodes)
        self._staging = int(any(radix > LARGEST_RADIX for radix, *_ in self._passes))
        pairs = self._choose_pairs(most_arrays, slices)
        granularity = WARP // pairs
        wanted = -(-phase_encodes // LARGEST_RADIX)
        threads = min(-(-wanted // granularity) * granularity, MOST_THREADS // pairs)
        self.count = -(-columns // (2 * pairs))
        self.grid, self.block = (self.count, 1, 1), (pairs, threads, 1)
        self.array_bytes = ELEMENT_BYTES * phase_encodes * pairs

    def geometry(self, memory: Memory, coils: int) -> tuple[Any, ...]:
        """What kernels are told, a `GEOMETRY`; in `Device.use`."""
        lines = (
            memory.holding(np.array(self._passes, np.int32)),
            memory.holding(np.array(self._tables, np.float32)),
            memory.holding(np.array(self._frequency, np.int32)),
            len(self._passes),
            self._phase_encodes,
            1.0 / np.sqrt(self._phase_encodes),
        )
        return lines, coils, self._columns, self._staging

    def positions(self) -> npt.NDArray[np.int32]:
        """Where the transform has each frequency."""
        return np.argsort(np.array(self._frequency)).astype(np.int32)

    def shared_bytes(self, arrays: int) -> int:
        """Shared memory of a kernel with so many arrays of a group."""
        if arrays == 0:
            return 0
        pairs, threads, _ = self.block
        return (arrays + self._staging) * self.array_bytes + ELEMENT_BYTES // 2 * (pairs * threads // WARP) * pairs

    def _choose_pairs(self, most_arrays: int, slices: int) -> int:
        """Pairs of columns of a block: as many as its shared memory takes, unless multiprocessors would go without work.

        One that moves 64 bytes of a line at once uses whole memory transactions; two blocks a multiprocessor hide each other's
        waits. More than those 4 pairs keep the threads of short transforms busy, as long as several blocks find room.
        """
        arrays = most_arrays + self._staging
        sums = ELEMENT_BYTES // 2 * MOST_THREADS // WARP

        def fits(pairs: int) -> bool:
            blocks = 1 if pairs <= 4 else 4
            return blocks * (ELEMENT_BYTES * self._phase_encodes * arrays + sums) * pairs <= self._device.shared_bytes

        fitting = [pairs for pairs in (32, 16, 8, 4, 2, 1) if pairs <= self._most_pairs and fits(pairs)]
        if not fitting:
            most = (self._device.shared_bytes - sums) // (ELEMENT_BYTES * arrays)
            beyond = f" where a prime factor is above {LARGEST_RADIX}" if self._staging else ""
            raise DeviceUnsupported(
                f"{self._phase_encodes} {self._axis}: a block of {self._device.name} holds 1 to {most}{beyond}, and no transform "
                "is done outside of one; take a profile whose kernels run on the CPU, which take any length"
            )
        busy = 2 * self._device.multiprocessors
        return next((pairs for pairs in fitting if self._enough(pairs, slices, busy)), fitting[-1])

    def _enough(self, pairs: int, slices: int, blocks: int) -> bool:
        """Whether so many blocks of this width have work, none of them more beyond the last column than before it."""
        return self._columns > pairs and slices * self._columns >= 2 * pairs * blocks
