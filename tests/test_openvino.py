"""OpenVINO computes what ONNX Runtime computes, says the same where it can't, and is held to the golden outputs like any engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import profile_of

from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, Tolerance, load_bundle
from edge_runtime.engines import Session, choose_engine
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import EngineError, GoldenMismatch
from edge_runtime.profile import Profile
from edge_runtime.runtime import prepare_model

pytestmark = pytest.mark.full

# Not the package itself: its import speaks to the network, where the engine's module does not let it.
openvino = pytest.importorskip("edge_runtime.engines.openvino", reason="the extra 'openvino' is not installed")


def only() -> Profile:
    """It alone; made in a test, whose cache is its own."""
    return replace(profile_of(), engines=("openvino",))


LARGEST_DIFFERENCE = {"fp32": 1e-5, "int8": 0.1}
"""Relative. Two engines that fuse and round otherwise in INT8 differ by nearly as much as either does from FP32."""


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def session(shipped: Bundle) -> Session:
    return openvino.OpenVinoEngine().plan(shipped.forms["fp32"].onnx, threads=1)


def image(rows: int, columns: int, channels: int = 6) -> np.ndarray:
    draws = np.random.default_rng(rows).standard_normal((1, channels, rows, columns))
    return 0.1 * draws.astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_shipped_graphs_compute_the_same_at_several_sizes(shipped, precision, threads):
    graph = shipped.forms[precision].onnx
    ours, theirs = (engine.plan(graph, threads) for engine in (openvino.OpenVinoEngine(), OnnxRuntimeEngine()))
    for rows, columns in [(64, 48), (32, 80)]:
        batch = image(rows, columns)
        found, expected = ours.run(batch), theirs.run(batch)
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        assert np.linalg.norm(found - expected) < LARGEST_DIFFERENCE[precision] * np.linalg.norm(expected)
        np.testing.assert_array_equal(found, ours.run(batch))


@pytest.mark.parametrize("shape", [(1, 5, 16, 16), (1, 6, 16, 18), (6, 16, 16)])
def test_an_input_of_the_wrong_shape_is_refused_as_by_onnxruntime(shipped, session, shape):
    for one in (session, OnnxRuntimeEngine().plan(shipped.forms["fp32"].onnx, threads=1)):
        with pytest.raises(EngineError, match="failed on an input of shape") as refused:
            one.run(np.zeros(shape, np.float32))
        assert str(shape) in str(refused.value)


def test_an_input_of_the_wrong_type_is_refused_as_by_onnxruntime(shipped, session):
    for one in (session, OnnxRuntimeEngine().plan(shipped.forms["fp32"].onnx, threads=1)):
        with pytest.raises(EngineError, match=r"failed on an input of shape \(1, 6, 16, 16\): .*(float|double)"):
            one.run(np.zeros((1, 6, 16, 16)))


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_what_is_not_finite_is_an_error(session, wrong):
    """Even inside a graph whose ReLUs would hide it."""
    batch = image(16, 16)
    batch[0, 0, 8, 8] = wrong
    with pytest.raises(EngineError, match="not finite"):
        session.run(batch)


@pytest.mark.parametrize("graph", [b"no graph", b""])
def test_a_graph_that_is_none_is_refused_in_one_line(graph):
    with pytest.raises(EngineError, match="can't plan") as refused:
        openvino.OpenVinoEngine().plan(graph, threads=1)
    assert "\n" not in str(refused.value)


def test_a_graph_is_read_as_onnx_and_as_nothing_else(tmp_path):
    """OpenVINO guesses the format, and finds its own wherever a file begins with XML in the producer's name."""
    onnx = pytest.importorskip("onnx")

    def graph(operator: str, producer: str = "") -> bytes:
        planes = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("given", "made")
        ]
        node = onnx.helper.make_node(operator, ["given"], ["made"])
        made = onnx.helper.make_graph([node], "net", planes[:1], planes[1:])
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(made, producer_name=producer, opset_imports=opset, ir_version=8)
        return bytes(model.SerializeToString())

    openvino.ov.save_model(openvino.CORE.read_model(graph("Neg")), tmp_path / "net.xml", compress_to_fp16=False)
    both = graph("Relu", (tmp_path / "net.xml").read_text())
    assert {"Negative"} <= {
        node.get_type_name() for node in openvino.CORE.read_model(both).get_ops()
    }  # what it guesses
    batch = np.full((1, 2, 4, 4), 3, np.float32)
    assert np.array_equal(openvino.OpenVinoEngine().plan(both, threads=1).run(batch), batch)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_precision_are_what_was_asked_for(tiny_graph, threads):
    one = openvino.OpenVinoEngine().plan(tiny_graph, threads)
    one.run(image(8, 8))
    (request,) = one._requests.values()
    compiled = request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


