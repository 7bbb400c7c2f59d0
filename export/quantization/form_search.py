"""The search for the parts of a model that stay in floating point, whatever a part and a form are.

Every part is quantized alone and ranked by what that costs over what it saves. Then all but the first k of the ranking are
quantized, for every k, and each such form is measured as it would run: its images after the whole reconstruction and its time. Of
these one is taken (`export.quantization.choice`). What was measured is kept in a file, so that an interrupted search goes on where
it stopped.
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

from edge_runtime.engines import Session, Tensor
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.quality import Quality
from edge_runtime.kernels import instruction_set
from export.quantization.choice import Budget, Candidate, Measured, Sensitivity, candidates_of, choice, ranked
from export.quantization.scans import Loss, ValidationScan, loss
from export.remembered import Remembered


@dataclass(frozen=True)
class SearchResult:
    """The whole search.

    Attributes:
        sensitivities: dearest part first.
        fp32_time_ms: of the FP32 form, one thread.
        fp16: the form in half precision; its time is that of the engine that every device has, which sums in single precision.
        candidates: by the number of parts kept.
        chosen: see `export.quantization.choice.choice`; ``None`` where no form is within the budget.
    """

    sensitivities: tuple[Sensitivity, ...]
    fp32_time_ms: float
    fp16: Measured
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None

    def beside(self, other: SearchResult, budget: Budget) -> SearchResult:
        """The same with the candidates of another search, of which both then choose."""
        candidates = candidates_of([*self.candidates, *other.candidates], budget)
        return replace(self, candidates=candidates, chosen=choice(candidates))


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
        self._engine = OnnxRuntimeEngine()
        here = {"scans": _digest_of(scans), "processor": f"{platform.machine()} {instruction_set()}"}
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
    def _qualities(self, form: Form) -> list[Quality]:
        """Of the images of every scan."""

    @abstractmethod
    def _time_of(self, form: Form) -> float:
        """Milliseconds for one image, one thread."""

    def run(self, budget: Budget) -> SearchResult:
        """Ranks the parts, measures the front, and chooses."""
        ranking = self._ranking()
        measured: list[Measured] = []
        for count in range(len(ranking)):
            kept = tuple(sensitivity.layer for sensitivity in ranking[:count])
            form = self._measured(f"kept {' '.join(sorted(kept))}", kept, partial(self.form, kept))
            self._report(
                f"{count} of {len(ranking)} {self.part_is_called}s in floating point: {form.time_ms:.2f} ms, loses "
                f"{form.lost.psnr_db:.3f} dB and {form.lost.ssim:.4f} SSIM at worst ({form.lost.worst_scan})"
            )
            measured.append(form)
        candidates = candidates_of(measured, budget)
        fp32_time_ms = float(self._results.remembered("time fp32", lambda: self._time_of(self._full())))
        fp16 = replace(self._measured("fp16", (), self.half), finetuned_steps=0)
        return SearchResult(ranking, fp32_time_ms, fp16, candidates, choice(candidates))

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
        pairs = zip(self._full_qualities(), self._qualities(form), strict=True)
        return statistics.fmean(full.psnr_db - quantized.psnr_db for full, quantized in pairs)

    def _measured(self, name: str, kept: tuple[str, ...], form: Callable[[], Form]) -> Measured:
        def measure() -> dict[str, object]:
            made = form()
            lost = loss(self._scans, self._full_qualities(), self._qualities(made))
            return {"time_ms": self._time_of(made), "lost": asdict(lost)}

        known = self._results.remembered(name, measure)
        return Measured(kept, float(known["time_ms"]), Loss(**known["lost"]), self.finetuned_steps)

    def _full_qualities(self) -> list[Quality]:
        found = self._results.remembered(
            "qualities fp32", lambda: [asdict(one) for one in self._qualities(self._full())]
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
