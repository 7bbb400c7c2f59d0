"""A network in torch that rounds as its INT8 graph does, so that its weights can be trained under that rounding.

Where tensors and weights are rounded, and to which steps, is read from the INT8 graph itself: the exporter's placement, whatever
it is. torch's own fake quantization rounds, and lets gradients pass where nothing was clipped.
"""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from edge_runtime.errors import EdgeRuntimeError

MOST_OF_A_WEIGHT = 127
"""Weights are signed and symmetric: a channel's largest becomes this."""

SMALLEST_SCALE = 1e-12
"""Of a channel whose weights are all zero."""

TRACED = {
    operator.add: "Add",
    torch.relu: "Relu",
    torch.cat: "Concat",
    nn.functional.interpolate: "Resize",
}
"""Operators by the function that torch's trace shows, convolutions beside them: what is quantized, or feeds it."""


class NotTraced(EdgeRuntimeError):
    """A network whose trace in torch is not, operator by operator, its graph in ONNX."""


class _RoundedTensor(nn.Module):
    """Rounds activations to a byte, of the zero point's type."""

    def __init__(self, scale: float, zero_point: np.ndarray) -> None:
        super().__init__()
        limits = np.iinfo(zero_point.dtype)
        self._scale, self._levels = scale, (int(zero_point), int(limits.min), int(limits.max))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self._scale, *self._levels)


class _RoundedWeight(nn.Module):
    """Rounds weights to signed bytes with a scale per output channel, which follows the weights."""

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().amax(dim=tuple(range(1, weight.dim())))
        scale = (largest / MOST_OF_A_WEIGHT).clamp_min(SMALLEST_SCALE)
        zero_points = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zero_points, 0, -MOST_OF_A_WEIGHT, MOST_OF_A_WEIGHT
        )


def fake_quantized(network: nn.Module, prepared: Path, int8: bytes) -> nn.Module:
    """The network with rounding put in; it shares its modules with the original, whose weights are rounded from now on, too, until
    `plain` ends that.

    Args:
        network: what the graphs were exported from.
        prepared: its graph of `forms.write_prepared`.
        int8: its form of `forms.int8_form`.

    Raises:
        NotTraced: network and graph differ in their operators.
    """
    graph = onnx.load_model_from_string(int8).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounded = {
        node.input[0]: _RoundedTensor(float(values[node.input[1]]), values[node.input[2]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    traced = fx.symbolic_trace(network)
    for node, tensor in zip(*_matched(traced, prepared), strict=True):
        if tensor in rounded:
            _insert(traced, node, rounded[tensor])
    traced.recompile()
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(f".weight{TENSOR_NAME_QUANT_SUFFIX}"):
            owner = node.input[0].removesuffix(f".weight{TENSOR_NAME_QUANT_SUFFIX}")
            parametrize.register_parametrization(network.get_submodule(owner), "weight", _RoundedWeight())
    return traced


def plain(network: nn.Module) -> None:
    """Takes the rounding out of the weights of a network; they stay as they were trained."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _matched(traced: fx.GraphModule, prepared: Path) -> tuple[list[fx.Node], list[str]]:
    """Nodes of the trace and names of the tensors that are the same in ONNX."""
    modules = dict(traced.named_modules())
    ours = [(node, _operator(node, modules)) for node in traced.graph.nodes]
    nodes = [(node, kind) for node, kind in ours if kind]
    theirs = [
        (node.output[0], node.op_type)
        for node in onnx.load(str(prepared)).graph.node
        if node.op_type in (*TRACED.values(), "Conv")
    ]
    if [kind for _, kind in nodes] != [kind for _, kind in theirs]:
        raise NotTraced(
            f"the network's trace has {[kind for _, kind in nodes]}, {prepared} has {[kind for _, kind in theirs]}: "
            "only a network that is exported operator by operator can be fine-tuned"
        )
    return [node for node, _ in nodes], [tensor for tensor, _ in theirs]


def _operator(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """What a node of the trace is in ONNX; empty where that does not matter."""
    if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
        return "Conv"
    return TRACED.get(node.target, "") if node.op == "call_function" else ""  # type: ignore[arg-type]  # a function


def _insert(traced: fx.GraphModule, node: fx.Node, rounding: nn.Module) -> None:
    """Rounds what a node gives, for all that take it."""
    name = f"rounded_{node.name}"
    traced.add_submodule(name, rounding)
    with traced.graph.inserting_after(node):
        inserted = traced.graph.call_module(name, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
