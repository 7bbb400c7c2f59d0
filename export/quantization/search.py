"""Which layers stay in floating point: those that cost the most image quality per microsecond that INT8 saves on them.

Every layer is quantized alone and the images of all validation scans are compared with those of the FP32 graph; the layers are
ranked by what that costs over what it saves. Then all layers but the first k of the ranking are quantized, for every k, and each
such form is measured as it would run: its images after the whole reconstruction and the time of the whole graph. The fastest form
within the budget is chosen (`choice`). What was measured is kept in a file, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.hil.quality import Quality
from export.quantization.forms import int8_form
from export.quantization.layers import layer_times_us, layers_of
from export.quantization.scans import Loss, ValidationScan, loss, qualities
from export.remembered import Remembered

TIMED_RUNS = 15
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
        return lost.psnr_db <= self.psnr_db and lost.ssim <= self.ssim


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
class Candidate:
    """One form of the graph.

    Attributes:
        kept: layers in floating point.
        time_ms: of the whole graph on one thread, the least of several runs.
        lost: on the worst validation scan.
        admitted: within the budget.
        on_front: no other candidate is both faster and better.
    """

    kept: tuple[str, ...]
    time_ms: float
    lost: Loss
    admitted: bool
    on_front: bool


@dataclass(frozen=True)
class SearchResult:
    """The whole search.

    Attributes:
        sensitivities: dearest layer first.
        fp32_time_ms: of the FP32 graph, one thread.
        candidates: by the number of layers kept.
        chosen: see `choice`.
    """

    sensitivities: tuple[Sensitivity, ...]
    fp32_time_ms: float
    candidates: tuple[Candidate, ...]
    chosen: Candidate


def choice(admitted: Sequence[Candidate]) -> Candidate:
    """The fastest form, or where others take as long within what timing can tell, the one of them with the fewest layers in float.

    On processors where INT8 gains little, chance would choose otherwise; elsewhere that form is the faster one, and it is smaller.
    """
    fastest = min(candidate.time_ms for candidate in admitted)
    as_fast = [candidate for candidate in admitted if candidate.time_ms <= fastest * (1 + TIMING_TELLS)]
    return min(as_fast, key=lambda candidate: (len(candidate.kept), candidate.time_ms))


class Search:
    """Measures forms of one graph.

    Args:
        fp32: the graph.
        prepared, ranges: files of `forms.write_prepared` and `ranges.write_ranges`.
        settings: of the reconstruction around it.
        scans: what images are compared on.
        image: an input of the size whose time counts, ``(1, channels, rows, columns)``.
        kept_results: file that remembers measurements.
        report: told in words what was measured.
    """

    def __init__(
        self,
        fp32: bytes,
        prepared: Path,
        ranges: Path,
        settings: UnrolledSettings,
        scans: Sequence[ValidationScan],
        image: npt.NDArray[np.float32],
        kept_results: Path,
        report: Callable[[str], None],
    ) -> None:
        self._fp32, self._prepared, self._ranges = fp32, prepared, ranges
        self._settings, self._scans, self._image = settings, scans, image
        self._report = report
        self._engine = OnnxRuntimeEngine()
        self._layers = layers_of(prepared)
        self._results = Remembered(kept_results, self._identity())
        self._full: list[Quality] | None = None

    def run(self, budget: Budget) -> SearchResult:
        """Ranks the layers, measures the front, and chooses.

        Raises:
            BudgetMissed: not even the form with every layer but one in floating point is admitted.
        """
        ranking = self._ranking()
        measured: list[tuple[tuple[str, ...], float, Loss]] = []
        for count in range(len(ranking)):
            kept = tuple(sensitivity.layer for sensitivity in ranking[:count])
            time_ms, lost = self._measure(kept)
            self._report(
                f"{count} of {len(ranking)} layers in floating point: {time_ms:.2f} ms, loses {lost.psnr_db:.3f} dB and "
                f"{lost.ssim:.4f} SSIM at worst ({lost.worst_scan})"
            )
            measured.append((kept, time_ms, lost))
        candidates = tuple(
            Candidate(
                kept, time_ms, lost, budget.admits(lost),
                not any(t <= time_ms and o.psnr_db <= lost.psnr_db and (t, o) != (time_ms, lost) for _, t, o in measured),
            )
            for kept, time_ms, lost in measured
        )  # fmt: skip
        admitted = [candidate for candidate in candidates if candidate.admitted]
        if not admitted:
            best = min(candidates, key=lambda candidate: candidate.lost.psnr_db)
            raise BudgetMissed(
                f"no INT8 form loses at most {budget.psnr_db:g} dB and {budget.ssim:g} SSIM: the best, with {len(best.kept)} "
                f"layers in floating point, loses {best.lost.psnr_db:.3f} dB and {best.lost.ssim:.4f} ({best.lost.worst_scan}); "
                "raise the budget, calibrate on more scans, or train with less noise"
            )
        chosen = choice(admitted)
        return SearchResult(tuple(ranking), self._time_of(self._fp32), candidates, chosen)

    def form(self, kept: Collection[str]) -> bytes:
        """The INT8 form with the layers of those names in floating point."""
        nodes = [node for layer in self._layers if layer.name in kept for node in layer.nodes]
        return int8_form(self._prepared, self._ranges, nodes)

    def _ranking(self) -> list[Sensitivity]:
        names = [layer.name for layer in self._layers]
        before = layer_times_us(self._prepared.read_bytes(), self._layers, self._image)
        after = layer_times_us(self.form(()), self._layers, self._image)
        found = []
        for name in names:
            lost = self._results.remembered(f"alone {name}", lambda name=name: self._mean_loss(set(names) - {name}))  # type: ignore[misc]
            found.append(Sensitivity(name, float(lost), before[name] - after[name]))
            self._report(f"{name} alone in INT8 loses {lost:.4f} dB in the mean and saves {found[-1].saved_us:.0f} us")
        return sorted(found, key=lambda sensitivity: sensitivity.cost, reverse=True)

    def _mean_loss(self, kept: Collection[str]) -> float:
        form = self._qualities(self.form(kept))
        return statistics.fmean(a.psnr_db - b.psnr_db for a, b in zip(self._full_qualities(), form, strict=True))

    def _measure(self, kept: tuple[str, ...]) -> tuple[float, Loss]:
        def measure() -> dict[str, object]:
            graph = self.form(kept)
            lost = loss(self._scans, self._full_qualities(), self._qualities(graph))
            return {"time_ms": self._time_of(graph), "lost": asdict(lost)}

        known = self._results.remembered(f"kept {' '.join(sorted(kept))}", measure)
        return float(known["time_ms"]), Loss(**known["lost"])

    def _full_qualities(self) -> list[Quality]:
        if self._full is None:
            self._full = self._qualities(self._fp32)
        return self._full

    def _qualities(self, graph: bytes) -> list[Quality]:
        return qualities(self._scans, self._settings, self._engine.plan(graph, threads=1))

    def _time_of(self, graph: bytes) -> float:
        session = self._engine.plan(graph, threads=1)
        times = []
        for _ in range(TIMED_RUNS):
            began = time.perf_counter()
            session.run(self._image)
            times.append(1e3 * (time.perf_counter() - began))
        return min(times)  # whatever else the machine does only adds

    def _identity(self) -> str:
        """Of all that measurements hang on, so that those of another graph are not taken for this one's."""
        digest = hashlib.sha256(self._fp32)
        digest.update(self._ranges.read_bytes())
        for scan in self._scans:
            digest.update(scan.reference.tobytes())
        return digest.hexdigest()
