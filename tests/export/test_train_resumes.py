"""Training goes on where it stopped, and with nothing but what it was begun with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_volumes import made_volume

pytest.importorskip("torch", reason="the extra 'export' is not installed")

import torch

from export.config import NetworkConfig, TrainingConfig
from export.remembered import OtherInputs
from export.simulate.pool import write_pool
from export.train import initial, load_model, train

pytestmark = pytest.mark.full

NETWORK = NetworkConfig(2, 2, (4, 6))
CONFIG = TrainingConfig(seed=7, steps=2, batch=1, columns=24, learning_rate=1e-3, warmup_steps=1)


class Interrupted(Exception):
    """Ctrl-C, between two steps."""


def pool(folder: Path, count: int = 2, seed: int = 1) -> Path:
    write_pool(folder, [made_volume()], count, seed, 0.0, lambda done, of: None)
    return folder


def run(out: Path, pool: Path, config: TrainingConfig = CONFIG, network: NetworkConfig = NETWORK) -> Path:
    return train(initial(network, config.seed), config, pool, out, lambda record: None, workers=1)


def weights(path: Path) -> dict[str, Any]:
    return load_model(path).network.state_dict()


@pytest.fixture(scope="module")
def acquisitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pool(tmp_path_factory.mktemp("acquisitions") / "pool")


@pytest.mark.parametrize(
    ("network", "config", "said"),
    [
        (NETWORK, {"seed": 99}, r"\[train\] seed \(7 before, 99 now\)"),
        (NETWORK, {"learning_rate": 5e-2}, r"\[train\] learning_rate \(0\.001 before, 0\.05 now\)"),
        (NETWORK, {"batch": 2}, r"\[train\] batch \(1 before, 2 now\)"),
        (NETWORK, {"steps": 4}, r"\[train\] steps \(2 before, 4 now\)"),
        (replace(NETWORK, cg_steps=9), {}, r"\[network\] cg_steps \(2 before, 9 now\)"),
    ],
)
def test_a_run_goes_on_with_nothing_else(
    tmp_path: Path, acquisitions: Path, network: NetworkConfig, config: dict[str, Any], said: str
) -> None:
    before = run(tmp_path, acquisitions).read_bytes()
    with pytest.raises(OtherInputs, match=rf"checkpoint\.pt: is of a run with another {said}: remove it"):
        run(tmp_path, acquisitions, replace(CONFIG, **config), network)
    assert (tmp_path / "model.pt").read_bytes() == before


@pytest.mark.parametrize("other", [{"count": 3}, {"seed": 2}])
def test_a_run_goes_on_with_no_other_pool(tmp_path: Path, acquisitions: Path, other: dict[str, int]) -> None:
    run(tmp_path / "work", acquisitions)
    with pytest.raises(OtherInputs, match=r"is of a run with another pool \("):
        run(tmp_path / "work", pool(tmp_path / "pool", **other))


def test_a_checkpoint_that_says_nothing_of_its_run_is_refused(tmp_path: Path, acquisitions: Path) -> None:
    run(tmp_path, acquisitions)
    for name in ("checkpoint.pt", "model.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        del state["identity"]
        torch.save(state, tmp_path / name)
    with pytest.raises(OtherInputs, match=r"checkpoint\.pt: is of a run with another pool \(none before"):
        run(tmp_path, acquisitions)
    with pytest.raises(OtherInputs, match=r"model\.pt: does not say how and on what it was trained"):
        load_model(tmp_path / "model.pt")


def test_a_run_whose_power_was_lost_between_its_last_two_files_still_gives_its_model(
    tmp_path: Path, acquisitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import train as training

    whole, save, saved = weights(run(tmp_path / "whole", acquisitions)), training._save, 0

    def save_one(path: Path, state: dict[str, Any]) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise Interrupted
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", save_one)
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", acquisitions)
    resumed = weights(run(tmp_path / "broken", acquisitions))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
