"""The layers of a graph: each convolution with the element-wise nodes that follow it, and the time it takes in a precision."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from export.quantization.ranges import QUANTIZED_OPERATORS

PROFILED_RUNS = 9


@dataclass(frozen=True)
class Layer:
    """Nodes that are quantized or kept together.

    Attributes:
        name: of the convolution.
        nodes: names of all its nodes.
    """

    name: str
    nodes: tuple[str, ...]


def layers_of(prepared: Path) -> tuple[Layer, ...]:
    """The layers, in the order of the graph; nodes before the first convolution belong to none."""
    found: list[tuple[str, list[str]]] = []
    for node in onnx.load(str(prepared)).graph.node:
        if node.op_type == "Conv":
            found.append((node.name, [node.name]))
        elif node.op_type in QUANTIZED_OPERATORS and found:
            found[-1][1].append(node.name)
    return tuple(Layer(name, tuple(nodes)) for name, nodes in found)


def layer_times_us(graph: bytes, layers: tuple[Layer, ...], image: npt.NDArray[np.float32]) -> Mapping[str, float]:
    """Microseconds of every layer on one thread, by ONNX Runtime's profile; nodes that no layer owns count for none.

    The least of several runs: whatever else the machine does only adds to it.

    Args:
        graph: the FP32 graph or one of its INT8 forms.
        image: its input, of the size that counts.
    """
    owner = {node: layer.name for layer in layers for node in layer.nodes}
    for node in onnx.load_model_from_string(graph).graph.node:
        if node.name in owner:
            owner |= dict.fromkeys(node.output, owner[node.name])
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILED_RUNS):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["name"].removesuffix("_kernel_time"), []).append(float(event["dur"]))
    times = dict.fromkeys((layer.name for layer in layers), 0.0)
    for name, durations in runs.items():
        # What ONNX Runtime fuses is named after the node or the output tensor that it replaces.
        plain = re.sub(r"(_nchwc|_token_\d+|_quant|_Quantize(Linear)?|_Dequantize(Linear)?)+$", "", name)
        if plain in owner:
            times[owner[plain]] += min(durations)
    return times
