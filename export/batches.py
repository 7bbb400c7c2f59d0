"""Batches of training draws, as tensors: the i-th is a function of the seed and of i alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch
from torch import Tensor

from edge_runtime.errors import NoImage
from export.config import TrainingConfig
from export.draws import Draw, draw_problem, phase_shown, with_hot_spot
from export.simulate.pool import Entry, Pool
from export.simulate.receive import KSpace


class Batch(NamedTuple):
    """Draws of one size; `export.draws.Draw` says what the fields are, here with a first axis for the scans.

    Scans of fewer coils than the most have zeros for the others. Masks are ones and zeros.
    """

    hybrid: Tensor
    sensitivities: Tensor
    measured: Tensor
    visible: Tensor
    first: Tensor
    target: Tensor
    reference: Tensor
    noise_level: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Batches(torch.utils.data.Dataset[Batch]):
    """The batch of every step, so that a resumed run sees what an unbroken one would."""

    def __init__(self, pool: Path, config: TrainingConfig) -> None:
        self.pool, self._config = Pool(pool), config

    def __len__(self) -> int:
        return self._config.steps

    def acquisitions(self, step: int) -> list[Entry]:
        """What the batch of a step is drawn from."""
        return self.pool.choose(np.random.default_rng([self._config.seed, step]), self._config.batch)

    def __getitem__(self, step: int) -> Batch:
        entries = self.acquisitions(step)
        return stacked([self._draw(entries, step, number) for number in range(len(entries))])

    def _acquisition(self, entry: Entry, step: int, number: int) -> KSpace:
        return entry.load()

    def _draw(self, entries: list[Entry], step: int, number: int) -> Draw:
        rng = np.random.default_rng([self._config.seed, step, number])
        while True:
            try:
                return draw_problem(self._acquisition(entries[number], step, number), rng, self._config.columns)
            except NoImage:  # an empty centre: a phantom without signal there
                number = int(rng.integers(len(entries)))


class ShownBatches(Batches):
    """The same, as a device would show them to the network, and some with a hot spot."""

    def __getitem__(self, step: int) -> Batch:
        return as_shown(super().__getitem__(step))

    def _acquisition(self, entry: Entry, step: int, number: int) -> KSpace:
        return with_hot_spot(entry.load(), np.random.default_rng([self._config.seed, step, number, 1]))


def batches_from(dataset: Batches, first_step: int, workers: int, *, pinned: bool) -> Iterator[tuple[int, Batch]]:
    """Steps and their batches, drawn ahead by processes of one thread each."""
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, range(first_step, len(dataset))),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=_one_thread,
        pin_memory=pinned,
    )
    yield from enumerate(loader, start=first_step)


def _one_thread(_: int) -> None:
    threadpoolctl.threadpool_limits(1)


def as_shown(batch: Batch) -> Batch:
    """The same scans with their slow phase in the sensitivities: a network is then shown what a device shows it."""
    scans = zip(batch.first.numpy(), batch.measured.numpy() > 0, strict=True)
    phase = torch.stack([torch.from_numpy(phase_shown(first, measured)) for first, measured in scans])
    back = phase.conj()
    return batch._replace(
        sensitivities=batch.sensitivities * phase[:, None], first=batch.first * back, target=batch.target * back
    )


def stacked(draws: Sequence[Draw]) -> Batch:
    """One batch of draws of one size."""
    coils = max(draw.hybrid.shape[0] for draw in draws)

    def of(name: str, kind: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(getattr(draw, name), kind) for draw in draws]))

    return Batch(
        torch.from_numpy(np.stack([_padded(draw.hybrid, coils) for draw in draws])),
        torch.from_numpy(np.stack([_padded(draw.sensitivities, coils) for draw in draws])),
        of("measured", np.float32),
        of("visible", np.float32),
        of("first", np.complex64),
        of("target", np.complex64),
        of("reference", np.float32),
        of("noise_level", np.float32),
    )


def _padded(array: npt.NDArray[np.complex64], coils: int) -> npt.NDArray[np.complex64]:
    return np.pad(array, ((0, coils - array.shape[0]), (0, 0), (0, 0)))
