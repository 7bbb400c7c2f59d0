"""Whether `SensePlan` on the GPU agrees with the one on the CPU, in every method; exits with 1 and says where it does not.

For `test_mutants`, which runs it on broken kernels: errors of any kind count as disagreement.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from simulated import coil_maps, complex_noise

from edge_runtime.kernels import SensePlan, Workers

SHAPES = [(2, 64, 9), (2, 12, 18), (2, 22, 5), (1, 13, 3), (3, 105, 2), (2, 30, 6), (2, 2, 1), (1, 288, 3)]
"""All radices, a prime as first and as only pass, odd and even columns, one warp and several."""


def results(plan: SensePlan, seed: int) -> dict[str, object]:
    """Of every method, on random data."""
    rng = np.random.default_rng(seed)
    shape = (plan.coils, *plan.shape)
    mask, hybrid = rng.random(plan.shape) < 0.6, complex_noise(shape, rng)
    image, direction = complex_noise(plan.shape, rng), complex_noise(plan.shape, rng)
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
        "line_search": np.float64(plan.line_search(image, direction, hybrid, mask) or 0.0),
    }


def main() -> int:
    workers = Workers(1)
    for seed, shape in enumerate(SHAPES):
        there = results(SensePlan(workers, *shape, device="cuda"), seed)
        for name, expected in results(SensePlan(workers, *shape), seed).items():
            error = np.abs(there[name] - expected).max()
            if not error <= 1e-5 * np.abs(expected).max():
                print(f"{name} of {shape}: off by {error:.3g}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
