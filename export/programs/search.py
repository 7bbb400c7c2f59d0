"""Which parts of a program's graphs stay in floating point, as `export.quantization.search` decides it for the layers of one graph.

Every part is quantized alone and ranked by what that costs over what it saves; then all but the first k of them are quantized,
for every k, and measured as they would run: the images of the whole program on every scan, the time of all its graphs' runs.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edge_runtime.bundle import Graphs, ProgramSettings
from edge_runtime.engines import Tensor
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.hil.quality import Quality
from edge_runtime.kernels import instruction_set
from edge_runtime.modalities.mri.families import made_ready
from export.digest import made_by
from export.programs.parts import Part
from export.quantization.choice import Budget, Measured, Sensitivity, candidates_of, choice, ranked
from export.quantization.forms import fp16_form, int8_form
from export.quantization.scans import Loss, ValidationScan, loss, qualities_of
from export.quantization.search import SearchResult
from export.remembered import Remembered

TIMED_RUNS = 7


@dataclass(frozen=True)
class Prepared:
    """One graph made ready for quantization.

    Attributes:
        fp32: as it was imported.
        prepared, ranges: files of `forms.write_prepared` and `ranges.write_ranges`.
        parts: of it.
        runs: how often it runs for one image.
        image: an input of the size whose time counts; its values do not.
    """

    fp32: bytes
    prepared: Path
    ranges: Path
    parts: tuple[Part, ...]
    runs: int
    image: Tensor


class ProgramSearch:
    """Measures forms of one program.

    Args:
        settings: of the reconstruction.
        graphs: by name.
        scans: what images are compared on.
        kept_results: file that remembers measurements.
        report: told in words what was measured.
    """

    def __init__(
        self,
        settings: ProgramSettings,
        graphs: Mapping[str, Prepared],
        scans: Sequence[ValidationScan],
        kept_results: Path,
        report: Callable[[str], None],
    ) -> None:
        self._settings, self._graphs, self._scans, self._report = settings, graphs, scans, report
        self._engine = OnnxRuntimeEngine()
        self._results = Remembered(kept_results, self._identity())
        if said := self._results.beginning():
            report(said)

    def run(self, budget: Budget) -> SearchResult:
        """Ranks the parts, measures the front, and chooses."""
        ranking = self._ranking()
        measured: list[Measured] = []
        for count in range(len(ranking)):
            kept = tuple(sensitivity.layer for sensitivity in ranking[:count])
            form = self._measured(f"kept {' '.join(sorted(kept))}", kept, partial(self.form, kept))
            self._report(
                f"{count} of {len(ranking)} parts in floating point: {form.time_ms:.1f} ms, loses {form.lost.psnr_db:.3f} dB and "
                f"{form.lost.ssim:.4f} SSIM at worst ({form.lost.worst_scan})"
            )
            measured.append(form)
        candidates = candidates_of(measured, budget)
        fp32_time_ms = float(self._results.remembered("time fp32", lambda: self._time_of(self._fp32())))
        fp16 = self._measured("fp16", (), self.half)
        return SearchResult(ranking, fp32_time_ms, fp16, candidates, choice(candidates))

    def form(self, kept: Collection[str]) -> Graphs:
        """The INT8 form with the parts of those names in floating point; a graph of which nothing is quantized is as imported."""
        made = {}
        for name, graph in self._graphs.items():
            quantized = [part for part in graph.parts if part.name not in kept]
            nodes = [node for part in graph.parts if part.name in kept for node in part.nodes]
            made[name] = int8_form(graph.prepared, graph.ranges, nodes) if quantized else graph.fp32
        return made

    def half(self) -> Graphs:
        """The form in half precision."""
        return {name: fp16_form(graph.fp32) for name, graph in self._graphs.items()}

    def _fp32(self) -> Graphs:
        return {name: graph.fp32 for name, graph in self._graphs.items()}

    def _ranking(self) -> tuple[Sensitivity, ...]:
        parts = [part for graph in self._graphs.values() for part in graph.parts]
        names, found = {part.name for part in parts}, []
        for number, part in enumerate(parts, start=1):
            alone = self._results.remembered(f"alone {part.name}", partial(self._alone, part, names - {part.name}))
            found.append(Sensitivity(part.name, float(alone["lost_db"]), float(alone["saved_us"])))
            self._report(
                f"part {number} of {len(parts)}: {part.name} alone in INT8 lose {found[-1].lost_psnr_db:.4f} dB in the mean "
                f"and save {found[-1].saved_us:.0f} us"
            )
        return ranked(found)

    def _alone(self, part: Part, others: Collection[str]) -> dict[str, float]:
        form, graph = self.form(others), self._graphs[part.graph]
        pairs = zip(self._full_qualities(), self._qualities(form), strict=True)
        saved_ms = self._graph_time(graph, graph.fp32) - self._graph_time(graph, form[part.graph])
        return {"lost_db": statistics.fmean(a.psnr_db - b.psnr_db for a, b in pairs), "saved_us": 1e3 * saved_ms}

    def _measured(self, name: str, kept: tuple[str, ...], form: Callable[[], Graphs]) -> Measured:
        def measure() -> dict[str, object]:
            graphs = form()
            lost = loss(self._scans, self._full_qualities(), self._qualities(graphs))
            return {"time_ms": self._time_of(graphs), "lost": asdict(lost)}

        known = self._results.remembered(name, measure)
        return Measured(kept, float(known["time_ms"]), Loss(**known["lost"]))

    def _full_qualities(self) -> list[Quality]:
        found = self._results.remembered(
            "qualities fp32", lambda: [asdict(one) for one in self._qualities(self._fp32())]
        )
        return [Quality(**one) for one in found]

    def _qualities(self, graphs: Graphs) -> list[Quality]:
        return qualities_of(self._scans, made_ready(self._settings, graphs, self._engine, threads=1))

    def _time_of(self, graphs: Graphs) -> float:
        return sum(self._graph_time(graph, graphs[name]) for name, graph in self._graphs.items())

    def _graph_time(self, graph: Prepared, content: bytes) -> float:
        """Milliseconds of all its runs for one image."""
        session = self._engine.plan(content, threads=1)
        times = []
        for _ in range(TIMED_RUNS):
            began = time.perf_counter()
            session.run(graph.image)
            times.append(1e3 * (time.perf_counter() - began))
        return graph.runs * min(times)  # whatever else the machine does only adds

    def _identity(self) -> dict[str, str]:
        """All that measurements hang on, so that those of anything else are not taken for this search's."""
        graphs, ranges, scans = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for name, graph in sorted(self._graphs.items()):
            graphs.update(name.encode() + hashlib.sha256(graph.fp32 + graph.prepared.read_bytes()).digest())
            ranges.update(hashlib.sha256(graph.ranges.read_bytes()).digest())
        sizes = [(graph.image.shape, graph.runs) for graph in self._graphs.values()]
        for scan in self._scans:
            for array in (scan.samples.hybrid, scan.samples.measured, scan.reference, scan.where):
                scans.update(np.ascontiguousarray(array).tobytes())
        return {
            "graphs": graphs.hexdigest(),
            "ranges": ranges.hexdigest(),
            "settings": hashlib.sha256(repr((self._settings, sizes)).encode()).hexdigest(),
            "scans": scans.hexdigest(),
            **made_by(__name__),
            "processor": f"{platform.machine()} {instruction_set()}",
        }