@pytest.mark.parametrize(
    ("precision", "capabilities", "floats"),
    [("fp32", ["FP32", "BF16"], "f32"), ("int8", ["FP32", "BF16"], "bf16"), ("int8", ["FP32", "INT8"], "f32")],
)
def test_only_a_quantized_graph_is_rounded_more_coarsely_where_the_processor_can(
    shipped, precision, capabilities, floats
):
    core = Mock(spec=openvino.CORE)
    core.get_property.return_value = capabilities
    model = openvino.CORE.read_model(shipped.forms[precision].onnx)
    assert openvino.floats_of(core, model) == floats


def test_only_the_latest_sizes_are_kept(tiny_graph):
    one = openvino.OpenVinoEngine().plan(tiny_graph, threads=1)
    first = one.run(image(4, 4))
    for columns in (8, 12, 16, 20, 24):
        one.run(image(4, 8))
        one.run(image(4, columns))
    assert [shape[3] for shape in one._requests] == [16, 20, 8, 24]
    np.testing.assert_array_equal(first, one.run(image(4, 4)))  # compiled anew


def test_calls_from_several_threads_do_not_mix(tiny_graph):
    one = openvino.OpenVinoEngine().plan(tiny_graph, threads=2)
    expected = {rows: one.run(image(rows, 8)) for rows in (4, 8, 12)}
    wrong = []

    def call(rows: int) -> None:
        for _ in range(20):
            if not np.array_equal(one.run(image(rows, 8)), expected[rows]):
                wrong.append(rows)

    callers = [threading.Thread(target=call, args=(rows,)) for rows in (4, 8, 12, 8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


# Golden outputs.


def test_a_profile_that_names_it_runs_it(tiny_bundle, shipped):
    for bundle in (load_bundle(tiny_bundle), shipped):
        model = prepare_model(bundle, only(), "fp32")
        assert model.engine.startswith("openvino 20")


def test_its_own_tolerance_is_what_counts(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    form = bundle.forms["fp32"]
    rows = {one.engine: one for one in form.tolerances}

    def with_rows(*tolerances: Tolerance) -> Bundle:
        output = form.golden_output * np.float32(1.001)
        return replace(bundle, forms={"fp32": replace(form, golden_output=output, tolerances=tolerances)})

    narrow = {name: replace(one, relative_error=1e-4) for name, one in rows.items()}
    prepare_model(with_rows(narrow["onnxruntime"], rows["openvino"]), only())
    with pytest.raises(GoldenMismatch, match=r"differ by 9\.99e-04 .*at most 1e-04 is tolerated; openvino 20"):
        prepare_model(with_rows(rows["onnxruntime"], narrow["openvino"]), only())
    with pytest.raises(GoldenMismatch, match=r"not qualified for openvino 20.*, but for onnxruntime from"):
        prepare_model(with_rows(rows["onnxruntime"]), only())
    with pytest.raises(GoldenMismatch, match=r"not qualified for openvino 20.*openvino from 2024\.4 to below 2025"):
        prepare_model(with_rows(replace(rows["openvino"], below="2025")), only())


def test_another_model_is_found_out_in_int8_too(shipped):
    """A tolerance that lets another engine round as it likes is still far below what other weights make."""
    from export.pack import TOLERANCES

    engine = choose_engine(("openvino",), "int8")
    form = replace(shipped.forms["int8"], tolerances=TOLERANCES["int8"])
    session = engine.plan(form.onnx, threads=1)
    assert shipped.check_golden(session, form, engine) < 0.1
    with pytest.raises(GoldenMismatch, match="differ by"):
        replace(shipped, golden_input=shipped.golden_input * np.float32(1.5)).check_golden(session, form, engine)


def test_it_tells_nobody_that_it_runs():
    """The package's import reports to its makers where their `openvino_telemetry` can be imported."""
    code = (
        "import sys; import edge_runtime.engines.openvino; "
        "sys.exit('openvino.tools.ovc.telemetry_stub' not in sys.modules or sys.modules['openvino_telemetry'] is not None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SIGNAL_STACK = """
import ctypes, gc, threading
import numpy as np
from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.engines.openvino import OpenVinoEngine

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

session = OpenVinoEngine().plan(load_bundle(DEFAULT_BUNDLE).forms["fp32"].onnx, 1)
session.run(np.zeros((1, 6, 32, 32), np.float32))

def drop():
    global session
    del session
    gc.collect()

dropping = threading.Thread(target=drop)
dropping.start()
dropping.join()
stack = Stack()
assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in open("/proc/self/maps")]
assert stack.start is None or any(first <= stack.start < last for first, last in ranges)
"""


def test_a_signal_finds_a_stack_after_an_engine_is_gone():
    """Its plugin gives the thread that loads it a stack for signals; unloaded by another thread, it would leave that one none."""
    done = subprocess.run([sys.executable, "-c", SIGNAL_STACK], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_graph_has_tensors_and_packed_weights_of_its_own():
    one, many = (openvino.OpenVinoEngine().held_bytes(1000, [50] * count) for count in (1, 12))
    assert many == 12 * one >= 12 * 1050
