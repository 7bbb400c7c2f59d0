"""Graphs of a program: PyTorch networks written as ONNX, ready ONNX looked over, and each file described."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from edge_runtime.bundle.graph import REPEATING, STANDARD_DOMAINS
from edge_runtime.program.stages import Graph
from export.adapters.errors import ImportRefused, TraceFixed
from export.adapters.program import digest

GRAPH_BYTES = 1 << 31
"""Protobuf's own limit."""

INPUT, OUTPUT = "planes", "made"


def export_graph(
    network: nn.Module,
    file: str,
    input_channels: int,
    *,
    multiple: int = 1,
    least: int = 1,
    fixed: tuple[int | None, int | None] = (None, None),
    stage: str,
) -> tuple[Graph, bytes]:
    """A network of planes as ONNX, with dynamic batch, rows and columns.

    Args:
        multiple, least: which rows and columns the network takes.
        fixed: rows and columns, where it takes one number of them alone.
        stage: as messages call it.

    Warns:
        TraceFixed: for every place in the network's code that tracing made constant.

    Raises:
        ImportRefused: it can't be written as ONNX.
    """
    from export.split import planes_onnx

    network.eval()  # else the exporter, which restores the mode it found, would leave its parts in training mode
    side = max(least, 16)
    sizes = (size or -(-(side + extra) // multiple) * multiple for size, extra in zip(fixed, (0, 16), strict=True))
    example = torch.zeros(2, input_channels, *sizes)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter(
                "ignore"
            )  # of statistics of the image itself, of foldings not made: the comparison judges them
            warnings.simplefilter("always", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in its __all__
            content = planes_onnx(network, example, INPUT, OUTPUT, fixed)
    except Exception as error:  # the exporter, the network and ONNX's checker each raise classes of their own
        traced = " x ".join(map(str, example.shape[2:]))
        raise ImportRefused(
            f"{stage}: {type(network).__name__} can't be written as ONNX, traced at {traced}: {error}"
        ) from error
    for one in warned:
        place, reason = f"{Path(one.filename).name}:{one.lineno}", str(one.message).partition(". ")[0]
        warnings.warn(TraceFixed(stage, place, reason), stacklevel=2)
    return inspect_graph(content, file, multiple=multiple, least=least), content


def inspect_graph(content: bytes, file: str, *, multiple: int = 1, least: int = 1) -> Graph:
    """Describes a graph of one input and one output of planes.

    Raises:
        ImportRefused: it isn't such a graph, or needs what a plain runtime does not have.
    """
    if len(content) >= GRAPH_BYTES:
        raise ImportRefused(f"{file}: {len(content)} bytes; graphs of less than 2 GB are taken")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError is not part of its stable interface
        raise ImportRefused(f"{file}: no ONNX model ({error})") from None
    _refuse_foreign_code(model, file)
    weights = {one.name for one in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        names = ", ".join(value.name for value in inputs), ", ".join(value.name for value in outputs)
        raise ImportRefused(
            f"{file}: inputs {names[0] or 'none'}; outputs {names[1] or 'none'}; one of each is expected: "
            "make what else it takes a constant, or a plane of the image"
        )
    (batch, input_channels, rows, columns), (_, output_channels, _, _) = (
        _planes(value, file) for value in (inputs[0], outputs[0])
    )
    if input_channels is None or output_channels is None:
        raise ImportRefused(f"{file}: dynamic channels; batch, rows and columns may be dynamic, channels may not")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises several classes without a common base
        raise ImportRefused(f"{file}: not a valid ONNX model: {error}") from None
    opset = next(one.version for one in model.opset_import if one.domain in STANDARD_DOMAINS)
    return Graph(
        file=file,
        sha256=digest(content),
        input=inputs[0].name,
        output=outputs[0].name,
        input_channels=input_channels,
        output_channels=output_channels,
        batch=batch,
        rows=rows,
        columns=columns,
        multiple=multiple,
        least=least,
        opset=opset,
    )


def _refuse_foreign_code(model: onnx.ModelProto, file: str) -> None:
    if model.functions:
        raise ImportRefused(f"{file}: defines functions of its own ({model.functions[0].name}); inline them")
    if foreign := sorted(_domains(model.graph)):  # a file may name domains that no node of it is of
        raise ImportRefused(
            f"{file}: operators of the domain {', '.join(foreign)}; only ONNX's own are taken, no custom code"
        )
    if endless := sorted({node.op_type for one in _graphs(model.graph) for node in one.node} & REPEATING):
        raise ImportRefused(
            f"{file}: operators {', '.join(endless)}, which repeat as often as a tensor says; unroll them"
        )
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ImportRefused(f"{file}: keeps the weights of {tensor.name} in another file; save it as one file")


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and all graphs within its nodes."""
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += _graphs(inner)
    return found


def _domains(graph: onnx.GraphProto) -> set[str]:
    return {node.domain for one in _graphs(graph) for node in one.node if node.domain not in STANDARD_DOMAINS}


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found: list[onnx.TensorProto] = []
    for one in _graphs(graph):
        found += one.initializer
        found += [attribute.t for node in one.node for attribute in node.attribute if attribute.HasField("t")]
    return found


def _planes(value: onnx.ValueInfoProto, file: str) -> tuple[int | None, int | None, int | None, int | None]:
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ImportRefused(
            f"{file}: {value.name} is of type {kind}; FLOAT (32 bits) is expected, complex as two planes"
        )
    if len(tensor.shape.dim) != 4:
        raise ImportRefused(
            f"{file}: {value.name} has {len(tensor.shape.dim)} axes; (batch, channels, rows, columns) is expected"
        )
    batch, channels, rows, columns = (
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
    )
    return batch, channels, rows, columns
