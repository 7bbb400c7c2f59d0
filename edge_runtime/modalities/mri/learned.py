"""The learned reconstruction: an unrolled network whose physics is here and whose regulariser is one real-valued graph.

Mirrors `export.families.unrolled`, which trained it; a test holds the two together. The network is shown images without their slow
phase (`phase.slow_phase`). After Aggarwal et al. (MoDL), IEEE TMI 38:394, 2019.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from edge_runtime.kernels import Plans, SensePlan
from edge_runtime.modalities.mri.classical import regularised_sense
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.phase import slow_phase
from edge_runtime.modalities.mri.proposal import Begun, Proposal, Reals, Seen, go_on

CHANNELS = 6
"""Current and first estimate (real, imaginary), logarithm of the noise level, progress."""


LEAST_SHARE = 1 / 16
"""Of samples; less was hardly ever trained with, and is as this to λ's law."""

DOUBTED = 0.5
"""Share below which most of the image is the classical one: it is then worth a solve of its own with all that was measured. What
the network starts from lacks the held-out samples, and would be worse than the classical image where it is not believed."""

NETWORK_BYTES_PER_PIXEL = 256
"""What an engine takes for the activations of the shipped network, and may keep: 120 to 185 were seen, on ONNX Runtime and
OpenVINO, in FP32 and INT8, from 512 x 512 on."""


