"""The shipped family: an unrolled network with conjugate-gradient data consistency.

After MoDL (Aggarwal et al., IEEE TMI 38:394, 2019), with two differences: it starts from the classical image, and how far data
consistency trusts the network depends on the scan's noise. One real-valued regulariser is shared by all iterations and is the only
part that becomes an ONNX graph. Each iteration denoises, then solves ``(Aᴴ A + λ) x = Aᴴ y + λ z`` where A is the hybrid-space
SENSE operator: along the readout the data are measured whole, so the Fourier transform is along the phase encodes only. The
device runs the same steps in `edge_runtime.modalities.mri.learned`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edge_runtime.kernels import SensePlan, Workers
from export.config import NetworkConfig

Complex = npt.NDArray[np.complex64]
Mask = npt.NDArray[np.bool_]

IMAGE_CHANNELS = 4
"""Real and imaginary part of the current estimate and of the first one."""

CONDITION_CHANNELS = 2
"""Constant planes: logarithm of the noise level, and progress through the iterations."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a sum; no normalisation layer, which would couple pixels and quantize badly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Regulariser(nn.Module):
    """A U-Net that works at half the image's resolution, where two cores spend their time in arithmetic and not in memory.

    Input ``(batch, 6, rows, columns)``: estimate, first estimate (each real, imaginary), log noise level, progress.
    Output ``(batch, 2, rows, columns)``: the correction to add to the estimate. Rows and columns are multiples of `multiple`.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        self.head = nn.Conv2d(4 * IMAGE_CHANNELS + CONDITION_CHANNELS, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.decode = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.tail = nn.Conv2d(widths[0], 8, 3, padding=1)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        image, condition = x[:, :IMAGE_CHANNELS], x[:, IMAGE_CHANNELS:, ::2, ::2]
        features = self.head(torch.cat([nn.functional.pixel_unshuffle(image, 2), condition], dim=1))
        skips = []
        for level, block in enumerate(self.encode):
            features = block(features)
            if level < len(self.down):
                skips.append(features)
                features = self.down[level](features)
        for level in reversed(range(len(self.down))):
            features = nn.functional.interpolate(self.up[level](features), scale_factor=2.0, mode="nearest")
            features = self.decode[level](features + skips[level])
        return nn.functional.pixel_shuffle(self.tail(features), 2)


class SenseProblem:
    """One hybrid-space SENSE problem: sensitivities ``(coils, phase_encodes, columns)``, mask ``(phase_encodes, columns)``.

    ``hybrid`` holds samples, of which only those under the mask are looked at. All arrays are centred. Solved on the
    device's own kernels.
    """

    def __init__(self, hybrid: Complex, sensitivities: Complex, mask: Mask) -> None:
        self._plan = _plan(sensitivities)
        self._plan.set_samples(hybrid, mask)
        self._without_samples = _plan(sensitivities)
        self._without_samples.set_samples(np.zeros_like(hybrid), mask)

    def data_consistent(self, prior: Tensor, weight: float, steps: int) -> Tensor:
        """``argmin |A x - y|² + weight |x - prior|²`` by conjugate gradients from ``prior``."""
        return torch.from_numpy(self._plan.data_consistent(prior.numpy(), weight, steps))

    def gradient(self, of_solution: Tensor, weight: float, steps: int) -> Tensor:
        """With respect to the prior, from that with respect to the solution: ``weight (Aᴴ A + weight)⁻¹`` is its own adjoint."""
        solved = self._without_samples.data_consistent(of_solution.resolve_conj().contiguous().numpy(), weight, steps)
        return torch.from_numpy(solved)


def _plan(sensitivities: Complex) -> SensePlan:
    plan = SensePlan(Workers(threads=1), *sensitivities.shape)
    plan.set_maps(sensitivities)
    return plan


def substituted_power(image: Tensor, hybrid: Tensor, sensitivities: Tensor, mask: Tensor) -> Tensor:
    """The power of the image that agrees with every sample under the mask: what the device shows, squared.

    Only the mask is turned to FFT order, because ``Fᴴ M F`` commutes with a shift of the image.

    Args:
        image: ``(phase_encodes, columns)``.
        hybrid, sensitivities: ``(coils, phase_encodes, columns)``, of which those samples are looked at that are under the mask.
        mask: ones and zeros, ``(phase_encodes, columns)``.
    """
    measured = torch.fft.fftshift(
        torch.fft.ifft(torch.fft.ifftshift(hybrid * mask, dim=-2), dim=-2, norm="ortho"), dim=-2
    )
    coil_images = sensitivities * image
    spectrum = torch.fft.fft(coil_images, dim=-2, norm="ortho") * torch.fft.ifftshift(mask, dim=-2)
    modelled = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
    return torch.view_as_real(coil_images - modelled + measured).square().sum((0, -1))


class DataConsistency(torch.autograd.Function):
    """``argmin |A x - y|² + λ |x - z|²``; its gradient is one more solve with the same operator, so nothing is stored per step."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, problem: SenseProblem, steps: int) -> Tensor:
        x = problem.data_consistent(z, float(weight), steps)
        ctx.save_for_backward(z, weight, x)
        ctx.problem, ctx.steps = problem, steps
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, weight, x = ctx.saved_tensors
        gradient = ctx.problem.gradient(gradients[0], float(weight), ctx.steps + 1)
        weight_gradient = ((z - x).conj() * gradient).sum().real / weight
        return gradient, weight_gradient.reshape(weight.shape), None, None


