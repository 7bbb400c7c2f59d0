"""Data consistency as a plugin: a class of TensorRT's own, really registered; what it enqueues is what the CPU's plan computes.

Kernels run on the test driver, whose streams do nothing until they are waited for. TensorRT itself never calls the plugin here.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bindings import load_bindings, signatures
from simulated import complex_noise

from edge_runtime.errors import ArgumentError, EngineError, OutOfDeviceMemory
from edge_runtime.kernels import SensePlan, Workers

pytestmark = pytest.mark.tensorrt

SHAPE = (3, 12, 5)
"""Coils, phase encodes, columns."""

SETTINGS = {"weight": np.array([0.3], np.float32), "steps": np.array([4], np.int32)}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, over the real bindings of one version."""
    from edge_runtime.cuda.device import first_device

    monkeypatch.setitem(sys.modules, "tensorrt", load_bindings())
    sys.modules.pop("edge_runtime.engines.tensorrt_plugin", None)
    first_device.cache_clear()
    module = importlib.import_module("edge_runtime.engines.tensorrt_plugin")
    yield module
    for creator in module._kept:
        load_bindings().get_plugin_registry().deregister_creator(creator)
    sys.modules.pop("edge_runtime.engines.tensorrt_plugin", None)
    first_device.cache_clear()


def fields(**values: Any) -> Any:
    trt = load_bindings()
    kinds = {"f": trt.PluginFieldType.FLOAT32, "i": trt.PluginFieldType.INT32}
    return trt.PluginFieldCollection(
        [trt.PluginField(name, data, kinds[data.dtype.kind]) for name, data in values.items()]
    )


def made(plugin: ModuleType, **changes: Any) -> Any:
    values = {**SETTINGS, **changes}
    creator = plugin.DataConsistencyCreator()
    return creator.create_plugin("a layer", fields(**values), load_bindings().TensorRTPhase.BUILD)


def described(shapes: list[tuple[int, ...]]) -> list[Any]:
    found = []
    for shape in shapes:
        one = load_bindings().PluginTensorDesc()
        one.dims = shape
        found.append(one)
    return found


def shapes_of(coils: int, lines: int, columns: int) -> list[tuple[int, ...]]:
    return [(lines, columns, 2), (coils, lines, columns, 2), (coils, lines, columns, 2), (lines, columns)]


# The classes.


def test_the_plugin_is_registered_and_found_by_its_name(plugin):
    trt = load_bindings()
    registry = trt.get_plugin_registry()
    assert registry.get_creator("EdgeDataConsistency", "1", "") is None
    plugin.register_plugins()
    plugin.register_plugins()
    creator = registry.get_creator("EdgeDataConsistency", "1", "")
    assert isinstance(creator, plugin.DataConsistencyCreator) and isinstance(creator, trt.IPluginCreatorV3One)
    assert len(registry.all_creators) == 1
    assert registry.get_creator("EdgeDataConsistency", "2", "") is None
    assert [field.name for field in creator.field_names] == ["weight", "steps", "tolerance"]
    assert isinstance(creator.create_plugin("a", fields(**SETTINGS), trt.TensorRTPhase.RUNTIME), trt.IPluginV3)


def test_a_name_that_is_taken_is_an_error(plugin):
    registry, other = load_bindings().get_plugin_registry(), plugin.DataConsistencyCreator()
    assert registry.register_creator(other, "")
    try:
        with pytest.raises(EngineError, match="does not register the plugin EdgeDataConsistency 1: its name is taken"):
            plugin.register_plugins()
    finally:
        registry.deregister_creator(other)


def test_the_plugin_is_all_that_tensorrt_asks_for(plugin):
    trt, one = load_bindings(), made(plugin)
    for kind in ("CORE", "BUILD", "RUNTIME"):
        capability = one.get_capability_interface(getattr(trt.PluginCapabilityType, kind))
        assert isinstance(capability, getattr(trt, f"IPluginV3One{kind.title()}"))
    assert (one.plugin_name, one.plugin_version, one.plugin_namespace) == ("EdgeDataConsistency", "1", "")
    assert one.num_outputs == 1


