"""What an ONNX graph may not do, read from its bytes without the `onnx` package, which no device has.

A graph in a bundle is self-contained and standard: weights in files beside it (external data) would be read from whatever path the
graph names, and operators of other domains, or functions that a model defines for itself, are not what every engine runs alike.

Only the messages that lead to nodes and tensors are followed (onnx.proto3); weights are skipped by their length, so that 4 MB
take a millisecond. What is read here must be what an engine reads, and protobuf's parsers are lenient, each in its own way: C++
drops the upper half of a long tag, and of a field that it does not know it makes nothing. So there is one spelling: numbers in as
few bytes as they take, and no field but those of ONNX, each of its own wire type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_runtime.errors import BundleMalformed, BundleUnsafe

STANDARD_DOMAINS = ("", "ai.onnx")
REPEATING = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run for as long as their input says: no device has that time."""

MAX_DEPTH = 16
"""Of graphs in attributes of nodes; ours have none."""

MAX_FIELDS = 1 << 20
"""Of one model: some seconds' work. The shipped network has 2400."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

INNER: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
"""Fields that lead to nodes and tensors, by message and number."""

_LEAVES: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]] = {
    "Model": {(_VARINT,): (1, 5), (_BYTES,): (2, 3, 4, 6, 8, 14, 26)},
    "Training": {(_BYTES,): (3, 4)},
    "Graph": {(_BYTES,): (2, 10, 11, 12, 13, 14, 16)},
    "Node": {(_BYTES,): (1, 2, 3, 4, 6, 7, 8, 9, 10)},
    "Attribute": {
        (_VARINT,): (3, 20),
        (_VARINT, _BYTES): (8,),
        (_FIXED32,): (2,),
        (_FIXED32, _BYTES): (7,),
        (_BYTES,): (1, 4, 9, 13, 14, 15, 21),
    },
    "Sparse": {(_VARINT, _BYTES): (3,)},
    "Tensor": {
        (_VARINT,): (2, 14),
        (_VARINT, _BYTES): (1, 5, 7, 11),
        (_FIXED32, _BYTES): (4,),
        (_FIXED64, _BYTES): (10,),
        (_BYTES,): (3, 6, 8, 9, 12, 13, 16),
    },
}

KINDS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    message: {
        **{number: kinds for kinds, numbers in _LEAVES[message].items() for number in numbers},
        **dict.fromkeys(inner, (_BYTES,)),
    }
    for message, inner in INNER.items()
}
"""Every field of those messages with the wire types that it may have: of lists of numbers two, packed and not."""

_NODE_TYPE, _NODE_DOMAIN = 4, 7
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_GRAPH_OF_MODEL = 7

_OTHER_FORMAT = b"ORTM"
"""ONNX Runtime's own format has its name in bytes 4 to 7. What bears it there is read as such, whatever it is as ONNX."""


def check_graph(name: str, onnx: bytes) -> None:
    """Refuses a graph that is not self-contained or not standard.

    Raises:
        BundleUnsafe: external data, an operator that is not one of ONNX's own, or bytes that are a model of another format, too.
        BundleMalformed: the bytes are no ONNX model, or spell one as no ONNX library does.
    """
    if onnx[4:8] == _OTHER_FORMAT:
        raise BundleUnsafe(f"{name}: may be read as a model in ONNX Runtime's own format: export it as ONNX")
    if not _Reader(name).check("Model", memoryview(onnx), 0):
        raise BundleMalformed(f"{name}: holds no ONNX graph")


class _Reader:
    """Follows one model."""

    def __init__(self, name: str) -> None:
        self._name, self._fields_left = name, MAX_FIELDS

    def check(self, message: str, content: memoryview, depth: int) -> bool:
        """Whether a model has a graph; raises as `check_graph` does."""
        if depth > MAX_DEPTH:
            raise BundleMalformed(f"{self._name}: graphs within graphs, deeper than {MAX_DEPTH}")
        operator, domain, has_graph = "", "", False
        for number, value in self._fields(message, content):
            if message == "Tensor" and (number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0)):
                raise BundleUnsafe(
                    f"{self._name}: a tensor lies outside the file (external data): export the model with its weights inside"
                )
            if isinstance(value, int):
                continue
            if message == "Node" and number == _NODE_TYPE:
                operator = _text(value)
                if operator in REPEATING:
                    raise BundleUnsafe(
                        f"{self._name}: operator {operator} repeats as often as a tensor says: unroll it"
                    )
            elif message == "Node" and number == _NODE_DOMAIN and domain in STANDARD_DOMAINS:
                domain = _text(value)
            inner = INNER[message].get(number)
            if inner == "Function":
                raise BundleUnsafe(f"{self._name}: defines functions of its own: inline them before export")
            if inner is not None:
                self.check(inner, value, depth + 1)
                has_graph = has_graph or (message == "Model" and number == _GRAPH_OF_MODEL)
        if domain not in STANDARD_DOMAINS:
            raise BundleUnsafe(
                f"{self._name}: operator {operator} of domain {domain!r} is none of ONNX's own: engines need not have it"
            )
        return has_graph

    def _fields(self, message: str, content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of every field of a message (protobuf's wire format)."""
        known, at, end = KINDS[message], 0, len(content)
        while at < end:
            tag, at = self._varint(content, at)
            number, kind = tag >> 3, tag & 7
            if kind not in known.get(number, ()):
                raise self._no_model(f"field {number} of wire type {kind} is none of {message}")
            self._fields_left -= 1
            if self._fields_left < 0:
                raise BundleMalformed(f"{self._name}: more than {MAX_FIELDS} fields")
            if kind == _VARINT:
                value, at = self._varint(content, at)
                yield number, value
                continue
            if kind == _BYTES:
                length, at = self._varint(content, at)
            else:
                length = 8 if kind == _FIXED64 else 4
            if at + length > end:
                raise self._no_model(f"field {number} ends {at + length - end} bytes behind its message")
            yield number, content[at : at + length]
            at += length

    def _varint(self, content: memoryview, at: int) -> tuple[int, int]:
        """A number below 2^64 in as few bytes as it takes, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(content):
                break
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                if value >> 64 or (shift and not byte):
                    raise self._no_model(f"a number that is longer than it need be, at byte {at}")
                return value, at
        raise self._no_model(f"a number without an end at byte {at}")

    def _no_model(self, why: str) -> BundleMalformed:
        return BundleMalformed(f"{self._name}: no ONNX model: {why}")


def _text(value: memoryview) -> str:
    return bytes(value[:200]).decode("utf-8", "replace")