class UnrolledNetwork(nn.Module):
    """The whole learned reconstruction, for one scan at a time."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.regulariser = Regulariser(config.widths)
        self.low_precision = False  # bfloat16 convolutions while training
        # λ starts proportional to the noise level, 0.4 at a noise of 0.05
        start = torch.tensor([math.log(0.4), 4 * math.log(10.0)])
        self.log_weights = nn.Parameter(start.repeat(config.iterations, 1))

    def weights(self, noise_level: float) -> Tensor:
        """λ of each iteration, ``(iterations,)``.

        A noisy scan must trust its prior more: its last data-consistency step would otherwise bring the noise back, amplified.
        """
        return torch.exp(self.log_weights[:, 0] + self.log_weights[:, 1] * condition_of_noise(noise_level))

    def forward(
        self, problem: SenseProblem, first: Tensor, noise_level: float, depth: int | None = None
    ) -> list[Tensor]:
        """The estimates of a scan: the first one, and the one after every iteration, or after the first ``depth``.

        Args:
            first: the classical image, complex ``(phase_encodes, columns)``: the network starts from it.
            noise_level: standard deviation of a complex sample.
        """
        weights = self.weights(noise_level)
        estimates = [first]
        for iteration in range(self.config.iterations if depth is None else depth):
            channels = _channels(estimates[-1], first, noise_level, iteration / self.config.iterations)
            z = estimates[-1] + torch.view_as_complex(self._correct(channels))
            estimates.append(DataConsistency.apply(z, weights[iteration], problem, self.config.cg_steps))
        return estimates

    def _correct(self, channels: Tensor) -> Tensor:
        """Runs the regulariser on ``(channels, rows, columns)``, zero-padded at the end to a size that it takes.

        One scan at a time: scans of a batch differ in size, and what it costs to pad them to one is more than what a batch saves.
        """
        multiple = self.regulariser.multiple
        rows, columns = channels.shape[1:]
        padded = nn.functional.pad(channels, (0, -columns % multiple, 0, -rows % multiple))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.training and self.low_precision):
            correction: Tensor = self.regulariser(padded[None])[0]
        return correction.float().permute(1, 2, 0)[:rows, :columns].contiguous()


def _channels(estimate: Tensor, first: Tensor, noise_level: float, progress: float) -> Tensor:
    """The regulariser's input ``(6, rows, columns)``."""
    plane = torch.ones(1, *estimate.shape)
    pictures = [torch.view_as_real(x).permute(2, 0, 1) for x in (estimate, first)]
    return torch.cat([*pictures, plane * condition_of_noise(noise_level), plane * progress])


def condition_of_noise(noise_level: float) -> float:
    """The noise level (standard deviation per complex sample, image's 99th percentile at 1) as the network is told it."""
    return 0.25 * math.log10(max(noise_level, 1e-4) / 0.05)
