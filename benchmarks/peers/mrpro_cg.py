"""SENSE by ``mrpro``'s conjugate gradients on its linear operators, on the samples in hybrid space.

mrpro imports torchvision for nothing but the augmentation of a phantom, and PyPI's torchvision does not load beside torch's CPU
build: where it is not installed, an empty module stands in for it. ``requirements/peers.txt`` installs mrpro without it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch

from benchmarks.sense_cg import Problem
from edge_runtime.modalities.mri.fourier import Complex

if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules.setdefault(name, ModuleType(name))

from mrpro.algorithms.optimizers import cg
from mrpro.operators import FastFourierOp, SensitivityOp


def forms(problem: Problem, iterations: int, threads: int) -> dict[str, Callable[[], Complex]]:
    """Solves from the samples, with the phase encodes on the middle axis and on the last one; the operator is made beforehand."""
    torch.set_num_threads(threads)
    return {
        "mrpro": _solver(problem, iterations, axis=1),
        "mrpro phase encodes last": _solver(problem, iterations, axis=2),
    }


def _solver(problem: Problem, iterations: int, axis: int) -> Callable[[], Complex]:
    def turned(array: Complex) -> torch.Tensor:
        """``(coils, lines, columns)`` as mrpro has it, ``(other, coils, z, y, x)``, with the phase encodes on y or x."""
        return torch.from_numpy(np.ascontiguousarray(array if axis == 1 else array.swapaxes(1, 2)))[None, :, None]

    mask = torch.from_numpy(problem.measured.astype(np.float32)).reshape([-1, 1] if axis == 1 else [1, -1])
    encoding = FastFourierOp(dim=(axis - 3,)) @ SensitivityOp(turned(problem.maps))
    normal = encoding.H @ (mask * encoding) + problem.weight
    samples = turned(problem.samples)

    def solve() -> Complex:
        with torch.no_grad():
            (adjoint,) = encoding.H(samples)
            (image,) = cg(normal, adjoint, max_iterations=iterations, tolerance=0.0)
        found = image[0, 0, 0].numpy()
        return np.asarray(found if axis == 1 else found.T)

    return solve
