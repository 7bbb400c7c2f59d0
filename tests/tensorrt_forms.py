"""The shipped bundle with forms that TensorRT takes: single and half precision, and INT8 with signed symmetric ranges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, Form, load_bundle
from edge_runtime.bundle.manifest import REGULARISER


def tensorrt_bundle(folder: Path) -> Bundle:
    """Qualified as bundles are that are packed from now on; golden outputs are ONNX Runtime's.

    Args:
        folder: for what is written on the way.
    """
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from export.pack import TOLERANCES
    from export.quantization.forms import fp16_form

    shipped = load_bundle(DEFAULT_BUNDLE)
    fp32 = shipped.forms["fp32"].onnx
    graphs = {"fp32": fp32, "fp16": fp16_form(fp32), "int8": symmetric_int8(fp32, shipped.golden_input, folder)}
    forms = {
        name: Form(
            name, {REGULARISER: onnx}, OnnxRuntimeEngine().plan(onnx, 1).run(shipped.golden_input), TOLERANCES[name]
        )
        for name, onnx in graphs.items()
    }
    return replace(shipped, forms=forms)


def symmetric_int8(fp32: bytes, batch: np.ndarray, folder: Path) -> bytes:
    """All layers in INT8, with ranges of one image: to compile and to time, not to look at."""
    from export.quantization.forms import int8_form, write_prepared
    from export.quantization.ranges import write_ranges

    prepared, ranges = folder / "prepared.onnx", folder / "ranges.json"
    write_prepared(fp32, prepared)
    write_ranges(prepared, [batch], ranges)
    return int8_form(prepared, ranges, (), symmetric=True)
