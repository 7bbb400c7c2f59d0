"""The second training: it goes on from the first one's weights, and is told from it by every file that it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_volumes import made_volume
from simulated import usual_kspace

pytest.importorskip("torch", reason="the extra 'export' is not installed")

import torch

from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from export import draws
from export import train as training
from export.batches import Batches, ShownBatches
from export.config import ConfigError, ModelConfig, NetworkConfig, PoolConfig, QuantizeConfig, TrainingConfig
from export.draws import with_hot_spot
from export.families.unrolled import UnrolledNetwork
from export.remembered import OtherInputs
from export.simulate.pool import write_pool
from export.train import batch_loss, initial, load_model, model_of, problem_of, refine, relative_loss, train

pytestmark = pytest.mark.full

FIRST = TrainingConfig(seed=7, steps=2, batch=1, columns=24, learning_rate=1e-3, warmup_steps=1)
SECOND = TrainingConfig(seed=8, steps=3, batch=2, columns=24, learning_rate=1e-4, warmup_steps=1)
CONFIG = ModelConfig(
    name="made",
    version="1",
    simulate=PoolConfig(count=2, seed=1, phantom_share=0.0),
    network=NetworkConfig(2, 2, (4, 6)),
    train=FIRST,
    quantize=QuantizeConfig(1, 1, 1),
    refine=SECOND,
)


class Interrupted(Exception):
    """Ctrl-C, between two steps."""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A pool, and a model of two steps."""
    write_pool(tmp_path / "pool", [made_volume()], 2, 1, 0.0, lambda done, of: None)
    train(initial(CONFIG.network, FIRST.seed), FIRST, tmp_path / "pool", tmp_path, lambda record: None)
    return tmp_path


def refined(work: Path, config: ModelConfig = CONFIG) -> UnrolledNetwork:
    return load_model(refine(config, work, lambda record: None)).network


