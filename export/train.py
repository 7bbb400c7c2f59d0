"""Trains the shipped family from one configuration file; interrupted runs resume from the last checkpoint."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.batches import Batch, Batches, batches_from
from export.config import NetworkConfig, TrainingConfig
from export.digest import code_digest
from export.families.unrolled import SenseProblem, UnrolledNetwork
from export.remembered import OtherInputs, differences
from export.simulate.pool_record import PoolRecord

SHOWN_WEIGHT = 1.0
SSIM_WEIGHT = 0.5
INTERMEDIATE_WEIGHT = 0.3
EMA_DECAY = 0.998
LARGEST_GRADIENT = 2.0
WEIGHT_LR_FACTOR = 5.0
"""The few data-consistency weights move on a logarithmic scale and need longer steps."""

TRACED_STEPS = 10
"""The losses of so many first steps go into the bundle: a later version of the code that gives others trains another model."""


def train(
    network: UnrolledNetwork,
    config: TrainingConfig,
    pool: Path,
    out: Path,
    report: Callable[[dict[str, float]], None],
    *,
    device: str = "cpu",
    workers: int = 1,
) -> Path:
    """Trains a new network and writes ``out/model.pt`` (averaged weights); returns its path.

    ``out/checkpoint.pt`` is written every 200 steps and read at the start where it exists. Both files name what decides the run
    (`run_identity`), and the digest of the code, of all versions that took part where a run was resumed with another. Sums are made
    in one order on one kind of device with one number of threads: a second run gives the same weights there, and on others what
    rounding makes of them.

    Args:
        network: with first weights; `initial` draws them from the seed.
        device: of torch, ``cpu`` or ``cuda``.
        workers: processes that draw problems ahead of the steps.

    Raises:
        OtherInputs: the checkpoint is of another network, configuration or pool.
    """
    out.mkdir(parents=True, exist_ok=True)
    batches = Batches(pool, config)
    identity = run_identity(network.config, config, batches.pool.record)
    target = deterministic(device)
    network = network.to(target)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimiser = torch.optim.Adam(
        [
            {"params": list(network.regulariser.parameters()), "factor": 1.0},
            {"params": [network.log_weights], "factor": WEIGHT_LR_FACTOR},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )
    checkpoint = out / "checkpoint.pt"
    first_step = 0
    code = {code_digest()}
    first_losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=target)
        _check_identity(checkpoint, state, identity)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        first_step = int(state["step"])
        code |= set(state["code"])
        first_losses += state["first_losses"]
    network.train()
    started, losses = time.monotonic(), []
    for step, drawn in batches_from(batches, first_step, workers, pinned=target.type == "cuda"):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(step, config)
        optimiser.zero_grad(set_to_none=True)
        batch = drawn.to(target)
        loss = batch_loss(network(problem_of(batch), batch.first, batch.noise_level), batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        if torch.isfinite(norm):
            optimiser.step()
            averaged.update_parameters(network)
        losses.append(loss.detach())
        if (step + 1) % 50 == 0 or step + 1 == config.steps:
            passed = torch.stack(losses).tolist()  # waits for the device
            first_losses += passed[: max(0, TRACED_STEPS - len(first_losses))]
            losses.clear()
            pace = (time.monotonic() - started) / (step + 1 - first_step)
            report({"step": step + 1, "of": config.steps, "loss": sum(passed) / len(passed), "s_per_step": pace})
        if (step + 1) % 200 == 0 or step + 1 == config.steps:
            about = {"step": step + 1, "identity": identity, "code": sorted(code), "first_losses": first_losses}
            # The model first: were the checkpoint of the last step there alone, no later run would write the model.
            save_model(out, averaged.module, network.config, about)
            parts: dict[str, Any] = {"network": network, "averaged": averaged, "optimiser": optimiser}
            _save(checkpoint, {**{name: part.state_dict() for name, part in parts.items()}, **about})
    return out / "model.pt"


def save_model(out: Path, network: nn.Module, config: NetworkConfig, about: Mapping[str, Any]) -> Path:
    """Writes ``out/model.pt``, as `load_model` reads it; returns its path.

    Args:
        network: an `UnrolledNetwork` of this configuration.
        about: ``step``, ``identity``, ``code`` and ``first_losses``; see `TrainedModel`.
    """
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    _save(out / "model.pt", {"config": json.dumps(asdict(config)), "weights": weights, **about})
    return out / "model.pt"


def deterministic(device: str) -> torch.device:
    """A device of torch that computes the same every time, in single precision."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS chooses among sums otherwise
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # its stubs lack it
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(device)


