"""Both sides of an import, stage by stage: the split program must do what the original does, or is refused.

The program runs through once per case, each stage on what the stages before it made, so that what is compared is what will run. The
first stage in order whose value is too far from the original's is the one that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from export.adapters.errors import ImportRefused
from export.adapters.inputs import Case
from export.adapters.interpret import Interpreter, Value
from export.adapters.original import Original
from export.adapters.program import Stage

TOLERANCE = 1e-4
"""Largest difference that is taken unless another is given. Rounding in single precision was seen to stay below a tenth of it."""


@dataclass(frozen=True)
class StageDifference:
    """How far a stage's value is from the original's.

    Attributes:
        difference: root mean square of the difference over that of the original's value; what is judged.
        largest: largest difference over the largest of the original's value.
    """

    stage: str
    difference: float
    largest: float


@dataclass(frozen=True)
class CaseReport:
    """One input's stages, in order."""

    case: str
    origin: str
    stages: tuple[StageDifference, ...]

    @property
    def worst(self) -> StageDifference:
        """The stage that is furthest from the original."""
        return max(self.stages, key=lambda one: one.difference)


@dataclass(frozen=True)
class Comparison:
    """Every input's report, all within the tolerance.

    Attributes:
        engine: what ran the graphs.
        notes: what was not compared, and why.
    """

    tolerance: float
    engine: str
    cases: tuple[CaseReport, ...]
    notes: tuple[str, ...]


def compare(
    interpreter: Interpreter,
    original: Original,
    cases: Iterable[Case],
    tolerance: float,
    progress: Callable[[CaseReport], None] = lambda _: None,
) -> tuple[CaseReport, ...]:
    """Runs both sides on every case.

    Args:
        progress: is told every case when it is done.

    Raises:
        ImportRefused: a stage departs from the original; names program, stage, case, difference and tolerance.
        EngineError: a graph could not be run.
    """
    reports = []
    for case in cases:
        expected = original.stages(case.given)
        differences: list[StageDifference] = []

        def look(stage: Stage, value: Value, expected=expected, case=case, differences=differences) -> None:  # type: ignore[no-untyped-def]
            if stage.name not in expected:
                raise ImportRefused(f"{interpreter.program.name}: {stage.name}: the original never came to this stage")
            found = _difference(stage.name, value, expected[stage.name])
            differences.append(found)
            if not found.difference <= tolerance:  # nor is NaN
                raise ImportRefused(
                    f"{interpreter.program.name}: {stage.name}: departs from the original by {found.difference:.2e} "
                    f"(tolerance {tolerance:g}) on {case.name}; stages before it differ by at most "
                    f"{max((one.difference for one in differences[:-1]), default=0.0):.2e}"
                )

        interpreter.run(case.given, look)
        reports.append(CaseReport(case.name, case.origin, tuple(differences)))
        progress(reports[-1])
    return tuple(reports)


def _difference(stage: str, value: Value, expected: Value) -> StageDifference:
    if value.shape != expected.shape:
        raise ImportRefused(f"{stage}: makes {value.shape}, the original {expected.shape}")
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    apart = np.abs(value.astype(wide) - expected.astype(wide))
    size = np.abs(expected.astype(wide))
    rms, peak = float(np.sqrt(np.square(size).mean())), float(size.max())
    if rms == 0:
        return StageDifference(stage, float(apart.max()), float(apart.max()))
    return StageDifference(stage, float(np.sqrt(np.square(apart).mean())) / rms, float(apart.max()) / peak)
