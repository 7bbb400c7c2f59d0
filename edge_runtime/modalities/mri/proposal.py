"""What a reconstruction asks of a network, whatever its family: an image of one slice, made without the samples that are held out.

Those decide afterwards how far it is believed (`edge_runtime.trust.heldout`), and only then is it finished.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edge_runtime.engines import Session
from edge_runtime.errors import Abandoned
from edge_runtime.kernels import Plans, SensePlan
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.noise import NoiseLevel

Reals = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def share_of(mask: Mask) -> float:
    """Of all samples, that are under a mask."""
    return float(np.count_nonzero(mask) / mask.size)


@dataclass(frozen=True)
class Begun:
    """A network's image of a slice after some of its runs, made of what was measured by then.

    Attributes:
        first: the classical image that it started from, complex ``(phase_encodes, columns)``.
        prior: what the latest run made, likewise; data consistency with all samples that are there comes next.
        level: noise that it reckons with.
        noise: of one sample, as it was known then.
        scale: brightness of the ACS image.
        visible: which samples each run could know, ``(phase_encodes, columns)``; the later, the more.
    """

    first: Complex
    prior: Complex
    level: float
    noise: float
    scale: float
    visible: tuple[Mask, ...]

    @property
    def runs(self) -> int:
        """Of the network."""
        return len(self.visible)


@dataclass(frozen=True)
class Seen:
    """One slice as a network is given it, in the units of the samples.

    Attributes:
        coils: samples of the scan's own coils, ``(coils, phase_encodes, columns)``, zero where nothing was measured.
        hybrid: the same in virtual coils, ``(virtual_coils, phase_encodes, columns)``.
        sensitivities: of the virtual coils, ``(virtual_coils, phase_encodes, columns)``.
        measured: which samples were, ``(phase_encodes, columns)``.
        visible: which of them the network may see.
        sample_power: squared magnitude of each sample, mean over the virtual coils, ``(phase_encodes, columns)``.
        acs_lines: that the sensitivities were estimated from.
        scale: brightness of the ACS image.
        noise: of one sample.
        level: noise that an image must reckon with, see `edge_runtime.modalities.mri.reconstruct.level_to_reckon_with`.
        plan: holds the sensitivities and the visible samples of the virtual coils.
        first: the classical image of the visible samples, ``(phase_encodes, columns)``.
        plans: where further plans come from.
        wanted: asked before every step that takes long.
        begun: the image's first runs, where they were made while samples still came.
    """

    coils: Complex
    hybrid: Complex
    sensitivities: Complex
    measured: Mask
    visible: Mask
    sample_power: Reals
    acs_lines: int
    scale: float
    noise: NoiseLevel
    level: float
    plan: SensePlan
    first: Complex
    plans: Plans
    wanted: Callable[[], bool]
    begun: Begun | None = None

    @property
    def share(self) -> float:
        """Of all samples, that the network may see."""
        return share_of(self.visible)


@dataclass(frozen=True)
class Proposal:
    """What a network made of a slice, in the units of the samples.

    Attributes:
        plan: holds the sensitivities that its images belong to.
        hybrid: samples of the coils that they belong to, ``(coils, phase_encodes, columns)``.
        sample_power: squared magnitude of each of them, mean over the coils, ``(phase_encodes, columns)``.
        first: the classical image that it is held against, complex ``(phase_encodes, columns)``.
        image: what the network made, likewise; ``F S image`` foretells the samples that it was not given.
        finished: of the share of ``image - first`` that is believed, the magnitude image, and the squared disagreement with every
            measured sample of ``first + share (image - first)``, which has not seen the held-out ones, mean over the coils; both
            ``(phase_encodes, columns)``.
    """

    plan: SensePlan
    hybrid: Complex
    sample_power: Reals
    first: Complex
    image: Complex
    finished: Callable[[float], tuple[Reals, Reals]]


class Learned(Protocol):
    """A network that was made ready on an engine, with what is around it.

    Attributes:
        golden: answers the bundle's golden input.
        coil_copies: arrays of the size of a slice's samples that it makes beside those of the classical image.
    """

    @property
    def golden(self) -> Session: ...

    @property
    def coil_copies(self) -> int: ...

    def network_bytes(self, phase_encodes: int, columns: int) -> int:
        """Memory that the network takes beside a slice's samples."""
        ...

    def propose(self, seen: Seen) -> AbstractContextManager[Proposal]:
        """The network's image; its plan is the proposal's until that is left.

        Raises:
            Abandoned: the image was not wanted any more.
            EngineError, ProgramRefused: the network could not be run.
        """
        ...


@runtime_checkable
class Stepwise(Learned, Protocol):
    """A network whose image is made in several runs, which need not all wait for the last sample.

    Attributes:
        runs: that an image takes.
        tolerance: relative difference that counts as none: that of the golden outputs on its engine.
    """

    @property
    def runs(self) -> int: ...

    @property
    def tolerance(self) -> float: ...

    def step(self, seen: Seen, begun: Begun | None) -> Begun:
        """One run more.

        Raises:
            Abandoned: the image was not wanted any more.
            EngineError: the network could not be run.
        """
        ...


def go_on(wanted: Callable[[], bool]) -> None:
    """Ends what nobody waits for.

    Raises:
        Abandoned: the image is not wanted any more.
    """
    if not wanted():
        raise Abandoned("the image is not wanted any more")
