"""The variants of the shipped family: each runs, learns, and has its row in the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

pytest.importorskip("torch", reason="the extra 'export' is not installed")

import torch

from benchmarks import architectures
from export.batches import Batch, stacked
from export.config import NetworkConfig
from export.draws import draw_problem
from export.train import batch_loss, problem_of

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def batch() -> Batch:
    kspace = kspace_of(object_image(32, 24), coil_maps(3, 32, 24))
    return stacked([draw_problem(kspace, np.random.default_rng(1), 20)])


@pytest.mark.parametrize("name", architectures.VARIANTS)
def test_every_variant_learns(name: str, batch: Batch) -> None:
    torch.manual_seed(1)
    variant = architectures.VARIANTS[name]
    network = variant.kind(NetworkConfig(variant.network.iterations, 3, (4, 6)))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        estimates = network(problem_of(batch), batch.first, batch.noise_level)
        assert len(estimates) == 1 + variant.network.iterations
        loss = batch_loss(estimates, batch)
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0]


def test_an_image_that_is_the_reference_gains_and_the_first_gains_nothing(batch: Batch) -> None:
    assert architectures.gain([batch.first, batch.first], batch) == {"db": 0, "ssim": 0}
    assert architectures.gain([batch.first, batch.target], batch)["db"] > 1


def test_the_table_compares_with_the_first(tmp_path: Path) -> None:
    scans = [{"db": 1.0, "ssim": 0.01}, {"db": 2.0, "ssim": 0.02}]
    worse = [{"db": 1.5, "ssim": 0.0}, {"db": 1.0, "ssim": 0.0}]
    (tmp_path / "latency.json").write_text(json.dumps({"3x": 100.0, "1x": 101.0}))
    (tmp_path / "judged.json").write_text(json.dumps({"3x": scans, "1x": worse}))
    *_, first, second = architectures.table(tmp_path).splitlines()
    assert "| 100 | 1.50 |" in first and "| – |" in first
    assert "| 101 | 1.25 |" in second and "| 1 of 2 |" in second
