"""Contestants run one network, only what keeps the budget may be the best, and what lies above our front is named."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")
pytest.importorskip(
    "edge_runtime.engines.openvino", reason="the extra 'openvino' is not installed"
)  # before NNCF: no reports
pytest.importorskip("nncf", reason="the extra 'bench' is not installed")

import onnx
import torch

from benchmarks import engines
from benchmarks.engines import Contestant
from benchmarks.peers.torch_networks import regulariser_of
from benchmarks.records import Record
from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from export.config import NetworkConfig
from export.families.unrolled import UnrolledNetwork
from export.quantization.scans import Loss
from export.split import regulariser_onnx

pytestmark = pytest.mark.full

SIZE = 32


def nobody(threads: int) -> engines.Session:
    raise AssertionError("is not run")


def racers(**kinds: tuple[bool, bool]) -> dict[str, Contestant]:
    base = {"pytorch.fp32": Contestant(nobody), engines.BASE: Contestant(nobody, bundled=True)}
    return base | {
        name.replace("_", ".", 1): Contestant(nobody, bundled, on_front) for name, (bundled, on_front) in kinds.items()
    }


def times(**medians: float) -> dict[str, list[float]]:
    every = {"pytorch.fp32": 50.0, engines.BASE: 40.0, **{n.replace("_", ".", 1): ms for n, ms in medians.items()}}
    return {name: [ms - 1, ms, ms + 1] for name, ms in every.items()}


def lost(psnr_db: float, ssim: float = 0.0) -> Loss:
    return Loss(psnr_db, ssim, "scan 1")


@pytest.fixture(scope="module")
def network() -> engines.Network:
    torch.manual_seed(0)
    unrolled = UnrolledNetwork(NetworkConfig(2, 2, (4, 6)))
    graph = regulariser_onnx(unrolled)
    rng = np.random.default_rng(0)
    states = [rng.standard_normal((1, 6, SIZE, columns)).astype(np.float32) for columns in (16, 48, SIZE)]
    int8 = {"int8": engines.front(graph, states, [])["int8_kept_0"]}
    module = unrolled.regulariser.eval()
    return engines.Network("tiny", module, graph, int8, ("fp32", "int8"), states[2], states)


def test_every_contestant_runs_the_network(network: engines.Network) -> None:
    found, absent = engines.contestants(network)
    assert not absent
    assert set(found) == {
        "pytorch.fp32",
        *("onnxruntime.fp32", "onnxruntime.int8", "onnxruntime.int8_default"),
        *("openvino.fp32", "openvino.int8", "openvino.int8_nncf"),
    }
    sessions = {name: one.plan(1) for name, one in found.items()}
    expected = sessions[engines.BASE].run(network.image)
    for name, session in sessions.items():
        apart = np.linalg.norm(session.run(network.image) - expected) / np.linalg.norm(expected)
        assert (apart < 1e-5) if name.endswith("fp32") else (1e-4 < apart < 0.3), name
    measured = engines.race(network, found, threads=2, runs=1)
    records = engines.time_records(network, measured, threads=2)
    assert {record.name for record in records} == {f"engine.tiny_ms.{name}.2_threads" for name in found}
    assert {record.peer for record in records} == {"", "ONNX Runtime FP32"}


def test_the_front_keeps_one_layer_more_at_a_time(network: engines.Network) -> None:
    kept = ["/head/Conv", "/tail/Conv", "/up.0/Conv"]
    forms = engines.front(network.graph, network.states, kept)
    assert list(forms) == ["int8_kept_0", "int8_kept_1", "int8_kept_2"]
    assert forms["int8_kept_0"] == network.int8["int8"]
    weights = [{one.name for one in onnx.load_model_from_string(graph).graph.initializer} for graph in forms.values()]
    for name in ("head.weight", "tail.weight", "up.0.weight"):
        assert [name in one for one in weights] == [
            kept.index(f"/{name.removesuffix('.weight')}/Conv") < n for n in range(3)
        ]


def test_another_network_is_no_contest(network: engines.Network) -> None:
    found, _ = engines.contestants(network)
    other = Contestant(lambda threads: engines._TorchSession(torch.nn.Conv2d(6, 2, 1), threads))
    with pytest.raises(RuntimeError, match=r"tiny: pytorch\.fp32 computes another network"):
        engines.race(network, {**found, "pytorch.fp32": other}, threads=1, runs=1)


def test_without_openvino_its_contestants_are_named(network: engines.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.engines.REGISTRY", {})
    found, absent = engines.contestants(network)
    assert not [name for name in found if name.startswith("openvino")]
    assert len(absent) == 1 and "openvino" in absent[0]


def test_the_shipped_graph_goes_back_to_pytorch() -> None:
    graph = load_bundle(DEFAULT_BUNDLE).forms["fp32"].onnx
    batch = np.random.default_rng(0).standard_normal((1, 6, SIZE, SIZE)).astype(np.float32)
    found = engines._TorchSession(regulariser_of(graph), 1).run(batch)
    np.testing.assert_allclose(found, engines._PlainSession(graph, 1).run(batch), atol=1e-5)


def speedup(found: dict[str, Contestant], measured: dict[str, list[float]], losses: dict[str, Loss]) -> Record:
    return engines.speedup(found, measured, losses, 1, "drawn")


def test_the_fastest_of_the_bundle_that_keeps_the_budget_counts() -> None:
    ours = {"openvino_fp32": (True, True), "openvino_int8": (True, True), "openvino_int8_kept_0": (False, True)}
    found = racers(**ours, openvino_int8_nncf=(False, False))
    measured = times(openvino_fp32=38.0, openvino_int8=16.0, openvino_int8_kept_0=10.0, openvino_int8_nncf=9.0)
    fine = {"openvino.fp32": lost(0), "openvino.int8_kept_0": lost(0.01), "openvino.int8_nncf": lost(0.01)}
    within = speedup(found, measured, {**fine, "openvino.int8": lost(0.1, 0.002)})
    assert (within.name, within.value, within.target) == ("engine.speedup_over_ort_fp32", 2.5, 3.0)
    assert within.note.startswith("openvino.int8, the fastest form")
    for too_much in (lost(0.11), lost(0.0, 0.003)):
        beyond = speedup(found, measured, {**fine, "openvino.int8": too_much})
        assert beyond.value == pytest.approx(40 / 38)
    worst = speedup(found, measured, {name: lost(1.0) for name in ("openvino.int8", *fine)})
    assert worst.value == 1.0


@pytest.mark.parametrize(
    ("milliseconds", "default", "above"),
    [
        (12.0, lost(0.3), False),  # slower, and loses as much
        (9.0, lost(0.3), True),  # faster than all of ours
        (12.0, lost(0.2), True),  # loses less than the one of ours that is as fast
        (17.0, lost(0.05), False),
        (17.0, lost(0.05, -0.1), True),  # better in SSIM alone
    ],
)
def test_a_default_quantization_above_the_front_misses_the_target(
    milliseconds: float, default: Loss, above: bool
) -> None:
    ours = {"openvino_fp32": (True, False), "openvino_int8": (True, True), "openvino_int8_kept_0": (False, True)}
    found = racers(**ours, openvino_int8_nncf=(False, False))
    losses = {"openvino.int8": lost(0.05), "openvino.int8_kept_0": lost(0.3), "openvino.int8_nncf": default}
    losses["openvino.fp32"] = lost(0)  # whatever its time, it is none of the quantized
    measured = times(openvino_fp32=8.0, openvino_int8=16.0, openvino_int8_kept_0=10.0, openvino_int8_nncf=milliseconds)
    record = engines.defaults_above_front(found, measured, losses, 2, "drawn")
    assert (record.name, record.n, record.target) == ("engine.defaults_above_front.2_threads", 1, 0)
    assert (record.value, record.met) == (int(above), not above)
    assert record.note.startswith(f"of n default quantizations: {'openvino.int8_nncf' if above else 'none'}; ")
