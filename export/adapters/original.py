"""The model as its authors wrote it, run once per case with an eye on the tensors between its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.modalities.mri.fourier import Complex, to_image, to_kspace
from edge_runtime.modalities.mri.given import Acquisition, Given, Value
from edge_runtime.program.stages import NetworkAxes
from export.adapters.errors import ImportRefused
from export.adapters.program import SplitProgram
from export.adapters.verify import Original

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Imported:
    """A program, and the model that it was split from."""

    program: SplitProgram
    original: Original


@dataclass(frozen=True)
class Watch:
    """Which tensor of a module belongs to which stage.

    Attributes:
        stages: the stage of the module's first call, of its second, and so on.
        side: what goes into the module, or what comes out.
        convert: brings it into the program's shape.
    """

    stages: tuple[str, ...]
    module: nn.Module
    side: Literal["input", "output"]
    convert: Convert


class WatchedModel:
    """A PyTorch model under forward hooks.

    Args:
        forward: one forward pass for what the program would be given.
        watches: where to look.
        result: stage of the model's own result, and how that is converted.
    """

    def __init__(self, forward: Callable[[Given], Any], watches: Sequence[Watch], result: tuple[str, Convert]) -> None:
        self._forward, self._watches, self._result = forward, watches, result

    def stages(self, given: Given) -> Mapping[str, Value]:
        """See `verify.Original`."""
        seen: dict[str, Value] = {}
        hooks = [self._hook(watch, seen) for watch in self._watches]
        try:
            with torch.no_grad():
                made = self._forward(given)
        finally:
            for hook in hooks:
                hook.remove()
        name, convert = self._result
        seen[name] = convert(made)
        return seen

    @staticmethod
    def _hook(watch: Watch, seen: dict[str, Value]) -> Any:
        calls = iter(watch.stages)

        def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            stage = next(calls, None)
            if stage is not None:
                # converted at once, and copied: the model may go on writing into its tensors
                value: Any = np.array(watch.convert(inputs[0] if watch.side == "input" else output))
                seen[stage] = value

        return watch.module.register_forward_hook(look)


class SingleNetwork:
    """A model of one stage, from planes to planes."""

    def __init__(self, stage: str, forward: Callable[[Tensor], Tensor]) -> None:
        self._stage, self._forward = stage, forward

    def stages(self, given: Given) -> Mapping[str, Value]:
        """See `verify.Original`."""
        assert not isinstance(given, Acquisition)
        with torch.no_grad():
            return {self._stage: array(one_tensor(self._stage, self._forward(torch.from_numpy(given))))}


def one_tensor(stage: str, made: object) -> Tensor:
    """What a network made, where that is one tensor.

    Raises:
        ImportRefused: it is something else.
    """
    if not isinstance(made, Tensor):
        raise ImportRefused(
            f"{stage}: makes a {type(made).__name__}; one tensor is expected: wrap the network in a class that returns it"
        )
    return made


def array(tensor: Tensor) -> Any:
    """A tensor's numbers."""
    return tensor.detach().cpu().numpy()


@dataclass(frozen=True)
class KSpaceAxes:
    """Between a program's hybrid space and the two-dimensional k-space of PyTorch models ``(…, rows, columns)``."""

    axes: NetworkAxes

    @property
    def swapped(self) -> bool:
        """Whether the model's columns are the phase encodes."""
        return self.axes == "columns, phase_encodes"

    def image(self, complex_image: Complex) -> Complex:
        """Images ``(…, rows, columns)`` of a model as ``(…, phase_encodes, columns)`` of a program, and back."""
        return np.ascontiguousarray(complex_image.swapaxes(-1, -2)) if self.swapped else complex_image

    def hybrid(self, kspace: Complex) -> Complex:
        """A model's k-space in hybrid space."""
        return to_image(self.image(kspace), axis=-1)

    def kspace(self, hybrid: Complex) -> Complex:
        """Hybrid space as a model's k-space."""
        return np.ascontiguousarray(self.image(to_kspace(hybrid, axis=-1)))
