"""Which parts of a program's graphs stay in floating point, as `export.quantization.search` decides it for the layers of one graph.

A form is measured as it would run: the images of the whole program on every scan, the time of all its graphs' runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle import Graphs, ProgramSettings
from edge_runtime.engines import Engine, Tensor
from edge_runtime.hil.quality import Quality
from edge_runtime.modalities.mri.families import made_ready
from export.digest import made_by
from export.programs.parts import Part
from export.quantization.choice import Sensitivity
from export.quantization.form_search import FormSearch, least_ms
from export.quantization.forms import fp16_form, int8_form
from export.quantization.scans import ValidationScan, qualities_of

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


class ProgramSearch(FormSearch[Graphs]):
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
        self._settings, self._graphs = settings, graphs
        self._graph_of = {part.name: part.graph for graph in graphs.values() for part in graph.parts}
        contents, ranges = hashlib.sha256(), hashlib.sha256()
        for name, graph in sorted(graphs.items()):
            contents.update(name.encode() + hashlib.sha256(graph.fp32 + graph.prepared.read_bytes()).digest())
            ranges.update(hashlib.sha256(graph.ranges.read_bytes()).digest())
        sizes = [(graph.image.shape, graph.runs) for graph in graphs.values()]
        identity = {
            "graphs": contents.hexdigest(),
            "ranges": ranges.hexdigest(),
            "settings": hashlib.sha256(repr((settings, sizes)).encode()).hexdigest(),
            **made_by(__name__, "edge_runtime.engines.openvino"),
        }
        super().__init__(scans, kept_results, identity, report)

    def form(self, kept: Collection[str]) -> Graphs:
        """The INT8 form with the parts of those names in floating point; a graph of which nothing is quantized is as imported."""
        made = {}
        for name, graph in self._graphs.items():
            quantized = [part for part in graph.parts if part.name not in kept]
            nodes = [node for part in graph.parts if part.name in kept for node in part.nodes]
            made[name] = int8_form(graph.prepared, graph.ranges, nodes) if quantized else graph.fp32
        return made

    def half(self) -> Graphs:
        return {name: fp16_form(graph.fp32) for name, graph in self._graphs.items()}

    def _full(self) -> Graphs:
        return {name: graph.fp32 for name, graph in self._graphs.items()}

    def _parts(self) -> Sequence[str]:
        return list(self._graph_of)

    def _alone(self, name: str, others: Collection[str]) -> Sensitivity:
        """Losses of images, and times of the graph that the part is in."""

        def measure() -> dict[str, float]:
            form, graph_name = self.form(others), self._graph_of[name]
            graph = self._graphs[graph_name]
            before, after = (self._graph_time(graph, one, self._engine) for one in (graph.fp32, form[graph_name]))
            return {"lost_db": self._mean_loss(form), "saved_us": 1e3 * (before - after)}

        alone = self._results.remembered(f"alone {name}", measure)
        return Sensitivity(name, float(alone["lost_db"]), float(alone["saved_us"]))

    def _qualities(self, form: Graphs, engine: Engine) -> list[Quality]:
        return qualities_of(self._scans, made_ready(self._settings, form, engine, threads=1))

    def _time_of(self, form: Graphs, engine: Engine) -> float:
        return sum(self._graph_time(graph, form[name], engine) for name, graph in self._graphs.items())

    def _graph_time(self, graph: Prepared, content: bytes, engine: Engine) -> float:
        """Milliseconds of all its runs for one image."""
        return graph.runs * least_ms(engine.plan(content, threads=1), graph.image, TIMED_RUNS)
