"""The regulariser's inputs as met during reconstructions: what INT8 is calibrated on and golden inputs are taken from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from export.draws import draw_problem
from export.simulate.pool import Pool

Tensor = npt.NDArray[np.float32]


class _Recording:
    """A session that keeps what it is fed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs: list[Tensor] = []

    def run(self, batch: Tensor) -> Tensor:
        self.inputs.append(batch.copy())
        return self._session.run(batch)


def reconstruction_states(
    pool: Path, settings: UnrolledSettings, session: Session, count: int, seed: int, columns: int = 96
) -> Iterator[Tensor]:
    """Every iteration's regulariser input over ``count`` simulated scans, one scan in memory at a time."""
    plans = Plans(Workers(threads=1))
    acquisitions = Pool(pool)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        draw = draw_problem(acquisitions.choose(rng, 1)[0].load(), rng, columns)
        recording = _Recording(session)
        with plans.sense(*draw.hybrid.shape) as plan:
            plan.set_maps(draw.sensitivities)
            plan.set_samples(draw.hybrid, draw.visible)
            LearnedReconstruction(settings, recording).run(plan, draw.first, 1.0, draw.noise_level, plans)
        yield from recording.inputs
