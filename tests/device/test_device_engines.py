"""TensorRT's engines on this device: each form of the shipped network against its golden outputs, and which is fastest."""

from __future__ import annotations

import os
from dataclasses import asdict

import pytest
from tensorrt_forms import tensorrt_bundle

from edge_runtime.engines import choose_engine
from edge_runtime.errors import EngineError
from edge_runtime.profile import Compilation
from export.compile import compile_forms, preferred

pytest_plugins = ("device_report",)
pytestmark = pytest.mark.device

RUNS = 3 if "EDGE_DRIVER_KERNELS" in os.environ else 200


@pytest.fixture
def tensorrt(request: pytest.FixtureRequest, report) -> str:
    """Its version; `make test-tensorrt` has one that computes with ONNX Runtime."""
    if "EDGE_TENSORRT" in os.environ:
        request.getfixturevalue("made")
    try:
        return choose_engine(("tensorrt",), "fp32").version()
    except EngineError as error:
        report.add("TensorRT", str(error))
        pytest.skip(f"device: no TensorRT: {error}")


def test_every_form_reproduces_its_golden_outputs_and_is_timed(tensorrt, report, tmp_path):
    bundle = tensorrt_bundle(tmp_path)
    compilation = Compilation(cache=tmp_path / "engines")
    outcomes = compile_forms(bundle, ("fp32", "fp16", "int8"), compilation, 1, print, timed_runs=RUNS)
    report.add("TensorRT", tensorrt)
    for one in outcomes:
        finding = {key: value for key, value in asdict(one).items() if value not in ("", None)}
        report.add(f"TensorRT, {one.precision}, images of 256 x 256", finding)
    report.add("TensorRT, precisions by speed", preferred(outcomes))
    assert [(one.precision, one.said) for one in outcomes if not one.runs] == []


def test_an_engine_that_was_kept_computes_the_same(tensorrt, report, tmp_path):
    bundle = tensorrt_bundle(tmp_path)
    compilation = Compilation(cache=tmp_path / "engines", usual=64, largest=192)
    compiled, loaded = (compile_forms(bundle, ("fp32",), compilation, 1, print)[0] for _ in range(2))
    assert compiled.runs and loaded.runs, compiled.said or loaded.said
    assert loaded.difference == compiled.difference
    report.add("TensorRT, seconds to compile and to load", [round(one.seconds, 2) for one in (compiled, loaded)])
