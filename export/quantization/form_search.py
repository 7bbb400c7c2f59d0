"""The search for the parts of a model that stay in floating point, whatever a part and a form are.

Every part is quantized alone and ranked by what that costs over what it saves. Then all but the first k of the ranking are
quantized, for every k, and each such form is measured as it would run: its images after the whole reconstruction on every engine
that is here (`export.quantization.judges`) and its time. Of these one is taken (`export.quantization.choice`). What was measured is
kept in a file, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from edge_runtime.engines import Engine, Session, Tensor
from edge_runtime.errors import EngineError
from edge_runtime.hil.quality import Quality
from edge_runtime.kernels import instruction_set
from export.quantization.choice import (
    Budget,
    Candidate,
    Measured,
    OnEngine,
    Sensitivity,
    candidates_of,
    choice,
    no_faster,
    ranked,
)
from export.quantization.judges import Judge, judges
from export.quantization.scans import Loss, ValidationScan, loss, worst_of
from export.remembered import Remembered

NO_FASTER = "a profile of such a device had better name fp32 first; INT8 is for processors with VNNI or AMX"


@dataclass(frozen=True)
class SearchResult:
    """The whole search.

    Attributes:
        sensitivities: dearest part first.
        fp32: what the others are held against; it loses what engines differ in.
        fp16: the form in half precision; its time is that of the engine that every device has, which sums in single precision.
        candidates: INT8 forms by the number of parts kept.
        chosen: see `export.quantization.choice.choice`; ``None`` where no form is within the budget.
    """

    sensitivities: tuple[Sensitivity, ...]
    fp32: Candidate
    fp16: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None

    def beside(self, other: SearchResult, budget: Budget) -> SearchResult:
        """The same with the candidates of another search, of which both then choose."""
        return _result(self.sensitivities, self.fp32, self.fp16, (*self.candidates, *other.candidates), budget)


def _result(
    ranking: tuple[Sensitivity, ...], fp32: Measured, fp16: Measured, forms: Sequence[Measured], budget: Budget
) -> SearchResult:
    full, half, *candidates = candidates_of([fp32, fp16, *forms], budget)
    return SearchResult(ranking, full, half, tuple(candidates), choice(candidates))


Form = TypeVar("Form")


class FormSearch(ABC, Generic[Form]):
    """Measures forms of one model.

    Args:
        scans: what images are compared on.
        kept_results: file that remembers measurements.
        identity: of all that they hang on beside the scans and this processor.
        report: told in words what was measured.
    """

    part_is_called = "part"
    finetuned_steps = 0

    def __init__(
        self,
        scans: Sequence[ValidationScan],
        kept_results: Path,
        identity: dict[str, str],
        report: Callable[[str], None],
    ) -> None:
        self._scans, self._report = scans, report
        self._judges = judges(report)
        self._engine = self._judges["int8"][0].engine
        here = {
            "scans": _digest_of(scans),
            "processor": f"{platform.machine()} {instruction_set()}",
            "engines": ", ".join(f"{judge.name}: {judge.engine.version()}" for judge in self._judges["int8"]),
        }
        self._results = Remembered(kept_results, {**identity, **here})
        if said := self._results.beginning():
            report(said)

    @abstractmethod
    def form(self, kept: Collection[str]) -> Form:
        """The INT8 form with the parts of those names in floating point."""

    @abstractmethod
    def half(self) -> Form:
        """The form in half precision."""

    @abstractmethod
    def _full(self) -> Form:
        """What the others are held against."""

    @abstractmethod
    def _parts(self) -> Sequence[str]:
        """Names of what can be quantized by itself."""

    @abstractmethod
    def _alone(self, name: str, others: Collection[str]) -> Sensitivity:
        """A part quantized while the others are not."""

    @abstractmethod
    def _qualities(self, form: Form, engine: Engine) -> list[Quality]:
        """Of the images of every scan."""

    @abstractmethod
    def _time_of(self, form: Form, engine: Engine) -> float:
        """Milliseconds for one image, one thread."""

    def run(self, budget: Budget) -> SearchResult:
        """Ranks the parts, measures the front, and chooses."""
        self._leave_out_engines()
        ranking = self._ranking()
        measured: list[Measured] = []
        for count in range(len(ranking)):
            kept = tuple(sensitivity.layer for sensitivity in ranking[:count])
            form = self._measured(f"kept {' '.join(sorted(kept))}", "int8", kept, partial(self.form, kept))
            self._report(
                f"{count} of {len(ranking)} {self.part_is_called}s in floating point: {form.time_ms:.2f} ms, loses "
                f"{form.lost.psnr_db:.3f} dB and {form.lost.ssim:.4f} SSIM at worst ({form.lost.worst_scan})"
            )
            measured.append(form)
        fp32, fp16 = (
            replace(self._measured(precision, precision, (), form), finetuned_steps=0)
            for precision, form in (("fp32", self._full), ("fp16", self.half))
        )
        result = _result(ranking, fp32, fp16, measured, budget)
        if result.chosen is not None and (slow := no_faster(result.chosen, fp32)):
            self._report(f"INT8 SAVES NO TIME HERE on {', '.join(slow)}: {NO_FASTER}")
        return result

    def _leave_out_engines(self) -> None:
        """Engines that can't run the model in single precision don't judge its forms: no device runs it on them."""

        def refusals() -> dict[str, str]:
            found = {}
            for judge in self._judges["fp32"][1:]:
                try:
                    self._time_of(self._full(), judge.engine)
                except EngineError as error:
                    found[judge.engine.name] = str(error)
            return found

        refused = self._results.remembered("engines that refuse", refusals)
        for name, reason in refused.items():
            self._report(f"no form is judged on {name}: {reason}")
        self._judges = {
            precision: tuple(judge for judge in sitting if judge.engine.name not in refused)
            for precision, sitting in self._judges.items()
        }

    def _ranking(self) -> tuple[Sensitivity, ...]:
        names, found = self._parts(), []
        for number, name in enumerate(names, start=1):
            found.append(self._alone(name, set(names) - {name}))
            self._report(
                f"{self.part_is_called} {number} of {len(names)}: {name} alone in INT8 loses {found[-1].lost_psnr_db:.4f} dB "
                f"in the mean and saves {found[-1].saved_us:.0f} us"
            )
        return ranked(found)

    def _mean_loss(self, form: Form) -> float:
        pairs = zip(self._full_qualities(), self._qualities(form, self._engine), strict=True)
        return statistics.fmean(full.psnr_db - quantized.psnr_db for full, quantized in pairs)

    def _measured(self, name: str, precision: str, kept: tuple[str, ...], form: Callable[[], Form]) -> Measured:
        def measure() -> list[dict[str, object]]:
            made = form()
            return [asdict(self._on_engine(made, judge)) for judge in self._judges[precision]]

        known = self._results.remembered(name, measure)
        engines = tuple(OnEngine(one["engine"], float(one["time_ms"]), Loss(**one["lost"])) for one in known)
        worst = worst_of({one.engine: one.lost for one in engines})
        return Measured(kept, engines[0].time_ms, worst, self.finetuned_steps, engines)

    def _on_engine(self, form: Form, judge: Judge) -> OnEngine:
        lost = loss(self._scans, self._full_qualities(), self._qualities(form, judge.engine))
        return OnEngine(judge.name, self._time_of(form, judge.engine), lost)

    def _full_qualities(self) -> list[Quality]:
        found = self._results.remembered(
            "qualities fp32", lambda: [asdict(one) for one in self._qualities(self._full(), self._engine)]
        )
        return [Quality(**one) for one in found]


def least_ms(session: Session, image: Tensor, runs: int) -> float:
    """Of one inference; whatever else the machine does only adds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        session.run(image)
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


def _digest_of(scans: Sequence[ValidationScan]) -> str:
    whole = hashlib.sha256()
    for scan in scans:
        arrays: tuple[Any, ...] = scan.samples.hybrid, scan.samples.measured, scan.reference, scan.where
        for array in arrays:
            whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
