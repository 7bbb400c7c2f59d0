"""Compiles an ONNX graph with the code that ships and the compiler of tensorrt-rtx, which wants no GPU; prints what came of it.

    python rtx_compile.py graph.onnx PRECISION LEAST USUAL MOST

Sizes are ``rows,columns``. A process of its own: some graphs end it. tensorrt-rtx has the API of TensorRT 11 and is told which GPU
to compile for, which TensorRT itself sees.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


class Builder(trt.Builder):
    """For an RTX 30: of Ampere, as Orin is."""

    def create_builder_config(self) -> Any:
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        return config


def main() -> None:
    trt.Builder = Builder
    sys.modules["tensorrt"] = trt
    from edge_runtime.engines import Purpose
    from edge_runtime.engines.tensorrt import compile_graph
    from edge_runtime.errors import EngineError

    graph, precision = sys.argv[1:3]
    least, usual, most = (tuple(int(size) for size in text.split(",")) for text in sys.argv[3:6])
    purpose = Purpose("0" * 64, precision, least, usual, most, Path(), 512)
    try:
        compiled, timing = compile_graph(None, Path(graph).read_bytes(), purpose, b"")
    except EngineError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
    else:
        print(json.dumps({"compiled": len(compiled), "timing": len(timing)}))


if __name__ == "__main__":
    main()
