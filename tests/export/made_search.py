"""A small search for an INT8 form, real in all its parts: graph, ranges, scans, reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from made_volumes import made_volume

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.reconstruct import reconstruct
from edge_runtime.scan import Method
from export.config import NetworkConfig
from export.families.unrolled import UnrolledNetwork
from export.quantization.forms import write_prepared
from export.quantization.ranges import write_ranges
from export.quantization.run import settings_of
from export.quantization.scans import ValidationScan, validation_scans
from export.quantization.search import Search
from export.simulate.pool import write_pool
from export.split import regulariser_onnx
from export.states import reconstruction_states

SIZE = 48

NOISE = 0.003
"""Of the references, as a share of their brightest pixel."""

SPOILT_LAYERS = ("/decode.0/first/Conv", "/decode.0/second/Conv")
"""Of `spoilt`."""


@dataclass(frozen=True)
class MadeSearch:
    """What a search is made of."""

    fp32: bytes
    settings: UnrolledSettings
    scans: list[ValidationScan]
    folder: Path

    def search(self, report: Callable[[str], None] = lambda text: None, **changed: object) -> Search:
        """A search whose results are kept in the folder; ``changed`` takes the place of its arguments."""
        image = np.random.default_rng(5).standard_normal((1, 6, 32, 32)).astype(np.float32)
        arguments: Mapping[str, object] = {
            "fp32": self.fp32,
            "prepared": self.folder / "prepared.onnx",
            "ranges": self.folder / "ranges.json",
            "settings": self.settings,
            "scans": self.scans,
            "image": image,
            "kept_results": self.folder / "measured.jsonl",
            "report": report,
        }
        return Search(**{**arguments, **changed})  # type: ignore[arg-type]


def small_matrices(monkeypatch) -> None:
    """Simulated scans of 48 x 48, in which the network's correction is believed whatever held-out samples say: what it is worth
    is not the question."""
    monkeypatch.setattr("export.simulate.pool.PHASE_ENCODES", [SIZE])
    monkeypatch.setattr("export.simulate.pool.SAMPLES", [SIZE])
    monkeypatch.setattr("edge_runtime.modalities.mri.reconstruct.believed_share", lambda step: 1.0)


def small_network() -> UnrolledNetwork:
    """Two levels, untrained."""
    torch.manual_seed(0)
    return UnrolledNetwork(NetworkConfig(2, 2, (4, 6))).eval()


def spoilt(network: UnrolledNetwork) -> UnrolledNetwork:
    """The same function, but one channel of the tensor between two layers is a thousand times the others: INT8 loses these."""
    block = network.regulariser.decode[0]
    with torch.no_grad():
        for parameters in (block.first.weight, block.first.bias):
            parameters[0] *= 1000
        block.second.weight[:, 0] /= 1000
    return network


def made_search(network: UnrolledNetwork, folder: Path) -> MadeSearch:
    """Ranges over scans of a small pool, and three validation scans on which the network is as good as can be: whatever changes its
    images loses quality. Wants `small_matrices`."""
    fp32, settings, volumes = regulariser_onnx(network), settings_of(network), [made_volume()]
    write_pool(folder / "pool", volumes, 2, 2, 0.0, lambda done, of: None, 1)
    write_prepared(fp32, folder / "prepared.onnx")
    session = OnnxRuntimeEngine().plan(fp32, threads=1)
    write_ranges(
        folder / "prepared.onnx",
        reconstruction_states(folder / "pool", settings, session, 2, seed=3, columns=SIZE),
        folder / "ranges.json",
    )
    model = LearnedReconstruction(settings, session)
    scans = [as_good_as_can_be(scan, model) for scan in validation_scans(volumes, 3, 5, 0.0)]
    return MadeSearch(fp32, settings, scans, folder)


def as_good_as_can_be(scan: ValidationScan, model: LearnedReconstruction) -> ValidationScan:
    """The scan with the network's own image for a reference, but for a little noise: with none its PSNR had no bound."""
    made = reconstruct(scan.samples, scan.calibration, model, Plans(Workers(threads=1)))
    image = next(one.image for method, one in made if method is Method.LEARNED)
    noise = np.random.default_rng(6).standard_normal(image.shape)
    return replace(scan, reference=(image + NOISE * image.max() * noise).astype(np.float32))
