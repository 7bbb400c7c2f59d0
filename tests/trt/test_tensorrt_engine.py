"""TensorRT's engine over the real bindings of one version: what is called, what is kept, what is refused.

Calls go to stand-ins that take what the bindings' signatures take; copies and memory are PyCUDA's over the test driver; numbers are
ONNX Runtime's. What TensorRT itself computes is not shown here: docs/unproven.md.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bindings import Checked, check_call, load_bindings
from conftest import profile_of
from made_tensorrt import Made
from simulated import usual_kspace

import edge_runtime
from edge_runtime import engines
from edge_runtime.admission import purpose_of
from edge_runtime.arrays import DeviceArray
from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from edge_runtime.cuda.device import first_device
from edge_runtime.engines import CompiledSession, choose_engine
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.engines.quarantine import Kind, Quarantine
from edge_runtime.errors import (
    CompilationFailed,
    EngineDeviceLost,
    EngineError,
    EngineFileRefused,
    EngineMemory,
    EngineQuarantined,
    GoldenMismatch,
    OutOfDeviceMemory,
    PluginMissing,
)
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.offline import reconstruct_kspace
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, reconstruct
from edge_runtime.profile import Compilation
from edge_runtime.runtime import prepare_model
from edge_runtime.scan import Method
from export.pack import TOLERANCES

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def engine(made: Made) -> Any:
    return choose_engine(("tensorrt",), "fp32")


@pytest.fixture
def compilation(tmp_path: Path) -> Compilation:
    return Compilation(cache=tmp_path / "cache", usual=64, largest=96)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(DEFAULT_BUNDLE)


@pytest.fixture
def qualified(tiny_bundle: Path) -> Bundle:
    """A bundle that is qualified for TensorRT."""
    return load_bundle(tiny_bundle)


@pytest.fixture
def plan(engine: Any, qualified: Bundle, compilation: Compilation) -> Any:
    """Plans the tiny bundle's form."""

    def go(engine: Any = engine, **changes: Any) -> Any:
        form = qualified.forms["fp32"]
        return engine.plan(form.onnx, 1, replace(purpose_of(qualified, form, compilation), **changes))

    return go


def image(rows: int, columns: int, channels: int = 6) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((1, channels, rows, columns)).astype(np.float32)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is called.


def test_the_bindings_are_those_of_the_version_that_is_asked_for(made, engine):
    wanted = Path(os.environ["EDGE_TENSORRT"]).name
    assert load_bindings().__version__.startswith(wanted)
    assert engine.version().startswith(f"tensorrt {wanted}")


def test_every_name_of_tensorrt_in_the_package_exists_in_this_version():
    """Also those that no test reaches."""
    real, missing = load_bindings(), []
    for path in Path(edge_runtime.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.Import) and node.names[0].asname == "trt" for node in ast.walk(tree)):
            continue
        for node in ast.walk(tree):
            names = chain(node)
            for count in range(1, len(names) + 1):
                owner = real
                for name in names[:count]:
                    owner = getattr(owner, name, None)
                if owner is None:
                    missing.append(f"{path.name}:{node.lineno} trt.{'.'.join(names)}")
                    break
    assert not missing


