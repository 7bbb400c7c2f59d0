"""Fine-tuning under INT8's rounding: the rounding is that of the exported graph, and the weights lose less afterwards."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

import torch
from exact_int8 import exact_int8
from made_search import SIZE, MadeSearch, made_search, small_matrices, small_network, spoilt

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.config import ModelConfig, PoolConfig, QuantizeConfig, TrainingConfig
from export.families.unrolled import UnrolledNetwork
from export.quantization import finetune
from export.quantization.choice import BudgetMissed
from export.quantization.fake_quantized import NotTraced, fake_quantized, plain
from export.quantization.finetune import FineTuning, finetuned, write_finetuned
from export.quantization.forms import int8_form, write_prepared
from export.quantization.run import quantize_model
from export.quantization.scans import Loss, loss, qualities
from export.simulate.pool import Pool
from export.split import regulariser_onnx
from export.states import reconstruction_states
from export.train import About, run_identity, save_model

pytestmark = pytest.mark.full

TRAINING = TrainingConfig(seed=0, steps=1, batch=2, columns=SIZE, learning_rate=0.1, warmup_steps=0)


@dataclass(frozen=True)
class Quantized:
    """A network that INT8 spoils, and its INT8 form."""

    network: UnrolledNetwork
    made: MadeSearch
    int8: bytes

    @property
    def prepared(self) -> Path:
        return self.made.folder / "prepared.onnx"

    def tuning(self, steps: int) -> FineTuning:
        return FineTuning(self.made.folder / "pool", TRAINING, steps, seed=11)

    def lost(self, graph: bytes) -> Loss:
        plan = OnnxRuntimeEngine().plan
        full, form = (
            qualities(self.made.scans, self.made.settings, plan(one, threads=1)) for one in (self.made.fp32, graph)
        )
        return loss(self.made.scans, full, form)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_matrices(monkeypatch)
        network = spoilt(small_network())
        made = made_search(network, tmp_path_factory.mktemp("quantized"))
        int8 = int8_form(made.folder / "prepared.onnx", made.folder / "ranges.json", ())
        return Quantized(network, made, int8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_matrices(monkeypatch)


def silent(text: str) -> None:
    """Nobody asks how far it is."""


@exact_int8
def test_the_rounding_is_that_of_the_int8_graph(quantized: Quantized) -> None:
    network, plan = copy.deepcopy(quantized.network), OnnxRuntimeEngine().plan
    session = plan(quantized.made.fp32, threads=1)
    states = np.concatenate(
        list(
            reconstruction_states(quantized.made.folder / "pool", quantized.made.settings, session, 2, 9, columns=SIZE)
        )
    )
    with torch.no_grad():
        ours = fake_quantized(network.regulariser, quantized.prepared, quantized.int8)(torch.from_numpy(states)).numpy()
    int8, fp32 = (plan(graph, threads=1).run(states) for graph in (quantized.int8, quantized.made.fp32))
    assert np.linalg.norm(ours - int8) < 0.1 * np.linalg.norm(fp32 - int8)
    plain(network.regulariser)
    back, trained = network.state_dict(), quantized.network.state_dict()
    assert back.keys() == trained.keys() and all(torch.equal(back[name], trained[name]) for name in back)


def test_a_network_that_is_not_its_graph_is_refused(quantized: Quantized, tmp_path: Path) -> None:
    from export.config import NetworkConfig

    other = UnrolledNetwork(NetworkConfig(2, 2, (4, 6, 8))).eval()
    write_prepared(regulariser_onnx(other), tmp_path / "other.onnx")
    with pytest.raises(NotTraced, match=r"other\.onnx has .*can be fine-tuned"):
        fake_quantized(copy.deepcopy(quantized.network).regulariser, tmp_path / "other.onnx", quantized.int8)


@exact_int8
def test_fine_tuning_loses_less_than_half_of_what_quantizing_alone_loses(quantized: Quantized, tmp_path: Path) -> None:
    said: list[str] = []
    tuned = finetuned(quantized.network, quantized.prepared, quantized.int8, quantized.tuning(200), said.append)
    write_prepared(regulariser_onnx(tuned), tmp_path / "prepared.onnx")
    form = int8_form(tmp_path / "prepared.onnx", quantized.made.folder / "ranges.json", ())
    before, after = quantized.lost(quantized.int8), quantized.lost(form)
    assert before.psnr_db > 0.5
    assert after.psnr_db < 0.5 * before.psnr_db and after.ssim < before.ssim
    assert said[-1] == "steps of fine-tuning: 200 of 200"


def test_only_weights_of_the_regulariser_of_the_copy_change_and_the_same_every_time(quantized: Quantized) -> None:
    before = {name: value.clone() for name, value in quantized.network.state_dict().items()}
    threads = torch.get_num_threads()
    first, second = (
        finetuned(quantized.network, quantized.prepared, quantized.int8, quantized.tuning(3), silent).state_dict()
        for _ in range(2)
    )
    assert torch.get_num_threads() == threads
    assert first.keys() == before.keys()
    assert all(torch.equal(quantized.network.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["log_weights"], before["log_weights"])
    assert not any(torch.equal(first[name], before[name]) for name in first if name.endswith(".weight"))
    other = finetuned(
        quantized.network, quantized.prepared, quantized.int8, replace(quantized.tuning(3), seed=12), silent
    )
    assert not torch.equal(other.state_dict()["regulariser.tail.weight"], first["regulariser.tail.weight"])


def test_a_graph_is_fine_tuned_once_and_anew_for_other_steps(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "graph.onnx", []
    arguments = quantized.network, quantized.prepared, quantized.int8
    write_finetuned(*arguments, quantized.tuning(1), out, said.append)
    first = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "finetuned", lambda *_: pytest.fail("it was fine-tuned again"))
        write_finetuned(*arguments, quantized.tuning(1), out, said.append)
    assert out.read_bytes() == first
    write_finetuned(*arguments, quantized.tuning(2), out, said.append)
    assert out.read_bytes() != first
    assert any("begins anew, since its results are of another fine-tuning" in line for line in said)


def quantize(
    quantized: Quantized, work: Path, monkeypatch: pytest.MonkeyPatch, budget_db: float, steps: int
) -> list[str]:
    """`edge-export quantize` of the network, on the scans it is as good on as can be; what it said."""
    network = quantized.network.config
    if not work.exists():
        work.mkdir()
        shutil.copytree(quantized.made.folder / "pool", work / "pool")
        about = About(run_identity(network, TRAINING, Pool(work / "pool").record))
        save_model(work / "model.pt", quantized.network, network, about)
    config = ModelConfig(
        "made",
        "1",
        PoolConfig(2, 2, 0.0),
        network,
        TRAINING,
        QuantizeConfig(calibration_scans=2, validation_scans=3, seed=3),
        limits={"int8_loss_db": {"at_most": budget_db}, "int8_loss_ssim": {"at_most": 1.0}},
    )
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("export.quantization.run.validation_scans", lambda *_: quantized.made.scans)
        patch.setattr("export.quantization.search.Search._time_of", lambda *_: 1.0)  # the fewest layers in float win
        quantize_model(config, work, [], said.append, finetune_steps=steps)
    return said


def made_with(work: Path) -> tuple[list[str], int]:
    """Layers in floating point and steps of fine-tuning, as a bundle tells them."""
    calibration = json.loads((work / "forms" / "calibration.json").read_text())
    return calibration["float_layers"], calibration["finetuned_steps"]


@exact_int8
def test_where_int8_in_all_layers_misses_the_budget_fine_tuning_keeps_it(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    quantize(quantized, work, monkeypatch, 0.4, 0)
    kept, steps = made_with(work)
    assert len(kept) == 2 and steps == 0  # weights as trained: two layers must stay in floating point
    said = quantize(quantized, work, monkeypatch, 0.4, 200)
    assert "INT8 in all layers misses the budget: fine-tuning" in said
    assert made_with(work) == ([], 200)
    forms = work / "forms"
    assert (forms / "fp32.onnx").read_bytes() == quantized.made.fp32
    assert quantized.lost((forms / "int8.onnx").read_bytes()).psnr_db < 0.4
    assert "| 0, fine-tuned | 1.00 |" in (forms / "front.md").read_text()
    int8 = (forms / "int8.onnx").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "finetuned", lambda *_: pytest.fail("it was fine-tuned again"))
        quantize(quantized, work, monkeypatch, 0.4, 200)
    assert (forms / "int8.onnx").read_bytes() == int8


def test_what_keeps_its_budget_is_not_fine_tuned(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "finetuned", lambda *_: pytest.fail("it was fine-tuned"))
    quantize(quantized, tmp_path / "work", monkeypatch, 5.0, 200)
    assert made_with(tmp_path / "work") == ([], 0)


def test_a_budget_that_fine_tuning_misses_too_is_told(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BudgetMissed, match=r"no INT8 form loses at most -9 dB and 1 SSIM.*--finetune STEPS"):
        quantize(quantized, tmp_path / "work", monkeypatch, -9.0, 1)
    table = (tmp_path / "work" / "forms" / "front.md").read_text()
    assert "| 0 | 1.00 |" in table and "| 0, fine-tuned | 1.00 |" in table


def test_steps_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from export.cli import main

    options = ("--data", str(tmp_path), "--work", str(tmp_path), "--finetune", "-1")
    assert main(["quantize", "made.toml", *options]) == 1
    assert "--finetune -1: steps from 0, none, to 1000000 are expected" in capsys.readouterr().err
