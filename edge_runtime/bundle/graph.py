"""What an ONNX graph may not do, read from its bytes without the `onnx` package, which no device has.

A graph in a bundle is self-contained and standard: weights in files beside it (external data) would be read from whatever path the
graph names, and operators of other domains, or functions that a model defines for itself, are not what every engine runs alike.

Only the few fields that matter are followed (onnx.proto3); weights are skipped by their length, so that 4 MB take a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.errors import BundleMalformed, BundleUnsafe

STANDARD_DOMAINS = ("", "ai.onnx")
MAX_DEPTH = 16
"""Of graphs in attributes of nodes; ours have none."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation

# Fields that lead to nodes and tensors, by message and number.
_MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_GRAPH_OF_MODEL = 7


def check_graph(name: str, onnx: bytes) -> None:
    """Refuses a graph that is not self-contained or not standard.

    Raises:
        BundleUnsafe: external data, or an operator that is not one of ONNX's own.
        BundleMalformed: the bytes are no ONNX model.
    """
    if not any(number == _GRAPH_OF_MODEL for number, _ in _fields(name, memoryview(onnx))):
        raise BundleMalformed(f"{name}: holds no ONNX graph")
    _check(name, "Model", memoryview(onnx), 0)


def _check(name: str, message: str, content: memoryview, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BundleMalformed(f"{name}: graphs within graphs, deeper than {MAX_DEPTH}")
    operator, domain = "", ""
    for number, value in _fields(name, content):
        if message == "Tensor" and (number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value == _EXTERNAL)):
            raise BundleUnsafe(
                f"{name}: a tensor lies outside the file (external data): export the model with its weights inside"
            )
        if message == "Node" and isinstance(value, memoryview):
            if number == _NODE_TYPE:
                operator = _text(value)
            elif number == _NODE_DOMAIN:
                domain = _text(value)
        inner = _MESSAGES[message].get(number)
        if inner == "Function":
            raise BundleUnsafe(f"{name}: defines functions of its own: inline them before export")
        if inner is not None:
            if not isinstance(value, memoryview):
                raise BundleMalformed(f"{name}: no ONNX model: {message} holds a number in the place of {inner}")
            _check(name, inner, value, depth + 1)
    if domain not in STANDARD_DOMAINS:
        raise BundleUnsafe(
            f"{name}: operator {operator} of domain {domain!r} is none of ONNX's own: engines need not have it"
        )


def _fields(name: str, content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message (protobuf's wire format)."""
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(name, content, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(name, content, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(name, content, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise BundleMalformed(f"{name}: no ONNX model: wire type {kind} at byte {at}")
        if at + length > end:
            raise BundleMalformed(
                f"{name}: no ONNX model: field {number} ends {at + length - end} bytes behind its message"
            )
        yield number, content[at : at + length]
        at += length


def _varint(name: str, content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise BundleMalformed(f"{name}: no ONNX model: a number without an end at byte {at}")


def _text(value: memoryview) -> str:
    return bytes(value[:200]).decode("utf-8", "replace")
