"""Which of the measured forms is taken: order of the layers, Pareto front and choice, from numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.errors import EdgeRuntimeError
from export.config import ConfigError
from export.quantization.scans import Loss

TIMING_TELLS = 0.05
"""Forms whose times differ by less than this share count as equally fast."""

LEAST_SAVING_US = 1.0
"""Layers that INT8 makes no faster are ranked by this saving: they are kept before all that lose as much."""


class BudgetMissed(EdgeRuntimeError):
    """No form of the graph stays within the budget of quality."""


@dataclass(frozen=True)
class Budget:
    """What a form may lose against FP32 on any validation scan."""

    psnr_db: float
    ssim: float

    def admits(self, lost: Loss) -> bool:
        """Whether both losses are within it."""
        return lost.psnr_db <= self.psnr_db and lost.ssim <= self.ssim

    def __str__(self) -> str:
        return f"{self.psnr_db:g} dB and {self.ssim:g} SSIM"


def budget_of(limits: Mapping[str, Mapping[str, float]]) -> Budget:
    """What the limits of a configuration let INT8 lose.

    Raises:
        ConfigError: they do not say.
    """
    try:
        return Budget(limits["int8_loss_db"]["at_most"], limits["int8_loss_ssim"]["at_most"])
    except KeyError as error:
        raise ConfigError(
            f"[limits] {error.args[0]}: the search for an INT8 form needs int8_loss_db and int8_loss_ssim, each with at_most"
        ) from error


@dataclass(frozen=True)
class Sensitivity:
    """One layer quantized alone.

    Attributes:
        lost_psnr_db: mean over the validation scans.
        saved_us: time of the layer in FP32 less that in INT8, one thread.
    """

    layer: str
    lost_psnr_db: float
    saved_us: float

    @property
    def cost(self) -> float:
        """Decibels a microsecond."""
        return max(self.lost_psnr_db, 0.0) / max(self.saved_us, LEAST_SAVING_US)


@dataclass(frozen=True)
class OnEngine:
    """One form on one engine.

    Attributes:
        engine: as `export.quantization.judges` names it.
        time_ms: of the whole graph on one thread, the least of several runs.
        lost: on the worst validation scan, against FP32 on ONNX Runtime.
    """

    engine: str
    time_ms: float
    lost: Loss


@dataclass(frozen=True)
class Measured:
    """One form of the graph.

    Attributes:
        kept: layers in floating point.
        time_ms: of the whole graph on ONNX Runtime and one thread, the least of several runs.
        lost: on the worst validation scan, and the worst engine.
        finetuned_steps: of the weights, under INT8's rounding; 0 for the weights that were trained.
        engines: what was measured on each.
    """

    kept: tuple[str, ...]
    time_ms: float
    lost: Loss
    finetuned_steps: int = 0
    engines: tuple[OnEngine, ...] = ()

    def dominates(self, other: Measured) -> bool:
        """Whether it is nowhere worse than the other, in time, PSNR and SSIM, and somewhere better."""
        mine = (self.time_ms, self.lost.psnr_db, self.lost.ssim)
        theirs = (other.time_ms, other.lost.psnr_db, other.lost.ssim)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True, kw_only=True)
class Candidate(Measured):
    """A form among all.

    Attributes:
        admitted: within the budget.
        on_front: no other form, FP32 and FP16 too, is as fast and as good in PSNR and SSIM, and better in one; equal ones each are.
    """

    admitted: bool
    on_front: bool


def ranked(sensitivities: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """The layers, dearest first; those that cost the same in the order in which they come."""
    return tuple(sorted(sensitivities, key=lambda one: one.cost, reverse=True))


def candidates_of(measured: Sequence[Measured], budget: Budget) -> tuple[Candidate, ...]:
    """The forms in the order in which they come, with what of them is within the budget and on the front."""
    return tuple(
        Candidate(
            one.kept,
            one.time_ms,
            one.lost,
            one.finetuned_steps,
            one.engines,
            admitted=budget.admits(one.lost),
            on_front=not any(other.dominates(one) for other in measured),
        )
        for one in measured
    )


def choice(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest form within the budget, or where others take as long within what timing can tell, the one of them with the fewest
    layers in float, with the weights that were trained where others serve no better; ``None`` where none is within the budget.

    On processors where INT8 gains little, chance would choose otherwise; elsewhere that form is the faster one, and it is smaller.
    """
    admitted = [candidate for candidate in candidates if candidate.admitted]
    if not admitted:
        return None
    fastest = min(candidate.time_ms for candidate in admitted)
    as_fast = [candidate for candidate in admitted if candidate.time_ms <= fastest * (1 + TIMING_TELLS)]
    return min(as_fast, key=lambda one: (len(one.kept), one.finetuned_steps, one.time_ms))


def no_faster(chosen: Measured, fp32: Measured) -> tuple[str, ...]:
    """What to warn of: the engines on which a form takes as long as FP32 within what timing can tell, or longer, in words."""
    full = {one.engine: one.time_ms for one in fp32.engines}
    found = []
    for one in chosen.engines:
        name = one.engine.partition(",")[0]
        if name in full and one.time_ms > full[name] * (1 - TIMING_TELLS):
            found.append(f"{one.engine} ({one.time_ms:.2f} ms, FP32 {full[name]:.2f} ms)")
    return tuple(found)


def budget_missed(candidates: Sequence[Candidate], budget: Budget) -> BudgetMissed:
    """The error that says what the best form loses, where none is within the budget."""
    best = min(candidates, key=lambda candidate: candidate.lost.psnr_db)
    return BudgetMissed(
        f"no INT8 form loses at most {budget}: the best, with {len(best.kept)} layers in floating point, loses "
        f"{best.lost.psnr_db:.3f} dB and {best.lost.ssim:.4f} SSIM ({best.lost.worst_scan}); raise the budget, calibrate on more "
        "scans, fine-tune (--finetune STEPS), or train with less noise"
    )
