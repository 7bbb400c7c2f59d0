"""The committed code and configuration still begin the training run that gave the shipped weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realdata import DATA, needs_training_volumes

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from export.config import ModelConfig, TrainingConfig

pytestmark = pytest.mark.full

CONFIG = Path(__file__).parents[2] / "export" / "configs" / "brain2d.toml"

ROUNDING = 1e-3
"""Relative; what other vector instructions may make of the losses. The same ones give them to the last digit."""


@pytest.fixture
def provenance() -> Mapping[str, Any]:
    made_of: Mapping[str, Any] = load_bundle(DEFAULT_BUNDLE).manifest["provenance"]
    return made_of


def test_the_shipped_weights_come_of_the_committed_configuration(provenance: Mapping[str, Any]) -> None:
    assert provenance["configuration"] == CONFIG.read_text(encoding="utf-8")


@needs_training_volumes
def test_training_begins_as_that_of_the_shipped_weights_did(provenance: Mapping[str, Any], tmp_path: Path) -> None:
    """Every step hangs on all before it, so that another pool, draw, network or solver shows in the first losses."""
    load_model = pytest.importorskip("export.train").load_model
    losses = provenance["first_losses"]
    np.testing.assert_allclose(
        load_model(begin_training(len(losses), tmp_path)).about.first_losses, losses, rtol=ROUNDING
    )


@needs_training_volumes
def test_training_begins_the_same_way_every_time(tmp_path: Path) -> None:
    load_model = pytest.importorskip("export.train").load_model
    first, second = (load_model(begin_training(2, tmp_path / name)) for name in ("first", "second"))
    assert first.about.first_losses == second.about.first_losses


def begin_training(steps: int, folder: Path) -> Path:
    """The first steps of the committed configuration's run, on one thread; the file of the model."""
    import torch

    from export.config import load_config
    from export.train import initial, train

    config = load_config(CONFIG)
    run = replace(config.train, steps=steps)
    folder.mkdir(exist_ok=True)
    write_first_acquisitions(folder / "pool", config, run)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = initial(config.network, config.train.seed)
        return train(network, run, folder / "pool", folder / "work", lambda _: None)
    finally:
        torch.set_num_threads(threads)


def write_first_acquisitions(pool: Path, config: ModelConfig, run: TrainingConfig) -> None:
    """A pool in which only those acquisitions are whole that the first draws take; the others have their size and no content."""
    from export.batches import Batches
    from export.simulate.pool import draw_matrix, record_of, simulate_acquisition
    from export.simulate.pool_record import begin_pool
    from export.simulate.volumes import load_volumes

    def generator(index: int) -> np.random.Generator:
        return np.random.default_rng([config.simulate.seed, index])

    volumes, share = load_volumes(DATA / "train"), config.simulate.phantom_share
    begin_pool(pool, record_of(volumes, config.simulate.count, config.simulate.seed, share))
    for index in range(config.simulate.count):
        shape = (1, *draw_matrix(generator(index)))
        np.lib.format.open_memmap(pool / f"{index:05d}.npy", "w+", np.complex64, shape)
    batches = Batches(pool, run)
    for path in {entry.path for step in range(run.steps) for entry in batches.acquisitions(step)}:
        np.save(path, simulate_acquisition(volumes, generator(int(path.stem)), phantom_share=share))
