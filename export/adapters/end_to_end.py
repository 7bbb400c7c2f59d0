"""E2E-VarNet (Sriram et al., MICCAI 2020), as fastMRI and MONAI each wrote it: the stages they share, and where to look.

Tensors of fastMRI and MONAI are real with real and imaginary part in the last axis: k-space ``(batch, coils, rows, columns, 2)``,
images ``(batch, 1, rows, columns, 2)``. Masks run along the columns, so the columns are the phase encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.given import Acquisition, Given
from edge_runtime.program.stages import Combine, KSpaceStep, Regularise, RootSumOfSquares, Sensitivities, Shaping, Stage
from export.adapters.original import KSpaceAxes, Watch, WatchedModel, array

AXES = KSpaceAxes("columns, phase_encodes")
SENSITIVITIES, RESULT = "sensitivities", "root sum of squares"


def combination(cascade: int) -> str:
    """Name of a stage; cascades count from 1."""
    return f"cascade {cascade}, coil combination"


def regulariser(cascade: int) -> str:
    """Name of a stage."""
    return f"cascade {cascade}, regulariser"


def consistency(cascade: int) -> str:
    """Name of a stage."""
    return f"cascade {cascade}, data consistency"


def stages(
    sensitivities: Sensitivities, graphs: Sequence[str], shapings: Sequence[Shaping], steps: Sequence[float]
) -> tuple[Stage, ...]:
    """The stages of a network with a graph, its shaping and a step for every cascade."""
    made: list[Stage] = [sensitivities]
    for cascade, (graph, shaping, step) in enumerate(zip(graphs, shapings, steps, strict=True), start=1):
        made += [
            Combine(combination(cascade)),
            Regularise(regulariser(cascade), graph, shaping, "correction"),
            KSpaceStep(consistency(cascade), step),
        ]
    return (*made, RootSumOfSquares(RESULT))


def watched(
    sensitivity_model: nn.Module,
    cascades: Sequence[nn.Module],
    networks: Sequence[nn.Module],
    forward: Callable[[Tensor, Tensor], Any],
) -> WatchedModel:
    """The original under hooks.

    Args:
        networks: the regulariser within each cascade.
        forward: a forward pass of masked k-space ``(batch, coils, rows, columns, 2)`` and mask ``(1, 1, 1, columns, 1)``.
    """
    watches = [Watch((SENSITIVITIES,), sensitivity_model, "output", _coil_images)]
    for number, (cascade, network) in enumerate(zip(cascades, networks, strict=True), start=1):
        watches += [
            Watch((combination(number),), network, "input", _image),
            Watch((regulariser(number),), network, "output", _image),
            Watch((consistency(number),), cascade, "output", _hybrid),
        ]

    def run(given: Given) -> Any:
        assert isinstance(given, Acquisition)
        masked = AXES.kspace(given.hybrid * given.mask[:, None])
        kspace = torch.view_as_real(torch.from_numpy(masked))
        return forward(kspace, torch.from_numpy(given.mask)[None, None, None, :, None])

    return WatchedModel(run, watches, (RESULT, _magnitude))


def _complex(tensor: Tensor) -> Complex:
    return np.ascontiguousarray(array(torch.view_as_complex(tensor.contiguous())))


def _image(tensor: Tensor) -> Complex:
    return AXES.image(_complex(tensor)[:, 0])


def _coil_images(tensor: Tensor) -> Complex:
    return AXES.image(_complex(tensor))


def _hybrid(tensor: Tensor) -> Complex:
    return AXES.hybrid(_complex(tensor))


def _magnitude(tensor: Tensor) -> Any:
    return np.ascontiguousarray(array(tensor).swapaxes(-1, -2))
