"""Trains the shipped family from one configuration file, in two courses; interrupted runs resume from the last checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.batches import Batch, Batches, ShownBatches, batches_from
from export.config import ConfigError, ModelConfig, NetworkConfig, TrainingConfig
from export.digest import code_digest
from export.families.unrolled import SenseProblem, UnrolledNetwork
from export.remembered import OtherInputs, differences
from export.simulate.pool import Pool
from export.simulate.pool_record import PoolRecord

SHOWN_WEIGHT = 1.0
SSIM_WEIGHT = 0.5
INTERMEDIATE_WEIGHT = 0.3

LEAST_ERROR = 1e-5
"""Below which nothing is gained by a smaller one."""

LARGEST_GRADIENT = 2.0

TRACED_STEPS = 10
"""The losses of so many first steps go into the bundle: a later version of the code that gives others trains another model. The
second training's would hang on the first one's weights, which no bundle holds."""

CHECKPOINT_S, REPORT_S = 60.0, 15.0
"""Between two checkpoints, all that an interruption can cost, and two lines of progress, at most and about."""

REPORTED_STEPS = 50
"""The latest ones, whose mean loss is reported."""

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Course:
    """How one of a network's two trainings goes.

    Attributes:
        model, checkpoint: names of the files of its end, and of how far it is.
        batches: what it is trained on.
        loss: of its estimates of a batch.
        law_rate: learning rate of the few numbers of λ's law, which move on a logarithmic scale, over that of the regulariser.
        averaging: by step, of the weights that are kept.
    """

    model: str
    checkpoint: str
    batches: type[Batches]
    loss: Callable[[list[Tensor], Batch], Tensor]
    law_rate: float
    averaging: float


def train(
    network: UnrolledNetwork,
    config: TrainingConfig,
    pool: Path,
    out: Path,
    report: Report,
    *,
    device: str = "cpu",
    workers: int = 1,
) -> Path:
    """Trains a new network and writes ``out/model.pt`` (averaged weights); returns its path.

    ``out/checkpoint.pt`` is written every minute and read at the start where it exists. Both files name what decides the run
    (`run_identity`), and the digest of the code, of all versions that took part where a run was resumed with another. Sums are made
    in one order on one kind of device with one number of threads: a second run gives the same weights there, and on others what
    rounding makes of them. λ hangs on the noise alone; what it owes to the share of samples is left to `refine`.

    Args:
        network: with first weights; `initial` draws them from the seed.
        device: of torch, ``cpu`` or ``cuda``.
        workers: processes that draw problems ahead of the steps.

    Raises:
        OtherInputs: the checkpoint is of another network, configuration or pool.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = Pool(pool).record
    network.share_slopes.requires_grad_(False)
    about = About(run_identity(network.config, config, record))
    return _run(FIRST, network, config, pool, out, about, report, device, workers)


def refine(config: ModelConfig, work: Path, report: Report, *, device: str = "cpu", workers: int = 1) -> Path:
    """Trains the network of ``work/model.pt`` further, by the configuration's ``[refine]``, and writes ``work/refined.pt``; returns
    its path.

    The network is shown what a device shows it, and some scans with a hot spot (`export.batches.ShownBatches`); what counts is by
    how many decibels errors fall (`relative_loss`), so that a scan of which half is measured weighs as much as one of a sixth; and
    λ learns what it owes to the share of samples. Resumes as `train` does, from ``work/refined-checkpoint.pt``.

    Raises:
        ConfigError: the configuration has no ``[refine]``, or there is no trained model.
        OtherInputs: the model or the checkpoint is of another network, configuration or pool, or the checkpoint of another model.
    """
    if config.refine is None:
        raise ConfigError(
            f"{config.name}: its configuration has no [refine]: add it, or go on with edge-export quantize"
        )
    record = Pool(work / "pool").record
    path = work / FIRST.model
    trained = _checked(path, run_identity(config.network, config.train, record), "train")
    about = replace(
        trained.about,
        identity=run_identity(config.network, config.train, record, config.refine),
        begun_with=_digest(trained),
    )
    return _run(SECOND, trained.network, config.refine, work / "pool", work, about, report, device, workers)