def same(one: UnrolledNetwork, other: UnrolledNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_only_the_second_training_moves_what_lambda_owes_to_the_share(work: Path) -> None:
    before = load_model(work / "model.pt")
    assert not before.network.share_slopes.any()
    network = refined(work)
    assert network.share_slopes.all()
    assert not same(network, before.network) and same(load_model(work / "model.pt").network, before.network)
    after = load_model(work / "refined.pt").about
    assert after.first_losses == before.about.first_losses  # of the first training's draws
    assert {key for key in after.identity if key not in before.about.identity} == {
        f"[refine] {name}" for name in vars(SECOND)
    }


def test_it_minimises_the_relative_loss_of_what_a_device_shows(work: Path) -> None:
    reported: list[float] = []
    config = replace(CONFIG, refine=replace(SECOND, steps=1))
    refine(config, work, lambda record: reported.append(record["loss"]))
    batch, network = ShownBatches(work / "pool", replace(SECOND, steps=1))[0], load_model(work / "model.pt").network
    with torch.no_grad():
        expected = relative_loss(network(problem_of(batch), batch.first, batch.noise_level), batch)
    assert reported == [pytest.approx(float(expected), rel=1e-5)]


def test_a_finished_training_is_left_as_it_is_by_other_code(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was refined from it stays so."""
    refined(work)
    before = {path: path.read_bytes() for path in work.glob("*.pt")}
    monkeypatch.setattr(training, "code_digest", lambda: "other code")
    train(initial(CONFIG.network, FIRST.seed), FIRST, work / "pool", work, lambda record: None)
    refined(work)
    assert {path: path.read_bytes() for path in work.glob("*.pt")} == before


def test_it_gives_the_same_weights_every_time(work: Path) -> None:
    first = refined(work)
    assert same(refined(work), first)  # nothing is left to do
    (work / "refined.pt").unlink()
    assert same(refined(work), first)  # the power was lost between the last two files
    (work / "refined-checkpoint.pt").unlink()
    assert same(refined(work), first)


@pytest.mark.parametrize("steps_before", [1, 2])
def test_it_goes_on_where_it_stopped(work: Path, monkeypatch: pytest.MonkeyPatch, steps_before: int) -> None:
    whole = refined(work)
    for name in ("refined.pt", "refined-checkpoint.pt"):
        (work / name).unlink()
    save, seen = training._save, []

    def save_some(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if len(seen) == steps_before - 1:
            raise Interrupted
        seen.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_S", 0)
        patch.setattr(training, "_save", save_some)
        patch.setattr(training, "code_digest", lambda: "other code")
        with pytest.raises(Interrupted):
            refined(work)
    assert not (work / "refined.pt").exists()
    again = load_model(refine(CONFIG, work, lambda record: None))
    assert torch.load(work / "refined-checkpoint.pt", weights_only=True)["step"] == SECOND.steps
    assert same(again.network, whole)
    assert "other code" in again.about.code and len(again.about.code) == 2


def test_it_does_not_go_on_from_another_first_model(work: Path) -> None:
    """Of the same configuration, as another device makes it."""
    refined(work)
    state = torch.load(work / "model.pt", weights_only=True)
    state["weights"]["log_weights"] += 1e-6
    torch.save(state, work / "model.pt")
    with pytest.raises(
        OtherInputs, match=r"refined-checkpoint\.pt: is of a run with another first training's model \("
    ):
        refined(work)


def test_a_model_of_a_version_with_another_law_is_refused(work: Path) -> None:
    state = torch.load(work / "model.pt", weights_only=True)
    del state["weights"]["share_slopes"]
    torch.save(state, work / "model.pt")
    with pytest.raises(OtherInputs, match=r"model\.pt: is of a version that trained another network: remove it"):
        refined(work)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"train": replace(FIRST, seed=9)}, r"model\.pt: was trained with another \[train\] seed \(7 before, 9 now\)"),
        ({"network": NetworkConfig(3, 2, (4, 6))}, r"model\.pt: was trained with another \[network\] iterations"),
    ],
)
def test_a_model_of_another_training_is_not_refined(work: Path, other: dict[str, object], said: str) -> None:
    with pytest.raises(OtherInputs, match=said):
        refined(work, replace(CONFIG, **other))  # type: ignore[arg-type]


def test_a_run_goes_on_with_nothing_else(work: Path) -> None:
    refined(work)
    model = (work / "refined.pt").read_bytes()
    said = r"refined-checkpoint\.pt: is of a run with another \[refine\] steps \(3 before, 4 now\)"
    with pytest.raises(OtherInputs, match=said):
        refined(work, replace(CONFIG, refine=replace(SECOND, steps=4)))
    assert (work / "refined.pt").read_bytes() == model


def test_what_is_wanting_is_said(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"made: its configuration has no \[refine\]: add it"):
        refined(work, replace(CONFIG, refine=None))
    with pytest.raises(ConfigError, match=r"refined\.pt: there is none; run edge-export refine to its end"):
        model_of(CONFIG, work)
    assert same(model_of(replace(CONFIG, refine=None), work).network, load_model(work / "model.pt").network)
    (work / "model.pt").unlink()
    with pytest.raises(ConfigError, match=r"model\.pt: there is none; run edge-export train to its end"):
        refined(work)


def test_what_it_is_shown_is_the_same_problem_without_slow_phase(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "HOT_SPOT_SHARE", 0)
    drawn, shown = Batches(work / "pool", SECOND)[0], ShownBatches(work / "pool", SECOND)[0]
    assert torch.angle(shown.first[shown.first.abs() > 0.3]).abs().mean() < 0.5
    torch.testing.assert_close(shown.first.abs(), drawn.first.abs())
    torch.testing.assert_close(shown.target.abs(), drawn.target.abs())
    # Every image foretells the samples that it did before, turned as it is.
    phase = shown.first / torch.where(drawn.first == 0, 1, drawn.first)
    before, after = problem_of(drawn).normal(drawn.target), problem_of(shown).normal(drawn.target * phase)
    inside = drawn.first.abs() > 0.05
    torch.testing.assert_close((before * phase)[inside], after[inside], rtol=1e-3, atol=1e-4)


def test_a_decibel_counts_the_same_for_every_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a scan that is nearly right as of one that is not."""
    errors = {"near": torch.tensor([0.04, 0.02]), "far": torch.tensor([0.4, 0.2])}

    def losses(loss: Callable[..., torch.Tensor], of: str) -> list[float]:
        made = []
        for error in errors[of]:
            parts = (error.expand(2, 1), error[None], error[None])
            monkeypatch.setattr(training, "_errors", lambda estimates, batch, parts=parts: parts)
            made.append(float(loss([], None)))
        return made

    def gain(loss: Callable[..., torch.Tensor], of: str) -> float:
        before, after = losses(loss, of)
        return before - after

    assert gain(relative_loss, "near") == pytest.approx(gain(relative_loss, "far")) and gain(relative_loss, "far") > 0.5
    assert gain(batch_loss, "near") == pytest.approx(0.1 * gain(batch_loss, "far"))


def test_some_acquisitions_have_a_hot_spot_beside_which_all_else_is_as_it_was() -> None:
    image = to_image(to_image(usual_kspace().astype(np.complex64), axis=1), axis=2)
    kspace = to_kspace(to_kspace(image, axis=1), axis=2)
    hot = bright = 0
    for seed in range(60):
        made = with_hot_spot(kspace, np.random.default_rng(seed))
        if made is kspace:
            continue
        hot += 1
        shown = to_image(to_image(made, axis=1), axis=2)
        assert (np.abs(shown).max(0) >= np.abs(image).max(0) - 1e-3 * np.abs(image).max()).all()
        strong = np.abs(image) > 0.01 * np.abs(image).max()
        factor = (shown[strong] / image[strong]).real
        assert factor.max() < 4.1 and np.mean(factor < 1.05) > 0.5
        bright += factor.max() > 1.4
        again = with_hot_spot(kspace, np.random.default_rng(seed))
        np.testing.assert_array_equal(again, made)
    assert 10 < hot < 30 and bright > 0.8 * hot  # an ellipse may lie beside the object