@pytest.mark.parametrize("owner", ["IPluginV3", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One"])
def test_every_method_takes_what_tensorrt_calls_it_with(plugin, owner):
    """By place: the bindings call so."""
    real = getattr(load_bindings(), owner)
    ours = plugin.DataConsistencyCreator if "Creator" in owner else plugin.DataConsistency
    compared = 0
    for name, member in vars(ours).items():
        if not inspect.isfunction(member) or name.startswith("_") or not hasattr(real, name):
            continue
        documented = signatures(getattr(real, name).__doc__ or "", name)
        if not documented:
            documented = [[None] * len(re.findall(r"^ *:arg ", getattr(real, name).__doc__ or "", re.MULTILINE))]
        assert len(inspect.signature(member).parameters) - 1 in {len(one) for one in documented}, name
        compared += 1
    assert compared > 0


def test_settings_survive_an_engine_file(plugin):
    one = made(plugin, tolerance=np.array([1e-3], np.float32))
    kept = one.get_fields_to_serialize()
    creator = plugin.DataConsistencyCreator()
    again = creator.create_plugin("a layer", kept, load_bindings().TensorRTPhase.RUNTIME)
    assert again._settings == one._settings == plugin.Settings(float(np.float32(0.3)), 4, float(np.float32(1e-3)))
    assert one.clone()._settings == one._settings
    assert isinstance(one.attach_to_context(None), plugin.DataConsistency)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": np.array([-1], np.float32)}, "weight: a number above 0 expected"),
        ({"weight": np.array([np.nan], np.float32)}, "weight: a number above 0 expected"),
        ({"steps": np.array([65], np.int32)}, "steps: 1 to 64 expected, 65 came"),
        ({"steps": np.array([1, 2], np.int32)}, r"attribute steps: one number .* \[1, \d\] came"),
        ({"tolerance": np.array([1], np.float32)}, "tolerance: a number from 0 to below 1"),
        ({"colour": np.array([1], np.int32)}, "attribute colour: one number of weight, steps or tolerance"),
    ],
)
def test_a_wrong_attribute_is_named(plugin, changes, said):
    with pytest.raises(ArgumentError, match=said):
        made(plugin, **changes)


def test_a_missing_attribute_is_named(plugin):
    with pytest.raises(ArgumentError, match="attribute steps: a number expected, nothing came"):
        plugin.DataConsistencyCreator().create_plugin("a", fields(weight=SETTINGS["weight"]), None)


def test_inputs_are_single_precision_and_a_mask(plugin):
    trt, one = load_bindings(), made(plugin)

    def takes(place: int, kind: Any, layout: Any = trt.TensorFormat.LINEAR) -> bool:
        descriptions = [trt.DynamicPluginTensorDesc() for _ in range(5)]
        desc = trt.PluginTensorDesc()
        desc.type, desc.format = kind, layout
        descriptions[place].desc = desc
        return one.supports_format_combination(place, descriptions, 4)

    kinds = [trt.DataType.FLOAT] * 3 + [trt.DataType.BOOL, trt.DataType.FLOAT]
    for place, kind in enumerate(kinds):
        assert takes(place, kind)
        assert not takes(place, trt.DataType.HALF) and not takes(place, trt.DataType.INT8)
        assert not takes(place, kind, trt.TensorFormat.CHW32)
    assert one.get_output_data_types([kinds[0]]) == [trt.DataType.FLOAT]
    (shape,) = one.get_output_shapes([trt.DimsExprs(3)], [], None)
    assert isinstance(shape, trt.DimsExprs) and len(shape) == 3


@pytest.mark.parametrize(
    ("place", "shape", "said"),
    [
        (0, (12, 5), r"prior: \(phase_encodes, columns, 2\)"),
        (0, (12, 5, 1), r"prior: \(phase_encodes, columns, 2\)"),
        (1, (3, 12, 6, 2), r"maps: \(coils, 12, 5, 2\) expected, \(3, 12, 6, 2\) came"),
        (2, (2, 12, 5, 2), r"samples: \(3, 12, 5, 2\) expected"),
        (3, (5, 12), r"measured: \(12, 5\) expected"),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(plugin, place, shape, said):
    shapes = shapes_of(*SHAPE)
    shapes[place] = shape
    with pytest.raises(ArgumentError, match=said):
        made(plugin).on_shape_change(described(shapes), described(shapes[:1]))


PROCESS = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from bindings import load_bindings
sys.modules["tensorrt"] = load_bindings()
from edge_runtime.engines.tensorrt_plugin import DataConsistency, Settings
for _ in range(50):
    DataConsistency(Settings(1.0, 3)).clone().destroy()
    gc.collect()
print("alive")
"""


def test_plugins_come_and_go_and_the_process_ends_well():
    """What Python frees of TensorRT 10.3's plugin classes damages the heap."""
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


# What it computes.


class Buffers:
    """A slice in the device's memory, in a stream as TensorRT has one."""

    ours_first = True

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        import pycuda.driver as cuda

        self.cuda, self.stream = cuda, cuda.Stream()
        self.kept: list[np.ndarray] = []
        _, lines, columns = shape
        draws = np.random.default_rng(seed)
        self.prior, self.maps, self.samples = (complex_noise(size, draws) for size in ((lines, columns), shape, shape))
        self.measured = np.repeat(draws.random(lines)[:, None] < 0.6, columns, axis=1)
        self.samples = self.samples * self.measured
        self.inputs = [self.sent(one) for one in (self.prior, self.maps, self.samples, self.measured)]
        self.out = cuda.mem_alloc(self.prior.nbytes)
        self.result = cuda.pagelocked_empty(self.prior.shape, np.complex64)

    def sent(self, array: np.ndarray) -> Any:
        pinned = self.cuda.pagelocked_empty(array.shape, array.dtype)
        pinned[...] = array
        self.kept.append(pinned)  # freeing it would wait for the device
        address = self.cuda.mem_alloc(array.nbytes)
        self.cuda.memcpy_htod_async(address, pinned, self.stream)
        return address

    def run(self, one: Any) -> np.ndarray:
        """As TensorRT does: it enqueues, and waits later. The plugin's stream is waited for first, which must not matter."""
        addresses = [int(address) for address in self.inputs]
        one.enqueue([], [], addresses, [int(self.out)], 0, self.stream.handle)
        self.cuda.memcpy_dtoh_async(self.result, self.out, self.stream)
        if self.ours_first:
            one._plan._stream.synchronize()
        self.stream.synchronize()
        return self.result.copy()

    def expected(self, weight: float, steps: int) -> np.ndarray:
        plan = SensePlan(Workers(1), *self.maps.shape)
        plan.set_maps(self.maps)
        plan.set_samples(self.samples, self.measured)
        return plan.data_consistent(self.prior, weight, steps)


@pytest.fixture
def on_the_device(plugin: ModuleType) -> Iterator[None]:
    from edge_runtime.cuda.device import open_device

    with open_device().use():
        yield


@pytest.mark.usefixtures("on_the_device")
def test_it_computes_what_the_plan_of_the_processor_does(plugin):
    one = made(plugin).clone()
    for seed, shape in enumerate([SHAPE, SHAPE, (2, 16, 9)]):
        buffers = Buffers(shape, seed)
        shapes = shapes_of(*shape)
        one.on_shape_change(described(shapes), described(shapes[:1]))
        expected = buffers.expected(0.3, 4)
        assert np.abs(buffers.run(one) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.usefixtures("on_the_device")
@pytest.mark.parametrize("forgotten", ["begin", "end"])
def test_both_streams_wait_for_each_other(plugin, monkeypatch, forgotten):
    """Without one of the waits, the result is another: nothing here happens before it is waited for."""
    from edge_runtime.cuda import resident

    monkeypatch.setattr(resident.Detour, forgotten, lambda *_: None)
    one, shapes = made(plugin), shapes_of(*SHAPE)
    one.on_shape_change(described(shapes), described(shapes[:1]))  # before: it waits for the device
    buffers = Buffers(SHAPE)
    buffers.ours_first = forgotten == "begin"
    expected = buffers.expected(0.3, 4)
    assert not np.allclose(buffers.run(one), expected, atol=1e-3)


@pytest.mark.usefixtures("on_the_device")
def test_the_weight_of_a_scan_can_be_put_into_maps_and_samples(plugin):
    one, shapes = made(plugin, weight=np.array([1], np.float32)), shapes_of(*SHAPE)
    one.on_shape_change(described(shapes), described(shapes[:1]))
    buffers = Buffers(SHAPE)
    expected = buffers.expected(0.3, 4)
    root = np.float32(np.sqrt(0.3))
    buffers.inputs[1:3] = [buffers.sent(buffers.maps / root), buffers.sent(buffers.samples / root)]
    assert np.abs(buffers.run(one) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.usefixtures("on_the_device")
def test_its_memory_goes_when_tensorrt_destroys_it(plugin):
    import pycuda.driver as cuda

    gc.collect()
    before, one, shapes = cuda.mem_get_info(), made(plugin), shapes_of(*SHAPE)
    one.on_shape_change(described(shapes), described(shapes[:1]))
    assert cuda.mem_get_info() < before
    one.destroy()
    gc.collect()
    assert cuda.mem_get_info() == before


def test_it_does_not_run_before_it_knows_its_shapes(plugin):
    with pytest.raises(EngineError, match="before it was told the shapes"):
        made(plugin).enqueue([], [], [0] * 4, [0], 0, 0)


def test_too_little_memory_is_named(plugin, monkeypatch):
    monkeypatch.setenv("EDGE_DRIVER_MEMORY", "1000")
    shapes = shapes_of(*SHAPE)
    with pytest.raises(OutOfDeviceMemory, match="MB left"):
        made(plugin).on_shape_change(described(shapes), described(shapes[:1]))