def chain(node: ast.AST) -> list[str]:
    """The names behind ``trt`` in ``trt.A.B``."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return names[::-1] if isinstance(node, ast.Name) and node.id == "trt" else []


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("set_shape", ("image", (1, 6, 8, 8), (1, 6, 8, 8)), {}),
        ("set_shape", ("image", (1, 6, 8, 8), (1, 6, 8, 8), (1, 6, 8, 8)), {"most": 1}),
        ("set_shape", (0, (1, 6, 8, 8), (1, 6, 8, 8), (1, 6, 8, 8)), {}),
        ("set_shape", ("image", 1, 6, 8), {}),
    ],
)
def test_a_wrong_call_is_found_out(method, args, kwargs):
    real = load_bindings()
    with pytest.raises(TypeError):
        check_call(real.IOptimizationProfile, method, args, kwargs)
    with pytest.raises(AttributeError):
        Checked(real.IOptimizationProfile, None).set_shapes("image")
    check_call(real.IOptimizationProfile, "set_shape", ("image",), {"min": (1,), "opt": (1,), "max": (1,)})


def test_networks_are_strongly_typed_and_nothing_lowers_their_precision(made, plan):
    plan()
    real, (network,), (config,) = load_bindings(), made.networks, made.configs
    assert network.flags == 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert config.flags == set()  # TF32 was there
    assert config.limits == {real.MemoryPoolType.WORKSPACE: 512 << 20}


def test_there_is_one_optimisation_profile_of_the_purpose(made, plan):
    plan()
    (profile,) = made.configs[0].profiles
    assert profile.part.shapes == {"image": [(1, 6, 4, 4), (1, 6, 64, 64), (1, 6, 96, 96)]}


def test_the_purpose_has_the_golden_input_in_it(shipped, compilation):
    form = shipped.forms["fp32"]
    purpose = purpose_of(shipped, form, compilation)
    assert (purpose.least, purpose.usual, purpose.most) == ((16, 16), (64, 64), (192, 96))
    purpose = purpose_of(shipped, form, replace(compilation, dla_core=0))
    assert (purpose.least, purpose.usual, purpose.most) == ((192, 64),) * 3


# What is computed.


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (96, 96)])
def test_a_session_computes_what_was_compiled_at_any_size(plan, qualified, size):
    session, reference = plan(), OnnxRuntimeEngine().plan(qualified.forms["fp32"].onnx, 1)
    for _ in range(2):
        batch = image(*size)
        np.testing.assert_allclose(session.run(batch), reference.run(batch), rtol=1e-5, atol=1e-6)


def test_the_shipped_bundle_reproduces_its_golden_outputs(engine, shipped, compilation):
    """Were it qualified."""
    form = replace(shipped.forms["fp32"], tolerances=TOLERANCES["fp32"])
    session = engine.plan(form.onnx, 1, purpose_of(shipped, form, replace(compilation, largest=192)))
    assert shipped.check_golden(session, form, engine) < 1e-3


def test_calls_from_several_threads_do_not_mix(plan):
    session = plan()
    expected = {rows: session.run(image(rows, 8)) for rows in (4, 8, 12)}
    wrong = []

    def call(rows: int) -> None:
        for _ in range(10):
            if not np.array_equal(session.run(image(rows, 8)), expected[rows]):
                wrong.append(rows)

    callers = [threading.Thread(target=call, args=(rows,)) for rows in (4, 8, 12, 8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_an_image_is_that_of_onnxruntime_and_names_its_engine(made, qualified, compilation):
    """The whole reconstruction of a slice."""
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    models = prepare_model(qualified, only), prepare_model(qualified, profile_of())
    assert [model.engine.split()[0] for model in models] == ["tensorrt", "onnxruntime"]
    kspace, mask = usual_kspace(), np.ones(usual_kspace().shape[1], np.bool_)
    ours, theirs = (reconstruct_kspace(kspace, mask, model.reconstruction)[Method.LEARNED].image for model in models)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_an_image_stays_on_the_gpu_around_the_engine(made, qualified, compilation):
    """Kernels and engine on one GPU: what one leaves the other finds."""
    model = prepare_model(qualified, replace(profile_of(), engines=("tensorrt",), compilation=compilation))
    reference = prepare_model(qualified, profile_of())
    session, seen = model.reconstruction.regulariser, []

    class Watched:
        def run(self, batch):
            output = session.run(batch)
            seen.extend((batch, output))
            return output

    hybrid = to_image(usual_kspace(), axis=2)
    mask = np.ones(hybrid.shape[1], np.bool_)
    samples = SliceSamples(hybrid, mask, None, seed=(0, 0, 0, 0, 0))
    images = []
    for learned, where in (
        (replace(model.reconstruction, regulariser=Watched()), "cuda"),
        (reference.reconstruction, "cpu"),
    ):
        plans = Plans(Workers(1), where)
        images.append(dict(reconstruct(samples, calibrate(hybrid, mask, plans), learned, plans))[Method.LEARNED].image)
    np.testing.assert_allclose(images[0], images[1], rtol=1e-3, atol=1e-4 * np.abs(images[1]).max())
    assert seen and all(isinstance(array, DeviceArray) for array in seen)


def test_a_scan_that_is_too_large_has_a_classical_image(made, qualified, compilation):
    only = replace(profile_of(), engines=("tensorrt",), compilation=replace(compilation, usual=8, largest=8))
    model, hybrid = prepare_model(qualified, only), to_image(usual_kspace(), axis=2)
    mask, plans, found = np.ones(hybrid.shape[1], np.bool_), Plans(Workers(1)), []
    samples = SliceSamples(hybrid, mask, None, seed=(0, 0, 0, 0, 0))
    with pytest.raises(EngineError, match=r"compiled for .* compile.largest"):
        for method, _ in reconstruct(samples, calibrate(hybrid, mask, plans), model.reconstruction, plans):
            found.append(method)
    assert Method.CLASSICAL in found and Method.LEARNED not in found


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (image(8, 8).astype(np.float64), "float32 is expected, float64 came"),
        (image(8, 8)[0], r"shape \(6, 8, 8\): it was compiled for \(1, 6, 4, 4\) to \(1, 6, 96, 96\)"),
        (image(8, 100), r"shape \(1, 6, 8, 100\): it was compiled for .* compile.largest"),
        (image(8, 8, channels=5), r"shape \(1, 5, 8, 8\)"),
        (np.full((1, 6, 8, 8), np.nan, np.float32), "given values that are not finite"),
    ],
)
def test_a_wrong_input_is_named(plan, batch, said):
    with pytest.raises(EngineError, match=said):
        plan().run(batch)


def test_what_fails_while_it_runs_is_named(made, plan):
    session = plan()
    made.refuses_to_run = "CUDA error 700 launching a kernel"
    with pytest.raises(EngineError, match=r"failed on an input of shape \(1, 6, 8, 8\): CUDA error 700"):
        session.run(image(8, 8))
    made.refuses_to_run, made.distortion = "", float("inf")
    with pytest.raises(EngineError, match="returned values that are not finite"):
        session.run(image(8, 8))
    made.distortion = 1.0
    session.run(image(8, 8))


# What is kept.


def test_an_engine_is_compiled_once(made, plan, compilation):
    first, second = plan(), plan()
    assert made.compiled == 1
    np.testing.assert_array_equal(first.run(image(8, 8)), second.run(image(8, 8)))
    kinds = [re.sub("[0-9a-f]{16}", "…", name) for name in files(compilation.cache)]
    assert sorted(kinds) == ["timing-….cache", "…-fp32.engine"]
    assert compilation.cache.stat().st_mode & 0o077 == 0


def test_measurements_are_kept_from_one_compilation_to_the_next(made, plan):
    plan()
    plan(workspace_mb=64)
    assert [config.timing.part.before for config in made.configs] == [b"", b"measured;"]
    made.refuses_timing = True
    plan(workspace_mb=32)
    assert made.configs[-1].timing.part.before == b""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"EDGE_DRIVER_VERSION": "13000"}, "driver '12.6' instead of '13.0'"),
        ({"EDGE_DRIVER_MULTIPROCESSORS": "16"}, "gpu '.*, 8 multi.*, 1 GB' instead of '.*, 16 multiprocessors, 1 GB'"),
        ({"EDGE_DRIVER_MEMORY": str(2 << 30)}, "gpu '.*, 1 GB' instead of '.*, 2 GB'"),
        ({"EDGE_DRIVER_CAPABILITY": "11.0", "EDGE_DRIVER_VERSION": "13000"}, "capability '8.7' instead of '11.0'"),
    ],
)
def test_an_engine_of_another_device_is_refused_by_name_and_compiled_anew(
    made, plan, engine, monkeypatch, caplog, change, named
):
    """Nor does a mark of that device count here."""
    plan()
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    first_device.cache_clear()
    here = choose_engine(("tensorrt",), "fp32")
    assert here.conditions(None) != engine.conditions(None)
    plan(here)
    assert re.search(f"-fp32.engine is of another device.*{named}.*compiled anew", caplog.text)
    assert made.compiled == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bundle": "f" * 16 + "0" * 48}, None),
        ({"most": (128, 128)}, "profile '4 x 4 to 64 x 64 to 96 x 96, workspace 512 MB, GPU' instead of '4 x 4 to"),
        ({"workspace_mb": 1}, "workspace 512 MB, GPU' instead of .*workspace 1 MB"),
    ],
)
def test_an_engine_for_something_else_is_not_used(made, plan, caplog, change, named):
    plan()
    plan(**change)
    assert made.compiled == 2
    assert re.search(named, caplog.text) if named else "instead of" not in caplog.text


def test_an_engine_of_another_version_is_refused_by_name(made, plan, caplog, compilation):
    plan()
    (path,) = compilation.cache.glob("*.engine")
    content, version = path.read_bytes(), load_bindings().__version__
    other = f"{version[:-1]}{(int(version[-1]) + 1) % 10}"
    path.write_bytes(content.replace(f"tensorrt {version}".encode(), f"tensorrt {other}".encode(), 1))
    plan()
    assert f"compiler 'tensorrt {other}' instead of 'tensorrt {version}'" in caplog.text
    assert made.compiled == 2


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda content: b"", "no engine file, or damaged"),
        (lambda content: b"no engine" * 9, "does not begin as one"),
        (lambda content: content[:-1], "cut short"),
        (lambda content: content[:-1] + b"?", "its SHA-256 is not what it says"),
        (lambda content: content[:8] + b"\xff\xff\xff\xff" + content[12:], "does not begin as one"),
        (lambda content: content.replace(b'"gpu"', b'"cpu"'), "no engine file, or damaged"),
    ],
)
def test_a_damaged_engine_is_refused_by_name_and_compiled_anew(made, plan, caplog, compilation, damage, named):
    plan()
    (path,) = compilation.cache.glob("*.engine")
    path.write_bytes(damage(path.read_bytes()))
    plan()
    assert f"{path}" in caplog.text and named in caplog.text
    assert made.compiled == 2


def test_an_engine_that_tensorrt_does_not_take_is_compiled_anew_once(made, qualified, compilation):
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    prepare_model(qualified, only)
    made.refuses_to_load = "Platform specific tag mismatch"
    with pytest.raises(EngineFileRefused, match="Platform specific tag mismatch"):
        prepare_model(qualified, only)
    assert made.compiled == 2  # and that was not taken either
    assert not list(compilation.cache.glob("*.engine"))
    with pytest.raises(EngineQuarantined, match="Platform specific tag mismatch"):
        prepare_model(qualified, only)
    assert made.compiled == 2


def test_a_folder_that_can_not_be_written_is_named(plan, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EngineError, match=r"file/cache/.*can't be .*"):
        plan(cache=tmp_path / "file" / "cache")


# What is refused.


def test_an_operator_without_a_plugin_is_named_and_may_be_tried_again(made, plan, compilation):
    made.parser_errors = [("Plugin not found, are the plugin name, version, and namespace correct?", "Warp", "/warp")]
    with pytest.raises(
        PluginMissing, match=r"operator Warp .node '/warp'.* registered plugin: register its creator .ours"
    ):
        plan()
    made.parser_errors = []
    plan()


def test_a_graph_that_tensorrt_does_not_read_is_named_with_the_mend(made, plan):
    made.parser_errors = [("Assertion failed: Non-zero zero point is not supported.", "QuantizeLinear", "q1")]
    with pytest.raises(EngineError, match=r"at QuantizeLinear 'q1': .*quantize activations as QInt8"):
        plan()


def test_a_compilation_that_fails_is_not_begun_again(made, qualified, compilation):
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    made.refuses = "Error Code 10: could not find any implementation for node /head/Conv"
    with pytest.raises(CompilationFailed, match="can't compile fp32: Error Code 10"):
        prepare_model(qualified, only)
    (path,) = compilation.cache.glob("*.quarantine.json")
    (mark,) = Quarantine(compilation.cache).marks()
    assert mark.kind is Kind.COMPILATION and "Error Code 10" in mark.why
    made.refuses = ""
    with pytest.raises(EngineQuarantined, match=f"failed here before .*Error Code 10.*remove {re.escape(str(path))}"):
        prepare_model(qualified, only)
    assert made.compiled == 1
    prepare_model(qualified, replace(only, compilation=replace(compilation, workspace_mb=8)))  # has a chance of its own
    path.unlink()
    prepare_model(qualified, only)


@pytest.mark.parametrize("where", ["refuses", "refuses_to_load", "refuses_context"])
def test_too_little_memory_is_named_and_is_no_reason_for_quarantine(made, plan, compilation, where):
    setattr(made, where, "Error Code 2: OutOfMemory (Requested size was 9663676416 bytes.)")
    with pytest.raises(OutOfDeviceMemory, match=r"of 1074 MB left.*lower compile.largest or compile.workspace_mb"):
        plan()
    setattr(made, where, "")
    plan()
    assert not list(compilation.cache.glob("*.json"))


OUT_OF_MEMORY = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (out of memory)"


@pytest.mark.parametrize(
    ("refuses_to_run", "driver_refuses", "kind"),
    [
        (OUT_OF_MEMORY, "", EngineMemory),
        ("", "cuMemcpyHtoDAsync_v2 2", EngineMemory),
        ("", "cuMemcpyHtoDAsync_v2 719", EngineDeviceLost),
    ],
)
def test_golden_outputs_that_lacked_memory_or_a_gpu_are_no_reason_for_quarantine(
    made, qualified, compilation, monkeypatch, refuses_to_run, driver_refuses, kind
):
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    prepare_model(qualified, only)
    made.refuses_to_run = refuses_to_run
    with monkeypatch.context() as refusing, pytest.raises(kind, match=r"tensorrt failed on an input of shape"):
        refusing.setenv("EDGE_DRIVER_REFUSES", driver_refuses)
        prepare_model(qualified, only)
    made.refuses_to_run = ""
    assert not Quarantine(compilation.cache).marks()
    prepare_model(qualified, only)
    assert made.compiled == 1


def test_too_little_memory_for_the_tensors_is_named(plan, monkeypatch):
    plan()
    monkeypatch.setenv("EDGE_DRIVER_MEMORY", "100000")
    first_device.cache_clear()
    with pytest.raises(OutOfDeviceMemory, match="plan fewer or smaller scans"):
        plan(choose_engine(("tensorrt",), "fp32"))


def test_a_library_that_returns_nothing_is_named(made, plan):
    made.no_builder = True
    with pytest.raises(EngineError, match=r"can't be used here: .*nullptr"):
        plan()


def test_a_purpose_is_needed(engine, tiny_graph):
    with pytest.raises(EngineError, match="was told neither"):
        engine.plan(tiny_graph, 1)


def test_single_precision_is_needed_at_both_ends(engine, compilation, qualified):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(qualified.forms["fp32"].onnx)
    cast = onnx.helper.make_node("Cast", ["half"], ["correction"], to=onnx.TensorProto.FLOAT16)
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(cast)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    purpose = purpose_of(qualified, qualified.forms["fp32"], compilation)
    with pytest.raises(EngineError, match=r"types DataType.FLOAT, DataType.HALF: single precision is needed"):
        engine.plan(model.SerializeToString(), 1, purpose)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("CUDA 11.4", "the driver is of CUDA 11.4"),
        ("no GPU", "knows no GPU"),
    ],
)
def test_a_device_that_is_none_is_passed_over_by_name(made, monkeypatch, found, said):
    if found == "no GPU":
        monkeypatch.setattr("edge_runtime.cuda.device.driver.Device.count", staticmethod(lambda: 0))
    else:
        monkeypatch.setenv("EDGE_DRIVER_VERSION", "11040")
    with pytest.raises(EngineError, match=f"tensorrt: .*{said}"):
        choose_engine(("tensorrt",), "fp32")
    assert choose_engine(("tensorrt", "onnxruntime"), "fp32").name == "onnxruntime"


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.1"])
def test_a_version_that_is_not_known_is_refused(made, monkeypatch, version):
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", version)
    with pytest.raises(EngineError, match=f"TensorRT {version} is installed, 10.3 to below 12 are needed"):
        choose_engine(("tensorrt",), "fp32")


# The accelerator.


def test_the_accelerator_is_used_where_the_profile_and_the_device_have_it(made, plan):
    made.dla_cores = 2
    size = {"least": (8, 12), "usual": (8, 12), "most": (8, 12)}
    plan(dla_core=1, precision="fp16", **size)
    real, (config,) = load_bindings(), made.configs
    assert (config.default_device_type, config.DLA_core) == (real.DeviceType.DLA, 1)
    assert config.flags == {real.BuilderFlag.GPU_FALLBACK}


def test_images_name_the_accelerator_and_the_gpu_beside_it(made, qualified, compilation):
    made.dla_cores = 2
    fp16 = replace(qualified, forms={"fp16": replace(qualified.forms["fp32"], precision="fp16")})
    on_dla = replace(profile_of(), engines=("tensorrt", "onnxruntime"), precisions=("fp16",))
    engines = []
    for core in (None, 1):
        profile = replace(on_dla, compilation=replace(compilation, dla_core=core))
        engines.append(prepare_model(fp16, profile).engine)
    assert engines[1] == f"{engines[0]} on DLA core 1 and GPU"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "DLA core 3 is wanted, TensorRT .* finds 2 on this device"),
        ({"dla_core": 0, "precision": "fp32"}, "does not compute fp32, but fp16 and int8"),
        ({"dla_core": 0}, r"images of one size, not from \(4, 4\) to \(96, 96\)"),
    ],
)
def test_an_accelerator_that_can_not_be_used_is_refused(made, plan, compilation, change, said):
    made.dla_cores = 2
    with pytest.raises(EngineError, match=f"{said}.*leave compile.dla_core out"):
        plan(**{"dla_core": 3, "precision": "fp16", **change})
    assert not list(compilation.cache.glob("*.json"))


# Golden outputs, and what comes after a failure.


def test_a_bundle_that_is_not_qualified_for_it_is_not_compiled(made, engine, shipped, compilation):
    forms = {
        name: replace(form, tolerances=tuple(one for one in form.tolerances if one.engine == "onnxruntime"))
        for name, form in shipped.forms.items()
    }
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    with pytest.raises(GoldenMismatch, match=r"not qualified for tensorrt .* but for onnxruntime"):
        prepare_model(replace(shipped, forms=forms), only)
    assert made.compiled == 0


def test_golden_outputs_are_run_at_each_load(made, qualified, compilation):
    only = replace(profile_of(), engines=("tensorrt",), compilation=compilation)
    assert prepare_model(qualified, only).engine.startswith("tensorrt 1")
    made.distortion = 1.01
    with pytest.raises(GoldenMismatch, match=r"golden outputs differ by 1.00e-02"):
        prepare_model(qualified, only)
    assert made.compiled == 1
    made.distortion = 1.0
    with pytest.raises(EngineQuarantined, match=r"golden outputs differ by 1.00e-02"):
        prepare_model(qualified, only)


def test_the_next_engine_takes_the_place_of_one_that_fails_and_is_named(made, qualified, compilation, caplog):
    both = replace(profile_of(), engines=("tensorrt", "onnxruntime"), compilation=compilation)
    assert prepare_model(qualified, both).engine.startswith("tensorrt 1")
    made.distortion = 1.01
    for _ in range(2):
        caplog.clear()
        model = prepare_model(qualified, both)
        assert re.fullmatch(r"onnxruntime .* instead of tensorrt", model.engine)
        assert re.search("tensorrt fails for fp32 .*differ by 1.00e-02.*next comes onnxruntime", caplog.text)
    assert made.compiled == 1


def test_without_a_gpu_the_next_engine_is_named_in_log_and_image(made, monkeypatch, qualified, compilation, caplog):
    monkeypatch.setenv("EDGE_DRIVER_VERSION", "11040")
    both = replace(profile_of(), engines=("tensorrt", "onnxruntime"), compilation=compilation)
    assert prepare_model(qualified, both).engine.endswith(" instead of tensorrt")
    assert "tensorrt is passed over for fp32" in caplog.text


def test_tensorrt_says_its_warnings_in_the_log(made, engine, caplog):
    real = load_bindings()
    log = importlib.import_module("edge_runtime.engines.tensorrt").LOG
    with caplog.at_level(logging.DEBUG):
        log.log(real.ILogger.WARNING, "a warning")
        log.log(real.ILogger.VERBOSE, "a detail")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "tensorrt: a warning"),
        ("DEBUG", "tensorrt: a detail"),
    ]


def test_sessions_can_be_discarded(plan):
    assert isinstance(plan(), CompiledSession)
    assert not isinstance(OnnxRuntimeEngine(), CompiledSession)


def test_without_its_package_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    sys.modules.pop("edge_runtime.engines.tensorrt", None)
    with pytest.raises(EngineError, match=r"tensorrt: not installed .*comes with JetPack.*edge-runtime\[jetson\]"):
        engines.choose_engine(("tensorrt",), "fp32")
