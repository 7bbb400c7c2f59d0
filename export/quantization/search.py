"""Which layers stay in floating point: those that cost the most image quality per microsecond that INT8 saves on them.

Every layer is quantized alone and the images of all validation scans are compared with those of the FP32 graph; the layers are
ranked by what that costs over what it saves. Then all layers but the first k of the ranking are quantized, for every k, and each
such form is measured as it would run: its images after the whole reconstruction and the time of the whole graph. Of these one is
taken (`export.quantization.choice`). What was measured is kept in a file, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.quality import Quality
from edge_runtime.kernels import instruction_set
from export.digest import made_by
from export.quantization.choice import Budget, Candidate, Measured, Sensitivity, candidates_of, choice, ranked
from export.quantization.forms import fp16_form, int8_form
from export.quantization.layers import layer_times_us, layers_of
from export.quantization.scans import Loss, ValidationScan, loss, qualities
from export.remembered import Remembered

TIMED_RUNS = 15


@dataclass(frozen=True)
class SearchResult:
    """The whole search.

    Attributes:
        sensitivities: dearest layer first.
        fp32_time_ms: of the FP32 graph, one thread.
        fp16: the form in half precision; its time is that of the engine that every device has, which sums in single precision.
        candidates: by the number of layers kept.
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


class Search:
    """Measures forms of one graph.

    Args:
        fp32: the graph that forms are held against.
        prepared, ranges: files of `forms.write_prepared` and `ranges.write_ranges`, of that graph or of one with other weights.
        settings: of the reconstruction around it.
        scans: what images are compared on.
        image: an input of the size whose time counts, ``(1, channels, rows, columns)``; its values do not.
        kept_results: file that remembers measurements.
        report: told in words what was measured.
        finetuned_steps: of the weights in ``prepared``, where they are not those of ``fp32``.
        symmetric: whether activations in INT8 are, as TensorRT wants them.
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
        finetuned_steps: int = 0,
        *,
        symmetric: bool = False,
    ) -> None:
        self._finetuned_steps, self._symmetric = finetuned_steps, symmetric
        self._fp32, self._prepared, self._ranges = fp32, prepared, ranges
        self._settings, self._scans, self._image = settings, scans, image
        self._report = report
        self._engine = OnnxRuntimeEngine()
        self._layers = layers_of(prepared)
        self._results = Remembered(kept_results, self._identity())
        if said := self._results.beginning():
            report(said)

    def run(self, budget: Budget) -> SearchResult:
        """Ranks the layers, measures the front, and chooses."""
        ranking = self._ranking()
        measured: list[Measured] = []
        for count in range(len(ranking)):
            kept = tuple(sensitivity.layer for sensitivity in ranking[:count])
            form = self._measured(f"kept {' '.join(sorted(kept))}", kept, partial(self.form, kept))
            self._report(
                f"{count} of {len(ranking)} layers in floating point: {form.time_ms:.2f} ms, loses {form.lost.psnr_db:.3f} dB and "
                f"{form.lost.ssim:.4f} SSIM at worst ({form.lost.worst_scan})"
            )
            measured.append(form)
        candidates = candidates_of(measured, budget)
        fp32_time_ms = float(self._results.remembered("time fp32", lambda: self._time_of(self._fp32)))
        fp16 = replace(self._measured("fp16", (), lambda: fp16_form(self._fp32)), finetuned_steps=0)
        return SearchResult(ranking, fp32_time_ms, fp16, candidates, choice(candidates))

    def form(self, kept: Collection[str]) -> bytes:
        """The INT8 form with the layers of those names in floating point."""
        nodes = [node for layer in self._layers if layer.name in kept for node in layer.nodes]
        return int8_form(self._prepared, self._ranges, nodes, symmetric=self._symmetric)

    def _ranking(self) -> tuple[Sensitivity, ...]:
        names = [layer.name for layer in self._layers]
        before, after = (
            self._results.remembered(f"layers {precision}", partial(self._layer_times, precision))
            for precision in ("fp32", "int8")
        )
        found = []
        for number, name in enumerate(names, start=1):
            lost = self._results.remembered(f"alone {name}", partial(self._mean_loss, set(names) - {name}))
            found.append(Sensitivity(name, float(lost), before[name] - after[name]))
            self._report(
                f"layer {number} of {len(names)}: {name} alone in INT8 loses {lost:.4f} dB in the mean and saves "
                f"{found[-1].saved_us:.0f} us"
            )
        return ranked(found)

    def _layer_times(self, precision: str) -> dict[str, float]:
        graph = self._prepared.read_bytes() if precision == "fp32" else self.form(())
        return dict(layer_times_us(graph, self._layers, self._image))

    def _mean_loss(self, kept: Collection[str]) -> float:
        form = self._qualities(self.form(kept))
        return statistics.fmean(a.psnr_db - b.psnr_db for a, b in zip(self._full_qualities(), form, strict=True))

    def _measured(self, name: str, kept: tuple[str, ...], form: Callable[[], bytes]) -> Measured:
        def measure() -> dict[str, object]:
            graph = form()
            lost = loss(self._scans, self._full_qualities(), self._qualities(graph))
            return {"time_ms": self._time_of(graph), "lost": asdict(lost)}

        known = self._results.remembered(name, measure)
        return Measured(kept, float(known["time_ms"]), Loss(**known["lost"]), self._finetuned_steps)

    def _full_qualities(self) -> list[Quality]:
        found = self._results.remembered("qualities fp32", lambda: [asdict(one) for one in self._qualities(self._fp32)])
        return [Quality(**one) for one in found]

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

    def _identity(self) -> dict[str, str]:
        """All that measurements hang on, so that those of anything else are not taken for this search's."""
        graphs, scans = hashlib.sha256(self._fp32), hashlib.sha256()
        graphs.update(self._prepared.read_bytes())
        for scan in self._scans:
            for array in (scan.samples.hybrid, scan.samples.measured, scan.reference, scan.where):
                scans.update(array.tobytes())
        return {
            "graph": graphs.hexdigest(),
            "ranges": hashlib.sha256(self._ranges.read_bytes()).hexdigest(),
            "settings": hashlib.sha256(repr((self._settings, self._image.shape, self._symmetric)).encode()).hexdigest(),
            "scans": scans.hexdigest(),
            **made_by(__name__),
            "processor": f"{platform.machine()} {instruction_set()}",
        }
