"""Plans that are used again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from edge_runtime.kernels.backend import Workers, backend_of
from edge_runtime.kernels.coils import CoilPlan
from edge_runtime.kernels.pack import PackPlan
from edge_runtime.kernels.sense import SensePlan
from edge_runtime.kernels.sensitivity import SensitivityPlan
from edge_runtime.kernels.types import Size, Where

PlanOf = TypeVar("PlanOf", CoilPlan, PackPlan, SensePlan, SensitivityPlan)


class _Spare(NamedTuple):
    """A plan that nobody uses, what it was made for, and how many samples it holds."""

    plan: Any
    geometry: tuple[Any, ...]
    samples: int


class Plans:
    """Plans ready to be used again: whoever needs one takes it and gives it back, so that reconstructions that run at the same time
    never share one.

    Args:
        workers: threads that all of them share.
        device: that all of them are for; ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    KEPT = 8
    """Plans not in use that are remembered; of 8 coils and 256 x 256 a SENSE plan holds 5 MB, one of sensitivities 3 MB, the others
    next to nothing."""

    KEPT_SAMPLES = 1 << 22
    """Of all of them together, but for the last that came back: about 40 MB."""

    def __init__(self, workers: Workers, device: Where = "cpu") -> None:
        backend_of(workers, device)  # what is missing is told here
        self._workers, self.device = workers, device
        self._lock = threading.Lock()
        self._spare: list[_Spare] = []

    def coils(self, coils: int, phase_encodes: int, columns: int) -> AbstractContextManager[CoilPlan]:
        """A coil plan of this geometry."""
        return self._borrowed(CoilPlan, coils, phase_encodes, columns)

    def pack(self, phase_encodes: int, columns: int, multiple: int) -> AbstractContextManager[PackPlan]:
        """A plan of an engine's tensors of this geometry."""
        return self._borrowed(PackPlan, phase_encodes, columns, multiple)

    def sense(self, coils: int, phase_encodes: int, columns: int) -> AbstractContextManager[SensePlan]:
        """A SENSE plan of this geometry; what it held before is there still."""
        return self._borrowed(SensePlan, coils, phase_encodes, columns, samples=coils * phase_encodes * columns)

    def sensitivities(
        self, coils: int, acs: Size, kernel: Size, grid: Size, image: Size
    ) -> AbstractContextManager[SensitivityPlan]:
        """A plan of sensitivities of this geometry."""
        samples = coils * image[0] * image[1]
        return self._borrowed(SensitivityPlan, coils, acs, kernel, grid, image, samples=samples)

    @contextlib.contextmanager
    def _borrowed(self, kind: type[PlanOf], *geometry: Any, samples: int = 0) -> Iterator[PlanOf]:
        plan: PlanOf | None = None
        with self._lock:
            for index, spare in enumerate(self._spare):
                if isinstance(spare.plan, kind) and spare.geometry == geometry:
                    plan = spare.plan
                    del self._spare[index]
                    break
        plan = plan or kind(self._workers, *geometry, device=self.device)
        try:
            yield plan
        finally:
            with self._lock:
                self._spare = [*self._spare, _Spare(plan, geometry, samples)][-self.KEPT :]
                while len(self._spare) > 1 and sum(spare.samples for spare in self._spare) > self.KEPT_SAMPLES:
                    del self._spare[0]
