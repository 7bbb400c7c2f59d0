"""The forms of a graph: prepared for quantization, INT8 with chosen layers in floating point, FP16."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.quantization.ranges import QUANTIZED_OPERATORS


def write_prepared(model: bytes, out: Path) -> None:
    """Writes the FP32 graph with constants folded and shapes inferred, as calibration and quantization both want it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "fp32.onnx"
        source.write_bytes(model)
        quant_pre_process(str(source), str(out), skip_symbolic_shape=True)


def int8_form(prepared: Path, ranges: Path, keep_float: Collection[str], *, symmetric: bool = False) -> bytes:
    """QDQ INT8: signed weights with a scale per output channel; activations unsigned with a zero point, for CPUs, or symmetric.

    Most activations come after a ReLU, so a signed symmetric range leaves half its codes unused; ONNX Runtime also runs unsigned
    ones faster. TensorRT takes symmetric ones alone.

    Args:
        prepared: of `write_prepared`.
        ranges: of `ranges.write_ranges`.
        keep_float: names of the nodes that stay in floating point.
        symmetric: whether activations are.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_static(
            str(prepared),
            str(target),
            calibration_cache_path=str(ranges),
            calibrate_method=CalibrationMethod.Percentile,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            nodes_to_exclude=sorted(keep_float),
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return target.read_bytes()


def fp16_form(model: bytes) -> bytes:
    """The graph in half precision, with inputs and outputs in single precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True)
    OnnxModel(half).topological_sort(is_deterministic=True)  # the casts of the input come last
    onnx.checker.check_model(half, full_check=True)
    return bytes(half.SerializeToString())
