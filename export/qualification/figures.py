"""The few numbers of a report that a configuration's limits bound; units are in the names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from export.qualification.cases import HOME, OFF_DISTRIBUTION
from export.qualification.cost import Cost
from export.qualification.judge import CLASSICAL, Row, learned
from export.qualification.stability import Stability

Compared = TypeVar("Compared", Row, Stability)

SMALLER = ("fp16", "int8")
"""Forms that are held against FP32."""

AWAY = "off_distribution_"
"""Begins the names of figures of what the model was not trained for."""

MEANINGS: Mapping[str, str] = {
    "int8_loss_db": "PSNR of FP32 less that of INT8, worst case as trained for or recorded",
    "int8_loss_ssim": "SSIM of FP32 less that of INT8, likewise",
    "fp16_loss_db": "PSNR of FP32 less that of FP16, where there is such a form, likewise",
    "fp16_loss_ssim": "SSIM of FP32 less that of FP16, likewise",
    "gain_db_median": "PSNR of the learned image less that of the classical one, median of the cases as trained for and recorded",
    "gain_db_worst": "the same, worst case",
    "gain_ssim_worst": "SSIM of the learned image less that of the classical one, worst case",
    "flagged_over_classical_worst": "share of patches with structure that the reference has not, less that of the classical image, "
    "worst case",
    "flagged_group_worst": "patches in the largest group of neighbours that are flagged and not in the classical image, worst case",
    "structure_error_worst": "largest error of a five-pixel structure's size beyond the classical image's, as a share of the "
    "object's brightness, worst case",
    "noise_gain_over_classical_worst": "how much more of new noise reaches the learned image than the classical one, as a factor, "
    "worst case",
    "contrast_kept_worst": "share of a small structure's contrast in the learned image, worst structure",
    "contrast_kept_over_classical_worst": "the same less that in the classical image, worst case",
    **{
        f"{AWAY}{name}": f"{what}, of those it was not trained for"
        for name, what in {
            "gain_db_worst": "PSNR over the classical image, worst case",
            "gain_ssim_worst": "SSIM over the classical image, worst case",
            "flagged_over_classical_worst": "share of flagged patches over the classical image, worst case",
            "flagged_group_worst": "largest group of patches flagged beyond the classical image, worst case",
            "structure_error_worst": "largest error of a five-pixel structure's size beyond the classical image's, worst case",
            "noise_gain_over_classical_worst": "noise gain over the classical image's, as a factor, worst case",
            "contrast_kept_worst": "share of a small structure's contrast, worst structure",
            "contrast_kept_over_classical_worst": "the same less that in the classical image, worst case",
        }.items()
    },
    "image_ms": "samples to learned image, calibration included, 256 x 256, 8 coils, R = 4, on the machine that qualified, "
    "with its threads",
    "memory_mb": "most memory of a process that makes it",
}
"""What each figure says."""


def figures_of(
    rows: Sequence[Row], stabilities: Sequence[Stability], costs: Sequence[Cost], precision: str
) -> dict[str, float]:
    """Figures by name: what every smaller form loses, and the rest of the form that is to run (``precision``)."""
    at_home = [row for row in rows if row.group in HOME]
    method = learned(precision)
    figures: dict[str, float] = {}

    def put(name: str, values: Iterable[float], pick: Callable[[list[float]], float]) -> None:
        found = list(values)
        if found:
            figures[name] = float(pick(found))

    for smaller in SMALLER:
        lost = _pairs(at_home, learned("fp32"), learned(smaller))
        put(f"{smaller}_loss_db", (a.psnr_db - b.psnr_db for a, b in lost), max)
        put(f"{smaller}_loss_ssim", (a.ssim - b.ssim for a, b in lost), max)
    gained = _pairs(at_home, method, CLASSICAL)
    put("gain_db_median", (a.psnr_db - b.psnr_db for a, b in gained), median)
    for prefix, groups in (("", HOME), (AWAY, OFF_DISTRIBUTION)):
        gained = _pairs([row for row in rows if row.group in groups], method, CLASSICAL)
        put(f"{prefix}gain_db_worst", (a.psnr_db - b.psnr_db for a, b in gained), min)
        put(f"{prefix}gain_ssim_worst", (a.ssim - b.ssim for a, b in gained), min)
        put(f"{prefix}flagged_over_classical_worst", (a.flagged - b.flagged for a, b in gained), max)
        put(f"{prefix}flagged_group_worst", (a.flagged_group for a, _ in gained), max)
        put(f"{prefix}structure_error_worst", (a.structure_error for a, _ in gained), max)
        stable = _pairs([one for one in stabilities if one.group in groups], method, CLASSICAL)
        put(f"{prefix}noise_gain_over_classical_worst", (a.noise_gain / b.noise_gain for a, b in stable), max)
        put(f"{prefix}contrast_kept_worst", (a.contrast_kept for a, _ in stable), min)
        put(f"{prefix}contrast_kept_over_classical_worst", (a.contrast_kept - b.contrast_kept for a, b in stable), min)
    dearest = [cost for cost in costs if cost.precision == precision]
    put("image_ms", (cost.image_ms for cost in dearest if cost.threads == max(one.threads for one in dearest)), max)
    put("memory_mb", (cost.memory_mb for cost in dearest), max)
    return figures


def _pairs(rows: Sequence[Compared], one: str, other: str) -> list[tuple[Compared, Compared]]:
    """Two methods on the same case."""
    others = {row.case: row for row in rows if row.method == other}
    return [(row, others[row.case]) for row in rows if row.method == one and row.case in others]
