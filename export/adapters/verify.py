"""Both sides of an import, stage by stage: the split program must do what the original does, or is refused.

The program runs through once per case, each stage on what the stages before it made, so that what is compared is what will run. The
first stage in order whose value is too far from the original's is the one that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from edge_runtime.engines import Engine
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.given import Acquisition, Given, Value
from edge_runtime.program.stages import Stage
from export.adapters.errors import ImportRefused
from export.adapters.inputs import Case
from export.adapters.program import SplitProgram, interpreter_of

TOLERANCE = 1e-4
"""Largest difference that is taken unless another is given. Rounding in single precision was seen to stay below a tenth of it."""


MOST_TOLD = 300
"""Characters of somebody else's error that are shown."""


class Original(Protocol):
    """What a program is compared with."""

    def stages(self, given: Given) -> Mapping[str, Value]:
        """What the model computes, by the names of the program's stages, in the program's own shapes."""
        ...


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
    program: SplitProgram,
    engine: Engine,
    original: Original,
    cases: Iterable[Case],
    tolerance: float,
    progress: Callable[[CaseReport], None] = lambda _: None,
) -> tuple[CaseReport, ...]:
    """Runs both sides on every case.

    Args:
        progress: is told every case when it is done.

    Raises:
        ImportRefused: the original fails, or a stage departs from it; names program, stage, case, difference and tolerance.
        ProgramRefused: an input is none that the program takes.
        EngineError: a graph could not be run.
    """
    interpreter, plans, reports = interpreter_of(program, engine), Plans(Workers(1)), []
    for case in cases:
        expected = _expected(program.name, original, case)
        differences: list[StageDifference] = []
        interpreter.run(case.given, plans, partial(_judge, program.name, case.name, expected, tolerance, differences))
        reports.append(CaseReport(case.name, case.origin, tuple(differences)))
        progress(reports[-1])
    return tuple(reports)


def _expected(program: str, original: Original, case: Case) -> Mapping[str, Value]:
    """What the original makes of a case; it may write into what it is given, which the program gets as well."""
    given = case.given
    if isinstance(given, Acquisition):
        maps = None if given.maps is None else given.maps.copy()
        own: Given = Acquisition(given.hybrid.copy(), given.mask.copy(), maps)
    else:
        own = given.copy()
    try:
        return original.stages(own)
    except EdgeRuntimeError:
        raise
    except Exception as error:  # code of others runs here, and may raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        raise ImportRefused(
            f"{program}: the original fails on {case.name}: {type(error).__name__}: {told[:MOST_TOLD]}; where it takes some sizes "
            "alone, [image] says which: multiple and least, or rows and columns"
        ) from error


def _judge(
    program: str,
    case: str,
    expected: Mapping[str, Value],
    tolerance: float,
    before: list[StageDifference],
    stage: Stage,
    value: Value,
) -> None:
    """Adds a stage's difference to those before it, or refuses it."""
    if stage.name not in expected:
        raise ImportRefused(f"{program}: {stage.name}: the original never came to this stage on {case}")
    found = _difference(stage.name, value, expected[stage.name])
    if not found.difference <= tolerance:  # nor is NaN
        raise ImportRefused(
            f"{program}: {stage.name}: departs from the original by {found.difference:.2e} (tolerance {tolerance:g}) on {case}; "
            f"stages before it differ by at most {max((one.difference for one in before), default=0.0):.2e}"
        )
    before.append(found)


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
