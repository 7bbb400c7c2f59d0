"""The learned reconstruction: an unrolled network whose physics is here and whose regulariser is one real-valued graph.

Mirrors `export.families.unrolled`, which trained it; a test holds the two together. After
Aggarwal et al. (MoDL), IEEE TMI 38:394, 2019.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from edge_runtime.kernels import Plans, SensePlan
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.proposal import Proposal, Reals, Seen, go_on

CHANNELS = 6
"""Current and first estimate (real, imaginary), logarithm of the noise level, progress."""


NETWORK_BYTES_PER_PIXEL = 256
"""What an engine takes for the activations of the shipped network, and may keep: 120 to 185 were seen, on ONNX Runtime and
OpenVINO, in FP32 and INT8, from 512 x 512 on."""


@dataclass(frozen=True)
class LearnedReconstruction:
    """A regulariser made ready on an engine, with the settings it was trained with.

    Attributes:
        iterations: how many of the settings' are run, the first ones; ``None`` for all of them.
    """

    settings: UnrolledSettings
    regulariser: Session
    iterations: int | None = None

    coil_copies = 0

    @property
    def runs(self) -> int:
        """How often the regulariser runs for an image."""
        return self.settings.iterations if self.iterations is None else self.iterations

    @property
    def golden(self) -> Session:
        """See `Learned`."""
        return self.regulariser

    def network_bytes(self, phase_encodes: int, columns: int) -> int:
        """See `Learned`."""
        return phase_encodes * columns * NETWORK_BYTES_PER_PIXEL

    @contextlib.contextmanager
    def propose(self, seen: Seen) -> Iterator[Proposal]:
        """See `Learned`. Measured against the held-out samples, the image may have them: when it is finished, all that was measured
        is put in its place."""
        blind = self.run(seen.plan, seen.first, seen.scale, seen.level, seen.plans, seen.wanted)

        def finished(share: float) -> tuple[Reals, Reals]:
            return seen.plan.substituted(seen.plan.between(seen.first, blind, share), seen.hybrid, seen.measured)

        yield Proposal(seen.plan, seen.hybrid, seen.sample_power, seen.first, blind, finished)

    def run(
        self,
        plan: SensePlan,
        first: Complex,
        scale: float,
        noise: float,
        plans: Plans,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Complex:
        """The image, complex ``(phase_encodes, columns)``, in the units of the samples.

        Args:
            plan: holds what the network may see.
            first: the classical image of the same samples, ``(phase_encodes, columns)``, where the network starts.
            scale: divides the image down to the range the network was trained on (`normalise.image_scale`).
            noise: standard deviation of a complex sample.
            plans: where the plan of the network's tensors comes from.
            wanted: asked before every step that takes long.

        Raises:
            Abandoned: the image was not wanted any more.
        """
        settings = self.settings
        weights = self.weights(scale, noise)
        image, prior = first, None
        with plans.pack(plan.phase_encodes, plan.columns, settings.multiple) as packing:
            batch = packing.empty(CHANNELS)
            packing.pack(first, scale, batch[0, 2:4])
            packing.fill(condition_of_noise(noise / scale), batch[0, 4])
            for iteration in range(self.runs):
                packing.pack(image, scale, batch[0, 0:2])
                packing.fill(iteration / settings.iterations, batch[0, 5])
                go_on(wanted)
                correction = self.regulariser.run(batch)[0]
                go_on(wanted)
                prior = packing.add(image, correction, scale, out=prior)
                image = plan.data_consistent(prior, weights[iteration], settings.cg_steps)
        return image

    def weights(self, scale: float, noise: float) -> list[float]:
        """λ of every iteration for a scan of this noise."""
        condition = condition_of_noise(noise / scale)
        return [math.exp(intercept + slope * condition) for intercept, slope in self.settings.log_weights]


def condition_of_noise(noise_level: float) -> float:
    """The noise level, in units of the normalised image, as the network is told it."""
    return 0.25 * math.log10(max(noise_level, 1e-4) / 0.05)
