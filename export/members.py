"""What graphs and golden arrays are called in a bundle."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.bundle.manifest import REGULARISER

GOLDEN_INPUT = "golden/input.npy"


def golden_output(precision: str) -> str:
    """The member of what a form answers."""
    return f"golden/{precision}.npy"


def graph_label(precision: str, graph: str) -> str:
    """A graph's name in the bundle, without its folder and suffix.

    Args:
        graph: `REGULARISER`, or the file of a program's graph.
    """
    return precision if graph == REGULARISER else f"{precision}.{graph.removesuffix('.onnx')}"


def graph_members(precision: str, graphs: Iterable[str]) -> dict[str, str]:
    """The members of a form, by the graph's name."""
    return {name: f"forms/{graph_label(precision, name)}.onnx" for name in sorted(graphs)}
