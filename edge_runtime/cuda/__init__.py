"""Kernel plans on a GPU: the classes of `edge_runtime._kernels` over ``kernels/cuda``, with the same methods.

PyCUDA loads the cubins and owns every launch; nothing here is imported unless a plan with ``device="cuda"`` is made.
"""

from edge_runtime.cuda.adaptive import AdaptivePlan
from edge_runtime.cuda.coils import CoilPlan
from edge_runtime.cuda.device import open_device
from edge_runtime.cuda.ingest import IngestPlan
from edge_runtime.cuda.pack import PackPlan
from edge_runtime.cuda.sense import SensePlan
from edge_runtime.cuda.sensitivity import SensitivityPlan
from edge_runtime.cuda.volume import VolumeSensePlan

__all__ = [
    "AdaptivePlan",
    "CoilPlan",
    "IngestPlan",
    "PackPlan",
    "SensePlan",
    "SensitivityPlan",
    "VolumeSensePlan",
    "open_device",
]