@dataclass(frozen=True)
class LearnedReconstruction:
    """A regulariser made ready on an engine, with the settings it was trained with.

    Attributes:
        tolerance: see `Stepwise`; 0 where nobody said what the engine may differ by.
        iterations: how many of the settings' are run, the first ones; ``None`` for all of them.
    """

    settings: UnrolledSettings
    regulariser: Session
    tolerance: float = 0.0
    iterations: int | None = None

    coil_copies = 0

    @property
    def golden(self) -> Session:
        """See `Learned`."""
        return self.regulariser

    @property
    def runs(self) -> int:
        """See `Stepwise`."""
        return self.settings.iterations if self.iterations is None else self.iterations

    def network_bytes(self, phase_encodes: int, columns: int) -> int:
        """See `Learned`."""
        return phase_encodes * columns * NETWORK_BYTES_PER_PIXEL

    @contextlib.contextmanager
    def propose(self, seen: Seen) -> Iterator[Proposal]:
        """See `Learned`. Measured against the held-out samples, the image may have them: when it is finished, all that was measured
        is put in its place."""
        begun = seen.begun
        prior, runs = (None, 0) if begun is None else (begun.prior, begun.runs)
        phase = slow_phase(seen.first, seen.acs_lines) if runs < self.runs else None
        blind = self.run(
            seen.plan, seen.first, phase, seen.scale, seen.level, seen.share, seen.plans, seen.wanted, prior, runs
        )

        def finished(share: float) -> tuple[Reals, Reals]:
            plan = seen.plan
            image, residual = plan.substituted(plan.between(seen.first, blind, share), seen.hybrid, seen.measured)
            if share < DOUBTED:
                go_on(seen.wanted)
                # The residual stays that of an image that has not seen the held-out samples.
                image, _ = plan.substituted(plan.between(_classical(seen), blind, share), seen.hybrid, seen.measured)
            return image, residual

        yield Proposal(seen.plan, seen.hybrid, seen.sample_power, seen.first, blind, finished)

    def step(self, seen: Seen, begun: Begun | None) -> Begun:
        """See `Stepwise`."""
        prior, runs, before = (None, 0, ()) if begun is None else (begun.prior, begun.runs, begun.visible)
        phase = slow_phase(seen.first, seen.acs_lines)
        made = self._corrected(
            seen.plan, seen.first, phase, seen.scale, seen.level, seen.share, seen.plans, seen.wanted, prior, runs
        )
        return Begun(seen.first, made, seen.level, seen.noise.standard_deviation, seen.scale, (*before, seen.visible))

    def run(
        self,
        plan: SensePlan,
        first: Complex,
        phase: Complex | None,
        scale: float,
        noise: float,
        share: float,
        plans: Plans,
        wanted: Callable[[], bool] = lambda: True,
        prior: Complex | None = None,
        runs: int = 0,
    ) -> Complex:
        """The image, complex ``(phase_encodes, columns)``, in the units of the samples.

        Args:
            plan: holds what the network may see.
            first: the classical image of the same samples, ``(phase_encodes, columns)``, where the network starts.
            phase: what the network is not shown of it, `phase.slow_phase`; ``None`` where it is shown all, or no run is left.
            scale: divides the image down to the range the network was trained on (`normalise.image_scale`).
            noise: standard deviation of a complex sample.
            share: of all samples, that the plan holds.
            plans: where the plan of the network's tensors comes from.
            wanted: asked before every step that takes long.
            prior: what the latest of the network's runs made, ``(phase_encodes, columns)``.
            runs: that have been made.

        Raises:
            Abandoned: the image was not wanted any more.
            EngineError: the network could not be run.
        """
        for run in range(runs, self.runs):
            prior = self._corrected(plan, first, phase, scale, noise, share, plans, wanted, prior, run)
        assert prior is not None, "a network is run at least once"
        go_on(wanted)
        return self._consistent(plan, prior, self.weights(scale, noise, share)[self.runs - 1])

    def _corrected(
        self,
        plan: SensePlan,
        first: Complex,
        phase: Complex | None,
        scale: float,
        noise: float,
        share: float,
        plans: Plans,
        wanted: Callable[[], bool],
        prior: Complex | None,
        run: int,
    ) -> Complex:
        """What one run makes of the image so far, which is made consistent with the plan's samples before."""
        if prior is None:
            image = first
        else:
            go_on(wanted)
            image = self._consistent(plan, prior, self.weights(scale, noise, share)[run - 1])
        with plans.pack(plan.phase_encodes, plan.columns, self.settings.multiple) as packing:
            batch = packing.empty(CHANNELS)
            packing.pack(image, scale, batch[0, 0:2], phase=phase)
            packing.pack(first, scale, batch[0, 2:4], phase=phase)
            packing.fill(condition_of_noise(noise / scale), batch[0, 4])
            packing.fill(run / self.settings.iterations, batch[0, 5])
            go_on(wanted)
            return packing.add(image, self.regulariser.run(batch)[0], scale, phase=phase)

    def _consistent(self, plan: SensePlan, prior: Complex, weight: float) -> Complex:
        return plan.data_consistent(prior, weight, self.settings.cg_steps)

    def weights(self, scale: float, noise: float, share: float) -> list[float]:
        """λ of every iteration for a scan of this noise, of whose samples this share is seen."""
        noisy, dense = condition_of_noise(noise / scale), condition_of_share(share)
        return [
            math.exp(at + over_noise * noisy + over_share * dense)
            for at, over_noise, over_share in self.settings.log_weights
        ]


def _classical(seen: Seen) -> Complex:
    """The classical image of all that was measured; the plan holds all of it from then on."""
    seen.plan.set_samples(seen.hybrid, seen.measured)
    power = seen.sample_power * np.float32(len(seen.hybrid))
    measured = np.asarray(seen.measured.any(axis=1))
    return regularised_sense(seen.plan, power, measured, seen.level)


def condition_of_noise(noise_level: float) -> float:
    """The noise level, in units of the normalised image, as the network is told it."""
    return 0.25 * math.log10(max(noise_level, 1e-4) / 0.05)


def condition_of_share(share: float) -> float:
    """The share of samples that the network may see, as λ's law is told it: doublings of a quarter. The more there are, the nearer
    to the truth is what the network makes of them, and the less it must give way to their noise."""
    return math.log2(4 * max(share, LEAST_SHARE))
