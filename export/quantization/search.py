"""Which layers of one graph stay in floating point: those that cost the most image quality per microsecond that INT8 saves on them.

Layers are ranked by losses of images and times of their own; see `export.quantization.form_search`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Engine
from edge_runtime.hil.quality import Quality
from export.digest import made_by
from export.quantization.choice import Sensitivity
from export.quantization.form_search import FormSearch, least_ms
from export.quantization.forms import fp16_form, int8_form
from export.quantization.layers import layer_times_us, layers_of
from export.quantization.scans import ValidationScan, qualities

TIMED_RUNS = 15


class Search(FormSearch[bytes]):
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

    part_is_called = "layer"

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
        self.finetuned_steps, self._symmetric = finetuned_steps, symmetric
        self._fp32, self._prepared, self._ranges = fp32, prepared, ranges
        self._settings, self._image = settings, image
        self._layers = layers_of(prepared)
        identity = {
            "graph": hashlib.sha256(fp32 + prepared.read_bytes()).hexdigest(),
            "ranges": hashlib.sha256(ranges.read_bytes()).hexdigest(),
            "settings": hashlib.sha256(repr((settings, image.shape, symmetric)).encode()).hexdigest(),
            **made_by(__name__, "edge_runtime.engines.openvino"),
        }
        super().__init__(scans, kept_results, identity, report)

    def form(self, kept: Collection[str]) -> bytes:
        nodes = [node for layer in self._layers if layer.name in kept for node in layer.nodes]
        return int8_form(self._prepared, self._ranges, nodes, symmetric=self._symmetric)

    def half(self) -> bytes:
        return fp16_form(self._fp32)

    def _full(self) -> bytes:
        return self._fp32

    def _parts(self) -> Sequence[str]:
        return [layer.name for layer in self._layers]

    def _alone(self, name: str, others: Collection[str]) -> Sensitivity:
        """Losses of images, and times of the layer inside the whole graph in either form."""
        before, after = (
            self._results.remembered(f"layers {precision}", partial(self._layer_times, precision))
            for precision in ("fp32", "int8")
        )
        lost = self._results.remembered(f"alone {name}", lambda: self._mean_loss(self.form(others)))
        return Sensitivity(name, float(lost), before[name] - after[name])

    def _layer_times(self, precision: str) -> dict[str, float]:
        graph = self._prepared.read_bytes() if precision == "fp32" else self.form(())
        return dict(layer_times_us(graph, self._layers, self._image))

    def _qualities(self, form: bytes, engine: Engine) -> list[Quality]:
        return qualities(self._scans, self._settings, engine.plan(form, threads=1))

    def _time_of(self, form: bytes, engine: Engine) -> float:
        return least_ms(engine.plan(form, threads=1), self._image, TIMED_RUNS)
