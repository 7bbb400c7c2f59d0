"""SENSE by BART's conjugate gradients (``iter2_conjgrad``) through PyPI ``bartorch``, on the samples in hybrid space."""

from __future__ import annotations

import math
from collections.abc import Callable

import bartorch
import numpy as np
import torch
from bartorch import linop, optim

from benchmarks.sense_cg import Problem
from edge_runtime.modalities.mri.fourier import Complex


def forms(problem: Problem, iterations: int, threads: int) -> dict[str, Callable[[], Complex]]:
    """Solves from the samples, by the form of the operator, which is made beforehand: composed of maps, one-axis Fourier transform
    and mask, with the phase encodes on the middle axis and on the last one; and BART's own of the measured lines."""
    bartorch.set_num_threads(threads)
    return {
        "bartorch composed": _composed(problem, iterations, axis=1),
        "bartorch composed, phase encodes last": _composed(problem, iterations, axis=2),
        "bartorch CartesianSense": _measured_lines(problem, iterations),
    }


def _composed(problem: Problem, iterations: int, axis: int) -> Callable[[], Complex]:
    """On arrays that are shifted beforehand, so that the transform need not be BART's centred one, which is slower."""

    def turned(array: Complex) -> torch.Tensor:
        shifted = np.fft.ifftshift(array, axes=1)
        return torch.from_numpy(np.ascontiguousarray(shifted if axis == 1 else shifted.swapaxes(1, 2)))

    unitary = np.float32(1 / math.sqrt(problem.measured.size))  # BART's uncentred transform is not
    maps, samples = turned(problem.maps * unitary), turned(problem.samples)
    coil_images = tuple(maps.shape)
    mask = turned(problem.measured.astype(np.complex64)[None, :, None])
    operator = (
        linop.Diagonal(mask, coil_images)
        @ linop.FFT(coil_images, axis - 3, centred=False)
        @ linop.MultiplySum(maps, (1, *coil_images[1:]), coil_images)
    )

    def solve() -> Complex:
        image = optim.cg(samples, operator, problem.weight, maxiter=iterations)[0].numpy()
        return np.asarray(np.fft.fftshift(image if axis == 1 else image.T, axes=0))

    return solve


def _measured_lines(problem: Problem, iterations: int) -> Callable[[], Complex]:
    lines = np.flatnonzero(problem.measured)
    operator = linop.CartesianSense(
        torch.from_numpy(problem.maps),
        problem.truth.shape,
        positions=torch.from_numpy(lines)[:, None],
        readout="image",
    )
    samples = torch.from_numpy(np.ascontiguousarray(problem.samples[:, lines]))

    def solve() -> Complex:
        return np.asarray(optim.cg(samples, operator, problem.weight, maxiter=iterations).numpy())

    return solve
