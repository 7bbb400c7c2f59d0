"""The regulariser's inputs as met during reconstructions: what INT8 is calibrated on and golden inputs are taken from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from edge_runtime.errors import NoImage
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.proposal import share_of
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, reconstruct
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from export.draws import draw_problem, phase_shown
from export.recordings import FullySampled
from export.simulate.pool import Pool

Tensor = npt.NDArray[np.float32]


class _Listener:
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
        listener = _Listener(session)
        with plans.sense(*draw.hybrid.shape) as plan:
            plan.set_maps(draw.sensitivities)
            plan.set_samples(draw.hybrid, draw.visible)
            phase = phase_shown(draw.first, draw.measured)
            share = share_of(draw.visible)
            LearnedReconstruction(settings, listener).run(plan, draw.first, phase, 1.0, draw.noise_level, share, plans)
        yield from listener.inputs


def recorded_states(
    scan: FullySampled, slices: Sequence[int], settings: UnrolledSettings, session: Session, seed: int
) -> Iterator[Tensor]:
    """Every iteration's regulariser input over slices of a recording, undersampled at R = 2, 4 and 6 in turn and reconstructed as
    the device would; one slice in memory at a time. A slice whose mask leaves nothing to calibrate on is left out.

    Raises:
        RecordingError: the file turns out to be damaged.
    """
    plans = Plans(Workers(threads=1))
    accelerations = list(ACS_FRACTION_BY_ACCELERATION.items())
    for number, index in enumerate(slices):
        (kspace,) = scan.kspaces([index])
        hybrid = to_image(kspace, axis=2)
        acceleration, acs = accelerations[number % len(accelerations)]
        measured = variable_density(hybrid.shape[1], acceleration, acs, np.random.default_rng([seed, index]))
        samples = SliceSamples(hybrid * measured[None, :, None], measured, None, (index,))
        listener = _Listener(session)
        try:
            calibration = calibrate(samples.hybrid, measured, plans)
        except NoImage:
            continue
        next(reconstruct(samples, calibration, LearnedReconstruction(settings, listener), plans))  # learned comes first
        yield from listener.inputs
