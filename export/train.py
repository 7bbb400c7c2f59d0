"""Trains the shipped family from one configuration file; interrupted runs resume from the last checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import NoImage
from export.config import ConfigError, NetworkConfig, TrainingConfig
from export.digest import code_digest
from export.draws import Draw, draw_problem
from export.families.unrolled import SenseProblem, UnrolledNetwork, substituted_power

SHOWN_WEIGHT = 1.0
SSIM_WEIGHT = 0.5
INTERMEDIATE_WEIGHT = 0.3
EMA_DECAY = 0.998
LARGEST_GRADIENT = 2.0
WEIGHT_LR_FACTOR = 5.0
"""The few data-consistency weights move on a logarithmic scale and need longer steps."""

WHOLE_EVERY = 10
"""Of the shallow steps one in so many trains the whole network all the same, so that its other parts follow."""

TRACED_STEPS = 20
"""The losses of so many first steps go into the bundle: a later version of the code that gives others trains another model."""


class PoolDataset(torch.utils.data.Dataset[Draw]):
    """The i-th training draw, a function of the seed and of i alone, so that a resumed run sees what an unbroken one would."""

    def __init__(self, pool: Path, config: TrainingConfig) -> None:
        self.files = sorted(pool.glob("*.npy"))
        self.config = config
        if not self.files:
            raise FileNotFoundError(f"{pool}: the pool is empty; run edge-export pool first")

    def __len__(self) -> int:
        return self.config.steps * self.config.batch

    def __getitem__(self, index: int) -> Draw:
        rng = np.random.default_rng([self.config.seed, index])
        while True:
            kspace = np.load(self.files[int(rng.integers(len(self.files)))], allow_pickle=False)
            try:
                return draw_problem(kspace, rng, self.config.columns)
            except NoImage:  # an empty centre: a phantom without signal there
                continue


def train(
    network_config: NetworkConfig,
    config: TrainingConfig,
    pool: Path,
    out: Path,
    report: Callable[[dict[str, float]], None],
) -> Path:
    """Trains and writes ``out/model.pt`` (averaged weights); returns its path.

    ``out/checkpoint.pt`` is written every 200 steps and read at the start where it exists. Both files name the digest of the code,
    of all versions that took part where a run was resumed with another.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    network = UnrolledNetwork(network_config)
    if config.bfloat16_steps and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ConfigError(
            f"[train] bfloat16_steps = {config.bfloat16_steps}: this processor has no bfloat16; with 0 it trains in float32"
        )
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
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        first_step = int(state["step"])
        code |= set(state["code"])
        first_losses += state["first_losses"]
    network.train()
    started, running = time.monotonic(), 0.0
    for step, draws in _batches(PoolDataset(pool, config), config, first_step):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * _learning_rate(step, config)
        network.low_precision = step < config.bfloat16_steps
        optimiser.zero_grad(set_to_none=True)
        shallow = step < config.shallow_steps and step % WHOLE_EVERY
        depth = 1 if shallow else network_config.iterations
        losses = []
        for draw in draws:
            estimates = network(problem_of(draw), torch.from_numpy(draw.first), draw.noise_level, depth)
            loss = scan_loss(estimates, draw) / len(draws)
            loss.backward()
            losses.append(loss.item())
        loss_of_step = sum(losses)
        norm = nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        if torch.isfinite(norm):
            optimiser.step()
            averaged.update_parameters(network)
        if step < TRACED_STEPS:
            first_losses.append(loss_of_step)
        running = 0.98 * running + 0.02 * loss_of_step if step > first_step else loss_of_step
        if (step + 1) % 50 == 0:
            elapsed = time.monotonic() - started
            report(
                {"step": step + 1, "of": config.steps, "loss": running, "s_per_step": elapsed / (step + 1 - first_step)}
            )
        if (step + 1) % 200 == 0 or step + 1 == config.steps:
            _save(
                checkpoint,
                {
                    "network": network.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                    "code": sorted(code),
                    "first_losses": first_losses,
                },
            )
            _save(
                out / "model.pt",
                {
                    "config": json.dumps(asdict(network_config)),
                    "step": step + 1,
                    "code": sorted(code),
                    "first_losses": first_losses,
                    "weights": averaged.module.state_dict(),
                },
            )
    return out / "model.pt"