def _run(
    course: Course,
    network: UnrolledNetwork,
    config: TrainingConfig,
    pool: Path,
    out: Path,
    about: About,
    report: Report,
    device: str,
    workers: int,
) -> Path:
    """Goes on with a training where it stopped, to its end."""
    target = deterministic(device)
    network = network.to(target)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(course.averaging)
    )
    law = [value for value in (network.log_weights, network.share_slopes) if value.requires_grad]
    optimiser = torch.optim.Adam(
        [
            {"params": list(network.regulariser.parameters()), "factor": 1.0},
            {"params": law, "factor": course.law_rate},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )
    parts: dict[str, Any] = {"network": network, "averaged": averaged, "optimiser": optimiser}
    checkpoint = out / course.checkpoint
    first_step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=target)
        _check_run(checkpoint, state, about)
        for name, part in parts.items():
            _load_state(checkpoint, part, state[name])
        first_step = int(state["step"])
        about = replace(about, code=tuple(state["code"]), first_losses=tuple(state["first_losses"]))
    if first_step == config.steps and (out / course.model).exists():
        return out / course.model
    if first_step < config.steps:
        about = replace(about, code=tuple(sorted({*about.code, code_digest()})))
    traced = 0 if about.begun_with else TRACED_STEPS
    network.train()
    started = saved = reported = time.monotonic()
    losses, recent = [], deque[float](maxlen=REPORTED_STEPS)
    batches = course.batches(pool, config)
    for step, drawn in batches_from(batches, first_step, workers, pinned=target.type == "cuda"):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(step, config)
        optimiser.zero_grad(set_to_none=True)
        batch = drawn.to(target)
        loss = course.loss(network(problem_of(batch), batch.first, batch.noise_level), batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        if torch.isfinite(norm):
            optimiser.step()
            averaged.update_parameters(network)
        losses.append(loss.detach())
        now, last = time.monotonic(), step + 1 == config.steps
        save = last or now - saved >= CHECKPOINT_S
        if save or now - reported >= REPORT_S:
            passed = torch.stack(losses).tolist()  # waits for the device
            untraced = max(0, traced - len(about.first_losses))
            about = replace(about, first_losses=(*about.first_losses, *passed[:untraced]))
            recent.extend(passed)
            losses.clear()
            pace, reported = (now - started) / (step + 1 - first_step), now
            report({"step": step + 1, "of": config.steps, "loss": sum(recent) / len(recent), "s_per_step": pace})
        if save:
            saved = now
            states = {name: part.state_dict() for name, part in parts.items()}
            _save(checkpoint, {**states, "step": step + 1, **about.plain()})
    return save_model(out / course.model, averaged.module, network.config, about)


def save_model(path: Path, network: nn.Module, config: NetworkConfig, about: About) -> Path:
    """Writes a model as `load_model` reads it; returns its path.

    Args:
        network: an `UnrolledNetwork` of this configuration.
    """
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    _save(path, {"config": json.dumps(asdict(config)), "weights": weights, **about.plain()})
    return path


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


def run_identity(
    network: NetworkConfig, config: TrainingConfig, pool: PoolRecord, refined: TrainingConfig | None = None
) -> dict[str, str]:
    """What decides a training run beside the code, by what it is.

    Args:
        refined: of the second training, where there was one.
    """
    tables = {"network": asdict(network), "train": asdict(config)}
    if refined is not None:
        tables["refine"] = asdict(refined)
    values = {f"[{table}] {key}": str(value) for table, of in tables.items() for key, value in of.items()}
    return {"pool": pool.digest(), **values}


@dataclass(frozen=True)
class About:
    """What a file of a training says of it.

    Attributes:
        identity: see `run_identity`.
        code: digests of the code it was trained with; several where a run was resumed with other code.
        first_losses: of the first training's first `TRACED_STEPS` steps.
        begun_with: of a second training, SHA-256 of the first one's weights.
    """

    identity: Mapping[str, str]
    code: tuple[str, ...] = ()
    first_losses: tuple[float, ...] = ()
    begun_with: str = ""

    def plain(self) -> dict[str, Any]:
        """As values that torch loads without running code."""
        return {
            "identity": dict(self.identity),
            "code": list(self.code),
            "first_losses": list(self.first_losses),
            "begun_with": self.begun_with,
        }


@dataclass(frozen=True)
class TrainedModel:
    """What `train` and `refine` wrote, with averaged weights."""

    network: UnrolledNetwork
    about: About


def model_path(config: ModelConfig, work: Path) -> Path:
    """The file of a configuration's model: of its last training."""
    return work / (FIRST if config.refine is None else SECOND).model


def model_of(config: ModelConfig, work: Path) -> TrainedModel:
    """A configuration's model in a work folder.

    Raises:
        ConfigError: it is not trained to the end.
        OtherInputs: it is of another configuration or pool, or was refined from another model than the folder's.
    """
    record = Pool(work / "pool").record
    identity = run_identity(config.network, config.train, record, config.refine)
    path, first = model_path(config, work), work / FIRST.model
    trained = _checked(path, identity, "train" if config.refine is None else "refine")
    begun_with = trained.about.begun_with
    if begun_with and first.exists() and _digest(load_model(first)) != begun_with:
        raise OtherInputs(
            f"{path}: was refined from other weights than those of {first}: remove it, and run edge-export refine"
        )
    return trained


def _digest(model: TrainedModel) -> str:
    """SHA-256 of a model's weights."""
    weights = model.network.state_dict()
    return hashlib.sha256(b"".join(weights[name].cpu().numpy().tobytes() for name in sorted(weights))).hexdigest()


def _checked(path: Path, identity: Mapping[str, str], command: str) -> TrainedModel:
    """A model of this identity, which this command makes."""
    if not path.exists():
        raise ConfigError(f"{path}: there is none; run edge-export {command} to its end")
    trained = load_model(path)
    if trained.about.identity != identity:
        raise OtherInputs(
            f"{path}: was trained with another {differences(trained.about.identity, identity)}: {command} it anew, or give the "
            "configuration and pool that it was trained with"
        )
    return trained


def load_model(path: Path) -> TrainedModel:
    """Reads a model.

    Pickles that hold more than tensors and plain values are refused by torch.

    Raises:
        OtherInputs: the file does not say what the model was trained on, or is of another version of the family.
    """
    state = torch.load(path, weights_only=True)
    if "identity" not in state:
        raise OtherInputs(f"{path}: does not say how and on what it was trained: remove it and train anew")
    values = json.loads(state["config"])
    network = UnrolledNetwork(NetworkConfig(**{**values, "widths": tuple(values["widths"])}))
    _load_state(path, network, state["weights"])
    about = About(state["identity"], tuple(state["code"]), tuple(state["first_losses"]), state.get("begun_with", ""))
    return TrainedModel(network.eval(), about)


def _check_run(path: Path, state: Mapping[str, Any], about: About) -> None:
    """A checkpoint is of this run."""
    before = {**state.get("identity", {}), "first training's model": state.get("begun_with", "")}
    now = {**about.identity, "first training's model": about.begun_with}
    if before != now:
        raise OtherInputs(
            f"{path}: is of a run with another {differences(before, now)}: remove it to train anew, or choose another --work"
        )


def _load_state(path: Path, part: Any, state: Mapping[str, Any]) -> None:
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise OtherInputs(
            f"{path}: is of a version that trained another network: remove it and train anew ({error})"
        ) from error


def problem_of(batch: Batch) -> SenseProblem:
    """What the network may see of a batch."""
    return SenseProblem(batch.hybrid, batch.sensitivities, batch.visible)


def batch_loss(estimates: list[Tensor], batch: Batch) -> Tensor:
    """Error of the image that the device would show, of the complex image behind it, and a share of those of the iterations before;
    the mean over the scans.

    Shown is the image with every measured sample in its place, also those that the network did not see; its error and its
    structural dissimilarity count where the sensitivities say that there is an object.
    """
    errors, shown_error, dissimilarity = _errors(estimates, batch)
    loss = errors[-1] + SHOWN_WEIGHT * shown_error + SSIM_WEIGHT * dissimilarity
    if len(errors) > 1:
        loss = loss + INTERMEDIATE_WEIGHT * errors[:-1].mean(0)
    return loss.mean()


def relative_loss(estimates: list[Tensor], batch: Batch) -> Tensor:
    """Logarithms of the shown image's error and structural dissimilarity, and a share of those of every iteration's complex error;
    the mean over the scans. A decibel counts the same of each."""
    errors, shown_error, dissimilarity = (error.clamp_min(LEAST_ERROR).log() for error in _errors(estimates, batch))
    return (shown_error + dissimilarity + INTERMEDIATE_WEIGHT * errors.mean(0)).mean()


def _errors(estimates: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the estimates ``(iterations, scans)``, of the shown image and its structural dissimilarity ``(scans,)``."""
    scale = norm_of(batch.target).clamp_min(1e-6)
    errors = torch.stack([norm_of(estimate - batch.target) / scale for estimate in estimates[1:]])
    inside = batch.sensitivities.abs().square().sum(1)
    everything = SenseProblem(batch.hybrid, batch.sensitivities, batch.measured)
    shown = everything.substituted_power(estimates[-1]).add(1e-10).sqrt()
    shown_error = norm_of(inside.sqrt() * (shown - batch.reference)) / scale
    dissimilarity = (inside * (1 - ssim(shown, batch.reference))).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    return errors, shown_error, dissimilarity


FIRST = Course("model.pt", "checkpoint.pt", Batches, batch_loss, law_rate=5.0, averaging=0.998)
SECOND = Course("refined.pt", "refined-checkpoint.pt", ShownBatches, relative_loss, law_rate=50.0, averaging=0.98)
"""The regulariser is near where it should be, λ's law is not. Few steps: a longer average would be of the first ones."""


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
