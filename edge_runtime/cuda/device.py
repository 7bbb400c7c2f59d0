"""The GPU of this process: its context, its kernels, and the memory of plans."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DeviceFailed, DeviceUnsupported, DriverTooOld, NoDevice, OutOfDeviceMemory

try:
    import pycuda.driver as driver
except ImportError as error:  # PyCUDA, or the driver it links
    driver = None
    missing = str(error)

Address = np.uint64
"""Of the device's memory."""

OLDEST_DRIVER = 12060
"""CUDA 12.6, JetPack 6: 1000 x major + 10 x minor."""

CUBINS = (("13", 13000), ("12.6", OLDEST_DRIVER))
"""Folders of ``edge_runtime/cubins``, newest first, and the driver that loads what is in them."""


@functools.lru_cache(maxsize=1)
def open_device() -> Device:
    """The first GPU; opened once in a process.

    Raises:
        NoDevice: there is none, or nothing to reach it with.
        DriverTooOld: its driver can't load the kernels.
    """
    if driver is None:
        raise NoDevice(
            f"PyCUDA can't be used ({missing}): on a device with an NVIDIA GPU install the extra, "
            "pip install 'edge-runtime[jetson]'; without one take a profile whose kernels run on the CPU"
        )
    try:
        driver.init()
        if driver.Device.count() == 0:
            raise NoDevice("the CUDA driver knows no GPU: take a profile whose kernels run on the CPU")
        version = driver.get_driver_version()
        gpu = driver.Device(0)
    except driver.Error as error:
        raise NoDevice(
            f"the CUDA driver answers {error}: take a profile whose kernels run on the CPU, or mend the driver"
        ) from error
    if version < OLDEST_DRIVER:
        raise DriverTooOld(
            f"the driver is of CUDA {dotted(version)}, the kernels need {dotted(OLDEST_DRIVER)}: update to JetPack 6 or later"
        )
    return Device(gpu, version)


def dotted(version: int) -> str:
    """A version of CUDA, such as 12060, as people write it."""
    return f"{version // 1000}.{version % 1000 // 10}"


class Device:
    """A GPU, shared by all plans of the process.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, (major, minor).
        driver_version: the newest CUDA that the driver serves: 1000 x major + 10 x minor.
        shared_bytes: shared memory that a block may have.
        multiprocessors: that share a launch's blocks.
    """

    def __init__(self, gpu: Any, driver_version: int) -> None:
        self._context = gpu.retain_primary_context()
        self.driver_version = driver_version
        self._modules: dict[str, Any] = {}
        self._lock = threading.Lock()
        attribute = driver.device_attribute
        self.name: str = gpu.name()
        self.capability: tuple[int, int] = gpu.compute_capability()
        self.shared_bytes: int = gpu.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        self.multiprocessors: int = gpu.get_attribute(attribute.MULTIPROCESSOR_COUNT)

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Makes the GPU this thread's; what fails meanwhile is one of our errors.

        Raises:
            OutOfDeviceMemory: less is left than was asked for.
            DeviceFailed: whatever else the driver reports.
        """
        self._context.push()
        try:
            yield
        except driver.MemoryError as error:
            free, total = self.memory_mb()
            raise OutOfDeviceMemory(
                f"{self.name} has {free:.0f} of {total:.0f} MB left, which is not enough ({error}): "
                "plan fewer or smaller scans at a time, or take a profile whose kernels run on the CPU"
            ) from error
        except driver.Error as error:
            raise DeviceFailed(
                f"{self.name}: {error}; the process must be started anew to use the GPU again"
            ) from error
        finally:
            self._context.pop()

    def memory_mb(self) -> tuple[float, float]:
        """What is left of the memory, and all of it; in `use`."""
        free, total = driver.mem_get_info()
        return free / 1e6, total / 1e6

    def kernel(self, file: str, name: str, shared_bytes: int) -> Any:
        """An entry of ``kernels/cuda/FILE.cu`` that is launched with this much shared memory; in `use`.

        Raises:
            DeviceUnsupported: no such cubin is for this GPU.
        """
        with self._lock:
            if file not in self._modules:
                self._modules[file] = driver.module_from_buffer(self._cubin(file))
            function = self._modules[file].get_function(name)
            function.set_attribute(driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
            return function

    def _cubin(self, file: str) -> bytes:
        """The newest that the driver loads, of this GPU's generation and no later."""
        major, minor = self.capability
        found = []
        root = resources.files("edge_runtime") / "cubins"
        for folder, needed in CUBINS:
            for lesser in range(minor, -1, -1):
                path = root / folder / f"sm_{major}{lesser}" / f"{file}.cubin"
                if path.is_file():
                    found.append(f"CUDA {folder}")
                    if self.driver_version >= needed:
                        return path.read_bytes()
        if found:
            raise DriverTooOld(
                f"the driver is of CUDA {dotted(self.driver_version)}, the kernels for sm_{major}{minor} are of "
                f"{' and '.join(found)}: update the driver"
            )
        raise DeviceUnsupported(
            f"{self.name} has compute capability {major}.{minor}, which {file} was not compiled for: "
            f"make cubins GPU=sm_{major}{minor}, or take a profile whose kernels run on the CPU"
        )


class Memory:
    """The device's memory of a plan; in `Device.use`."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def room(self, nbytes: int) -> Address:
        """The address of so many bytes, which hold anything."""
        allocation = driver.mem_alloc(max(nbytes, 1))
        self._kept.append(allocation)
        address: Address = np.uint64(int(allocation))
        return address

    def holding(self, array: npt.NDArray[Any]) -> Address:
        """The address of a copy."""
        address = self.room(array.nbytes)
        driver.memcpy_htod(int(address), np.ascontiguousarray(array))
        return address


@dataclass(frozen=True)
class Port:
    """An array that goes to a plan or comes from it: pinned memory, from which copies need not be waited for, and the device's."""

    pinned: npt.NDArray[Any]
    address: Address

    @classmethod
    def of(cls, memory: Memory, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Port:
        """For arrays of one shape; in `Device.use`."""
        pinned = driver.pagelocked_empty(shape, dtype)
        return cls(pinned, memory.room(pinned.nbytes))

    def send(self, array: npt.NDArray[Any], stream: Any) -> Address:
        """The address at which the array will be for what follows in the stream."""
        np.copyto(self.pinned, array)
        driver.memcpy_htod_async(int(self.address), self.pinned, stream)
        return self.address

    def fetch(self, stream: Any) -> None:
        """Begins to copy back; once the stream has been waited for, `pinned` holds the result."""
        driver.memcpy_dtoh_async(self.pinned, int(self.address), stream)


class DevicePlan:
    """What all plans on a GPU have: memory, a stream in which their work happens in order, and one caller at a time.

    Raises:
        OutOfDeviceMemory, DeviceFailed: as `Device.use`.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._busy, self._memory = device, threading.Lock(), Memory()
        with device.use():
            self._stream = driver.Stream()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._busy, self._device.use():
            yield

    def _return(self, *results: tuple[Port, npt.NDArray[Any]]) -> None:
        """Waits for what was launched and hands its results on."""
        for port, _ in results:
            port.fetch(self._stream)
        self._stream.synchronize()
        for port, out in results:
            np.copyto(out, port.pinned)
