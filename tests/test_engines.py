"""An engine is chosen by score, and nothing falls back in silence."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edge_runtime import engines
from edge_runtime.bundle import load_bundle
from edge_runtime.engines import choose_engine
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import EngineError


class Fast(OnnxRuntimeEngine):
    name = "fast"

    def score(self, precision: str) -> int:
        return 99 if precision == "int8" else 0


def uninstalled() -> engines.Engine:
    raise ImportError("No module named 'tensorrt'")


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "fast": Fast, "tensorrt": uninstalled})


@pytest.fixture
def graph(tiny_bundle):
    return load_bundle(tiny_bundle).forms["fp32"].onnx


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnxruntime_runs_what_bundles_hold(precision):
    assert choose_engine(("onnxruntime",), precision).version().startswith("onnxruntime ")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("order", [("onnxruntime", "fast"), ("fast", "onnxruntime")])
def test_the_highest_score_wins_whatever_the_order(order):
    assert choose_engine(order, "int8").name == "fast"
    assert choose_engine(order, "fp32").name == "onnxruntime"


@pytest.mark.usefixtures("registry")
def test_an_engine_that_is_not_installed_is_passed_over():
    assert choose_engine(("tensorrt", "onnxruntime"), "fp32").name == "onnxruntime"


def test_of_equal_scores_the_first_wins(monkeypatch):
    class Equal(OnnxRuntimeEngine):
        name = "equal"

    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "equal": Equal})
    assert choose_engine(("equal", "onnxruntime"), "int8").name == "equal"
    assert choose_engine(("onnxruntime", "equal"), "int8").name == "onnxruntime"


def test_a_profile_that_names_an_engine_without_its_package_is_told_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "edge_runtime.engines.openvino", raising=False)
    with pytest.raises(EngineError, match=r"openvino: not installed .*pip install 'edge-runtime\[openvino\]'"):
        choose_engine(("openvino",), "fp32")


@pytest.mark.usefixtures("registry")
def test_without_any_engine_every_reason_is_given():
    with pytest.raises(EngineError) as refused:
        choose_engine(("tensorrt", "onnxruntime", "abacus"), "fp8")
    for reason in ("precision fp8", "tensorrt: not installed", "onnxruntime: does not run fp8", "abacus: unknown"):
        assert reason in str(refused.value)


def test_a_graph_that_is_none_is_refused():
    with pytest.raises(EngineError, match="can't plan"):
        OnnxRuntimeEngine().plan(b"no graph", threads=1)


def test_an_input_of_the_wrong_shape_is_named(graph):
    with pytest.raises(EngineError, match=r"shape \(1, 5, 4, 4\)"):
        OnnxRuntimeEngine().plan(graph, threads=1).run(np.zeros((1, 5, 4, 4), np.float32))


def test_an_output_that_is_not_finite_is_an_error(graph):
    with pytest.raises(EngineError, match="not finite"):
        OnnxRuntimeEngine().plan(graph, threads=1).run(np.full((1, 6, 4, 4), np.inf, np.float32))


def test_any_size_runs_and_repeats_exactly(graph):
    session = OnnxRuntimeEngine().plan(graph, threads=1)
    for rows, columns in [(4, 4), (8, 20)]:
        batch = np.random.default_rng(0).standard_normal((1, 6, rows, columns)).astype(np.float32)
        first = session.run(batch)
        assert first.shape == (1, 2, rows, columns)
        np.testing.assert_array_equal(first, session.run(batch))


def test_graphs_that_run_one_after_another_share_memory_where_the_engine_lets_them():
    one, many = (OnnxRuntimeEngine().held_bytes(1000, [50] * count) for count in (1, 12))
    assert many == one >= 1000
