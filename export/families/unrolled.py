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

import torch
from torch import Tensor, nn

from export.config import NetworkConfig

IMAGE_CHANNELS = 4
"""Real and imaginary part of the current estimate and of the first one."""

CONDITION_CHANNELS = 2
"""Constant planes: logarithm of the noise level, and progress through the iterations."""

TINY = 1e-20
"""Keeps an empty column's step length finite."""


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

    ``hybrid`` holds samples, of which only those under the mask are looked at. All arrays are centred; only the mask is turned to
    FFT order, because ``Fᴴ M F`` commutes with a shift of the image, which saves every shift inside the iterations.
    """

    def __init__(self, hybrid: Tensor, sensitivities: Tensor, mask: Tensor) -> None:
        self.sensitivities = sensitivities
        self.conjugate = sensitivities.conj().resolve_conj()
        self.mask = torch.fft.ifftshift(mask, dim=-2)
        seen = torch.fft.ifftshift(hybrid * mask, dim=-2)
        self.zero_filled = torch.fft.fftshift(torch.fft.ifft(seen, dim=-2, norm="ortho"), dim=-2)
        self.adjoint = self._combine(self.zero_filled)

    def _combine(self, coil_images: Tensor) -> Tensor:
        return (self.conjugate * coil_images).sum(0)

    def normal(self, image: Tensor) -> Tensor:
        spectrum = torch.fft.fft(self.sensitivities * image, dim=-2, norm="ortho") * self.mask
        return self._combine(torch.fft.ifft(spectrum, dim=-2, norm="ortho"))

    def substituted(self, image: Tensor) -> Tensor:
        """The power of the image that agrees with every sample under the mask: what the device shows, squared."""
        coil_images = self.sensitivities * image
        spectrum = torch.fft.fft(coil_images, dim=-2, norm="ortho") * self.mask
        modelled = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
        return torch.view_as_real(coil_images - modelled + self.zero_filled).square().sum((0, -1))

    def solve(self, right_side: Tensor, weight: Tensor, start: Tensor | None, steps: int) -> Tensor:
        """Conjugate gradients on ``(AᴴA + weight) x = right_side``, with a step length of its own in every column.

        The columns are separate problems; solving them so makes the result independent of how they are cut into bands.
        """
        x = torch.zeros_like(right_side) if start is None else start
        residual = right_side if start is None else right_side - self.normal(x) - weight * x
        direction = residual
        energy = _column_energy(residual)
        for _ in range(steps):
            image = self.normal(direction) + weight * direction
            curvature = (direction.real * image.real + direction.imag * image.imag).sum(-2, keepdim=True)
            step = energy / curvature.clamp_min(TINY)
            x = x + step * direction
            residual = residual - step * image
            previous, energy = energy, _column_energy(residual)
            direction = residual + (energy / previous.clamp_min(TINY)) * direction
        return x


def _column_energy(image: Tensor) -> Tensor:
    """Squared norm of every column, ``(1, columns)``."""
    return torch.view_as_real(image).square().sum((-3, -1))[None]


class DataConsistency(torch.autograd.Function):
    """``argmin |A x - y|² + λ |x - z|²``; its gradient is one more solve with the same operator, so nothing is stored per step."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, problem: SenseProblem, steps: int) -> Tensor:
        x = problem.solve(problem.adjoint + weight * z, weight, z, steps)
        ctx.save_for_backward(z, weight, x)
        ctx.problem, ctx.steps = problem, steps
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, weight, x = ctx.saved_tensors
        solved = ctx.problem.solve(gradients[0], weight, None, ctx.steps + 1)
        weight_gradient = ((z - x).conj() * solved).sum().real
        return weight * solved, weight_gradient.reshape(weight.shape), None, None


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
        self, problems: list[SenseProblem], firsts: list[Tensor], noise_levels: list[float]
    ) -> list[list[Tensor]]:
        """Reconstructs a batch whose scans may differ in size and coil count.

        Args:
            firsts: the classical image of every scan, complex ``(phase_encodes, columns)``: the network starts from it.
            noise_levels: standard deviation of a complex sample, by scan.

        Returns:
            for every scan its estimates: the first one and the one after every iteration.
        """
        steps = self.config.cg_steps
        weights = [self.weights(level) for level in noise_levels]
        estimates = [[first] for first in firsts]
        for iteration in range(self.config.iterations):
            progress = iteration / self.config.iterations
            channels = [
                _channels(e[-1], e[0], level, progress) for e, level in zip(estimates, noise_levels, strict=True)
            ]
            for estimate, problem, weight, correction in zip(
                estimates, problems, weights, self._correct(channels), strict=True
            ):
                z = estimate[-1] + torch.view_as_complex(correction)
                estimate.append(DataConsistency.apply(z, weight[iteration], problem, steps))
        return estimates

    def _correct(self, channels: list[Tensor]) -> list[Tensor]:
        """Runs the regulariser on ``(channels, rows, columns)`` each, zero-padded at the end to one size that it takes."""
        multiple = self.regulariser.multiple
        rows, columns = (-(-max(c.shape[axis] for c in channels) // multiple) * multiple for axis in (1, 2))
        padded = [nn.functional.pad(c, (0, columns - c.shape[2], 0, rows - c.shape[1])) for c in channels]
        batch = torch.stack(padded)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.training and self.low_precision):
            corrections = self.regulariser(batch)
        corrections = corrections.float().permute(0, 2, 3, 1)
        return [out[: c.shape[1], : c.shape[2]].contiguous() for out, c in zip(corrections, channels, strict=True)]


def _channels(estimate: Tensor, first: Tensor, noise_level: float, progress: float) -> Tensor:
    """The regulariser's input ``(6, rows, columns)``."""
    plane = torch.ones(1, *estimate.shape)
    pictures = [torch.view_as_real(x).permute(2, 0, 1) for x in (estimate, first)]
    return torch.cat([*pictures, plane * condition_of_noise(noise_level), plane * progress])


def condition_of_noise(noise_level: float) -> float:
    """The noise level (standard deviation per complex sample, image's 99th percentile at 1) as the network is told it."""
    return 0.25 * math.log10(max(noise_level, 1e-4) / 0.05)
