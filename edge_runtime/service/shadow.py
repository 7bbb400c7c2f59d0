"""A new model beside the running one on the samples of the last scans: what it makes of them is compared, and thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_runtime.errors import Abandoned, EdgeRuntimeError, EngineError
from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.modalities.mri.reconstruct import reconstruct
from edge_runtime.scan import Evidence, Method
from edge_runtime.service.recent import KeptSlice

RESIDUAL_MARGIN = 0.05
"""By how much of the running model's the held-out residual may be larger, in the median of the slices."""

TIME_MARGIN = 1.5
"""How many times as long it may take, in the median."""

LEAST_EXTRA_S = 0.02
"""What it may always take longer: small slices take no time."""


@dataclass(frozen=True)
class Limits:
    """How much worse a new model may be.

    Attributes:
        residual_margin: of the held-out residual, as a share of the running model's.
        time_margin: times as long.
    """

    residual_margin: float = RESIDUAL_MARGIN
    time_margin: float = TIME_MARGIN


@dataclass(frozen=True)
class Comparison:
    """Medians over the slices.

    Attributes:
        slices: that both models reconstructed.
        residual_ratio: of the held-out residuals, new over running; ``None`` where no samples could be held out.
        candidate_ms, incumbent_ms: time to the learned image.
        objection: why the new model is not good enough; empty where it is.
    """

    slices: int
    residual_ratio: float | None
    candidate_ms: float
    incumbent_ms: float
    objection: str = ""

    def __str__(self) -> str:
        ratio = (
            "no samples held out"
            if self.residual_ratio is None
            else f"held-out residual {self.residual_ratio:.3f} times"
        )
        return f"{self.slices} slices: {ratio}, {self.candidate_ms:.0f} ms against {self.incumbent_ms:.0f}"


def compare(
    candidate: Learned,
    incumbent: Learned,
    slices: Sequence[KeptSlice],
    plans: Plans,
    limits: Limits,
    wanted: Callable[[], bool] = lambda: True,
) -> Comparison:
    """Both models on each slice, in turn; the same samples are held out of both.

    Args:
        slices: at least one.
        wanted: asked before every step that takes long.

    Raises:
        Abandoned: it was not wanted any more.
    """
    ratios, mine_s, theirs_s = [], [], []
    done = 0
    for one in slices:
        try:
            theirs, seconds = _learned(incumbent, one, plans, wanted)
        except Abandoned:
            raise
        except EdgeRuntimeError:
            continue  # the running model does not take this slice either: nothing to compare with
        theirs_s.append(seconds)
        try:
            mine, seconds = _learned(candidate, one, plans, wanted)
        except Abandoned:
            raise
        except EdgeRuntimeError as error:
            return Comparison(done, None, 0.0, 0.0, f"it failed on a slice of scan {one.scan_id}: {error}")
        mine_s.append(seconds)
        if mine.held_out_residual is not None and theirs.held_out_residual:
            ratios.append(mine.held_out_residual / theirs.held_out_residual)
        done += 1
    if not done:
        return Comparison(
            0, None, 0.0, 0.0, "the running model takes none of the last slices either: scan once more, then swap"
        )
    ratio = statistics.median(ratios) if ratios else None
    mine_ms, theirs_ms = 1e3 * statistics.median(mine_s), 1e3 * statistics.median(theirs_s)
    objection = ""
    if ratio is not None and not ratio <= 1 + limits.residual_margin:
        most = 1 + limits.residual_margin
        objection = f"its held-out residual is {ratio:.3f} times the running model's; at most {most:g} is accepted"
    elif mine_ms > max(limits.time_margin * theirs_ms, theirs_ms + 1e3 * LEAST_EXTRA_S):
        most = limits.time_margin
        objection = f"it takes {mine_ms:.0f} ms where the running model takes {theirs_ms:.0f}; at most {most:g} times is accepted"
    return Comparison(done, ratio, mine_ms, theirs_ms, objection)


def _learned(model: Learned, one: KeptSlice, plans: Plans, wanted: Callable[[], bool]) -> tuple[Evidence, float]:
    """Evidence of the learned image, and the seconds it took.

    Raises:
        EdgeRuntimeError: it could not be made, or is not finite.
    """
    began = time.monotonic()
    images = reconstruct(one.samples, one.calibration, model, plans, wanted)
    try:
        for (
            method,
            made,
        ) in images:  # the learned image comes first; where the network failed, its error after the others
            if method is Method.LEARNED and made.evidence is not None:
                return made.evidence, time.monotonic() - began
    except EdgeRuntimeError:
        raise
    except Exception as error:  # whatever a network of others fails with
        raise EngineError(f"{type(error).__name__}: {error}") from error
    raise EngineError("no learned image was made")
