"""One network on every engine in every precision: how long it takes, and what the shipped one's images lose.

Contestants take turns on one 256 x 256 input. Peers are PyTorch, ONNX Runtime with default options, and what ONNX Runtime and NNCF
make of the graph with their own quantization's defaults; ours are the bundle's forms on the runtime's engines, and INT8 with fewer
layers in floating point, from none on: the fast end of the front that `edge-export quantize` searches. What is quantized here is
calibrated on the same states.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from benchmarks.kernels import THREADS, in_turns
from benchmarks.made_scans import anatomy, write_training_pool
from benchmarks.peers.default_quantization import nncf_default, onnxruntime_default
from benchmarks.peers.torch_networks import fastmri_unet, regulariser_of
from benchmarks.records import Record, summarise
from benchmarks.server import ROOT
from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from edge_runtime.engines import Engine, Session, Tensor, choose_engine
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import EngineError
from export.config import QuantizeConfig, load_config
from export.quantization.choice import Budget
from export.quantization.forms import int8_form, write_prepared
from export.quantization.layers import layers_of
from export.quantization.ranges import write_ranges
from export.quantization.run import PHANTOM_SHARE
from export.quantization.scans import Loss, ValidationScan, loss, qualities, validation_scans
from export.split import planes_onnx
from export.states import reconstruction_states

CONFIG = ROOT / "export" / "configs" / "brain2d.toml"
SIZE = 256
RUNS = 30
ACQUISITIONS = 8
CALIBRATION_SCANS = 8

BUDGET = Budget(psnr_db=0.1, ssim=0.002)
"""What the images of an admissible form lose at most, on the worst scan."""

SPEEDUP_WANTED = 3.0
SAME_NETWORK = 1e-3
"""Relative difference of two outputs in FP32; the fastMRI network's normalisations spread rounding."""

BASE = "onnxruntime.fp32"


@dataclass(frozen=True)
class Contestant:
    """A network on an engine in a precision.

    Attributes:
        plan: makes a session for a number of threads.
        bundled: a form of the bundle on an engine that a profile may name: it may be the best.
        on_front: one of our quantized forms, which no default quantization should be above.
    """

    plan: Callable[[int], Session]
    bundled: bool = False
    on_front: bool = False


Contestants = Mapping[str, Contestant]
"""By engine and precision, as ``openvino.int8``."""


@dataclass(frozen=True)
class Network:
    """What contestants run.

    Attributes:
        name: as records call it.
        module: in PyTorch, of the same weights as the graph.
        graph: ONNX in FP32, input ``image``.
        int8: our INT8 graphs by precision's name, those of the bundle among them.
        bundled: which of those names, and whether ``fp32``, are the bundle's.
        image: ``(1, channels, 256, 256)``, what is timed.
        states: what INT8 is calibrated on.
    """

    name: str
    module: nn.Module
    graph: bytes
    int8: Mapping[str, bytes]
    bundled: tuple[str, ...]
    image: Tensor
    states: Sequence[Tensor]


def engines(quick: bool) -> list[Record]:
    """Times of the shipped regulariser and of fastMRI's U-Net with one thread and with two; the regulariser's images."""
    config, bundle, runs = load_config(CONFIG).quantize, load_bundle(DEFAULT_BUNDLE), 2 if quick else RUNS
    states = _calibration_states(bundle, config, 1 if quick else CALIBRATION_SCANS)
    network = _shipped(bundle, states)
    racers, absent = contestants(network)
    scans, source = _validation_scans(config, 2 if quick else config.validation_scans)
    lost = image_losses(racers, scans, bundle)
    records = []
    for threads in THREADS:
        times = race(network, racers, threads, runs)
        records += time_records(network, times, threads)
        remark = "; ".join((source, *absent))
        records += [
            speedup(racers, times, lost, threads, remark),
            defaults_above_front(racers, times, lost, threads, remark),
        ]
    try:
        unet = _fastmri(states)
    except ImportError as error:
        print(f"engine.fastmri_unet_ms: {error.name} is not installed: no figures", file=sys.stderr)
        return records
    racers, _ = contestants(unet)
    for threads in THREADS:
        records += time_records(unet, race(unet, racers, threads, runs), threads)
    return records


def contestants(network: Network) -> tuple[dict[str, Contestant], list[str]]:
    """All that can run here, and in words what is not installed."""
    racers = {
        "pytorch.fp32": Contestant(lambda threads: _TorchSession(network.module, threads)),
        BASE: Contestant(lambda threads: _PlainSession(network.graph, threads), bundled="fp32" in network.bundled),
    }
    default = onnxruntime_default(network.graph, network.states)
    racers["onnxruntime.int8_default"] = Contestant(lambda threads: _PlainSession(default, threads))
    racers |= _ours(OnnxRuntimeEngine(), network, network.int8)
    absent = []
    try:
        engine = choose_engine(("openvino",), "int8")
    except EngineError as error:
        absent.append(str(error))
        return racers, absent
    racers |= _ours(engine, network, {"fp32": network.graph, **network.int8})
    try:
        racers["openvino.int8_nncf"] = _nncf(network)
    except ImportError as error:
        absent.append(f"{error.name} is not installed")
    return racers, absent


