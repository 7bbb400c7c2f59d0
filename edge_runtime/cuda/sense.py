"""`SensePlan` on a GPU: launches of ``kernels/cuda/sense.cu``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.cuda.device import Device, DevicePlan
from edge_runtime.cuda.groups import GEOMETRY, Groups

Complex = npt.NDArray[np.complex64] | DeviceArray
Mask = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float32] | DeviceArray

SLICE = np.dtype([("geometry", GEOMETRY), ("maps", np.uint64), ("mask", np.uint64), ("adjoint", np.uint64)], align=True)
"""As ``kernels/cuda/sense.cu`` has it."""

ARRAYS = {
    "set_maps": 0,
    "set_samples": 1,
    "normal": 3,
    "gradient": 3,
    "data_consistent": 3,
    "regularised": 4,
    "substituted": 3,
    "line_search": 2,
    "between": 0,
    "sample_power": 0,
}
"""Arrays of a group that each kernel has in shared memory."""


class SensePlan(DevicePlan):
    """What `edge_runtime.kernels.SensePlan` needs of a GPU; arguments have been checked there.

    Args:
        device: which one.
        coils, phase_encodes, columns: the geometry.

    Raises:
        DeviceUnsupported: the phase encodes do not fit the shared memory of a block, or no kernels are for this GPU.
        OutOfDeviceMemory: as it says.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        super().__init__(device)
        groups = self._groups = Groups(device, phase_encodes, columns, max(ARRAYS.values()))
        whole = groups.count * groups.array_bytes
        memory = self._memory
        with device.use():
            maps, mask, adjoint = memory.room(coils * whole), memory.room(whole // 2), memory.room(whole)
            self._slice = np.array((groups.geometry(memory, coils), maps, mask, adjoint), SLICE)[()]
            self._solution, self._residual = memory.room(whole), memory.room(whole)
            shape = phase_encodes, columns
            self._hybrid = self._port((coils, *shape), np.complex64)
            self._measured = self._port(shape, np.bool_)
            self._first, self._second = (self._port(shape, np.complex64) for _ in range(2))
            self._out = self._port(shape, np.complex64)
            self._magnitude, self._power = (self._port(shape, np.float32) for _ in range(2))
            self._agreement, self._column_power = (self._port((columns,), np.float32) for _ in range(2))
            self._kernels = {
                name: device.kernel("sense", f"sense_{name}", groups.shared_bytes(arrays))
                for name, arrays in ARRAYS.items()
            }

    def set_maps(self, maps: Complex) -> None:
        with self._turn():
            self._launch("set_maps", self._hybrid.send(maps, self._stream))

    def set_samples(self, hybrid: Complex, measured: Mask) -> None:
        with self._turn():
            stream = self._stream
            self._launch("set_samples", self._hybrid.send(hybrid, stream), self._measured.send(measured, stream))

    def normal(self, image: Complex, out: Complex) -> None:
        self._image_to_image("normal", image, out)

    def gradient(self, image: Complex, out: Complex) -> None:
        self._image_to_image("gradient", image, out)

    def data_consistent(self, prior: Complex, weight: float, steps: int, tolerance: float, out: Complex) -> None:
        numbers = np.float32(weight), np.int32(steps), np.float32(tolerance)
        self._image_to_image("data_consistent", prior, out, *numbers, self._solution, self._residual)

    def regularised(self, weight: Reals, steps: int, tolerance: float, out: Complex) -> None:
        with self._turn():
            self._launch(
                "regularised",
                self._power.send(weight, self._stream),
                np.int32(steps),
                np.float32(tolerance),
                self._solution,
                self._residual,
                self._out.target(out),
            )
            self._return((self._out, out))

    def substituted(self, image: Complex, hybrid: Complex, measured: Mask, out: Reals, power: Reals) -> None:
        with self._turn():
            stream = self._stream
            self._launch(
                "substituted",
                self._first.send(image, stream),
                self._hybrid.send(hybrid, stream),
                self._measured.send(measured, stream),
                self._magnitude.target(out),
                self._power.target(power),
            )
            self._return((self._magnitude, out), (self._power, power))

    def between(self, image: Complex, towards: Complex, share: float, out: Complex) -> None:
        with self._turn():
            stream = self._stream
            sources = self._first.send(image, stream), self._second.send(towards, stream)
            self._launch("between", *sources, np.float32(share), self._out.target(out))
            self._return((self._out, out))

    def sample_power(self, hybrid: Complex, out: Reals) -> None:
        with self._turn():
            self._launch("sample_power", self._hybrid.send(hybrid, self._stream), self._power.target(out))
            self._return((self._power, out))

    def line_search(self, image: Complex, towards: Complex, hybrid: Complex, measured: Mask) -> tuple[float, float]:
        """Re <A d, y - A image> and |A d|², d from the image to the other."""
        with self._turn():
            stream = self._stream
            self._launch(
                "line_search",
                self._first.send(image, stream),
                self._second.send(towards, stream),
                self._hybrid.send(hybrid, stream),
                self._measured.send(measured, stream),
                self._agreement.address,
                self._column_power.address,
            )
            columns = self._agreement, self._column_power
            for port in columns:
                port.fetch(stream)
            stream.synchronize()
            agreement, power = (float(port.pinned.sum(dtype=np.float64)) for port in columns)
            return agreement, power

    def _image_to_image(self, name: str, image: Complex, out: Complex, *arguments: Any) -> None:
        with self._turn():
            self._launch(name, self._first.send(image, self._stream), *arguments, self._out.target(out))
            self._return((self._out, out))

    def _launch(self, name: str, *arguments: Any) -> None:
        groups = self._groups
        shared = groups.shared_bytes(ARRAYS[name])
        self._kernels[name](
            self._slice, *arguments, grid=groups.grid, block=groups.block, shared=shared, stream=self._stream
        )
