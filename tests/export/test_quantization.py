"""Ranges, forms and layers of a small graph: what is quantized, what is not, and what it is fed from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.full

SHAPES = [(16, 24), (8, 8), (32, 8), (16, 16)]


@pytest.fixture(scope="module")
def fp32() -> bytes:
    torch = pytest.importorskip("torch")
    from export.config import NetworkConfig
    from export.families.unrolled import UnrolledNetwork
    from export.split import regulariser_onnx

    torch.manual_seed(0)
    return regulariser_onnx(UnrolledNetwork(NetworkConfig(2, 2, (4, 6))))


@pytest.fixture(scope="module")
def calibrated(fp32: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of the prepared graph and of its ranges."""
    from export.quantization.forms import write_prepared
    from export.quantization.ranges import write_ranges

    folder = tmp_path_factory.mktemp("calibrated")
    write_prepared(fp32, folder / "prepared.onnx")
    write_ranges(folder / "prepared.onnx", states(), folder / "ranges.json")
    return folder / "prepared.onnx", folder / "ranges.json"


def states(seen: list[int] | None = None) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    for number, shape in enumerate(SHAPES):
        if seen is not None:
            seen.append(number)
        yield rng.standard_normal((1, 6, *shape)).astype(np.float32)


def run(graph: bytes, image: np.ndarray) -> np.ndarray:
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine().plan(graph, threads=1).run(image)


def difference(graph: bytes, fp32: bytes) -> float:
    image = np.random.default_rng(2).standard_normal((1, 6, 16, 16)).astype(np.float32)
    expected = run(fp32, image)
    return float(np.linalg.norm(run(graph, image) - expected) / np.linalg.norm(expected))


def test_states_of_any_size_are_taken_in_one_at_a_time(
    calibrated: tuple[Path, Path], tmp_path: Path, monkeypatch
) -> None:
    """The calibrator holds the tensors of one state when the next is asked for, not of all before it."""
    from onnxruntime.quantization.calibrate import HistogramCalibrater

    from export.quantization.ranges import write_ranges

    held = []
    collect = HistogramCalibrater.collect_data

    def watched(self, reader):
        collect(self, reader)
        held.append(len(self.intermediate_outputs))

    monkeypatch.setattr(HistogramCalibrater, "collect_data", watched)
    write_ranges(calibrated[0], states(), tmp_path / "ranges.json")
    assert held == [0] * len(SHAPES)
    assert (tmp_path / "ranges.json").read_bytes() == calibrated[1].read_bytes()


@pytest.mark.parametrize("ratio", [30.0, 1e3, 1e6, 1e30])
def test_ranges_need_no_more_memory_for_states_of_other_strength(
    calibrated: tuple[Path, Path], tmp_path: Path, ratio: float
) -> None:
    """And the range is that of the strong state, which has nearly all the weight at the percentile."""
    import tracemalloc

    from export.quantization.histograms import MOST_BINS, BoundedHistograms
    from export.quantization.ranges import write_ranges

    (state, *_) = states()
    tracemalloc.start()
    write_ranges(calibrated[0], [state / np.float32(ratio), state], tmp_path / "ranges.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 27
    numbers = np.random.default_rng(3).standard_normal(50_000).astype(np.float32)
    collector = BoundedHistograms(99.0)
    for one in (numbers / np.float32(ratio), numbers, np.zeros(0, np.float32)):
        collector.collect_value({"t": [one]})
    counts, edges, least, largest, threshold = collector.histogram_dict["t"]
    assert counts.sum() == 2 * len(numbers) and len(counts) <= MOST_BINS and len(edges) == len(counts) + 1
    assert (least, largest) == (numbers.min(), numbers.max()) and threshold >= np.abs(numbers).max()
    low, high = (float(one) for one in collector.compute_percentile()["t"][:2])
    both = np.concatenate([numbers / np.float32(ratio), numbers])
    assert np.allclose([low, high], np.percentile(both, [0.5, 99.5]), atol=0.02)


def test_a_tensor_that_is_not_finite_is_named(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    from export.quantization.ranges import write_ranges

    with pytest.raises(ValueError, match=": holds values that are not finite on a calibration scan"):
        write_ranges(calibrated[0], [np.full((1, 6, 16, 16), np.nan, np.float32)], tmp_path / "ranges.json")


def test_no_states_are_refused(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    from export.quantization.ranges import write_ranges

    with pytest.raises(ValueError, match="no calibration states"):
        write_ranges(calibrated[0], iter(()), tmp_path / "ranges.json")


def test_every_quantizable_node_after_the_first_convolution_is_in_one_layer(calibrated: tuple[Path, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    from export.quantization.layers import layers_of
    from export.quantization.ranges import QUANTIZED_OPERATORS

    graph = onnx.load(str(calibrated[0])).graph
    quantizable = [node.name for node in graph.node if node.op_type in QUANTIZED_OPERATORS]
    layers = layers_of(calibrated[0])
    assert [node for layer in layers for node in layer.nodes] == quantizable
    assert all(layer.name == layer.nodes[0] for layer in layers)


def test_layers_that_are_kept_compute_as_before(calibrated: tuple[Path, Path], fp32: bytes) -> None:
    from export.quantization.forms import int8_form
    from export.quantization.layers import layers_of

    layers = layers_of(calibrated[0])
    everything = [node for layer in layers for node in layer.nodes]
    assert difference(int8_form(*calibrated, everything), fp32) < 1e-6
    one_kept, none_kept = (difference(int8_form(*calibrated, nodes), fp32) for nodes in (layers[0].nodes, ()))
    assert 1e-4 < one_kept < none_kept < 0.2


def test_symmetric_activations_have_no_zero_points(calibrated: tuple[Path, Path], fp32: bytes) -> None:
    onnx = pytest.importorskip("onnx")
    from export.quantization.forms import int8_form

    form = int8_form(*calibrated, (), symmetric=True)
    graph = onnx.load_model_from_string(form).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(points) > 3
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert difference(int8_form(*calibrated, ()), fp32) < difference(form, fp32) < 0.4


def test_half_precision_takes_and_gives_single(fp32: bytes) -> None:
    from export.quantization.forms import fp16_form

    half = fp16_form(fp32)
    assert len(half) < len(fp32)
    assert 1e-6 < difference(half, fp32) < 5e-3


def test_engines_agree_on_half_precision_within_a_tenth_of_what_bundles_tolerate() -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
    from edge_runtime.engines import choose_engine
    from export.pack import TOLERANCES
    from export.quantization.forms import fp16_form

    shipped = load_bundle(DEFAULT_BUNDLE)
    half = fp16_form(shipped.forms["fp32"].onnx)
    ours, theirs = (
        choose_engine((name,), "fp16").plan(half, threads=1).run(shipped.golden_input)
        for name in ("onnxruntime", "openvino")
    )
    least = min(tolerance.relative_error for tolerance in TOLERANCES["fp16"])
    engines = {tolerance.engine for tolerance in TOLERANCES["fp16"]}
    assert engines == {"onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"}
    assert np.linalg.norm(ours - theirs) < 0.1 * least * np.linalg.norm(ours)


def test_every_layer_takes_time_in_every_form(calibrated: tuple[Path, Path]) -> None:
    from export.quantization.forms import int8_form
    from export.quantization.layers import layer_times_us, layers_of

    layers, image = layers_of(calibrated[0]), np.zeros((1, 6, 32, 32), np.float32)
    for graph in (calibrated[0].read_bytes(), int8_form(*calibrated, ())):
        times = layer_times_us(graph, layers, image)
        assert set(times) == {layer.name for layer in layers} and min(times.values()) > 0
