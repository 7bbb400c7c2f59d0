"""ONNX Runtime's CUDA and TensorRT providers, where a build has them: NVIDIA's for Jetson, ``onnxruntime-gpu`` elsewhere.

A session has one provider. ONNX Runtime itself would fall back to others, for a part of the graph or for all of it, and only log
that: here a node that the provider does not take, and a provider that can't be loaded, is an error.

Options as in ONNX Runtime's pages of the CUDA and TensorRT execution providers (1.20 to 1.23); a provider refuses those that it
does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from edge_runtime.cuda.device import open_device
from edge_runtime.engines import Purpose, Session, Size
from edge_runtime.engines.onnxruntime import OnnxRuntimeSession, refused
from edge_runtime.errors import DeviceError, EngineError
from edge_runtime.machine import processor

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

CUDA_PRECISIONS = {"fp32": 15, "fp16": 15}
"""Before the engines of a CPU, after TensorRT. It has no INT8 convolutions: a Q/DQ graph would be more work than FP32."""

TENSORRT_PRECISIONS = {"fp32": 18, "fp16": 18, "int8": 18}
"""After TensorRT itself, which keeps tensors on the GPU between the kernels and the network."""

DEVICE = 0

HELD_OVER_LIVE = 3
"""As of the CPU's provider: the memory that a Jetson's GPU shares with it."""


class OnnxRuntimeCudaEngine:
    """The first GPU, through CUDA and cuDNN.

    Raises:
        EngineError: the installed ONNX Runtime has no such provider.
    """

    name, takes_dla = "onnxruntime-cuda", False

    def __init__(self) -> None:
        need(CUDA)

    def version(self) -> str:
        return f"{self.name} {ort.__version__} {CUDA}"

    def score(self, precision: str) -> int:
        return CUDA_PRECISIONS.get(precision, 0)

    def conditions(self, purpose: Purpose | None) -> str:
        return f"{processor()}, {first_gpu()}"

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        return HELD_OVER_LIVE * live_bytes

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        return _planned(self.name, onnx, threads, CUDA, cuda_options())


class OnnxRuntimeTensorRtEngine:
    """The first GPU, through the TensorRT that ONNX Runtime was built for; engines and timings are kept in the profile's folder.

    ONNX Runtime names its engine files after graph, version and GPU; they are this user's alone, as those of `compiled` are.

    Raises:
        EngineError: the installed ONNX Runtime has no such provider.
    """

    name, takes_dla = "onnxruntime-tensorrt", True

    def __init__(self) -> None:
        need(TENSORRT)

    def version(self) -> str:
        return f"{self.name} {ort.__version__} {TENSORRT}"

    def score(self, precision: str) -> int:
        return TENSORRT_PRECISIONS.get(precision, 0)

    def conditions(self, purpose: Purpose | None) -> str:
        return f"{processor()}, {first_gpu()}, {purpose}"

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        return HELD_OVER_LIVE * live_bytes

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        """As `Engine.plan`; the first time takes minutes.

        Raises:
            EngineError: also for programs, whose sizes nobody knows beforehand.
        """
        if purpose is None:
            raise EngineError(
                f"{self.name} compiles graphs for sizes and was told none: it runs unrolled networks, no programs"
            )
        with contextlib.suppress(OSError):  # it says so itself where it can't keep engines
            (purpose.cache.expanduser() / self.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return _planned(self.name, onnx, threads, TENSORRT, tensorrt_options(purpose, *_input(onnx)))


def first_gpu() -> str:
    """Model and driver, where PyCUDA is there to ask; ONNX Runtime itself does not tell."""
    try:
        return open_device().description
    except DeviceError:
        return f"GPU {DEVICE}"


def need(provider: str) -> None:
    """That the installed ONNX Runtime has a provider; whether there is a GPU shows when a graph is planned.

    Raises:
        EngineError: it has not, with the mend.
    """
    found = ort.get_available_providers()
    if provider not in found:
        raise EngineError(
            f"ONNX Runtime {ort.__version__} is built without {provider} (it has {', '.join(found)}): on a Jetson install NVIDIA's "
            "build for its JetPack, elsewhere onnxruntime-gpu, in place of onnxruntime"
        )


def cuda_options() -> dict[str, str]:
    """Options of the CUDA provider.

    TF32, which rounds factors to 10 bits, is on unless it is switched off. ``HEURISTIC`` chooses convolutions without trying them
    all for every new size, and the arena takes no more than it needs: on a Jetson the memory is everybody's.
    """
    return {
        "device_id": str(DEVICE),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }


def tensorrt_options(purpose: Purpose, tensor: str, channels: int) -> dict[str, str]:
    """Options of the TensorRT provider.

    Precision is the graph's: FP16 is allowed where the form is of FP16, INT8 where it holds Q/DQ nodes, nothing lower anywhere.
    There is no option against TF32; ``NVIDIA_TF32_OVERRIDE=0`` in the environment is one, and golden outputs see the difference.

    Args:
        tensor, channels: name and channels of the graph's input, ``(1, channels, rows, columns)``.
    """

    def shape(size: Size) -> str:
        return f"{tensor}:1x{channels}x{size[0]}x{size[1]}"

    cache = str(purpose.cache.expanduser() / OnnxRuntimeTensorRtEngine.name)
    options = {
        "device_id": str(DEVICE),
        "trt_max_workspace_size": str(purpose.workspace_mb << 20),
        "trt_fp16_enable": str(int(purpose.precision == "fp16")),
        "trt_int8_enable": str(int(purpose.precision == "int8")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_engine_cache_prefix": f"{purpose.bundle[:16]}-{purpose.precision}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        "trt_profile_min_shapes": shape(purpose.least),
        "trt_profile_opt_shapes": shape(purpose.usual),
        "trt_profile_max_shapes": shape(purpose.most),
    }
    if purpose.dla_core is not None:
        options |= {"trt_dla_enable": "1", "trt_dla_core": str(purpose.dla_core)}
    return options


def _planned(name: str, onnx: bytes, threads: int, provider: str, options: Mapping[str, str]) -> Session:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen: list[Any] = [(provider, dict(options))]
    try:
        # Without enable_fallback=0 the bindings make another session, on the CPU, where this one fails.
        session = ort.InferenceSession(onnx, settings, providers=chosen, enable_fallback=0)
    except Exception as error:
        raise refused(name, error) from error
    if session.get_providers()[0] != provider:  # it could not be loaded, which is a line in a log to ONNX Runtime
        raise EngineError(
            f"{name} {ort.__version__}: {provider} could not be loaded, {session.get_providers()[0]} would run in its place: are "
            "driver, CUDA, cuDNN and TensorRT of the versions that this build was made for?"
        )
    session.disable_fallback()
    return OnnxRuntimeSession(session, name)


def _input(onnx: bytes) -> tuple[str, int]:
    """Name and channels of a graph's input.

    Raises:
        EngineError: it is none that ONNX Runtime reads.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        (tensor,) = ort.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"]).get_inputs()
        return str(tensor.name), int(tensor.shape[1])
    except Exception as error:
        raise refused(OnnxRuntimeTensorRtEngine.name, error) from error
