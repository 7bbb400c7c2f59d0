"""Parts of a program's graphs that are quantized or kept in floating point together.

A program has hundreds of layers, each of which would take a reconstruction of every validation scan to judge. Quantization costs
most at a graph's ends, where planes come in and go out; so a graph has two parts, its outermost layers and those between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from export.config import ConfigError
from export.quantization.layers import layers_of

LEAST_OPSET = 13
"""From which on ONNX has a scale an output channel."""


@dataclass(frozen=True)
class Part:
    """Some layers of one graph.

    Attributes:
        name: the graph's, and which of its layers.
        graph: its name.
        nodes: names of the nodes.
    """

    name: str
    graph: str
    nodes: tuple[str, ...]


def parts_of(graph: str, prepared: Path) -> tuple[Part, ...]:
    """The parts of a graph; one of two layers or fewer is one, one without a convolution has none."""
    layers = layers_of(prepared)
    if len(layers) <= 2:
        groups = {"all layers": layers}
    else:
        groups = {"outermost layers": (layers[0], layers[-1]), "inner layers": layers[1:-1]}
    return tuple(
        Part(f"{graph}, {which}", graph, tuple(node for layer in group for node in layer.nodes))
        for which, group in groups.items()
        if group
    )


def with_names(graph: str, content: bytes) -> bytes:
    """The graph with a name for every node: quantization speaks of nodes by name.

    Raises:
        ConfigError: its operator set is too old to be quantized.
    """
    model = onnx.load_model_from_string(content)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        raise ConfigError(
            f"{graph}: operator set {opset}: {LEAST_OPSET} or newer is expected to quantize it; "
            "convert the graph and import it again"
        )
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}-{number}"
    return bytes(model.SerializeToString())
