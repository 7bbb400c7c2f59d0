"""Architectures at equal latency: each trains on the same draws for as many steps and is judged on the same unseen scans.

    python -m benchmarks.architectures time  --work build/architectures
    python -m benchmarks.architectures train --work build/architectures --data ../shared/data --variant "3 x 32" [--device cuda]
    python -m benchmarks.architectures judge --work build/architectures --data ../shared/data
    python -m benchmarks.architectures table --work build/architectures

``time`` belongs on the kind of processor that will run the model; the others may run elsewhere, on a GPU. Widths are
chosen so that a variant's regularisers and data consistency take together what those of the first take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels import in_turns
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import NoImage
from edge_runtime.kernels import SensePlan, Workers
from export.batches import Batch, stacked
from export.config import NetworkConfig, TrainingConfig, load_config
from export.draws import draw_problem
from export.families.unrolled import SenseProblem, UnrolledNetwork
from export.progress import Progress
from export.simulate.pool import simulate_acquisition, write_pool
from export.simulate.volumes import load_volumes
from export.split import regulariser_onnx
from export.train import problem_of, ssim, train

CONFIG = Path(__file__).parents[1] / "export" / "configs" / "brain2d.toml"
STEPS = 1000
SCANS = 96
SEED = 4600
SIZE, COILS, THREADS, RUNS = 256, 8, 2, 15


class GradientNetwork(UnrolledNetwork):
    """A gradient step of learned length in place of each solve (Hammernik et al., Magn Reson Med 79:3055, 2018)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.log_weights.zero_()  # steps of 1

    def consistent(self, estimate: Tensor, correction: Tensor, weight: Tensor, problem: SenseProblem) -> Tensor:
        return estimate - weight * (problem.normal(estimate) - problem.adjoint) + correction


class DirectNetwork(UnrolledNetwork):
    """The regulariser gives the image itself, not what to add to it."""

    def consistent(self, estimate: Tensor, correction: Tensor, weight: Tensor, problem: SenseProblem) -> Tensor:
        return super().consistent(torch.zeros_like(estimate), correction, weight, problem)


@dataclass(frozen=True)
class Variant:
    """An architecture, and what it says in the table."""

    network: NetworkConfig
    kind: type[UnrolledNetwork]
    words: str


def _solving(iterations: int, *widths: int, steps: int = 5) -> NetworkConfig:
    return NetworkConfig(iterations, steps, widths)


VARIANTS = {
    "3x": Variant(_solving(3, 32, 64, 96, 128), UnrolledNetwork, "3 iterations, 5 CG steps each"),
    "1x": Variant(_solving(1, 60, 112, 176, 224), UnrolledNetwork, "1 iteration of a wider network"),
    "2x": Variant(_solving(2, 40, 72, 112, 144), UnrolledNetwork, "2 iterations of a wider network"),
    "5x": Variant(_solving(5, 20, 40, 60, 80), UnrolledNetwork, "5 iterations of a narrower network"),
    "8x": Variant(_solving(8, 12, 24, 32, 40), UnrolledNetwork, "8 iterations of a narrower network"),
    "gradient-3x": Variant(_solving(3, 32, 64, 112, 144), GradientNetwork, "3 gradient steps of learned length"),
    "gradient-6x": Variant(_solving(6, 24, 40, 48, 80), GradientNetwork, "6 gradient steps of learned length"),
    "direct": Variant(_solving(3, 32, 64, 96, 128), DirectNetwork, "3 iterations, no image-domain residual"),
}


