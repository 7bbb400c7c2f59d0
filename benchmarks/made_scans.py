"""Simulated scans for benchmarks of the desk's tools: of the data folder's volumes, or of drawn phantoms where there is none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.scans import data_root
from export.simulate.pool import acquisition_path, draw_matrix, record_of, simulate_acquisition, write_pool
from export.simulate.pool_record import begin_pool, read_record
from export.simulate.volumes import Volume, load_volumes


@dataclass(frozen=True)
class Anatomy:
    """What scans are simulated of.

    Attributes:
        phantom_share: of the scans that show a drawn phantom; all where there are no volumes.
        source: in words.
    """

    volumes: list[Volume]
    phantom_share: float
    source: str


def anatomy(part: str, phantom_share: float) -> Anatomy:
    """The volumes of ``train`` or ``validate`` in the data folder (`benchmarks.scans.data_root`)."""
    folder = data_root() / part
    if not folder.is_dir():
        return Anatomy([], 1.0, "drawn phantoms, as the data folder is missing")
    volumes = load_volumes(folder)
    return Anatomy(volumes, phantom_share, f"{len(volumes)} volumes of {part}")


def write_training_pool(folder: Path, acquisitions: int, seed: int) -> str:
    """Writes a small pool of what a model is trained on; returns in words of what."""
    source = anatomy("train", phantom_share=0.1)
    write_pool(folder, source.volumes, acquisitions, seed, source.phantom_share, _unheard)
    return source.source


def write_square_pool(folder: Path, acquisitions: int, size: int, seed: int) -> str:
    """Writes a pool as `write_training_pool` does, of matrices ``size`` x ``size``, those with most coils first.

    Scans of it have one size with either axis for phase encodes.

    Returns:
        In words, of what.
    """
    source = anatomy("train", phantom_share=0.1)
    record = record_of(source.volumes, acquisitions, seed, source.phantom_share)
    begin_pool(folder, replace(record, made_of={**record.made_of, "matrix": f"{size} x {size}"}))

    def generators() -> Iterator[np.random.Generator]:
        for index in itertools.count():
            if draw_matrix(np.random.default_rng([seed, index])) == (size, size):
                yield np.random.default_rng([seed, index])

    drawn = (simulate_acquisition(source.volumes, rng, phantom_share=source.phantom_share) for rng in generators())
    for number, kspace in enumerate(sorted(itertools.islice(drawn, acquisitions), key=len, reverse=True)):
        np.save(acquisition_path(folder, number), kspace)
    return source.source


def keep_first(folder: Path, acquisitions: int) -> None:
    """Makes a pool one of its first acquisitions alone."""
    begin_pool(folder, replace(read_record(folder), count=acquisitions))


def _unheard(done: int, of: int) -> None:
    """Progress of so few is nobody's business."""
