"""Cuts the regulariser out of an unrolled network, or any network of planes, and writes it as one ONNX graph of real tensors."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import nn

from export.families.unrolled import CONDITION_CHANNELS, IMAGE_CHANNELS, Regulariser, UnrolledNetwork

OPSET = 17


def regulariser_onnx(network: UnrolledNetwork) -> bytes:
    """The regulariser as ONNX: input ``image (batch, 6, rows, columns)``, output ``correction (batch, 2, rows, columns)``.

    Batch, rows and columns are dynamic; rows and columns must be multiples of ``network.regulariser.multiple``.
    """
    regulariser: Regulariser = network.regulariser.to(  # type: ignore[call-overload]  # torch's stubs lack memory_format
        memory_format=torch.contiguous_format
    ).eval()
    example = torch.zeros(1, IMAGE_CHANNELS + CONDITION_CHANNELS, 4 * regulariser.multiple, 5 * regulariser.multiple)
    return planes_onnx(regulariser, example, "image", "correction")


def planes_onnx(
    network: nn.Module,
    example: torch.Tensor,
    input_name: str,
    output_name: str,
    fixed: tuple[int | None, int | None] = (None, None),
) -> bytes:
    """A network from planes ``(batch, channels, rows, columns)`` to planes, as ONNX; batch, rows and columns are dynamic.

    Args:
        network: in evaluation mode.
        example: planes of any size; what the network decides by their size is decided for all sizes.
        fixed: rows and columns of the example, where the graph takes no others.

    Raises:
        torch.onnx.errors.OnnxExporterError, RuntimeError: an operation has no form in ONNX.
    """
    buffer = io.BytesIO()
    axes = {0: "batch"} | {
        axis: name for axis, name, size in zip((2, 3), ("rows", "columns"), fixed, strict=True) if not size
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the TorchScript exporter: no onnxscript, and a smaller graph
        torch.onnx.export(
            network,
            (example,),
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a buffer; the stubs know the new one
            dynamo=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_axes=dict.fromkeys((input_name, output_name), axes),
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised
