"""Data consistency as a TensorRT plugin, for whoever wants one engine with the physics inside.

Bundles don't need it: their graphs hold ONNX's own operators alone, and the runtime makes a regulariser's output agree with the
samples between its runs. `register_plugins` is called before a graph with the operator is planned or its engine is loaded.

The operator ``EdgeDataConsistency``, version ``1``, of no namespace. Complex numbers are pairs of float32 along a last axis of 2,
as TensorRT has no type for them:

| input | shape | type |
|---|---|---|
| prior | (phase_encodes, columns, 2) | float32 |
| maps: sensitivities | (coils, phase_encodes, columns, 2) | float32 |
| samples: hybrid space | (coils, phase_encodes, columns, 2) | float32 |
| measured: where samples count | (phase_encodes, columns) | bool |

Its output has the prior's shape: x of (AᴴA + λ) x = Aᴴ y + λ prior, after ``steps`` conjugate-gradient steps from the prior.
``weight`` (λ) is an attribute and so the same for all scans; where it hangs on a scan, divide maps and samples by √λ and let it
be 1.

API: NVIDIA TensorRT Python API reference, IPluginV3 (10.3 and 11.4).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorrt as trt

from edge_runtime.cuda.device import open_device
from edge_runtime.cuda.resident import ResidentSense
from edge_runtime.errors import ArgumentError, EngineError

NAME, VERSION, NAMESPACE = "EdgeDataConsistency", "1", ""

INPUTS = ("prior", "maps", "samples", "measured")
MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's attributes.

    Attributes:
        weight: λ, above 0.
        steps: of conjugate gradients, 1 to 64.
        tolerance: at which a column stops by itself; 0 for every step.

    Raises:
        ArgumentError: one is none of these.
    """

    weight: float
    steps: int
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ArgumentError("weight", self.weight, "a number above 0")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ArgumentError("steps", self.steps, f"1 to {MAX_STEPS}")
        if not 0 <= self.tolerance < 1:
            raise ArgumentError("tolerance", self.tolerance, "a number from 0 to below 1")

    @classmethod
    def of(cls, fields: Sequence[Any]) -> Settings:
        """Of TensorRT's plugin fields, in any order.

        Raises:
            ArgumentError: one is missing, unknown or wrong.
        """
        values: dict[str, float] = {}
        for field in fields:
            data = np.asarray(field.data).reshape(-1)
            if field.name not in ("weight", "steps", "tolerance") or len(data) != 1:
                raise ArgumentError(
                    f"attribute {field.name}", data.tolist(), "one number of weight, steps or tolerance"
                )
            values[field.name] = data[0].item()
        for name in ("weight", "steps"):
            if name not in values:
                raise ArgumentError(f"attribute {name}", "nothing", "a number")
        return cls(float(values["weight"]), int(values["steps"]), float(values.get("tolerance", 0.0)))


def geometry_of(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Coils, phase encodes and columns of the inputs' shapes.

    Raises:
        ArgumentError: they do not belong together.
    """
    if len(shapes) != len(INPUTS):
        raise ArgumentError("inputs", len(shapes), f"{', '.join(INPUTS)}")
    prior, maps, samples, measured = shapes
    if len(prior) != 3 or prior[2] != 2 or min(prior) < 1:
        raise ArgumentError("prior", prior, "(phase_encodes, columns, 2)")
    if len(maps) != 4 or maps[1:] != prior or maps[0] < 1:
        raise ArgumentError("maps", maps, f"(coils, {', '.join(str(size) for size in prior)})")
    if samples != maps:
        raise ArgumentError("samples", samples, f"{maps}")
    if measured != prior[:2]:
        raise ArgumentError("measured", measured, f"{prior[:2]}")
    return maps[0], prior[0], prior[1]


class DataConsistency(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):  # type: ignore[misc]
    """The plugin; TensorRT calls its methods, in the order that its documentation of IPluginV3 tells."""

    def __init__(self, settings: Settings) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
        self.num_outputs = 1
        self.timing_cache_id = ""
        self._settings = settings
        # TensorRT reads these after the method that hands them out has returned.
        self._fields = (
            ("weight", np.array([settings.weight], np.float32), trt.PluginFieldType.FLOAT32),
            ("steps", np.array([settings.steps], np.int32), trt.PluginFieldType.INT32),
            ("tolerance", np.array([settings.tolerance], np.float32), trt.PluginFieldType.FLOAT32),
        )
        self._plan: ResidentSense | None = None
        self._geometry: tuple[int, int, int] | None = None
        # The bindings of 10.3 damage the heap where Python frees a plugin, whoever made it. None is ever freed: what is large of
        # one goes when TensorRT destroys it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def destroy(self) -> None:
        """TensorRT needs it no more."""
        self._plan = self._geometry = None

    def get_capability_interface(self, type: Any) -> DataConsistency:
        return self

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        return [input_types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], expr_builder: Any) -> list[Any]:
        return [trt.DimsExprs(inputs[0])]

    def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
        desc = in_out[pos].desc
        wanted = trt.DataType.BOOL if pos == INPUTS.index("measured") else trt.DataType.FLOAT
        return bool(num_inputs == len(INPUTS) and desc.format == trt.TensorFormat.LINEAR and desc.type == wanted)

    def configure_plugin(self, inp: Sequence[Any], out: Sequence[Any]) -> None:
        """Nothing: the geometry is known when shapes are."""

    def on_shape_change(self, inp: Sequence[Any], out: Sequence[Any]) -> None:
        """All memory is allocated here."""
        geometry = geometry_of([tuple(desc.dims) for desc in inp])
        if geometry != self._geometry:
            self._plan, self._geometry = ResidentSense(open_device(), *geometry), geometry

    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        if self._plan is None:
            raise EngineError(f"{NAME} is asked to run before it was told the shapes of its inputs")
        prior, maps, samples, measured = inputs
        settings = self._settings
        self._plan.enqueue(
            prior,
            maps,
            samples,
            measured,
            outputs[0],
            weight=settings.weight,
            steps=settings.steps,
            tolerance=settings.tolerance,
            stream=stream,
        )

    def get_fields_to_serialize(self) -> Any:
        return trt.PluginFieldCollection([trt.PluginField(*field) for field in self._fields])

    def attach_to_context(self, resource_context: Any) -> DataConsistency:
        return self.clone()

    def get_valid_tactics(self) -> list[int]:
        return [1]

    def set_tactic(self, tactic: int) -> None:
        """There is one."""

    def clone(self) -> DataConsistency:
        """With a plan of its own: contexts run beside each other."""
        return DataConsistency(self._settings)


class DataConsistencyCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]
    """Makes plugins of a graph's attributes, or of what an engine file holds of them."""

    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
        self._empty = np.array([])
        self.field_names = trt.PluginFieldCollection(
            [
                trt.PluginField("weight", self._empty, trt.PluginFieldType.FLOAT32),
                trt.PluginField("steps", self._empty, trt.PluginFieldType.INT32),
                trt.PluginField("tolerance", self._empty, trt.PluginFieldType.FLOAT32),
            ]
        )

    def create_plugin(self, name: str, field_collection: Any, phase: Any) -> DataConsistency:
        return DataConsistency(Settings.of(field_collection))


_kept: list[DataConsistencyCreator] = []  # TensorRT does not own what it registers


def register_plugins() -> None:
    """Makes the operator known to TensorRT in this process; a second time does nothing.

    Raises:
        EngineError: TensorRT does not take it, as where another plugin has its name.
    """
    registry = trt.get_plugin_registry()
    if _kept and registry.get_creator(NAME, VERSION, NAMESPACE) is not None:
        return
    creator = DataConsistencyCreator()
    if not registry.register_creator(creator, NAMESPACE):
        raise EngineError(
            f"TensorRT {trt.__version__} does not register the plugin {NAME} {VERSION}: its name is taken"
        )
    _kept.append(creator)
