"""Short quantization-aware fine-tuning: weights that give the network's images in single precision in spite of INT8's rounding.

The teacher is that network itself, on the second training's draws of the pool: what is learned is to lose nothing to it, not to be
another network. How far data consistency trusts the network is not touched, as all forms of a bundle share that.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from export.batches import ShownBatches, batches_from
from export.config import TrainingConfig
from export.digest import file_digest, files_digest, made_by
from export.families.unrolled import UnrolledNetwork
from export.progress import Progress
from export.quantization.fake_quantized import fake_quantized, plain
from export.remembered import made_once
from export.simulate.pool import Pool
from export.split import regulariser_onnx
from export.train import INTERMEDIATE_WEIGHT, LARGEST_GRADIENT, deterministic, learning_rate, norm_of, problem_of

RATE_SHARE = 0.01
"""Of the training's learning rate: the weights are near where they should be."""


@dataclass(frozen=True)
class FineTuning:
    """How a network is fine-tuned.

    Attributes:
        pool: folder of simulated acquisitions.
        training: of the network; batches are as large, and the learning rate is a hundredth of its.
        steps: how many.
        seed: of the draws.
    """

    pool: Path
    training: TrainingConfig
    steps: int
    seed: int

    @property
    def config(self) -> TrainingConfig:
        """As a training of its own."""
        rate = RATE_SHARE * self.training.learning_rate
        return replace(self.training, seed=self.seed, steps=self.steps, warmup_steps=0, learning_rate=rate)


def write_finetuned(
    network: UnrolledNetwork,
    prepared: Path,
    int8: bytes,
    tuning: FineTuning,
    out: Path,
    report: Callable[[str], None],
) -> None:
    """Writes the graph of the fine-tuned regulariser in single precision, once for all that it hangs on.

    Args:
        prepared, int8: see `finetuned`.
        report: told in words how far it is.

    Raises:
        NotTraced: the regulariser is not exported operator by operator.
    """
    around = repr((network.config, network.log_weights.tolist(), network.share_slopes.tolist()))
    identity = {
        "graph": file_digest(prepared),
        "form": hashlib.sha256(int8).hexdigest(),
        "network": hashlib.sha256(regulariser_onnx(network) + around.encode()).hexdigest(),
        "pool": files_digest(Pool(tuning.pool).files, tuning.pool),
        "fine-tuning": hashlib.sha256(repr(tuning.config).encode()).hexdigest(),
        "torch": torch.__version__,
        **made_by(__name__),
    }

    def make(path: Path) -> None:
        path.write_bytes(regulariser_onnx(finetuned(network, prepared, int8, tuning, report)))

    made_once(out, identity, make, report)


def finetuned(
    network: UnrolledNetwork, prepared: Path, int8: bytes, tuning: FineTuning, report: Callable[[str], None]
) -> UnrolledNetwork:
    """A copy of the network with other weights in its regulariser.

    Runs on one thread: the same steps give the same weights every time on one kind of processor.

    Args:
        prepared, int8: graph and INT8 form of the network's regulariser; weights are trained under the rounding of this form, for
            its ranges.
        report: told in words how far it is.

    Raises:
        NotTraced: the regulariser is not exported operator by operator.
    """
    teacher, student = network.eval(), copy.deepcopy(network)
    regulariser = student.regulariser
    rounding = fake_quantized(regulariser, prepared, int8)
    rounding.multiple = regulariser.multiple  # an attribute that no module is
    student.regulariser = rounding  # type: ignore[assignment]  # it computes what the regulariser does, but for rounding
    with _one_thread():
        _train(student, teacher, list(regulariser.parameters()), tuning, report)
    plain(regulariser)
    student.regulariser = regulariser
    return student.eval()


def _train(
    student: UnrolledNetwork,
    teacher: UnrolledNetwork,
    parameters: list[nn.Parameter],
    tuning: FineTuning,
    report: Callable[[str], None],
) -> None:
    config = tuning.config
    progress = Progress("steps of fine-tuning", report)
    optimiser = torch.optim.Adam(parameters, betas=(0.9, 0.99))
    for step, batch in batches_from(ShownBatches(tuning.pool, config), 0, 1, pinned=False):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        problem = problem_of(batch)
        with torch.no_grad():
            wanted = teacher(problem, batch.first, batch.noise_level)
        optimiser.zero_grad(set_to_none=True)
        _disagreement(student(problem, batch.first, batch.noise_level), wanted).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        if torch.isfinite(norm):
            optimiser.step()
        progress(step + 1, config.steps)


def _disagreement(estimates: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Relative difference of the last estimates ``(scans, phase_encodes, columns)``, and a share of those before; the mean over the
    scans."""
    errors = torch.stack(
        [norm_of(a - b) / norm_of(b).clamp_min(1e-6) for a, b in zip(estimates[1:], wanted[1:], strict=True)]
    )
    loss = errors[-1]
    if len(errors) > 1:
        loss = loss + INTERMEDIATE_WEIGHT * errors[:-1].mean(0)
    return loss.mean()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on the number of threads."""
    deterministic("cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
