"""ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from edge_runtime.engines import Purpose, Session, Tensor
from edge_runtime.errors import EngineError

PRECISIONS = {"fp32": 10, "int8": 10}


class OnnxRuntimeEngine:
    """ONNX Runtime's CPU execution provider; no other provider is admitted, so nothing falls back in silence."""

    name = "onnxruntime"

    def version(self) -> str:
        return f"onnxruntime {ort.__version__} CPUExecutionProvider"

    def score(self, precision: str) -> int:
        return PRECISIONS.get(precision, 0)

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # never starve the ingest thread
        try:
            return _OnnxRuntimeSession(ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"]))
        except (
            Exception
        ) as error:  # ONNX Runtime raises a class of its own per failure, with no common base but Exception
            raise EngineError(f"onnxruntime {ort.__version__} can't plan the graph: {error}") from error


class _OnnxRuntimeSession:
    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        try:
            output = self._session.run(None, {self._input: batch})[0]
        except Exception as error:  # as above
            raise EngineError(f"onnxruntime failed on an input of shape {batch.shape}: {error}") from error
        if not np.isfinite(output).all():
            raise EngineError(f"onnxruntime returned values that are not finite for an input of shape {batch.shape}")
        return np.asarray(output, dtype=np.float32)
