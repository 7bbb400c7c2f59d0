"""OpenVINO on the CPU; the extra ``openvino``."""

from __future__ import annotations

import io
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np

from edge_runtime.engines import OUT_OF_MEMORY, Purpose, Session, Tensor
from edge_runtime.errors import EngineError, EngineMemory
from edge_runtime.machine import processor

# When imported, OpenVINO reports that to its makers over the network. A device tells nobody anything: without this package of its
# own it can't, and goes on.
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))

import openvino as ov  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402

VERSION = ov.__version__.partition("-")[0]
"""Without what names the build."""

Floats = Literal["bf16", "f32"]
"""What sums outside of INT8 are made in, as OpenVINO's hint names it."""

PRECISIONS = {"fp32": 10, "fp16": 5, "int8": 10}
"""FP16 halves the weights; sums are made in single precision here, so an engine which makes them in half is to be preferred."""

SIZES_KEPT = 4
"""Input shapes whose compiled graphs are kept; each holds packed weights and its own tensors. A scan has one, its previews too."""

HELD_OVER_LIVE = 2
"""Every compiled graph has tensors of its own, and weights packed for its size. About as much as exists at one time was seen of
each of the 13 U-Nets of a fastMRI VarNet (18 channels, 256 x 256)."""

CORE = ov.Core()
"""The one of this process, never let go. The CPU plugin gives the thread that loads it a stack for signals and frees it when it is
unloaded, by whichever thread: the first would be left with a stack that is none, and the next signal would kill the process."""

FRONT_ENDS = FrontEndManager()


class OpenVinoEngine:
    """OpenVINO's CPU plugin; no other device is admitted, so nothing falls back in silence.

    Args:
        quantized_floats: what quantized graphs keep in floating point is; ``None`` for what is the fastest here.
    """

    name, takes_dla = "openvino", False

    def __init__(self, quantized_floats: Floats | None = None) -> None:
        self._core, self._quantized_floats = CORE, quantized_floats

    def version(self) -> str:
        return f"openvino {VERSION} CPU"

    def score(self, precision: str) -> int:
        return PRECISIONS.get(precision, 0)

    def conditions(self, purpose: Purpose | None) -> str:
        return processor()

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        return len(graph_bytes) * HELD_OVER_LIVE * live_bytes + sum(graph_bytes)

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        try:
            return OpenVinoSession(self._core, _read(onnx), threads, self._quantized_floats)
        except Exception as error:  # its frontends raise classes of their own, with no common base but Exception
            kind = EngineMemory if OUT_OF_MEMORY.search(str(error)) else EngineError
            raise kind(f"openvino {VERSION} can't plan the graph: {_one_line(error)}") from error


class OpenVinoSession:
    """A graph that is compiled once for each shape of its input: a fixed one lets OpenVINO lay all tensors out beforehand.

    Args:
        model: with one input and one output.
        threads: computing threads; calls from several threads take turns, so that there are never more.
        quantized_floats: see `OpenVinoEngine`.
    """

    def __init__(self, core: ov.Core, model: ov.Model, threads: int, quantized_floats: Floats | None = None) -> None:
        self._core, self._model = core, model
        self._properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": floats_of(core, model, quantized_floats),
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # pinned, threads would wait for whoever else runs on their cores
        }
        self._turn = threading.Lock()
        self._requests: OrderedDict[tuple[int, ...], ov.InferRequest] = OrderedDict()

    def run(self, batch: Tensor) -> Tensor:
        batch = np.asarray(batch)
        if batch.dtype != np.float32:  # OpenVINO would convert it
            raise EngineError(
                f"openvino failed on an input of shape {batch.shape}: float32 is expected, {batch.dtype} came"
            )
        if not np.isfinite(batch).all():  # its ReLU makes zeros of what is not a number: the output would look sound
            raise EngineError(f"openvino was given values that are not finite, in an input of shape {batch.shape}")
        with self._turn:
            try:
                output = self._request(batch.shape).infer([batch])[0]
            except Exception as error:  # as above
                kind = EngineMemory if OUT_OF_MEMORY.search(str(error)) else EngineError
                raise kind(f"openvino failed on an input of shape {batch.shape}: {_one_line(error)}") from error
        if not np.isfinite(output).all():
            raise EngineError(f"openvino returned values that are not finite for an input of shape {batch.shape}")
        return np.asarray(output, dtype=np.float32)

    def _request(self, shape: tuple[int, ...]) -> ov.InferRequest:
        """Of the graph compiled for a shape; the one that was not used for longest gives way."""
        if shape not in self._requests:
            model = self._model.clone()
            model.reshape(list(shape))
            self._requests[shape] = self._core.compile_model(model, "CPU", self._properties).create_infer_request()
            if len(self._requests) > SIZES_KEPT:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shape)
        return self._requests[shape]


def _read(onnx: bytes) -> ov.Model:
    """A graph, read as ONNX and nothing else.

    ``ov.Core.read_model`` guesses the format: it finds OpenVINO's own in a graph whose producer's name is XML, which ONNX Runtime
    and the checks of bundles read as ONNX.
    """
    front_end = FRONT_ENDS.load_by_framework("onnx")
    model = front_end.convert(front_end.load(io.BytesIO(onnx)))
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"{len(model.inputs)} inputs and {len(model.outputs)} outputs: one of each is expected")
    return model


def floats_here(core: ov.Core = CORE) -> tuple[Floats, ...]:
    """What this processor can make a quantized graph's other sums in, the fastest first."""
    return ("bf16", "f32") if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


def floats_of(core: ov.Core, model: ov.Model, quantized: Floats | None = None) -> Floats:
    """What a graph's sums outside of INT8 are made in.

    A graph in floating point is one thing on every device: single precision, though OpenVINO would take bfloat16 where it can. One
    that is quantized rounds far more coarsely by itself and is tolerated accordingly; what it keeps in floating point may be
    bfloat16, where the processor multiplies that, and takes half the time (docs/quantization.md).
    """
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        return "f32"
    return quantized or floats_here(core)[0]


def _one_line(error: Exception) -> str:
    """OpenVINO's errors are several lines long."""
    return " ".join(str(error).split())