def _ours(engine: Engine, network: Network, forms: Mapping[str, bytes]) -> dict[str, Contestant]:
    def planned(graph: bytes) -> Callable[[int], Session]:
        return lambda threads: engine.plan(graph, threads)

    return {
        f"{engine.name}.{precision}": Contestant(
            planned(graph), precision in network.bundled, on_front=precision != "fp32"
        )
        for precision, graph in forms.items()
    }


def _nncf(network: Network) -> Contestant:
    """Raises:
    ImportError: NNCF is not installed.
    """
    model = nncf_default(network.graph, network.states)
    from edge_runtime.engines.openvino import CORE, OpenVinoSession

    return Contestant(lambda threads: OpenVinoSession(CORE, model, threads))


class _TorchSession:
    """PyTorch, eager."""

    def __init__(self, module: nn.Module, threads: int) -> None:
        self._module, self._threads = module, threads

    def run(self, batch: Tensor) -> Tensor:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            made: Tensor = self._module(torch.from_numpy(batch)).numpy()
        return made


class _PlainSession:
    """ONNX Runtime as it comes: its threads spin between inferences, which ours must not."""

    def __init__(self, graph: bytes, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, batch: Tensor) -> Tensor:
        made: Tensor = self._session.run(None, {"image": batch})[0]
        return made


def race(network: Network, racers: Contestants, threads: int, runs: int) -> dict[str, list[float]]:
    """Milliseconds of every run, by contestant.

    Raises:
        RuntimeError: one in FP32 computes another network.
    """
    sessions = {name: one.plan(threads) for name, one in racers.items()}
    expected = sessions[BASE].run(network.image)
    for name, session in sessions.items():
        differs = float(np.linalg.norm(session.run(network.image) - expected) / np.linalg.norm(expected))
        if name.endswith(".fp32") and not differs <= SAME_NETWORK:
            raise RuntimeError(f"{network.name}: {name} computes another network: {differs:.1e} apart")

    def runner(session: Session) -> Callable[[], Any]:
        return lambda: session.run(network.image)

    return in_turns({name: runner(session) for name, session in sessions.items()}, runs)


def time_records(network: Network, times: Mapping[str, list[float]], threads: int) -> list[Record]:
    """One of each contestant; the peer of all is ONNX Runtime in FP32."""
    return [
        summarise(
            f"engine.{network.name}_ms.{name}{_suffix(threads)}",
            samples,
            unit="ms",
            better="lower",
            peer="" if name == BASE else "ONNX Runtime FP32",
            peer_samples=() if name == BASE else times[BASE],
            threads=threads,
            note=f"{' x '.join(map(str, network.image.shape))}",
        )
        for name, samples in times.items()
    ]


def image_losses(racers: Contestants, scans: Sequence[ValidationScan], bundle: Bundle) -> dict[str, Loss]:
    """What the images of each lose against ONNX Runtime's in FP32, after the whole reconstruction; PyTorch's graph is the same."""
    full = qualities(scans, bundle.unrolled, racers[BASE].plan(1))
    return {
        name: loss(scans, full, qualities(scans, bundle.unrolled, one.plan(1)))
        for name, one in racers.items()
        if name not in (BASE, "pytorch.fp32")
    }


def speedup(
    racers: Contestants, times: Mapping[str, list[float]], lost: Mapping[str, Loss], threads: int, remark: str
) -> Record:
    """Of the fastest form of the bundle whose images stay within the budget, over ONNX Runtime in FP32."""
    medians = {name: float(np.median(samples)) for name, samples in times.items()}
    admitted = [name for name, one in racers.items() if one.bundled and (name == BASE or BUDGET.admits(lost[name]))]
    best = min(admitted, key=lambda name: medians[name])
    said = [
        f"{name} {medians[name]:.1f} ms, loses {one.psnr_db:.3f} dB and {one.ssim:.4f} SSIM at worst"
        for name, one in lost.items()
    ]
    return summarise(
        f"engine.speedup_over_ort_fp32{_suffix(threads)}",
        [medians[BASE] / ms for ms in times[best]],
        unit="",
        better="higher",
        threads=threads,
        target=SPEEDUP_WANTED,
        note=f"{best}, the fastest form of the bundle that loses at most {BUDGET.psnr_db:g} dB and {BUDGET.ssim:g} SSIM; "
        f"{BASE} {medians[BASE]:.1f} ms; {'; '.join(said)}; images: {remark}",
    )