def initial(network_config: NetworkConfig, seed: int) -> UnrolledNetwork:
    """The untrained network of a seed."""
    torch.manual_seed(seed)
    return UnrolledNetwork(network_config)


def run_identity(network: NetworkConfig, config: TrainingConfig, pool: PoolRecord) -> dict[str, str]:
    """What decides a training run beside the code, by what it is."""
    tables = {"network": asdict(network), "train": asdict(config)}
    values = {f"[{table}] {key}": str(value) for table, of in tables.items() for key, value in of.items()}
    return {"pool": pool.digest(), **values}


def _check_identity(path: Path, state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    before = state.get("identity")
    if before != identity:
        raise OtherInputs(
            f"{path}: is of a run with another {differences(before, identity)}: remove it to train anew, or choose another --work"
        )


@dataclass(frozen=True)
class TrainedModel:
    """What `train` wrote.

    Attributes:
        network: with averaged weights.
        identity: see `run_identity`.
        code: digests of the code it was trained with; several where a run was resumed with other code.
        first_losses: of the first `TRACED_STEPS` steps.
    """

    network: UnrolledNetwork
    identity: Mapping[str, str]
    code: tuple[str, ...]
    first_losses: tuple[float, ...]


def load_model(path: Path) -> TrainedModel:
    """Reads ``model.pt``.

    Pickles that hold more than tensors and plain values are refused by torch.

    Raises:
        OtherInputs: the file does not say what the model was trained on.
    """
    state = torch.load(path, weights_only=True)
    if "identity" not in state:
        raise OtherInputs(f"{path}: does not say how and on what it was trained: remove it and train anew")
    values = json.loads(state["config"])
    network = UnrolledNetwork(NetworkConfig(**{**values, "widths": tuple(values["widths"])}))
    network.load_state_dict(state["weights"])
    return TrainedModel(network.eval(), state["identity"], tuple(state["code"]), tuple(state["first_losses"]))


def problem_of(batch: Batch) -> SenseProblem:
    """What the network may see of a batch."""
    return SenseProblem(batch.hybrid, batch.sensitivities, batch.visible)


def batch_loss(estimates: list[Tensor], batch: Batch) -> Tensor:
    """Error of the image that the device would show, of the complex image behind it, and a share of those of the iterations before;
    the mean over the scans.

    Shown is the image with every measured sample in its place, also those that the network did not see; its error and its
    structural dissimilarity count where the sensitivities say that there is an object.
    """
    scale = norm_of(batch.target).clamp_min(1e-6)
    errors = torch.stack([norm_of(estimate - batch.target) / scale for estimate in estimates[1:]])
    inside = batch.sensitivities.abs().square().sum(1)
    everything = SenseProblem(batch.hybrid, batch.sensitivities, batch.measured)
    shown = everything.substituted_power(estimates[-1]).add(1e-10).sqrt()
    shown_error = norm_of(inside.sqrt() * (shown - batch.reference)) / scale
    dissimilarity = (inside * (1 - ssim(shown, batch.reference))).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    loss = errors[-1] + SHOWN_WEIGHT * shown_error + SSIM_WEIGHT * dissimilarity
    if len(errors) > 1:
        loss = loss + INTERMEDIATE_WEIGHT * errors[:-1].mean(0)
    return loss.mean()


def norm_of(images: Tensor) -> Tensor:
    """Euclidean norm of every image, ``(scans,)``; its gradient is finite at zero too."""
    power = torch.view_as_real(images).square().sum(-1) if images.is_complex() else images.square()
    return power.sum((1, 2)).clamp_min(1e-12).sqrt()


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity at every pixel of images of range about 1 (Wang et al., IEEE TIP 13:600, 2004), 7-pixel box."""
    x, y = image[:, None], target[:, None]
    mean = lambda v: nn.functional.avg_pool2d(v, 7, stride=1, padding=3, count_include_pad=False)  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2)))[:, 0]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Of a step: linear warm-up, then a half cosine to a hundredth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)