@dataclass(frozen=True)
class TrainedModel:
    """What `train` wrote.

    Attributes:
        network: with averaged weights.
        code: digests of the code it was trained with; several where a run was resumed with other code.
        first_losses: of the first `TRACED_STEPS` steps.
    """

    network: UnrolledNetwork
    code: tuple[str, ...]
    first_losses: tuple[float, ...]


def load_model(path: Path) -> TrainedModel:
    """Reads ``model.pt``.

    Pickles that hold more than tensors and plain values are refused by torch.
    """
    state = torch.load(path, weights_only=True)
    values = json.loads(state["config"])
    network = UnrolledNetwork(NetworkConfig(**{**values, "widths": tuple(values["widths"])}))
    network.load_state_dict(state["weights"])
    return TrainedModel(network.eval(), tuple(state["code"]), tuple(state["first_losses"]))


def problem_of(draw: Draw) -> SenseProblem:
    """What the network may see of a draw."""
    return SenseProblem(draw.hybrid, draw.sensitivities, draw.visible)


def scan_loss(estimates: list[Tensor], draw: Draw) -> Tensor:
    """Error of the image that the device would show, of the complex image behind it, and a share of those of the steps before.

    Shown is the image with every measured sample in its place, also those that the network did not see; its error and its
    structural dissimilarity count where the sensitivities say that there is an object.
    """
    target, reference = torch.from_numpy(draw.target), torch.from_numpy(draw.reference)
    scale = target.abs().square().sum().sqrt().clamp_min(1e-6)
    errors = [(e - target).abs().square().sum().clamp_min(1e-12).sqrt() / scale for e in estimates[1:]]
    sensitivities = torch.from_numpy(draw.sensitivities)
    inside = sensitivities.abs().square().sum(0)
    measured = torch.from_numpy(draw.measured).float()
    power = substituted_power(estimates[-1], torch.from_numpy(draw.hybrid), sensitivities, measured)
    shown = power.add(1e-10).sqrt()
    shown_error = (inside * (shown - reference).square()).sum().clamp_min(1e-12).sqrt() / scale
    dissimilarity = (inside * (1 - ssim(shown, reference))).sum() / inside.sum().clamp_min(1)
    loss = errors[-1] + SHOWN_WEIGHT * shown_error + SSIM_WEIGHT * dissimilarity
    return loss + INTERMEDIATE_WEIGHT * torch.stack(errors[:-1]).mean() if len(errors) > 1 else loss


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity at every pixel of two images of range about 1 (Wang et al., IEEE TIP 13:600, 2004), 7-pixel box."""
    x, y = image[None, None], target[None, None]
    mean = lambda v: nn.functional.avg_pool2d(v, 7, stride=1, padding=3, count_include_pad=False)  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2)))[0, 0]


def _batches(dataset: PoolDataset, config: TrainingConfig, first_step: int) -> Iterator[tuple[int, list[Draw]]]:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, range(first_step * config.batch, len(dataset))),
        batch_size=config.batch,
        num_workers=1,
        prefetch_factor=4,
        collate_fn=list,
    )
    yield from enumerate(loader, start=first_step)


def _learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a half cosine to a hundredth in every cycle (Loshchilov and Hutter, SGDR, ICLR 2017), from half as high
    as in the one before."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    begin, number = 0, 0
    while step >= begin + config.cycles[number]:
        begin, number = begin + config.cycles[number], number + 1
    first = max(begin, config.warmup_steps)
    progress = (step - first) / max(1, begin + config.cycles[number] - first)
    return config.learning_rate * 0.5**number * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)
