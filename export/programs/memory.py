"""What a graph's tensors take that exist at one time, by pixel: from that a device knows what to reserve before it reconstructs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_runtime.program.stages import Graph

LEAST_SIDE = 64
"""Rows and columns that a graph is looked at with, at least; deep levels of a U-Net take their share from there on."""


def live_bytes_per_pixel(graph: Graph, content: bytes) -> int:
    """By pixel of one plane of the graph's input, a batch of one; nodes run in their order."""
    rows, columns = (fixed or _size(graph) for fixed in (graph.rows, graph.columns))
    sizes = _tensor_bytes(content, np.zeros((1, graph.input_channels, rows, columns), np.float32))
    return math.ceil(_most_live(content, sizes) / (rows * columns))


def _size(graph: Graph) -> int:
    return -(-max(graph.least, LEAST_SIDE) // graph.multiple) * graph.multiple


def _tensor_bytes(content: bytes, planes: npt.NDArray[np.float32]) -> dict[str, int]:
    """Size of every tensor that the nodes make, as they make it of these planes."""
    model = onnx.load_model_from_string(content)
    known = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = session.run(names, {session.get_inputs()[0].name: planes})
    sizes = {name: int(np.asarray(value).nbytes) for name, value in zip(names, made, strict=True)}
    return sizes | {session.get_inputs()[0].name: planes.nbytes}


def _most_live(content: bytes, sizes: dict[str, int]) -> int:
    """The most that tensors take together which nodes, in their order, still need."""
    graph = onnx.load_model_from_string(content).graph
    left = Counter(name for node in graph.node for name in node.input)
    left.update(value.name for value in graph.output)
    live, most = {value.name for value in graph.input if value.name in sizes}, 0
    for node in graph.node:
        live |= {name for name in node.output if name}
        most = max(most, sum(sizes[name] for name in live))
        left.subtract(name for name in node.input if name)
        live = {name for name in live if left[name] > 0}
    return most
