"""``<A x, y> = <x, Aᴴ y>`` for every linear operator of the kernels, over shapes, coils, Fourier axes and instruction sets.

Where the kernels have only one of the two, the other is plain NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sense_problems import SLICES, VOLUMES, sense_plan, volume_plan
from simulated import complex_noise

from edge_runtime.kernels import CoilPlan, IngestPlan, Workers
from edge_runtime.modalities.mri.fourier import centre_slice, to_kspace


@dataclass
class Operator:
    forward: Callable[[Any], Any]
    adjoint: Callable[[Any], Any]
    domain: tuple[int, ...]
    range: tuple[int, ...]


def ingest(shape, share=1.0):
    """Readouts that fill a share of the transform's length, at its end as a partial echo does."""
    coils, length, readouts = shape
    count = max(1, int(share * length))
    kept = centre_slice(length, (length + 1) // 2)
    columns = kept.stop - kept.start
    whitening = np.tril(complex_noise((coils, coils), np.random.default_rng(1)))
    plan = IngestPlan(Workers(threads=2), coils, length, columns)

    def forward(samples):
        out = np.empty((readouts, coils, columns), np.complex64)
        plan.execute(samples, np.arange(readouts), out, first_sample=length - count, whitening=whitening)
        return out

    def adjoint(image):
        wide = np.zeros((readouts, coils, length), np.complex64)
        wide[:, :, kept] = image
        return np.einsum("ji,rjx->rix", whitening.conj(), to_kspace(wide, axis=2)[:, :, length - count :])

    return Operator(forward, adjoint, (readouts, coils, count), (readouts, coils, columns))


def partial_ingest(shape):
    return ingest(shape, share=0.7)


def compression(shape):
    coils, virtual = shape[0], 4
    measured = np.random.default_rng(1).random(shape[1]) < 0.6
    matrix = complex_noise((virtual, coils), np.random.default_rng(2))
    there = CoilPlan(Workers(threads=2), *shape)
    back = CoilPlan(Workers(threads=2), virtual, *shape[1:])
    back_matrix = np.ascontiguousarray(matrix.conj().T)
    return Operator(
        lambda hybrid: there.compress(hybrid, measured, matrix),
        lambda hybrid: back.compress(hybrid, measured, back_matrix),
        shape,
        (virtual, *shape[1:]),
    )


def sense(shape):
    """``A`` by plain transforms, ``Aᴴ`` by the plan."""
    plan, maps, mask = planned(shape)
    axes = range(1, len(shape) - 1)

    def forward(image):
        spectrum = maps * image
        for axis in axes:
            spectrum = to_kspace(spectrum, axis)
        return mask * spectrum

    def adjoint(samples):
        plan.set_samples(samples, mask)
        return -plan.gradient(np.zeros(plan.shape, np.complex64))

    return Operator(forward, adjoint, shape[1:], shape)


def sense_normal(shape):
    plan, _, mask = planned(shape)
    plan.set_samples(np.zeros(shape, np.complex64), mask)
    return Operator(plan.normal, plan.normal, shape[1:], shape[1:])


def planned(shape):
    rng = np.random.default_rng(1)
    plan = sense_plan(shape, threads=2) if len(shape) == 3 else volume_plan(shape, threads=2)
    maps, mask = complex_noise(shape, rng), rng.random(shape[1:]) < 0.6
    plan.set_maps(maps)
    return plan, maps, mask


@pytest.mark.parametrize(("operator", "shape"), [(o, s) for o in (sense, sense_normal) for s in SLICES + VOLUMES])
@pytest.mark.usefixtures("kernels_on")
def test_the_adjoint_is_the_adjoint_of_slices_and_volumes(operator, shape):
    check(operator(shape))


@pytest.mark.parametrize(("operator", "shape"), [(o, s) for o in (ingest, partial_ingest, compression) for s in SLICES])
@pytest.mark.usefixtures("isa")
def test_the_adjoint_is_the_adjoint(operator, shape):
    check(operator(shape))


def check(made: Operator) -> None:
    rng = np.random.default_rng(0)
    x, y = complex_noise(made.domain, rng), complex_noise(made.range, rng)
    there, back = made.forward(x), made.adjoint(y)
    rounding = 1e-5 * np.linalg.norm(there) * np.linalg.norm(y)
    assert abs(np.vdot(there, y) - np.vdot(x, back)) <= rounding
