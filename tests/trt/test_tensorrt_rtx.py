"""Graphs really parsed, optimised and compiled, by tensorrt-rtx, which wants no GPU; and graphs that must be refused.

The code that compiles is the one that ships (`compile_graph`). What is compiled is for another GPU than Jetson's and is not run;
that a Q/DQ graph compiles does not say that INT8 kernels were chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_forms import tensorrt_bundle

from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle

pytestmark = pytest.mark.tensorrt

STATIC = ("192,64",) * 3
DYNAMIC = ("16,16", "256,256", "512,512")

SCRIPT = Path(__file__).with_name("rtx_compile.py")


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Any]:
    """What comes of a graph, in a process of its own; None where the process did not survive it."""

    def go(graph: bytes, precision: str, sizes: tuple[str, str, str]) -> Any:
        path = tmp_path / "graph.onnx"
        path.write_bytes(graph)
        command = [sys.executable, str(SCRIPT), str(path), precision, *sizes]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"died": done.stderr}

    return go


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shipped regulariser as TensorRT takes it."""
    bundle = tensorrt_bundle(tmp_path_factory.mktemp("forms"))
    return {precision: form.onnx for precision, form in bundle.forms.items()}


@pytest.mark.parametrize("sizes", [STATIC, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_form_compiles(compiled, forms, precision, sizes):
    made = compiled(forms[precision], precision, sizes)
    assert made.get("compiled", 0) > 100_000, made


def test_half_precision_makes_smaller_engines(compiled, forms):
    """Weights really have the type of the graph. (Of INT8 this says nothing: its weights are quantized as the engine is loaded.)"""
    sizes = {precision: compiled(forms[precision], precision, STATIC)["compiled"] for precision in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.7 * sizes["fp32"]


def test_the_shipped_int8_is_of_cpus_and_refused_with_the_mend(compiled, shipped):
    """Activations with a zero point: faster on processors, and nothing that TensorRT takes."""
    made = compiled(shipped.forms["int8"].onnx, "int8", STATIC)
    assert made["error"] == "EngineError"
    assert "can't read the graph at QuantizeLinear" in made["said"]
    assert "zero point" in made["said"] and "quantize activations as QInt8" in made["said"]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (("16,16", "8,8", "32,32"), "sizes"),
        (("32,32", "32,32", "16,16"), "sizes"),
    ],
)
def test_sizes_in_disorder_are_refused(compiled, forms, sizes, said):
    made = compiled(forms["fp32"], "fp32", sizes)
    assert made.get("error") == "EngineError" and said in made["said"], made


IMPORTED = Path(__file__).resolve().parents[2] / "build" / "imported"
"""What tests/export/imported_graphs.py writes: `make test-tensorrt` does so first."""


def imported_forms(graph: bytes, folder: Path) -> dict[str, bytes]:
    """A graph of a model that somebody else trained, in the forms that `edge-export quantize` makes for TensorRT."""
    import onnx

    from export.quantization.forms import fp16_form, int8_form, write_prepared
    from export.quantization.ranges import write_ranges

    channels = onnx.load_model_from_string(graph).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    name = onnx.load_model_from_string(graph).graph.input[0].name
    state = np.random.default_rng(0).standard_normal((1, channels, 64, 64)).astype(np.float32)
    prepared, ranges = folder / "prepared.onnx", folder / "ranges.json"
    write_prepared(graph, prepared)
    write_ranges(prepared, [state], ranges, name)
    return {"fp32": graph, "fp16": fp16_form(graph), "int8": int8_form(prepared, ranges, (), symmetric=True)}


@pytest.mark.parametrize("sizes", [("64,64",) * 3, ("32,32", "64,64", "128,128")], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", sorted(path.stem for path in IMPORTED.glob("*.onnx")))
def test_every_graph_of_imported_models_compiles(compiled, tmp_path, name, sizes):
    for precision, graph in imported_forms((IMPORTED / f"{name}.onnx").read_bytes(), tmp_path).items():
        made = compiled(graph, precision, sizes)
        assert made.get("compiled", 0) > 1000, (precision, made)


def test_graphs_of_every_package_are_there():
    """Without them the test above would have none to fail with."""
    packages = {path.name.partition("_")[0] for path in IMPORTED.glob("*.onnx")}
    assert packages == {"fastmri", "monai", "deepinv"}, "make build/imported/.ready"


def graph_of(
    nodes: list[Any], inputs: int = 1, constants: tuple[Any, ...] = (), domains: tuple[str, ...] = ()
) -> bytes:
    """A graph from ``x`` ``(1, 6, rows, columns)`` to ``y``."""
    import onnx

    shape = [1, 6, "rows", "columns"]
    names = ["x", "z"][:inputs]
    graph = onnx.helper.make_graph(
        nodes,
        "refused",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in names],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        list(constants),
    )
    opsets = [onnx.helper.make_opsetid("", 17), *(onnx.helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def node(operator: str, sources: list[str], to: str = "y", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, sources, [to], name=f"/{operator}", **attributes)


def constant(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(values), name)


def sum_with(kind: Any) -> bytes:
    return graph_of([node("Add", ["x", "c"])], constants=(constant("c", np.ones((1, 6, 1, 1), kind)),))


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "no graph": (lambda: b"no graph at all", "EngineError", "can't read the graph"),
    "types that differ": (lambda: sum_with(np.float16), "EngineError", "can't read the graph at Add"),
    "two inputs": (lambda: graph_of([node("Add", ["x", "z"])], inputs=2), "EngineError", "2 inputs"),
    "a quantized bias": (
        lambda: graph_of(
            [node("DequantizeLinear", ["bias", "step"], to="b"), node("Add", ["x", "b"])],
            constants=(constant("bias", np.ones((6, 1, 1), np.int32)), constant("step", np.float32(0.1))),
        ),
        "EngineError",
        "DequantizeLinear",
    ),
    "a Fourier transform": (lambda: graph_of([node("DFT", ["x"], axis=1)]), "PluginMissing", "operator DFT"),
    "an operator of our own": (
        lambda: graph_of([node("DataConsistency", ["x"], domain="edge")], domains=("edge",)),
        "PluginMissing",
        "operator DataConsistency",
    ),
}
"""Graphs, and how they are refused."""


def test_the_same_graph_compiles_where_its_types_agree(compiled):
    assert "compiled" in compiled(sum_with(np.float32), "fp32", STATIC)


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_must_be_refused_is(compiled, name):
    graph, error, said = REFUSED[name]
    made = compiled(graph(), "fp32", STATIC)
    assert made.get("error") == error and said in made["said"], made
