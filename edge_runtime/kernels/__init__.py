"""Native kernels: plans that are made once for a geometry and executed many times without allocation.

The code behind this face is in ``kernels/``; the processor's best instruction set is chosen at run time. While a plan executes the
GIL is released; two threads that execute one plan take turns, so a plan belongs to one owner. Arrays are NumPy's, or of any
library that speaks DLPack from CPU memory; nothing is ever converted or copied silently.

Plans with ``device="cuda"`` take a `DeviceArray` wherever they take images, maps, planes or weights, and make one where no
``out`` is given: what one leaves in the GPU's memory, the next finds there. Masks, counts, matrices and readouts come from the
host.

Raises, all of them: `ArgumentError`, naming the argument, what was expected and what came.
"""

from __future__ import annotations

from edge_runtime import _kernels
from edge_runtime._kernels import Placed, Stop, Survey
from edge_runtime.kernels.backend import Workers
from edge_runtime.kernels.coils import AdaptivePlan, CoilPlan
from edge_runtime.kernels.ingest import PLACEMENT, IngestPlan, LineBook, survey
from edge_runtime.kernels.pack import PackPlan, Quantization
from edge_runtime.kernels.plans import Plans
from edge_runtime.kernels.sense import SensePlan, VolumeSensePlan
from edge_runtime.kernels.sensitivity import SensitivityPlan
from edge_runtime.kernels.types import Lines, Where

__all__ = [
    "PLACEMENT",
    "AdaptivePlan",
    "CoilPlan",
    "IngestPlan",
    "LineBook",
    "Lines",
    "PackPlan",
    "Placed",
    "Plans",
    "Quantization",
    "SensePlan",
    "SensitivityPlan",
    "Stop",
    "Survey",
    "VolumeSensePlan",
    "Where",
    "Workers",
    "instruction_set",
    "survey",
]


def instruction_set() -> str:
    """What the kernels use on this processor: ``avx512``, ``avx2`` or ``baseline`` (SSE2, NEON)."""
    return _kernels.instruction_set()
