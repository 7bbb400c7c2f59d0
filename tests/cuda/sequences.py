"""Calls of plans on the GPU that launch sequences, which become graphs."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.cuda import graph as graph_module
from edge_runtime.cuda import volume as volume_on_gpu
from edge_runtime.kernels import SensitivityPlan, VolumeSensePlan, Workers

SHAPE = COILS, PARTITIONS, LINES, COLUMNS = 2, 6, 12, 10
STEPS = 3
BATCHES = 2
"""In which the volume's coils come, one coil each."""

Call = Callable[[int], np.ndarray]
"""By the seed of what it is given."""


def volume() -> VolumeSensePlan:
    """With maps and samples."""
    rng = np.random.default_rng(7)
    with patch.object(volume_on_gpu, "WORK_BYTES", 1):
        plan = VolumeSensePlan(Workers(1), *SHAPE, device="cuda")
    plan.set_maps(complex_noise(SHAPE, rng))
    plan.set_samples(complex_noise(SHAPE, rng), rng.random(SHAPE[1:]) < 0.6)
    return plan


def solve() -> Call:
    plan = volume()
    return lambda seed: np.asarray(plan.data_consistent(image(seed), 0.3, STEPS))


def gradient() -> Call:
    plan = volume()
    return lambda seed: np.asarray(plan.gradient(image(seed)))


def sensitivities() -> Call:
    plan = SensitivityPlan(Workers(1), 2, (7, 9), (3, 3), (10, 12), (20, 18), device="cuda")
    kspace = kspace_of(object_image(), coil_maps(2), noise=0.01)[:, 12:19, 8:17]
    return lambda seed: np.asarray(plan.estimate((kspace * (1 + 0.1j * seed)).astype(np.complex64), 0.02))


def image(seed: int) -> np.ndarray:
    return complex_noise(SHAPE[1:], np.random.default_rng(seed))


def without_graphs(make: Callable[[], Call]) -> Call:
    """Of a plan that launches kernel by kernel, as where the driver has no graphs."""
    with patch.object(graph_module, "_calls", lambda: None):
        return make()