def time_variants(work: Path) -> None:
    """Median time of one image's regularisers and data consistency, by variant: ``latency.json``."""
    calls: dict[str, Callable[[], object]] = {}
    for name, variant in VARIANTS.items():
        session = OnnxRuntimeEngine().plan(regulariser_onnx(UnrolledNetwork(variant.network)), THREADS)
        calls[name] = _image(session.run, variant)
    times = in_turns(calls, RUNS)
    found = {name: statistics.median(runs) for name, runs in times.items()}
    (work / "latency.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _image(regularise: Callable[[np.ndarray], object], variant: Variant) -> Callable[[], object]:
    rng = np.random.default_rng(SEED)
    planes = rng.standard_normal((1, 6, SIZE, SIZE)).astype(np.float32)
    maps, hybrid = ((rng.standard_normal((COILS, SIZE, SIZE, 2)) @ [1, 1j]).astype(np.complex64) for _ in range(2))
    plan = SensePlan(Workers(threads=THREADS), COILS, SIZE, SIZE)
    plan.set_maps(maps / np.float32(COILS))
    plan.set_samples(hybrid, np.repeat(rng.random((SIZE, 1)) < 0.3, SIZE, axis=1))
    image = hybrid[0].copy()

    def once() -> None:
        for _ in range(variant.network.iterations):
            regularise(planes)
            if variant.kind is GradientNetwork:
                plan.gradient(image)
            else:
                plan.data_consistent(image, 0.1, variant.network.cg_steps)

    return once


def train_variant(name: str, work: Path, data: Path, steps: int, device: str, workers: int) -> None:
    """Trains a variant on the shipped configuration's draws: ``NAME/model.pt``."""
    config, variant = load_config(CONFIG), VARIANTS[name]
    pool = config.simulate
    write_pool(
        work / "pool",
        load_volumes(data / "train"),
        pool.count,
        pool.seed,
        pool.phantom_share,
        Progress("acquisitions"),
        workers,
    )
    torch.manual_seed(config.train.seed)
    run: TrainingConfig = replace(config.train, steps=steps)
    network = variant.kind(variant.network)
    train(network, run, work / "pool", work / name, _say(name), device=device, workers=workers)


def _say(name: str) -> Callable[[dict[str, float]], None]:
    def report(record: dict[str, float]) -> None:
        print(name, *(f"{key} {value:.4g}" for key, value in record.items()), flush=True)

    return report


def judge_variants(work: Path, data: Path) -> None:
    """Gains over the classical image on scans of unseen people, coils, phases and noise, by variant: ``judged.json``."""
    networks = {}
    for name, variant in VARIANTS.items():
        path = work / name / "checkpoint.pt"  # the averaged weights of a short run are half its first ones
        if path.exists():
            networks[name] = variant.kind(variant.network)
            networks[name].load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["network"])
    judged: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for batch in unseen_scans(data):
        with torch.no_grad():
            for name, network in networks.items():
                estimates = network.eval()(problem_of(batch), batch.first, batch.noise_level)
                judged[name].append(gain(estimates, batch))
    (work / "judged.json").write_text(json.dumps(judged) + "\n", encoding="utf-8")


def unseen_scans(data: Path, scans: int = SCANS) -> list[Batch]:
    """Of the validation volumes, with the simulator's validation generators."""
    volumes, columns = load_volumes(data / "validate"), load_config(CONFIG).train.columns
    found: list[Batch] = []
    index = 0
    while len(found) < scans:
        rng = np.random.default_rng([SEED, index])
        index += 1
        kspace = simulate_acquisition(volumes, rng, phantom_share=0, validation=True)
        try:
            found.append(stacked([draw_problem(kspace, rng, columns)]))
        except NoImage:  # a slice without anatomy in the middle
            continue
    return found


def gain(estimates: list[Tensor], batch: Batch) -> dict[str, float]:
    """What the last estimate of one scan has over the first, as shown: error in dB, and structural similarity."""
    inside = batch.sensitivities.abs().square().sum(1)
    everything = SenseProblem(batch.hybrid, batch.sensitivities, batch.measured)
    errors, similarities = [], []
    for estimate in (estimates[0], estimates[-1]):
        shown = everything.substituted_power(estimate).sqrt()
        errors.append(float((inside * (shown - batch.reference).square()).sum()))
        similarities.append(float((inside * ssim(shown, batch.reference)).sum() / inside.sum()))
    return {"db": float(10 * np.log10(errors[0] / errors[1])), "ssim": similarities[1] - similarities[0]}


def table(work: Path) -> str:
    """What was found, in Markdown."""
    times = json.loads((work / "latency.json").read_text(encoding="utf-8"))
    judged = json.loads((work / "judged.json").read_text(encoding="utf-8"))
    lines = [
        "| architecture | widths | ms | gain, dB: median | worst tenth | SSIM gain: median | better than the first on |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(judged))
    for name, scans in judged.items():
        variant = VARIANTS[name]
        db, similarity = ([scan[key] for scan in scans] for key in ("db", "ssim"))
        better = sum(scan["db"] > other["db"] for scan, other in zip(scans, judged[first], strict=True))
        lines.append(
            f"| {variant.words} | {', '.join(map(str, variant.network.widths))} | {times[name]:.0f} | {np.median(db):.2f} | "
            f"{np.percentile(db, 10):.2f} | {np.median(similarity):.4f} | "
            f"{'–' if name == first else f'{better} of {len(scans)}'} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("part", choices=("time", "train", "judge", "table"))
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="DIR", help="with train and validate in it")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="3x", help="%(default)s")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="%(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="%(default)s")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.part in ("train", "judge") and options.data is None:
        parser.error(f"{options.part} needs --data")
    if options.part == "time":
        time_variants(options.work)
    elif options.part == "train":
        train_variant(options.variant, options.work, options.data, options.steps, options.device, options.workers)
    elif options.part == "judge":
        judge_variants(options.work, options.data)
    else:
        print(table(options.work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
