"""Small split programs and engines for tests, made without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.engines import Session, Tensor
from edge_runtime.program.stages import Graph, Stage
from export.adapters.program import Origin, SplitProgram, digest

ORIGIN = Origin("onnx", "made", "none", "{}", "made.onnx", digest(b""), digest(b""))


@dataclass(frozen=True)
class Formulas:
    """An engine whose graphs are Python functions: the content of a graph is its function's name."""

    functions: Mapping[str, Callable[[Tensor], Tensor]]
    name: str = "formulas"

    def version(self) -> str:
        return "formulas 1"

    def score(self, precision: str) -> int:
        return 1

    def plan(self, onnx: bytes, threads: int) -> Session:
        return _Formula(self.functions[onnx.decode()])


@dataclass(frozen=True)
class _Formula:
    function: Callable[[Tensor], Tensor]

    def run(self, batch: Tensor) -> Tensor:
        return np.asarray(self.function(batch), np.float32)


def graph(file: str, channels: int = 2, multiple: int = 1, least: int = 1) -> Graph:
    """A dynamic graph."""
    content = file.encode()
    return Graph(file, digest(content), "in", "out", channels, channels, None, None, None, multiple, least, 17)


def program(
    stages: tuple[Stage, ...], graphs: tuple[Graph, ...], *, maps_given: bool = False, domain: str = "kspace"
) -> SplitProgram:
    """A program whose graphs contain their own names."""
    return SplitProgram(
        name="made",
        version="1",
        domain="image" if domain == "image" else "kspace",
        network_axes="columns, phase_encodes",
        maps_given=maps_given,
        input_channels=2 if domain == "image" else 0,
        stages=stages,
        graphs=graphs,
        origin=ORIGIN,
        files={one.file: one.file.encode() for one in graphs},
    )
