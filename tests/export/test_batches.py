"""Batches of training draws: one size each, and a function of the step alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from export.batches import Batch, Batches, batches_from
from export.config import TrainingConfig
from export.simulate.pool import Pool, record_of
from export.simulate.pool_record import begin_pool

pytestmark = pytest.mark.full

CONFIG = TrainingConfig(seed=3, steps=8, batch=3, columns=20, learning_rate=1e-3, warmup_steps=1)
SHAPES = [(1, 32, 24), (3, 24, 40), (4, 32, 32), (2, 40, 24)]
"""Of acquisitions ``(coils, phase_encodes, samples)``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pool")
    begin_pool(folder, record_of([], len(SHAPES), 0, 1.0))
    for number, (coils, lines, samples) in enumerate(SHAPES):
        kspace = kspace_of(object_image(lines, samples), coil_maps(coils, lines, samples))
        np.save(folder / f"{number:05d}.npy", kspace.astype(np.complex64))
    return folder


def equal(first: Batch, second: Batch) -> bool:
    return all(bool((a == b).all()) for a, b in zip(first, second, strict=True))


def test_an_empty_pool_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the pool is empty; run edge-export pool first"):
        Pool(tmp_path)


def test_acquisitions_of_a_choice_have_one_number_of_phase_encodes_and_all_come_either_way(folder: Path) -> None:
    pool, rng, seen = Pool(folder), np.random.default_rng(0), set()
    for _ in range(200):
        chosen = pool.choose(rng, 3)
        assert len({entry.load().shape[1] for entry in chosen}) == 1
        for entry in chosen:
            coils, *matrix = SHAPES[int(entry.path.stem)]
            assert entry.load().shape == (coils, *(matrix[::-1] if entry.turned else matrix))
        seen |= {(chosen[0].path.stem, chosen[0].turned)}
    assert len(seen) == 2 * len(SHAPES)


@pytest.mark.parametrize("step", range(4))
def test_scans_of_fewer_coils_have_zeros_for_the_others(folder: Path, step: int) -> None:
    batches = Batches(folder, CONFIG)
    batch = batches[step]
    scans, _, lines, columns = batch.hybrid.shape
    assert (scans, columns) == (CONFIG.batch, CONFIG.columns)
    assert batch.sensitivities.shape == batch.hybrid.shape
    assert {tuple(plane.shape) for plane in batch[2:7]} == {(scans, lines, columns)}
    assert batch.noise_level.shape == (scans,)
    for number, entry in enumerate(batches.acquisitions(step)):
        missing = batch.hybrid[number, entry.load().shape[0] :]
        assert not missing.any()


def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(folder: Path) -> None:
    dataset = Batches(folder, CONFIG)
    unbroken = dict(batches_from(dataset, 0, 2, pinned=False))
    resumed = dict(batches_from(dataset, 5, 1, pinned=False))
    assert list(unbroken) == list(range(CONFIG.steps)) and list(resumed) == [5, 6, 7]
    assert all(equal(resumed[step], unbroken[step]) for step in resumed)
    assert not equal(unbroken[5], unbroken[6]) if unbroken[5].first.shape == unbroken[6].first.shape else True
