"""INT8 as libraries make it by themselves: ONNX Runtime's static quantization and NNCF's post-training quantization, both with
their defaults, on the states that ours is calibrated on."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from export.quantization.forms import write_prepared

Tensor = npt.NDArray[np.float32]


class _States(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, states: Sequence[Tensor]) -> None:
        self._states: Iterator[Tensor] = iter(states)

    def get_next(self) -> dict[str, Tensor] | None:
        state = next(self._states, None)
        return None if state is None else {"image": state}


def onnxruntime_default(graph: bytes, states: Sequence[Tensor]) -> bytes:
    """The graph as `quantize_static` makes it, after the preparation that its documentation asks for.

    Args:
        graph: with one input, ``image``.
        states: its inputs.
    """
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer warns through the root logger
    with tempfile.TemporaryDirectory() as folder:
        prepared, target = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        write_prepared(graph, prepared)
        quantize_static(str(prepared), str(target), _States(states))
        return target.read_bytes()


def nncf_default(graph: bytes, states: Sequence[Tensor]) -> Any:
    """An OpenVINO model as `nncf.quantize` makes it.

    Raises:
        ImportError: OpenVINO or NNCF is not installed.
    """
    from edge_runtime.engines.openvino import CORE  # first: then neither library reports to its makers
    import nncf  # isort: skip

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(CORE.read_model(graph), nncf.Dataset(list(states)))
