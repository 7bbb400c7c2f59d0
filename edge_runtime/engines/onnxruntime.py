"""ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from edge_runtime.engines import OUT_OF_MEMORY, Purpose, Session, Tensor
from edge_runtime.errors import EngineError, EngineMemory
from edge_runtime.machine import processor

PRECISIONS = {"fp32": 10, "fp16": 5, "int8": 10}
"""FP16 halves the weights; sums are made in single precision here, so an engine which makes them in half is to be preferred."""


HELD_OVER_LIVE = 3
"""The arena over the tensors that exist at one time: it grows by powers of two, and convolutions lay their input out anew. 2.9 was
seen of fastMRI's U-Net (18 channels, 320 x 320), 1.3 to 1.9 of the shipped network."""


@functools.cache
def _shared_memory() -> None:
    """Gives all sessions of the process one arena. Each would otherwise keep what its graph needed: the 13 graphs of a model
    thirteen times as much, though they run one after another."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


class OnnxRuntimeEngine:
    """ONNX Runtime's CPU execution provider; no other provider is admitted, so nothing falls back in silence."""

    name, takes_dla = "onnxruntime", False

    def version(self) -> str:
        return f"onnxruntime {ort.__version__} CPUExecutionProvider"

    def score(self, precision: str) -> int:
        return PRECISIONS.get(precision, 0)

    def conditions(self, purpose: Purpose | None) -> str:
        return processor()

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        return HELD_OVER_LIVE * live_bytes

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        _shared_memory()
        options = ort.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # never starve the ingest thread
        try:
            session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise refused(self.name, error) from error
        return OnnxRuntimeSession(session, self.name)


def refused(name: str, error: Exception) -> EngineError:
    """Of a graph that can't be planned. ONNX Runtime raises a class of its own per failure, with no common base but Exception."""
    kind = EngineMemory if OUT_OF_MEMORY.search(str(error)) else EngineError
    return kind(f"{name} {ort.__version__} can't plan the graph: {error}")


class OnnxRuntimeSession:
    """A session of ONNX Runtime, whatever provider runs it.

    Args:
        name: of the engine, for errors.
    """

    def __init__(self, session: ort.InferenceSession, name: str) -> None:
        self._session, self._name = session, name
        self._input = session.get_inputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        batch = np.asarray(batch)
        try:
            output = self._session.run(None, {self._input: batch})[0]
        except Exception as error:  # see `refused`
            kind = EngineMemory if OUT_OF_MEMORY.search(str(error)) else EngineError
            raise kind(f"{self._name} failed on an input of shape {batch.shape}: {error}") from error
        if not np.isfinite(output).all():
            raise EngineError(f"{self._name} returned values that are not finite for an input of shape {batch.shape}")
        return np.asarray(output, dtype=np.float32)
