"""The GPU of this process: its context, its kernels, and the memory of plans."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import threading
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.arrays import DeviceArray
from edge_runtime.errors import DeviceFailed, DeviceUnsupported, DriverTooOld, NoDevice, OutOfDeviceMemory

try:
    from pycuda import driver as driver
    from pycuda.tools import DeviceMemoryPool
except ImportError as error:  # PyCUDA, or the driver it links
    driver = None
    missing = str(error)

DRIVER_LIBRARY = "libcuda.so.1"
"""Which PyCUDA links; for what it has no words for."""

LANDING_BYTES = 1 << 20
"""Pinned memory through which arrays on the GPU come to the host."""

OLDEST_DRIVER = 12060
"""CUDA 12.6, JetPack 6: 1000 x major + 10 x minor."""

CUBINS = (("13", 13000), ("12.6", OLDEST_DRIVER))
"""Folders of ``edge_runtime/cubins``, newest first, and the driver that loads what is in them."""


_opening = threading.Lock()


def open_device() -> Device:
    """The first GPU; opened once in a process, whichever threads ask for it first.

    Raises:
        NoDevice: there is none, or nothing to reach it with.
        DriverTooOld: its driver can't load the kernels.
        OutOfDeviceMemory: others have left no memory for a context.
        DeviceFailed: see `Device.use`.
    """
    with _opening:
        return first_device()


@functools.lru_cache(maxsize=1)
def first_device() -> Device:
    """For `open_device`: calls at the same time, before the first has returned, would each open one."""
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
        if version < OLDEST_DRIVER:
            raise DriverTooOld(
                f"the driver is of CUDA {dotted(version)}, the kernels need {dotted(OLDEST_DRIVER)}: update to JetPack 6 or later"
            )
        return Device(driver.Device(0), version)
    except driver.MemoryError as error:
        raise OutOfDeviceMemory(
            f"the GPU has no memory left for a context of this process ({error}): end other programs, or take a profile whose "
            "kernels run on the CPU"
        ) from error
    except driver.Error as error:
        raise NoDevice(
            f"the CUDA driver answers {error}: take a profile whose kernels run on the CPU, or mend the driver"
        ) from error


def dotted(version: int) -> str:
    """A version of CUDA, such as 12060, as people write it."""
    return f"{version // 1000}.{version % 1000 // 10}"


class Device:
    """A GPU, shared by all plans of the process.

    All of their work is in one stream: so what one plan leaves on the GPU is there when the next takes it, and memory that nobody
    holds any more may be given to whoever comes next.

    Attributes:
        name: as the driver calls it: "Orin" of all of them.
        capability: compute capability, (major, minor).
        driver_version: the newest CUDA that the driver serves: 1000 x major + 10 x minor.
        shared_bytes: shared memory that a block may have.
        multiprocessors: that share a launch's blocks.
        total_bytes: of memory, which on a Jetson is the processor's too.
        stream: in which everything happens, in order.
    """

    def __init__(self, gpu: Any, driver_version: int) -> None:
        self._context = gpu.retain_primary_context()
        self.driver_version = driver_version
        self._modules: dict[str, Any] = {}
        self._shared: dict[str, int] = {}
        self._lock = threading.Lock()
        attribute = driver.device_attribute
        self.name: str = gpu.name()
        self.capability: tuple[int, int] = gpu.compute_capability()
        self.shared_bytes: int = gpu.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        self.multiprocessors: int = gpu.get_attribute(attribute.MULTIPROCESSOR_COUNT)
        self.total_bytes: int = gpu.total_memory()
        with self.use():
            self.stream = driver.Stream()
            self._arrays = DeviceMemoryPool()
            self._landing = driver.pagelocked_empty(LANDING_BYTES, np.uint8)
        atexit.register(self._close)

    @property
    def model(self) -> str:
        """Tells modules of one name and compute capability apart; in whole GB, as firmware keeps now more memory, now less."""
        return f"{self.name}, {self.multiprocessors} multiprocessors, {self.total_bytes / (1 << 30):.0f} GB"

    @property
    def description(self) -> str:
        """Model, compute capability and driver: what decides what others' kernels compute on it."""
        major, minor = self.capability
        return f"{self.model}, {major}.{minor}, driver {dotted(self.driver_version)}"

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Makes the GPU this thread's; what fails meanwhile is one of our errors.

        Raises:
            OutOfDeviceMemory: less is left than was asked for.
            DeviceFailed: whatever else the driver reports.
        """
        try:
            self._context.push()
        except driver.Error as error:
            raise self._failed(error) from error
        try:
            yield
        except driver.MemoryError as error:
            raise self._lacks("which is not enough", error) from error
        except driver.Error as error:
            raise self._failed(error) from error
        finally:
            self._context.pop()

    @contextlib.contextmanager
    def asked_for(self, nbytes: int) -> Iterator[None]:
        """Memory of the GPU, or pinned, is allocated, so much of it; in `use`.

        Raises:
            OutOfDeviceMemory: less is left.
        """
        try:
            yield
        except driver.MemoryError as error:
            raise self._lacks(f"{nbytes:,} bytes were asked for", error) from error

    def _lacks(self, what: str, error: Exception) -> OutOfDeviceMemory:
        free, total = self.memory_mb()
        return OutOfDeviceMemory(
            f"{self.name} has {free:.0f} of {total:.0f} MB left, {what} ({error}): "
            "plan fewer or smaller scans at a time, or take a profile whose kernels run on the CPU"
        )

    def _failed(self, error: Exception) -> DeviceFailed:
        return DeviceFailed(f"{self.name}: {error}; the process must be started anew to use the GPU again")

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """One that holds anything."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self.use(), self.asked_for(nbytes):
            return DeviceArray.over(_Pooled(self, self._arrays.allocate(max(nbytes, 1))), shape, dtype)

    def give_back(self) -> None:
        """Gives memory of arrays that nobody holds any more back to the driver, for others to have; in `use`."""
        self._arrays.free_held()

    def fetch(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A copy of so many bytes, once everything that was launched before is done."""
        fetched = np.empty(nbytes, np.uint8)
        with self._lock, self.use():
            for begin in range(0, nbytes, LANDING_BYTES):
                part = fetched[begin : begin + LANDING_BYTES]
                driver.memcpy_dtoh_async(self._landing[: len(part)], address + begin, self.stream)
                self.stream.synchronize()
                part[:] = self._landing[: len(part)]
        return fetched

    def _close(self) -> None:
        """Gives back what the pool holds while there is a context to give it back to."""
        with self.use():
            self._arrays.stop_holding()
            del self._arrays, self._landing

    def memory_mb(self) -> tuple[float, float]:
        """What is left of the memory, and all of it; in `use`."""
        free, total = driver.mem_get_info()
        return free / 1e6, total / 1e6

    def kernel(self, file: str, name: str, shared_bytes: int) -> Any:
        """An entry of ``kernels/cuda/FILE.cu`` that is launched with this much shared memory; in `use`.

        Raises:
            DeviceUnsupported, DriverTooOld: see `check_kernels`.
        """
        with self._lock:
            function = self._module(file).get_function(name)
            most = self._shared[name] = max(shared_bytes, self._shared.get(name, 0))  # it is the same one for all plans
            function.set_attribute(driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, most)
            return function

    def check_kernels(self) -> None:
        """That this GPU has kernels which the driver loads.

        Raises:
            DeviceUnsupported: none were compiled for it.
            DriverTooOld: those that were are newer than the driver.
        """
        with self._lock, self.use():
            self._module("sense")

    def _module(self, file: str) -> Any:
        if file not in self._modules:
            cubin = self._cubin(file)
            try:
                self._modules[file] = driver.module_from_buffer(cubin)
            except (driver.LogicError, driver.RuntimeError) as error:
                raise DeviceUnsupported(
                    f"{self.name} does not load the kernels of {file} that are for its compute capability ({error}): "
                    "make cubins, or take a profile whose kernels run on the CPU"
                ) from error
        return self._modules[file]

    def _cubin(self, file: str) -> bytes:
        """The newest that the driver loads, for this very compute capability: binaries for the GPUs of Jetsons run on no other, nor
        do those run others' (CUDA C++ Programming Guide, "Binary Compatibility")."""
        major, minor = self.capability
        found = []
        root = resources.files("edge_runtime") / "cubins"
        for folder, needed in CUBINS:
            path = root / folder / f"sm_{major}{minor}" / f"{file}.cubin"
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


class Held:
    """Holds what PyCUDA frees with it, which must happen in a context, in whatever thread that is."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __del__(self) -> None:
        with self._device.use():
            vars(self).clear()


class Memory(Held):
    """The device's memory of a plan; in `Device.use`."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._kept: list[Any] = []

    def room(self, nbytes: int) -> np.uint64:
        """The address of so many bytes, which hold anything."""
        with self._device.asked_for(nbytes):
            try:
                allocation = driver.mem_alloc(max(nbytes, 1))
            except driver.MemoryError:
                self._device.give_back()
                allocation = driver.mem_alloc(max(nbytes, 1))
        self._kept.append(allocation)
        address: np.uint64 = np.uint64(int(allocation))
        return address

    def holding(self, array: npt.NDArray[Any]) -> np.uint64:
        """The address of a copy."""
        address = self.room(array.nbytes)
        driver.memcpy_htod(int(address), np.ascontiguousarray(array))
        return address


class _Pooled(Held):
    """Memory of a `DeviceArray`; goes back to the pool with it."""

    def __init__(self, device: Device, allocation: Any) -> None:
        super().__init__(device)
        self._allocation = allocation

    @property
    def address(self) -> int:
        return int(self._allocation)

    def fetch(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        return self._device.fetch(self.address + offset, nbytes)


Array = npt.NDArray[Any] | DeviceArray


class Port(Held):
    """Where arrays of one shape come to a plan or leave it.

    Those on the GPU are taken and filled where they are. NumPy's go through pinned memory, from which copies need not be waited
    for, and memory of the GPU, both made when the first of them comes, or by `make`.

    Args:
        device: which one.
        shape, dtype: of the arrays.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        super().__init__(device)
        self.shape, self._dtype = shape, dtype

    @functools.cached_property
    def pinned(self) -> npt.NDArray[Any]:
        with self._device.asked_for(math.prod(self.shape) * np.dtype(self._dtype).itemsize):
            array: npt.NDArray[Any] = driver.pagelocked_empty(self.shape, self._dtype)
        return array

    @functools.cached_property
    def _memory(self) -> Memory:
        return Memory(self._device)

    @functools.cached_property
    def address(self) -> np.uint64:
        """Of the port's own memory."""
        return self._memory.room(self.pinned.nbytes)

    @functools.cached_property
    def _sent(self) -> Any:
        """After the last copy to the GPU."""
        return driver.Event()

    def make(self) -> None:
        """Takes all that NumPy's arrays need, so that nothing is allocated later; in `Device.use`."""
        _ = self.address, self._sent

    def send(self, array: Array, stream: Any) -> np.uint64:
        """The address at which the array is for what follows in the stream; in `Device.use`."""
        return self.target(array) if isinstance(array, DeviceArray) else self.send_part(array, stream)

    def send_part(self, array: npt.NDArray[Any], stream: Any) -> np.uint64:
        """As `send`, of an array that fills no more than the beginning, in C order."""
        self._sent.synchronize()  # the last one may still be on its way
        begin = self.pinned.reshape(-1).view(array.dtype)[: array.size]
        np.copyto(begin.reshape(array.shape), array)
        driver.memcpy_htod_async(int(self.address), begin, stream)
        self._sent.record(stream)
        return self.address

    def target(self, out: Array) -> np.uint64:
        """The address of an array on the GPU, or where a result goes on its way to the host."""
        address: np.uint64 = np.uint64(out.address) if isinstance(out, DeviceArray) else self.address
        return address

    def fetch(self, stream: Any) -> None:
        """Begins to copy back; once the stream has been waited for, `pinned` holds the result."""
        driver.memcpy_dtoh_async(self.pinned, int(self.address), stream)

    def fetch_part(self, shape: tuple[int, ...], stream: Any) -> npt.NDArray[Any]:
        """As `fetch`, of an array that fills no more than the beginning, in C order; where it will be."""
        begin = self.pinned.reshape(-1)[: int(np.prod(shape))]
        driver.memcpy_dtoh_async(begin, int(self.address), stream)
        return begin.reshape(shape)


class DevicePlan:
    """What all plans on a GPU have: memory, the stream of all work, and one caller at a time.

    Raises:
        OutOfDeviceMemory, DeviceFailed: as `Device.use`.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._busy, self._memory = device, threading.Lock(), Memory(device)
        self._stream = device.stream

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._busy, self._device.use():
            yield

    def _port(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Port:
        return Port(self._device, shape, dtype)

    def _return(self, *results: tuple[Port, Array]) -> None:
        """Hands on what was launched, those results that go to the host when they are there."""
        to_host = [(port, out) for port, out in results if isinstance(out, np.ndarray)]
        for port, _ in to_host:
            port.fetch(self._stream)
        if to_host:
            self._stream.synchronize()
        for port, out in to_host:
            np.copyto(out, port.pinned)
