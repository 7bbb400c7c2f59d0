"""How every method and form fares on one case."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from threadpoolctl import threadpool_limits

from edge_runtime.hil.quality import Magnitude, compare_within
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.modalities.mri.reconstruct import reconstruct
from edge_runtime.scan import Method
from export.qualification.cases import Case, CaseName, NotJudged, Sources
from export.qualification.rings import flagged_patches, flagged_share, largest_group
from export.qualification.structure import structure_error

CLASSICAL, ZERO_FILLED = "classical", "zero-filled"

Models = Mapping[str, Learned]
"""By precision."""


def learned(precision: str) -> str:
    """The name of the learned method in that precision."""
    return f"learned {precision}"


@dataclass(frozen=True)
class Row:
    """One image against its reference.

    Attributes:
        case, group, acceleration: of which scan.
        method: `CLASSICAL`, `ZERO_FILLED` or `learned`.
        nrmse, psnr_db, ssim: see `edge_runtime.hil.quality`.
        flagged: share of its patches with structure that the reference has not (`rings`).
        flagged_group: patches in the largest group of neighbours that are flagged here and not in the classical image.
        structure_error: the largest error of a small structure's size beyond the classical image's (`structure`).
        believed: share of the network's correction that the held-out samples let pass; ``None`` where there is none.

    Raises:
        ValueError: a value is not finite; least and greatest of several would hide it.
    """

    case: str
    group: str
    acceleration: int
    method: str
    nrmse: float
    psnr_db: float
    ssim: float
    flagged: float
    flagged_group: int
    structure_error: float
    believed: float | None

    def __post_init__(self) -> None:
        for name in ("nrmse", "psnr_db", "ssim", "flagged", "structure_error"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(
                    f"{self.case}, {self.method}: {name} = {getattr(self, name)}: a finite number is expected"
                )


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        left_out: why it was not judged; empty where it was.
    """

    rows: Sequence[Row]
    left_out: str = ""


def images(case: Case, models: Models, plans: Plans) -> dict[str, tuple[Magnitude, float | None]]:
    """Magnitude image ``(phase_encodes, columns)`` and share believed, by method, as a session makes them."""
    made: dict[str, tuple[Magnitude, float | None]] = {}
    for precision, model in models.items():
        for method, one in reconstruct(case.samples, case.calibration, model, plans):
            if method is Method.LEARNED:
                made[learned(precision)] = one.image, one.evidence.learned_share if one.evidence else None
            elif method is Method.CLASSICAL:
                made[CLASSICAL] = one.image, None
            else:
                made[ZERO_FILLED] = one.image, None
    return made


def judge(case: Case, models: Models, plans: Plans) -> list[Row]:
    """A row a method."""
    made = images(case, models, plans)
    classical = made[CLASSICAL][0]
    also = flagged_patches(classical, case.reference, case.where)
    rows = []
    for method, (image, believed) in made.items():
        quality = compare_within(image, case.reference, case.where)
        rows.append(
            Row(
                str(case.name),
                case.name.group,
                case.name.acceleration,
                method,
                quality.nrmse,
                quality.psnr_db,
                quality.ssim,
                flagged_share(image, case.reference, case.where),
                largest_group(flagged_patches(image, case.reference, case.where), also),
                structure_error(image, classical, case.reference, case.where).share,
                believed,
            )
        )
    return rows


def outcome(name: CaseName, sources: Sources, models: Models) -> Outcome:
    """The rows of a case, or why there are none.

    Linear algebra runs on one thread, as workers of a cluster have it: sums depend on how many there are.
    """
    plans = Plans(Workers(threads=1))
    with threadpool_limits(1):
        try:
            return Outcome(judge(sources.case(name, plans), models, plans))
        except NotJudged as why:
            return Outcome([], str(why))


def summary(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """NRMSE, PSNR, SSIM and flagged share of rows: the median and, in brackets, the worst."""

    def cell(values: list[float], worst: Callable[[list[float]], float], digits: int) -> str:
        return f"{median(values):.{digits}f} ({worst(values):.{digits}f})"

    return (
        cell([row.nrmse for row in rows], max, 4),
        cell([row.psnr_db for row in rows], min, 2),
        cell([row.ssim for row in rows], min, 4),
        cell([row.flagged for row in rows], max, 3),
    )
