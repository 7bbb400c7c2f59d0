"""The engines that forms are judged on: a bundle's tolerances let several run it, and in INT8 each rounds in its own way.

OpenVINO runs what a quantized graph keeps in floating point in bfloat16 where the processor multiplies that, and in single
precision elsewhere: INT8 is judged in both. Engines that compile for a GPU need the device, and judge nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_runtime.engines import CPU_ENGINES, Engine, choose_engine
from edge_runtime.errors import EngineError


@dataclass(frozen=True)
class Judge:
    """An engine in one of its ways.

    Attributes:
        name: as reports call it.
    """

    name: str
    engine: Engine


def judges(report: Callable[[str], None]) -> Mapping[str, tuple[Judge, ...]]:
    """By precision, ONNX Runtime first: its time is that of a form.

    Args:
        report: told of engines that are not installed.
    """
    engines = []
    for name in CPU_ENGINES:
        try:
            engines.append(choose_engine((name,), "int8"))
        except EngineError as error:
            report(f"no form is judged on {name}: {error}")
    plain = tuple(Judge(engine.name, engine) for engine in engines)
    quantized = [judge for one in plain for judge in (_openvino() if one.name == "openvino" else (one,))]
    return {"fp32": plain, "fp16": plain, "int8": tuple(quantized)}


def _openvino() -> tuple[Judge, ...]:
    from edge_runtime.engines.openvino import OpenVinoEngine, floats_here

    return tuple(Judge(f"openvino, rest in {floats}", OpenVinoEngine(floats)) for floats in floats_here())
