"""What the device reads of an ONNX graph without `onnx` is what `onnx` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.bundle.graph import MAX_DEPTH, check_graph
from edge_runtime.errors import BundleError, BundleMalformed, BundleUnsafe

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def tensor(*, external: bool = False) -> Any:
    made = numpy_helper.from_array(np.zeros(3, np.float32), "weights")
    if external:
        onnx.external_data_helper.set_external_data(made, "../weights.bin")
    return made


def model(*nodes: Any, initializer: Any = None, **options: Any) -> bytes:
    nodes = nodes or (helper.make_node("Relu", ["x"], ["y"]),)
    value = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])]
    graph = helper.make_graph(list(nodes), "g", value, [], [initializer or tensor()])
    return bytes(helper.make_model(graph, **options).SerializeToString())


def nested(node: Any, depth: int) -> Any:
    """A node within branches of ``If``."""
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return node


def test_shipped_and_standard_graphs_pass(tiny_graph: bytes) -> None:
    check_graph("tiny", tiny_graph)
    check_graph("made", model(nested(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"), 3)))
    for precision, form in load_bundle(DEFAULT_BUNDLE).forms.items():
        check_graph(precision, form.onnx)


CUSTOM = helper.make_node("Wipe", ["x"], ["y"], domain="com.evil")
OUTSIDE = helper.make_node("Constant", [], ["y"], value=tensor(external=True))
SPARSE = onnx.SparseTensorProto(values=tensor(external=True), indices=numpy_helper.from_array(np.zeros(3, np.int64)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (model(initializer=tensor(external=True)), "external data"),
        (model(OUTSIDE), "external data"),
        (model(nested(OUTSIDE, 2)), "external data"),
        (model(helper.make_node("Constant", [], ["y"], sparse_value=SPARSE)), "external data"),
        (model(helper.make_node("Many", [], ["y"], values=[tensor(), tensor(external=True)])), "external data"),
        (model(CUSTOM), "operator Wipe of domain 'com.evil'"),
        (model(nested(CUSTOM, 2)), "operator Wipe"),
        (model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")), "operator Gelu of domain 'com.microsoft'"),
        (
            model(functions=[helper.make_function("local", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)])]),
            "functions of its own",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_reaches_outside_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BundleUnsafe, match=f"forms/x.onnx: .*{words}"):
        check_graph("forms/x.onnx", content)


def test_the_location_alone_is_enough() -> None:
    made = tensor()
    made.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(BundleUnsafe, match="external data"):
        check_graph("x", model(initializer=made))


def test_training_graphs_are_looked_at() -> None:
    made = onnx.load_from_string(model())
    made.training_info.add().algorithm.CopyFrom(helper.make_graph([CUSTOM], "training", [], []))
    with pytest.raises(BundleUnsafe, match="Wipe"):
        check_graph("x", made.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x3b", b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x01", b"\xff" * 20])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(BundleMalformed, match=r"^x: "):
        check_graph("x", content)


def test_graphs_without_an_end_are_refused() -> None:
    with pytest.raises(BundleMalformed, match=f"deeper than {MAX_DEPTH}"):
        check_graph("x", model(nested(CUSTOM, MAX_DEPTH)))


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_passed_or_refused_and_nothing_else(place: float, value: int, cut: bool) -> None:
    content = bytearray(model(nested(helper.make_node("Relu", ["x"], ["y"]), 3)))
    at = int(place * len(content))
    content[at] = value
    try:
        check_graph("x", bytes(content[: at + 1] if cut else content))
    except BundleError:
        return


def test_no_weights_are_read(tmp_path: Path) -> None:
    """Weights are skipped by their length: the time does not grow with them."""
    large = numpy_helper.from_array(np.zeros(4 << 20, np.float32), "weights")
    check_graph("x", model(initializer=large))
