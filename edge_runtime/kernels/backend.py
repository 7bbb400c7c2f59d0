"""What plans run on: threads of this processor, or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edge_runtime import _kernels
from edge_runtime.arrays import DeviceArray
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels.checks import check, checked, whole
from edge_runtime.kernels.types import Where


class Workers(_kernels.Workers):
    """Threads that sleep until a plan has work for them; the caller counts as one. Several plans and callers may share them.

    Args:
        threads: 1 to 1024.
    """

    def __init__(self, threads: int) -> None:
        whole("threads", threads, 1, 1024)
        super().__init__(threads)


class Backend(NamedTuple):
    """What plans are made of on one device, and the arrays that they take there.

    Attributes:
        plans: holds their classes.
        executor: the first argument of each.
        empty: makes an array of a shape and type that holds anything.
        resident: whether arrays may be in a GPU's memory.
    """

    plans: Any
    executor: Any
    empty: Callable[[tuple[int, ...], Any], Any]
    resident: bool

    def plan(self, name: str, *geometry: Any) -> Any:
        """One of a class."""
        return getattr(self.plans, name)(self.executor, *geometry)

    def array(
        self, name: str, array: Any, dtype: type[np.generic], shape: tuple[int | None, ...], **wanted: bool
    ) -> Any:
        """The array itself, or a view of one of another library, if it is what the plan was made for; see `check`."""
        if self.resident and isinstance(array, DeviceArray):
            check(name, array.layout, dtype, shape, **wanted)
            return array
        return checked(name, array, dtype, shape, **wanted)

    def out(self, name: str, out: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> Any:
        """Where results go: the array given, or a new one."""
        return self.empty(shape, dtype) if out is None else self.array(name, out, dtype, shape, writeable=True)


def backend_of(workers: Workers, device: Where) -> Backend:
    """What plans on a device need.

    Raises:
        ArgumentError: no workers, or no such device.
        DeviceError: the GPU can't be used, or no kernels are for it.
    """
    if not isinstance(workers, _kernels.Workers):
        raise ArgumentError("workers", workers, "Workers")
    if device == "cpu":
        return Backend(_kernels, workers, np.empty, resident=False)
    if device != "cuda":
        raise ArgumentError("device", device, "cpu or cuda")
    from edge_runtime import cuda  # PyCUDA is an extra

    gpu = cuda.open_device()
    gpu.check_kernels()
    return Backend(cuda, gpu, gpu.array, resident=True)
