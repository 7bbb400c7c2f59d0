"""CUDA graphs: launches that come again and again with the same arguments become one call of the driver."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from edge_runtime.cuda.device import DRIVER_LIBRARY, Device, Held, driver
from edge_runtime.errors import DeviceFailed, DriverTooOld

log = logging.getLogger(__name__)

MOST_KEPT = 8
"""Keys that a plan remembers. Protocols come back to a few; a scan whose arguments are never the same again pushes out its own."""

# Of cuda.h.
_STREAM_NON_BLOCKING = 1
_CAPTURE_MODE_RELAXED = 2

Sequence = Callable[[Any], None]
"""Enqueues launches in the stream that it is given, and does nothing else; it may be asked more than once."""

_HANDLE = ctypes.c_void_p
_SIGNATURES = {
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, ctypes.POINTER(_HANDLE)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_HANDLE), _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}
"""Of the driver's functions, by the names of its library: those that ``cuda.h`` of CUDA 12 and 13 declares (CUDA Driver API, 6.18,
"Stream Management", and 6.22, "Graph Management")."""


class _Calls:
    """The driver's functions for graphs, which PyCUDA has none of, of the library that PyCUDA uses.

    Raises:
        DriverTooOld: one of them is not there.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(DRIVER_LIBRARY)
        self._functions: dict[str, Any] = {}
        for name, arguments in _SIGNATURES.items():
            try:
                function = self._functions[name] = getattr(library, name)
            except AttributeError:
                raise DriverTooOld(
                    f"the driver has no {name}, which graphs need: update to JetPack 6 or later"
                ) from None
            function.argtypes, function.restype = arguments, ctypes.c_int

    def status(self, name: str, *arguments: Any) -> int:
        """What the driver answers."""
        answer: int = self._functions[name](*arguments)
        return answer

    def make(self, name: str, *arguments: Any) -> None:
        """As `status`, which must be success.

        Raises:
            DeviceFailed: it is not.
        """
        if (status := self.status(name, *arguments)) != 0:
            raise DeviceFailed(f"{name} answers {status}")


@functools.lru_cache(maxsize=1)
def _calls() -> _Calls | None:
    """None where the driver has no graphs; said once in a process."""
    try:
        return _Calls()
    except DriverTooOld as error:
        log.warning("kernels are launched one by one: %s", error)
        return None


class _Executable:
    """A graph that can be launched. It may end while it still runs; the driver then frees it when it is done."""

    def __init__(self, calls: _Calls, handle: ctypes.c_void_p) -> None:
        self._calls, self._handle = calls, handle

    def launch(self, stream: Any) -> None:
        self._calls.make("cuGraphLaunch", self._handle, stream.handle)

    def __del__(self) -> None:
        self._calls.status("cuGraphExecDestroy", self._handle)


class Graphs(Held):
    """Graphs of one plan, by what its launches depend on.

    A sequence is launched kernel by kernel the first time, since it may be the last, and since kernels that have run are
    loaded; captured the second time; from then on a graph of it is one call. Graphs refer to the plan's own memory alone, never
    to arrays of callers, so that they live as long as the plan. A driver that has no graphs, or refuses one, leaves plain launches.

    Nothing else may come into a capture, and it must not get into anything else's way. So it is made in a stream of its own, which
    nobody else enqueues in or waits for, and which has nothing to do with the legacy stream, where other threads copy meanwhile. It
    is relaxed: the garbage collector may free another plan's memory in this very thread, which the driver else forbids.

    Args:
        device: which one.
        most: kept of them; those that were not used for longest go first.
    """

    def __init__(self, device: Device, most: int = MOST_KEPT) -> None:
        super().__init__(device)
        self._most = most
        self._calls = _calls()
        self._kept: OrderedDict[Hashable, _Executable | None] = OrderedDict()

    def launch(self, key: Hashable, sequence: Sequence) -> None:
        """Enqueues a sequence in the device's stream; in `Device.use`, and by one thread at a time.

        Args:
            key: the same for the same launches with the same arguments.
        """
        stream = self._device.stream
        if not self._launched(key, sequence, stream):
            sequence(stream)

    def _launched(self, key: Hashable, sequence: Sequence, stream: Any) -> bool:
        """Whether a graph could be launched; if not, nothing has been enqueued."""
        if self._calls is None:
            return False
        try:
            graph = self._graph(self._calls, key, sequence)
            if graph is not None:
                graph.launch(stream)
            return graph is not None
        except (driver.Error, DeviceFailed) as error:  # if all is lost, plain launches will say so
            log.warning("a plan's kernels are launched one by one from here on: no graph of them (%s)", error)
            self._calls = None
            self._kept.clear()
            return False

    def _graph(self, calls: _Calls, key: Hashable, sequence: Sequence) -> _Executable | None:
        """What is kept for this key; None when it comes for the first time."""
        graph = self._kept.get(key)
        if graph is None and key in self._kept:
            graph = _captured(calls, sequence)
        self._kept[key] = graph
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return graph


def _captured(calls: _Calls, sequence: Sequence) -> _Executable:
    """A graph of what a sequence enqueues, none of which happens.

    Raises:
        DeviceFailed, pycuda.driver.Error: there is none.
    """
    stream = driver.Stream(_STREAM_NON_BLOCKING)
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    calls.make("cuStreamBeginCapture_v2", stream.handle, _CAPTURE_MODE_RELAXED)
    try:
        try:
            sequence(stream)
        finally:  # however it went, or the stream stays as it is
            ended = calls.status("cuStreamEndCapture", stream.handle, ctypes.byref(graph))
        if ended != 0:
            raise DeviceFailed(f"cuStreamEndCapture answers {ended}")
        calls.make("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
    finally:
        if graph:
            calls.status("cuGraphDestroy", graph)
    return _Executable(calls, executable)
