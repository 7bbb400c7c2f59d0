"""Whether the plans on the GPU agree with those on the CPU, in every method; exits with 1 and says where they do not.

    python tests/cuda/check_plans.py [NAME of a file of kernels/cuda …]

For `test_mutants`, which runs it on broken kernels: errors of any kind count as disagreement.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.cuda import volume as volume_on_gpu
from edge_runtime.kernels import (
    AdaptivePlan,
    CoilPlan,
    IngestPlan,
    PackPlan,
    Quantization,
    SensePlan,
    SensitivityPlan,
    VolumeSensePlan,
    Where,
    Workers,
)

Shape = tuple[int, int, int]
Results = dict[str, np.ndarray]

SHAPES = [(2, 64, 9), (2, 12, 18), (2, 22, 5), (1, 13, 3), (3, 105, 2), (2, 30, 6), (2, 2, 1), (1, 288, 3)]
"""All radices, a prime as first and as only pass, odd and even columns, one warp and several."""

VOLUMES = {
    (2, 64, 9): (2, 2, 64, 9),
    (2, 12, 18): (2, 9, 12, 18),
    (2, 22, 5): (2, 4, 22, 5),
    (1, 13, 3): (1, 23, 13, 3),
    (3, 105, 2): (3, 1, 105, 2),
    (2, 30, 6): (2, 8, 30, 6),
    (2, 2, 1): (2, 13, 2, 67),
    (1, 288, 3): (1, 1, 288, 3),
}
"""Instead of these slices; more columns than a warp does."""

WORKERS = Workers(1)


def sense(shape: Shape, seed: int, device: Where) -> Results:
    """Of every method, on random data."""
    rng = np.random.default_rng(seed)
    plan = SensePlan(WORKERS, *shape, device=device)
    mask, hybrid = rng.random(plan.shape) < 0.6, complex_noise(shape, rng)
    image, towards = complex_noise(plan.shape, rng), complex_noise(plan.shape, rng)
    plan.set_maps(coil_maps(*shape))
    plan.set_samples(hybrid, mask)
    magnitude, power = plan.substituted(image, hybrid, mask)
    return {
        "normal": plan.normal(image),
        "gradient": plan.gradient(image),
        "data_consistent": plan.data_consistent(image, 0.3, 4),
        "data_consistent, columns stop": plan.data_consistent(image, 0.1, 6, tolerance=0.05),
        "regularised": plan.regularised(rng.uniform(0.05, 1.0, plan.shape).astype(np.float32), 4),
        "substituted": magnitude,
        "power": power,
        "line_search": np.array(plan.line_search(image, towards, hybrid, mask) or 0.0),
        "between": plan.between(image, towards, 0.3),
        "sample_power": plan.sample_power(hybrid),
    }


def ingest(shape: Shape, seed: int, device: Where) -> Results:
    """Readouts of so many coils and samples, some of which come to one line."""
    coils, length, readouts = 3 * shape[0], shape[1], 5 + shape[2]
    rng = np.random.default_rng(seed)
    columns, count = (length + 1) // 2, max(1, 3 * length // 4)
    plan = IngestPlan(WORKERS, coils, length, columns, device=device)
    samples, whitening = complex_noise((readouts, coils, count), rng), complex_noise((coils, coils), rng)
    out = complex_noise((readouts, coils, columns), rng)
    plan.execute(samples, rng.permutation(readouts), out, first_sample=(length - count) // 2, whitening=whitening)
    resident = plan.empty(readouts)
    plan.execute(samples, np.arange(readouts), resident)
    plan.execute(samples, np.arange(readouts) // 2, resident, add=True)
    return {
        "execute": out,
        "execute, added": np.array(resident),
        "mean": plan.mean(resident, np.arange(readouts, dtype=np.int32) % 3),
    }


def volume(shape: Shape, seed: int, device: Where) -> Results:
    """Of every method, on random data with a mask that differs from column to column, and no numbers outside of it."""
    rng = np.random.default_rng(seed)
    whole = VOLUMES.get(shape, (shape[0], 24, *shape[1:]))
    with patch.object(volume_on_gpu, "WORK_BYTES", 4096):  # some volumes' coils come in several batches
        plan = VolumeSensePlan(WORKERS, *whole, device=device)
    mask, hybrid, image = rng.random(plan.shape) < 0.6, complex_noise(whole, rng), complex_noise(plan.shape, rng)
    plan.set_maps(complex_noise(whole, rng) / np.float32(np.sqrt(whole[0])))
    plan.set_samples(np.where(mask, hybrid, np.complex64(np.nan)), mask)
    return {
        "volume": plan.normal(image),
        "volume, gradient": plan.gradient(image),
        "volume, data_consistent": plan.data_consistent(image, 0.3, 3),
        "volume, data_consistent, columns stop": plan.data_consistent(image, 0.1, 6, tolerance=0.3),
    }


def coils(shape: Shape, seed: int, device: Where) -> Results:
    """Of samples that lie by coils and by lines, those that were not measured no numbers."""
    rng = np.random.default_rng(seed)
    plan = CoilPlan(WORKERS, *shape, device=device)
    measured = rng.random(shape[1]) < 0.7
    hybrid, matrix = complex_noise(shape, rng), complex_noise((11, shape[0]), rng)
    hybrid[:, ~measured] = np.nan
    by_lines = np.ascontiguousarray(hybrid.transpose(1, 0, 2)).transpose(1, 0, 2)
    return {
        "compress": plan.compress(hybrid, measured, matrix),
        "compress, by lines": plan.compress(by_lines, measured, matrix[:3]),
        "root_sum_of_squares": plan.root_sum_of_squares(hybrid, measured),
        "root_sum_of_squares, by lines": plan.root_sum_of_squares(by_lines, measured),
    }


def adaptive(shape: Shape, seed: int, device: Where) -> Results:
    """Of coils that see an object: where there is nothing but noise, rounding turns the eigenvector."""
    rng = np.random.default_rng(seed)
    size = shape[1], max(shape[2], 4)
    images = object_image(*size) * coil_maps(shape[0], *size) if shape[1] > 1 else np.ones((shape[0], *size))
    samples = (images + 0.02 * complex_noise(images.shape, rng)).astype(np.complex64)
    measured = rng.random(shape[1]) < 0.9
    samples[:, ~measured] = np.nan
    return {"adaptive": AdaptivePlan(WORKERS, *samples.shape, device=device).combine(samples, measured)}


def pack(shape: Shape, seed: int, device: Where) -> Results:
    """Planes of floats and of integers, and back."""
    rng = np.random.default_rng(seed)
    plan = PackPlan(WORKERS, *shape[1:], 8, device=device)
    image, levels = complex_noise(shape[1:], rng), Quantization(0.05, 3)
    floats, integers = np.empty((2, *plan.plane), np.float32), np.empty((2, *plan.plane), np.int8)
    plan.pack(image, 0.7, floats)
    plan.pack(image, 0.7, integers, levels)
    phase, turned = np.exp(1j * rng.uniform(-3, 3, shape[1:])).astype(np.complex64), np.empty_like(floats)
    plan.pack(image, 0.7, turned, phase=phase)
    filled = np.empty(plan.plane, np.float32)
    plan.fill(0.3, filled)
    return {
        "pack": floats,
        "pack, turned back": turned,
        "pack, quantized": integers,
        "fill": filled,
        "add": plan.add(image, floats, 1.3),
        "add, quantized": plan.add(image, integers, 1.3, levels),
        "add, turned": plan.add(image, floats, 1.3, phase=phase),
    }


def sensitivities(shape: Shape, seed: int, device: Where) -> Results:
    """Where the object is, since maps in the air are left to rounding: several tiles of each matrix, several rounds of windows,
    more columns than a block has warps."""
    coils, *image = shape
    acs = kspace_of(object_image(), coil_maps(coils), noise=0.01, seed=seed)[:, 12:19, 8:17].copy()
    grid = min(image[0], 10), image[1]
    plan = SensitivityPlan(WORKERS, coils, acs.shape[1:], (3, 3), grid, (image[0], image[1]), device=device)
    weight, shown = np.random.default_rng(seed).random(image, np.float32), np.abs(object_image(*image))
    return {
        "estimate": plan.estimate(acs, 0.015) * shown,
        "estimate, weighted": plan.estimate(acs, 0.02, weight) * shown,
    }


PLANS = {
    "pack": pack,
    "ingest": ingest,
    "coils": coils,
    "adaptive": adaptive,
    "sensitivity": sensitivities,
    "sense": sense,
    "volume": volume,
}
"""By the file of their kernels."""


def main(names: list[str]) -> int:
    for seed, shape in enumerate(SHAPES):
        for plan in (PLANS[name] for name in names or PLANS):
            there = plan(shape, seed, "cuda")
            for name, expected in plan(shape, seed, "cpu").items():
                error = np.abs(there[name] - expected).max()
                if not error <= 1e-5 * np.abs(expected).max():
                    print(f"{name} of {shape}: off by {error:.3g}")
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
