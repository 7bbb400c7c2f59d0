"""Inference engines behind one protocol; a registry ranks them by score, and nothing falls back in silence.

An engine turns one ONNX graph of real tensors into a `Session`. What it is fed and what comes out is decided by the model family;
an engine knows neither MRI nor bundles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DeviceError, EngineError

Tensor = npt.NDArray[np.float32]

Size = tuple[int, int]
"""Rows and columns of an image."""

OUT_OF_MEMORY = re.compile(
    r"bad.?alloc|out of memory|fail\w* to allocate|can.?not allocate|not enough memory", re.IGNORECASE
)
"""How engines say that memory ran out, of the host or of a GPU."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a graph is planned for. Engines that compile graphs on the device need it; the others pass over it.

    Attributes:
        bundle: SHA-256 of the bundle's file, hexadecimal.
        precision: of the form.
        least, usual, most: sizes of the images; the compiler optimises for the usual one, and outside of the others nothing runs.
        cache: folder of what was compiled.
        workspace_mb: what one layer may take of the device's memory beside its tensors.
        dla_core: of Jetson's deep learning accelerator; ``None`` for the GPU.
    """

    bundle: str
    precision: str
    least: Size
    usual: Size
    most: Size
    cache: Path
    workspace_mb: int
    dla_core: int | None = None

    def __str__(self) -> str:
        """Sizes, memory and accelerator: what a compiled engine is of, beside its graph and its device."""
        sizes = " to ".join(f"{rows} x {columns}" for rows, columns in (self.least, self.usual, self.most))
        where = "GPU" if self.dla_core is None else f"DLA core {self.dla_core}"
        return f"{sizes}, workspace {self.workspace_mb} MB, {where}"


class Session(Protocol):
    """A planned graph with one input and one output."""

    def run(self, batch: Tensor) -> Tensor:
        """One inference; safe to call from several threads.

        Args:
            batch: may be a `edge_runtime.arrays.DeviceArray`; engines on that GPU then answer with one.

        Raises:
            EngineError: the engine failed, or returned something that is not finite.
        """
        ...


@runtime_checkable
class CompiledSession(Session, Protocol):
    """A session of a graph that was compiled on this device, and is kept there."""

    def discard(self) -> None:
        """Forgets what was compiled: it has failed, and whoever tries again compiles anew."""
        ...


class Engine(Protocol):
    """A way to run graphs on this machine.

    Attributes:
        takes_dla: it compiles for the accelerator whose core the purpose names; layers that this lacks stay on the GPU.
    """

    name: str
    takes_dla: bool

    def version(self) -> str:
        """Name and version, as provenance records it."""
        ...

    def score(self, precision: str) -> int:
        """How well it suits the precision here; 0 if it can't run it."""
        ...

    def conditions(self, purpose: Purpose | None) -> str:
        """What beside the version decides what it computes on this machine: processor, GPU, driver, sizes that it compiles for. An
        engine that failed is not tried again where this is the same."""
        ...

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        """Memory of graphs that run one after another, beside what planning them took.

        Args:
            live_bytes: of the tensors of the largest that exist at one time.
            graph_bytes: size of every graph.
        """
        ...

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        """Makes a session of a serialised graph.

        Args:
            purpose: engines that compile graphs can't do without.

        Raises:
            EngineError: the graph can't be planned.
            DeviceError: the GPU can't be used.
        """
        ...


def _onnxruntime() -> Engine:
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine()


def _openvino() -> Engine:
    try:
        from edge_runtime.engines.openvino import OpenVinoEngine
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'edge-runtime[openvino]'") from error
    return OpenVinoEngine()


def _tensorrt() -> Engine:
    try:
        from edge_runtime.engines.tensorrt import TensorRtEngine
    except ImportError as error:
        raise ImportError(
            f"{error}: TensorRT comes with JetPack; beside it pip install 'edge-runtime[jetson]', in an environment that sees the "
            "system's packages"
        ) from error
    return TensorRtEngine()


def _onnxruntime_cuda() -> Engine:
    from edge_runtime.engines.onnxruntime_gpu import OnnxRuntimeCudaEngine

    return OnnxRuntimeCudaEngine()


def _onnxruntime_tensorrt() -> Engine:
    from edge_runtime.engines.onnxruntime_gpu import OnnxRuntimeTensorRtEngine

    return OnnxRuntimeTensorRtEngine()


REGISTRY: dict[str, Callable[[], Engine]] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
"""Engines by the name that a hardware profile uses. Makers import their library only when called."""

CPU_ENGINES = ("onnxruntime", "openvino")
"""Those that need no GPU and nothing compiled beforehand."""


@dataclass(frozen=True)
class Ranking:
    """Engines for one precision.

    Attributes:
        engines: best first.
        passed_over: why others that are allowed do not run it here, by name.
    """

    engines: tuple[Engine, ...]
    passed_over: Mapping[str, str]


def rank_engines(allowed: tuple[str, ...], precision: str) -> Ranking:
    """The allowed engines by their score for a precision; equal ones as they are listed.

    Raises:
        EngineError: none of them runs it, with the reason for each.
    """
    reasons: dict[str, str] = {}
    found: list[tuple[int, Engine]] = []
    for name in allowed:
        if name not in REGISTRY:
            reasons[name] = f"unknown, known are {', '.join(sorted(REGISTRY))}"
            continue
        try:
            engine = REGISTRY[name]()
        except ImportError as error:
            reasons[name] = f"not installed ({error})"
            continue
        except (DeviceError, EngineError) as error:
            reasons[name] = str(error)
            continue
        score = engine.score(precision)
        if score == 0:
            reasons[name] = f"does not run {precision} here"
        else:
            found.append((score, engine))
    if not found:
        every = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise EngineError(f"no engine of the profile runs precision {precision}: {every}")
    found.sort(key=lambda scored: -scored[0])
    return Ranking(tuple(engine for _, engine in found), reasons)


def choose_engine(allowed: tuple[str, ...], precision: str) -> Engine:
    """The allowed engine with the highest score for a precision; of equal ones the first.

    Raises:
        EngineError: none of the allowed engines runs it, with the reason for each.
    """
    return rank_engines(allowed, precision).engines[0]
