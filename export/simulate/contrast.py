"""What a volume would look like at another field strength: an approximation, since a magnitude volume has no tissue maps.

Brightness is taken for tissue: three classes of it are found by Otsu's thresholds and named by the volume's weighting (T1: fluid,
grey, white matter from dark to bright; T2: the other way round). Each class gets the signal that its proton density, T1 and T2 at
the field strength give in the sequence, and brightness in between is interpolated, so that partial volumes and fine structure stay.
What has the brightness of a tissue and is none gets that tissue's signal all the same: fat and marrow that of the brightest class,
muscle and skin that of the middle one, lesions that of whatever they look like.

Relaxation times are interpolated between field strengths along straight lines of log T against log B0 (T1 grows with a power of the
field: Bottomley et al., Med Phys 11:425, 1984), constant beyond the ends. 50 mT: O'Reilly and Webb, Magn Reson Med 87:884, 2022, in
vivo. 1.5 T and 3 T: Stanisz et al., Magn Reson Med 54:507, 2005, in vitro. Fluid's times and proton densities: of textbook size,
without field dependence. The figures are rounded and were written down from memory of these papers, not copied from their tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.simulate.settings import AcquisitionConfig
from export.simulate.volumes import Magnitude

AIR_LEVEL = 0.06
"""Brightness, where the volume's brightest voxels have 1, below which nothing is counted as tissue."""

HISTOGRAM_BINS = 96
BRIGHTEST = 1.5
"""Upper end of the histogram."""


@dataclass(frozen=True)
class Tissue:
    """A tissue's proton density (water is 1), and relaxation times at each of `FIELDS_T`."""

    name: str
    proton_density: float
    t1_ms: tuple[float, float, float]
    t2_ms: tuple[float, float, float]

    def relaxation_ms(self, field_strength_t: float) -> tuple[float, float]:
        """T1 and T2."""
        at = np.log(field_strength_t)
        fields = np.log(FIELDS_T)
        t1, t2 = (float(np.exp(np.interp(at, fields, np.log(times)))) for times in (self.t1_ms, self.t2_ms))
        return t1, t2


FIELDS_T = (0.05, 1.5, 3.0)
FLUID = Tissue("fluid", 1.0, (4000, 4000, 4000), (1600, 1600, 1600))
GREY = Tissue("grey matter", 0.82, (325, 1125, 1820), (100, 95, 99))
WHITE = Tissue("white matter", 0.70, (275, 885, 1085), (100, 72, 69))

DARK_TO_BRIGHT = {"t1": (FLUID, GREY, WHITE), "t2": (WHITE, GREY, FLUID)}


def signal(tissue: Tissue, config: AcquisitionConfig) -> float:
    """Steady-state signal of a tissue, 1 for water in thermal equilibrium after 90 degrees.

    Spoiled gradient echo: Ernst's formula with T2 in place of T2*, which the off-resonance map is to bring. Spin echo: the same
    excitation, T2 decay until the echo; what the refocusing pulse does to longitudinal magnetisation is left out (TE << TR).
    """
    t1, t2 = tissue.relaxation_ms(config.field_strength_t)
    recovery = np.exp(-config.repetition_time_ms / t1)
    flip = np.deg2rad(config.flip_angle_deg)
    steady = np.sin(flip) * (1 - recovery) / (1 - np.cos(flip) * recovery)
    return float(tissue.proton_density * steady * np.exp(-config.echo_time_ms / t2))


@dataclass(frozen=True)
class Recolouring:
    """A piecewise linear curve from a volume's brightness to signal.

    Attributes:
        brightness: mean of each class in the volume, from dark to bright, ``(3,)``.
        signals: of the tissue that each class is taken for, ``(3,)``.
    """

    brightness: tuple[float, ...]
    signals: tuple[float, ...]

    def __call__(self, magnitude: Magnitude) -> Magnitude:
        """Air stays dark; above the brightest class the signal grows in proportion."""
        beyond = 10 * BRIGHTEST
        curve = np.interp(
            magnitude,
            [0.0, *self.brightness, beyond],
            [0.0, *self.signals, self.signals[-1] * beyond / self.brightness[-1]],
        )
        return np.asarray(curve, dtype=np.float32)


def recolouring(voxels: Magnitude, config: AcquisitionConfig) -> Recolouring | None:
    """The curve for a volume whose bright voxels are at 1; None where the volume's contrast is kept."""
    if config.source_weighting == "keep":
        return None
    tissues = DARK_TO_BRIGHT[config.source_weighting]
    return Recolouring(_class_means(voxels), tuple(signal(tissue, config) for tissue in tissues))


def _class_means(voxels: Magnitude) -> tuple[float, ...]:
    """Means of three classes of brightness, by the two thresholds that leave the least variance within (Otsu, IEEE Trans Syst Man
    Cybern 9:62, 1979)."""
    counts, edges = np.histogram(voxels, HISTOGRAM_BINS, (AIR_LEVEL, BRIGHTEST))
    centres = (edges[:-1] + edges[1:]) / 2
    weight = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * centres)])

    def between(starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        w = weight[stops] - weight[starts]
        m = moment[stops] - moment[starts]
        return np.asarray(np.where(w > 0, m * m / np.maximum(w, 1), -np.inf))

    first, second = np.meshgrid(np.arange(1, HISTOGRAM_BINS), np.arange(1, HISTOGRAM_BINS), indexing="ij")
    none, all_of_them = np.zeros_like(first), np.full_like(first, HISTOGRAM_BINS)
    score = between(none, first) + between(first, np.maximum(first, second)) + between(second, all_of_them)
    score[second <= first] = -np.inf
    if not np.isfinite(score.max()):
        raise ValueError("the volume has no three classes of brightness to recolour; use source_weighting = 'keep'")
    one, two = np.unravel_index(int(np.argmax(score)), score.shape)
    cuts = (0, int(one) + 1, int(two) + 1, HISTOGRAM_BINS)
    return tuple(float((moment[b] - moment[a]) / (weight[b] - weight[a])) for a, b in zip(cuts[:-1], cuts[1:]))
