"""A ready ONNX graph, from planes to planes; compared with ONNX's own reference evaluator, which shares no code with the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter
from onnx.reference import ReferenceEvaluator

from edge_runtime.bundle.graph import STANDARD_DOMAINS
from edge_runtime.modalities.mri.given import Acquisition, Given, Value
from edge_runtime.modalities.mri.shaping import shape
from edge_runtime.program.stages import Shaping
from export.adapters.errors import ImportRefused
from export.adapters.graphs import inspect_graph
from export.adapters.mapping import Table
from export.adapters.origin import origin_of
from export.adapters.original import Imported
from export.adapters.single import STAGE, ImageTable, read_image, single_network

FILE = "network.onnx"
QUANTIZING, NEWER_OPSET = ("QuantizeLinear", "DequantizeLinear"), 21
"""Operators that the reference evaluator has in newer versions alone, and an operator set with both."""


def adapt(mapping: Table, checkpoint: Path) -> Imported:
    """Takes a graph over as it is.

    Raises:
        ConfigError: the mapping is wrong.
        ImportRefused: the graph is none, needs code or files of its own, or is not what the mapping says.
    """
    name, version = mapping.text("name"), mapping.text("version")
    table = mapping.table("model")
    wanted = table.text("input"), table.text("output")
    table.done()
    image = read_image(mapping.table("image"))
    mapping.done()
    content = checkpoint.read_bytes()
    graph = inspect_graph(content, checkpoint.name, multiple=image.multiple, least=image.least)
    for key, want, found in zip(("input", "output"), wanted, (graph.input, graph.output), strict=True):
        if want != found:
            raise ImportRefused(f"{checkpoint}: its {key} is {found!r}; [model] {key} = {want!r}")
    for key, planes, declared in (
        ("input_channels", graph.input_channels, image.input_channels),
        ("output_channels", graph.output_channels, image.output_channels),
    ):
        if planes != declared:
            raise ImportRefused(f"{checkpoint}: has {planes} {key.replace('_', ' ')}; [image] {key} = {declared}")
    for axis, size, only in (("rows", graph.rows, image.rows), ("columns", graph.columns, image.columns)):
        if only is not None and only != size:
            raise ImportRefused(f"{checkpoint}: {axis} are {size or 'dynamic'}; [image] {axis} = {only}")
        if size is not None and (size % image.multiple or size < image.least):
            raise ImportRefused(
                f"{checkpoint}: {axis} are fixed at {size}; [image] multiple = {image.multiple}, least = {image.least}"
            )
    graph = replace(graph, file=FILE)
    origin = origin_of("onnx", checkpoint.name, "onnx", {}, checkpoint, mapping.path)
    return Imported(single_network(name, version, image, graph, content, origin), _Reference(content, image))


class _Reference:
    """ONNX's reference evaluator in place of an original."""

    def __init__(self, content: bytes, image: ImageTable) -> None:
        self._shaping: Shaping = image.shaping
        try:
            self._evaluator = _evaluator(onnx.load_model_from_string(content))
        except Exception as error:  # classes of its own, without a common base
            raise ImportRefused(f"{FILE}: ONNX's reference evaluator can't run it: {error}") from error

    def stages(self, given: Given) -> dict[str, Value]:
        """See `verify.Original`."""
        assert not isinstance(given, Acquisition)
        ready = shape(given, self._shaping)
        made: Any = self._evaluator.run(None, {self._evaluator.input_names[0]: ready.planes})
        return {STAGE: ready.undo(np.asarray(made[0], np.float32))}


def _evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    opset = next(one.version for one in model.opset_import if one.domain in STANDARD_DOMAINS)
    if opset < NEWER_OPSET and any(node.op_type in QUANTIZING for node in model.graph.node):
        return ReferenceEvaluator(version_converter.convert_version(model, NEWER_OPSET))  # which means the same
    return ReferenceEvaluator(model)
