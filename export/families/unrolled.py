"""The shipped family: an unrolled network with conjugate-gradient data consistency.

After MoDL (Aggarwal et al., IEEE TMI 38:394, 2019), with two differences: it starts from the classical image, and how far data
consistency trusts the network depends on the scan's noise and on the share of samples. One real-valued regulariser is shared by all
iterations and is the only part that becomes an ONNX graph. Each iteration denoises, then solves ``(Aᴴ A + λ) x = Aᴴ y + λ z`` where
A is the hybrid-space SENSE operator: along the readout the data are measured whole, so the Fourier transform is along the phase
encodes only. The device runs the same steps in `edge_runtime.modalities.mri.learned`.
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

LEAST_SHARE = 1 / 16
"""Of samples; less is hardly ever drawn, and is as this to λ's law."""

TINY = 1e-20
"""Keeps the step lengths of an empty column finite."""


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
    """Hybrid-space SENSE problems of one size, a batch of them: every column of every scan is a problem of its own.

    All arrays are centred; only the mask is turned to FFT order, because ``Fᴴ M F`` commutes with a shift of the image, which saves
    every shift inside the iterations.

    Args:
        hybrid: ``(scans, coils, phase_encodes, columns)``, of which those samples are looked at that are under the mask.
        sensitivities: likewise; a scan of fewer coils has zeros for the others.
        mask: ones and zeros, ``(scans, phase_encodes, columns)``.

    Attributes:
        share: of all samples, that are under the mask, ``(scans,)``.
    """

    def __init__(self, hybrid: Tensor, sensitivities: Tensor, mask: Tensor) -> None:
        self.sensitivities = sensitivities
        self._conjugate = sensitivities.conj().resolve_conj()
        self.share = mask.mean((1, 2))
        self._mask = torch.fft.ifftshift(mask, dim=-2)[:, None]
        seen = torch.fft.ifftshift(hybrid * mask[:, None], dim=-2)
        self._zero_filled = torch.fft.fftshift(torch.fft.ifft(seen, dim=-2, norm="ortho"), dim=-2)
        self.adjoint = self._combined(self._zero_filled)

    def _combined(self, coil_images: Tensor) -> Tensor:
        combined: Tensor = (self._conjugate * coil_images).sum(1)
        return combined

    def _resampled(self, coil_images: Tensor) -> Tensor:
        spectrum = torch.fft.fft(coil_images, dim=-2, norm="ortho") * self._mask
        resampled: Tensor = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
        return resampled

    def normal(self, image: Tensor) -> Tensor:
        """``Aᴴ A`` of images ``(scans, phase_encodes, columns)``."""
        return self._combined(self._resampled(self.sensitivities * image[:, None]))

    def substituted_power(self, image: Tensor) -> Tensor:
        """The power of the image that agrees with every sample under the mask: what the device shows, squared."""
        coil_images = self.sensitivities * image[:, None]
        changed = coil_images - self._resampled(coil_images) + self._zero_filled
        power: Tensor = torch.view_as_real(changed).square().sum((1, -1))
        return power

    def solve(self, right_side: Tensor, weight: Tensor, start: Tensor | None, steps: int) -> Tensor:
        """Conjugate gradients on ``(Aᴴ A + weight) x = right_side`` as the device's: from ``start``, every column with step lengths
        of its own.

        Args:
            weight: ``(scans, 1, 1)``.
        """
        x = torch.zeros_like(right_side) if start is None else start
        residual = right_side if start is None else right_side - self.normal(x) - weight * x
        direction, energy = residual, _column_energy(residual)
        for _ in range(steps):
            image = self.normal(direction) + weight * direction
            curvature = (direction.real * image.real + direction.imag * image.imag).sum(-2, keepdim=True)
            step = energy / curvature.clamp_min(TINY)
            x = x + step * direction
            residual = residual - step * image
            before, energy = energy, _column_energy(residual)
            direction = residual + (energy / before.clamp_min(TINY)) * direction
        return x