def defaults_above_front(
    racers: Contestants, times: Mapping[str, list[float]], lost: Mapping[str, Loss], threads: int, remark: str
) -> Record:
    """How many of the peers' default quantizations lie above our front; its target is none."""
    medians = {name: float(np.median(samples)) for name, samples in times.items()}
    above = above_front(racers, medians, lost)
    compared = [name for name in _quantized(lost) if not racers[name].on_front]
    said = [
        f"{name} {medians[name]:.1f} ms, loses {lost[name].psnr_db:.3f} dB and {lost[name].ssim:.4f} SSIM at worst"
        for name in compared
    ]
    return Record(
        f"engine.defaults_above_front{_suffix(threads)}",
        len(above),
        "",
        "lower",
        threads=threads,
        n=len(compared),
        target=0,
        note=f"of n default quantizations: {', '.join(above) or 'none'}; {'; '.join(said)}; images: {remark}",
    )


def above_front(racers: Contestants, medians: Mapping[str, float], lost: Mapping[str, Loss]) -> list[str]:
    """The peers' quantized forms that none of ours equals in time and in what images lose, PSNR and SSIM."""
    ours = [name for name, one in racers.items() if one.on_front and name in lost]

    def equalled(name: str) -> bool:
        return any(
            medians[one] <= medians[name]
            and lost[one].psnr_db <= lost[name].psnr_db
            and lost[one].ssim <= lost[name].ssim
            for one in ours
        )

    return [name for name in _quantized(lost) if not racers[name].on_front and not equalled(name)]


def _quantized(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.partition(".")[2].startswith("int8")]


def _calibration_states(bundle: Bundle, config: QuantizeConfig, scans: int) -> list[Tensor]:
    """The regulariser's inputs over a few simulated scans."""
    session = OnnxRuntimeEngine().plan(bundle.forms["fp32"].onnx, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        write_training_pool(Path(folder), min(scans, ACQUISITIONS), config.seed)
        return list(reconstruction_states(Path(folder), bundle.unrolled, session, scans, config.seed))


def _validation_scans(config: QuantizeConfig, count: int) -> tuple[list[ValidationScan], str]:
    """Those of `edge-export quantize`, and in words what they show."""
    source = anatomy("validate", PHANTOM_SHARE)
    scans = validation_scans(source.volumes, count, config.seed + 2, source.phantom_share)
    return scans, f"{len(scans)} scans simulated of {source.source}"


def _shipped(bundle: Bundle, states: Sequence[Tensor]) -> Network:
    graph = bundle.forms["fp32"].onnx
    calibration = bundle.manifest["provenance"].get("calibration", {})  # older bundles do not tell of it
    int8 = {"int8": bundle.forms["int8"].onnx, **front(graph, states, calibration.get("float_layers", []))}
    image = 0.1 * np.random.default_rng(0).standard_normal((1, 6, SIZE, SIZE)).astype(np.float32)
    return Network("regulariser", regulariser_of(graph), graph, int8, ("fp32", "int8"), image, states)


def _fastmri(states: Sequence[Tensor]) -> Network:
    """Raises:
    ImportError: fastmri is not installed.
    """
    module = fastmri_unet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # padding of odd sizes is traced away: there are none here
        graph = planes_onnx(module, torch.zeros(1, 1, SIZE // 4, SIZE // 2), "image", "restored")
    planes = [np.ascontiguousarray(state[:, :1]) for state in states]
    image = np.random.default_rng(0).standard_normal((1, 1, SIZE, SIZE)).astype(np.float32)
    return Network("fastmri_unet", module, graph, front(graph, planes, []), (), image, planes)


def front(graph: bytes, states: Sequence[Tensor], kept: Sequence[str]) -> dict[str, bytes]:
    """Our INT8 forms ``int8_kept_<n>`` with the first n of ``kept`` in floating point, for every n short of all, and n = 0.

    Args:
        graph: in FP32.
        states: its inputs.
        kept: names of layers, dearest first.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, ranges = Path(folder) / "prepared.onnx", Path(folder) / "ranges.json"
        write_prepared(graph, prepared)
        write_ranges(prepared, states, ranges)
        nodes = {layer.name: layer.nodes for layer in layers_of(prepared)}
        return {
            f"int8_kept_{count}": int8_form(prepared, ranges, [node for name in kept[:count] for node in nodes[name]])
            for count in range(max(1, len(kept)))
        }


def _suffix(threads: int) -> str:
    return "" if threads == 1 else f".{threads}_threads"
