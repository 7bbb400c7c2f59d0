"""Data consistency for callers whose arrays are on the GPU already, in a stream of their own."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from edge_runtime.cuda.device import DRIVER_LIBRARY, Device
from edge_runtime.cuda.sense import SensePlan
from edge_runtime.errors import DeviceFailed

_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING


class Detour:
    """Work of our stream in the middle of another's, of which only the handle is known.

    PyCUDA's events take its own streams alone, so that the driver is asked itself (CUDA Driver API, 6.18 and 6.19). Nobody waits on
    the processor. In `Device.use`, from beginning to end. The other stream must not be captured meanwhile: ours would join the
    capture, and with it whatever other plans enqueue there.

    Raises:
        DeviceFailed: as the driver reports.
    """

    def __init__(self) -> None:
        self._driver = ctypes.CDLL(DRIVER_LIBRARY)
        self._begin, self._end = (self._event() for _ in range(2))

    def begin(self, other: int, ours: Any) -> None:
        """What is enqueued in our stream from here on comes after what is in the other."""
        self._order(self._begin, other, ours.handle)

    def end(self, other: int, ours: Any) -> None:
        """What is enqueued in the other stream from here on comes after what is in ours."""
        self._order(self._end, ours.handle, other)

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_DISABLE_TIMING))
        # Not when the process ends: by then the driver may be gone.
        weakref.finalize(self, self._driver.cuEventDestroy_v2, event).atexit = False
        return event

    def _order(self, event: ctypes.c_void_p, first: int, then: int) -> None:
        self._call("cuEventRecord", event, ctypes.c_void_p(first))
        self._call("cuStreamWaitEvent", ctypes.c_void_p(then), event, ctypes.c_uint(0))

    def _call(self, name: str, *arguments: Any) -> None:
        if (status := getattr(self._driver, name)(*arguments)) != 0:
            raise DeviceFailed(f"{name} answers {status}: the process must be started anew to use the GPU again")


class ResidentSense(SensePlan):
    """`SensePlan.data_consistent` of a slice that comes and goes in the device's memory; see `edge_runtime.kernels.SensePlan`.

    Raises:
        DeviceUnsupported, OutOfDeviceMemory, DeviceFailed: as `SensePlan`.
    """

    def __init__(self, device: Device, coils: int, phase_encodes: int, columns: int) -> None:
        super().__init__(device, coils, phase_encodes, columns)
        with device.use():
            self._detour = Detour()

    def enqueue(
        self,
        prior: int,
        maps: int,
        hybrid: int,
        measured: int,
        out: int,
        *,
        weight: float,
        steps: int,
        tolerance: float,
        stream: int,
    ) -> None:
        """Enqueues everything and waits for nothing.

        Args:
            prior, out: addresses of complex64 ``(phase_encodes, columns)``.
            maps, hybrid: of complex64 ``(coils, phase_encodes, columns)``.
            measured: of bytes ``(phase_encodes, columns)``, 0 or 1.
            stream: handle of the caller's.
        """
        with self._turn():
            self._detour.begin(stream, self._stream)
            self._launch("set_maps", np.uint64(maps))
            self._launch("set_samples", np.uint64(hybrid), np.uint64(measured))
            numbers = np.float32(weight), np.int32(steps), np.float32(tolerance)
            self._launch("data_consistent", np.uint64(prior), *numbers, self._solution, self._residual, np.uint64(out))
            self._detour.end(stream, self._stream)