def _column_energy(image: Tensor) -> Tensor:
    """Squared norm of every column, ``(scans, 1, columns)``."""
    return torch.view_as_real(image).square().sum((-3, -1))[:, None]


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
        weight_gradient = ((z - x).conj() * solved).sum((-2, -1), keepdim=True).real
        return weight * solved, weight_gradient, None, None


class UnrolledNetwork(nn.Module):
    """The whole learned reconstruction, of a batch of scans of one size."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.regulariser = Regulariser(config.widths)
        # λ starts proportional to the noise level, 0.4 at a noise of 0.05
        start = torch.tensor([math.log(0.4), 4 * math.log(10.0)])
        self.log_weights = nn.Parameter(start.repeat(config.iterations, 1))
        self.share_slopes = nn.Parameter(torch.zeros(config.iterations))

    def weights(self, noise_level: Tensor, share: Tensor) -> Tensor:
        """λ of each iteration for each scan, ``(iterations, scans)``.

        A noisy scan must trust its prior more: its last data-consistency step would otherwise bring the noise back, amplified. So
        must one of many samples, of which the prior is made with less error.
        """
        over_noise = self.log_weights[:, :1] + self.log_weights[:, 1:] * condition_of_noise(noise_level)
        return torch.exp(over_noise + self.share_slopes[:, None] * condition_of_share(share))

    def forward(self, problem: SenseProblem, first: Tensor, noise_level: Tensor) -> list[Tensor]:
        """The estimates ``(scans, phase_encodes, columns)``: the first ones, and those after every iteration.

        Args:
            first: the classical images, complex ``(scans, phase_encodes, columns)``: the network starts from them.
            noise_level: standard deviation of a complex sample, ``(scans,)``.
        """
        weights = self.weights(noise_level, problem.share)[..., None, None]
        estimates = [first]
        for iteration in range(self.config.iterations):
            channels = _channels(estimates[-1], first, noise_level, iteration / self.config.iterations)
            correction = torch.view_as_complex(self._correct(channels))
            estimates.append(self.consistent(estimates[-1], correction, weights[iteration], problem))
        return estimates

    def consistent(self, estimate: Tensor, correction: Tensor, weight: Tensor, problem: SenseProblem) -> Tensor:
        """The next estimate: what agrees both with the samples and, by the weight, with the corrected estimate."""
        z = estimate + correction
        solved: Tensor = DataConsistency.apply(z, weight, problem, self.config.cg_steps)
        return solved

    def _correct(self, channels: Tensor) -> Tensor:
        """Runs the regulariser on ``(scans, channels, rows, columns)``, zero-padded at the end to a size that it takes."""
        multiple = self.regulariser.multiple
        rows, columns = channels.shape[2:]
        padded = nn.functional.pad(channels, (0, -columns % multiple, 0, -rows % multiple))
        correction: Tensor = self.regulariser(padded)
        return correction.permute(0, 2, 3, 1)[:, :rows, :columns].contiguous()


def _channels(estimate: Tensor, first: Tensor, noise_level: Tensor, progress: float) -> Tensor:
    """The regulariser's input ``(scans, 6, rows, columns)``."""
    plane = torch.ones(estimate.shape, device=estimate.device)[:, None]
    pictures = [torch.view_as_real(x).permute(0, 3, 1, 2) for x in (estimate, first)]
    condition = condition_of_noise(noise_level)[:, None, None, None]
    return torch.cat([*pictures, plane * condition, plane * progress], dim=1)


def condition_of_noise(noise_level: Tensor) -> Tensor:
    """The noise level (standard deviation per complex sample, image's 99th percentile at 1) as the network is told it."""
    return 0.25 * torch.log10(noise_level.clamp_min(1e-4) / 0.05)


def condition_of_share(share: Tensor) -> Tensor:
    """The share of samples that the network may see, as λ's law is told it: doublings of a quarter."""
    return torch.log2(4 * share.clamp_min(LEAST_SHARE))
