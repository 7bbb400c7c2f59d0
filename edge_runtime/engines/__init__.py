"""Inference engines behind one protocol; a registry picks by score, and nothing falls back in silence.

An engine turns one ONNX graph of real tensors into a `Session`. What it is fed and what comes out is decided by the model family;
an engine knows neither MRI nor bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError

Tensor = npt.NDArray[np.float32]


class Session(Protocol):
    """A planned graph with one input and one output."""

    def run(self, batch: Tensor) -> Tensor:
        """One inference; safe to call from several threads.

        Raises:
            EngineError: the engine failed, or returned something that is not finite.
        """
        ...


class Engine(Protocol):
    """A way to run graphs on this machine."""

    name: str

    def version(self) -> str:
        """Name and version, as provenance records it."""
        ...

    def score(self, precision: str) -> int:
        """How well it suits the precision here; 0 if it can't run it."""
        ...

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        """Memory of graphs that run one after another, beside what planning them took.

        Args:
            live_bytes: of the tensors of the largest that exist at one time.
            graph_bytes: size of every graph.
        """
        ...

    def plan(self, onnx: bytes, threads: int) -> Session:
        """Makes a session of a serialised graph.

        Raises:
            EngineError: the graph can't be planned.
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


REGISTRY: dict[str, Callable[[], Engine]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""Engines by the name that a hardware profile uses. Makers import their library only when called."""


def choose_engine(allowed: tuple[str, ...], precision: str) -> Engine:
    """The allowed engine with the highest score for a precision; of equal ones the first.

    Raises:
        EngineError: none of the allowed engines runs it, with the reason for each.
    """
    reasons: list[str] = []
    best: tuple[int, Engine] | None = None
    for name in allowed:
        if name not in REGISTRY:
            reasons.append(f"{name}: unknown, known are {', '.join(sorted(REGISTRY))}")
            continue
        try:
            engine = REGISTRY[name]()
        except ImportError as error:
            reasons.append(f"{name}: not installed ({error})")
            continue
        score = engine.score(precision)
        if score == 0:
            reasons.append(f"{name}: does not run {precision} here")
        elif best is None or score > best[0]:
            best = (score, engine)
    if best is None:
        raise EngineError(f"no engine of the profile runs precision {precision}: {'; '.join(reasons)}")
    return best[1]
