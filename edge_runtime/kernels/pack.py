"""Images into an engine's tensors, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime import _kernels
from edge_runtime.kernels.backend import Workers, backend_of
from edge_runtime.kernels.checks import LARGEST, divisor, finite, positive, whole
from edge_runtime.kernels.types import Complex, Planes, Tensor, Where


@dataclass(frozen=True)
class Quantization:
    """How an integer ``q`` of a tensor stands for a number: ``scale * (q - zero_point)``, as ONNX's QuantizeLinear has it."""

    scale: float
    zero_point: int


class PackPlan:
    """Complex images into planes of an engine's input tensor, and corrections from planes of its output back onto an image.

    Planes are ``float32``, or ``int8`` or ``uint8`` with their `Quantization`: rounded half to even, out of range the nearest there
    is. Their axes are padded at the end to a multiple that the network takes; the padding stands for zero. Arrays are C-contiguous.

    Args:
        workers: threads that lines are shared between.
        phase_encodes, columns: of an image.
        multiple: of which both axes of a plane are one.
        device: ``"cuda"`` for the first GPU.

    Raises:
        DeviceError: the GPU can't be used.
    """

    def __init__(
        self, workers: Workers, phase_encodes: int, columns: int, multiple: int, *, device: Where = "cpu"
    ) -> None:
        positive(phase_encodes=phase_encodes, columns=columns)
        whole("multiple", multiple, 1, LARGEST)
        self.shape = phase_encodes, columns
        self.plane = -(-phase_encodes // multiple) * multiple, -(-columns // multiple) * multiple
        """Shape of a plane."""
        self._backend = backend_of(workers, device)
        self._plan: _kernels.PackPlan = self._backend.plan("PackPlan", *self.shape, *self.plane)

    def empty(self, planes: int) -> Tensor:
        """A batch of one, ``(1, planes, *plane)``, that holds anything; where the plan can fill it without a copy."""
        tensor: Tensor = self._backend.empty((1, planes, *self.plane), np.float32)
        return tensor

    def pack(
        self,
        image: Complex,
        scale: float,
        planes: Planes,
        quantization: Quantization | None = None,
        *,
        phase: Complex | None = None,
    ) -> None:
        """Writes ``image * conj(phase) / scale`` as two planes.

        Args:
            image: ``(phase_encodes, columns)``.
            scale: positive.
            planes: real and imaginary part, ``(2, *plane)``.
            phase: numbers of modulus one, ``(phase_encodes, columns)``; ``None`` for none.
        """
        image = self._backend.array("image", image, np.complex64, self.shape)
        phase = self._phase(phase)
        planes, levels = self._planes("planes", planes, (2, *self.plane), quantization, writeable=True)
        divisor("scale", scale)
        self._plan.pack(image, phase, scale, planes, *levels)

    def fill(self, value: float, plane: Planes, quantization: Quantization | None = None) -> None:
        """Writes one value for every pixel of the image; ``plane`` has the shape `plane`."""
        finite("value", value)
        plane, levels = self._planes("plane", plane, self.plane, quantization, writeable=True)
        self._plan.fill(value, plane, *levels)

    def add(
        self,
        image: Complex,
        planes: Planes,
        scale: float,
        quantization: Quantization | None = None,
        out: Complex | None = None,
        *,
        phase: Complex | None = None,
    ) -> Complex:
        """``image + scale * phase * planes``, ``(phase_encodes, columns)``; without a phase rounded once where the processor has a
        fused multiply-add.

        Args:
            image: ``(phase_encodes, columns)``; may be ``out`` as well.
            planes: real and imaginary part of a correction, ``(2, *plane)``.
            phase: as `pack` was given it.
        """
        image = self._backend.array("image", image, np.complex64, self.shape)
        phase = self._phase(phase)
        planes, levels = self._planes("planes", planes, (2, *self.plane), quantization)
        finite("scale", scale)
        out = self._backend.out("out", out, np.complex64, self.shape)
        self._plan.unpack(image, phase, scale, planes, out, *levels)
        return out

    def _phase(self, phase: Any) -> Any:
        return None if phase is None else self._backend.array("phase", phase, np.complex64, self.shape)

    def _planes(
        self,
        name: str,
        planes: Any,
        shape: tuple[int, ...],
        quantization: Quantization | None,
        *,
        writeable: bool = False,
    ) -> tuple[Any, tuple[float, int]]:
        """The planes, and the quantization's step and zero point."""
        if quantization is None:
            return self._backend.array(name, planes, np.float32, shape, writeable=writeable), (1.0, 0)
        dtype: type[np.int8 | np.uint8] = np.uint8 if getattr(planes, "dtype", None) == np.uint8 else np.int8
        levels = np.iinfo(dtype)
        whole("quantization.zero_point", quantization.zero_point, int(levels.min), int(levels.max))
        divisor("quantization.scale", quantization.scale)
        planes = self._backend.array(name, planes, dtype, shape, writeable=writeable)
        return planes, (quantization.scale, quantization.zero_point)
