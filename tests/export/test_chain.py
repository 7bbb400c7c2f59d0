"""The desk toolchain from a volume to a bundle, small enough for a test: what it makes is whole, and the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_volumes import write_volume

from edge_runtime.bundle import load_bundle
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import prepare_model

pytestmark = pytest.mark.full

CONFIG = """
name = "made"
version = "1"
[simulate]
count = 2
seed = 1
phantom_share = 0.5
[network]
iterations = 2
cg_steps = 2
widths = [4, 6]
[train]
seed = 2
cycles = [{steps}]
batch = 2
columns = 24
learning_rate = 1e-3
warmup_steps = 1
bfloat16_steps = 0
[quantize]
calibration_scans = 1
float_levels = 1
seed = 3
"""


def run(*arguments: object) -> None:
    from export.cli import main

    assert main([str(argument) for argument in arguments]) == 0


def configuration(folder: Path, steps: int = 3) -> Path:
    path = folder / "made.toml"
    path.write_text(CONFIG.format(steps=steps))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``made.toml``, the volume in ``data`` and a model of three steps in ``work``."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("desk")
    run("train", configuration(folder), "--data", write_volume(folder / "data"), "--work", folder / "work")
    return folder


def weights_of(work: Path) -> dict[str, np.ndarray]:
    from export.train import load_model

    network = load_model(work / "model.pt").network
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def test_the_same_model_gives_the_same_bundle(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        out = trained / f"{name}.edgebundle"
        run("bundle", trained / "made.toml", "--work", trained / "work", "--out", out)
    first, second = ((trained / f"{name}.edgebundle").read_bytes() for name in ("first", "second"))
    assert first == second
    digest = load_bundle(trained / "first.edgebundle").digest
    assert capsys.readouterr().out.count(digest) == 2


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_form_loads_and_reproduces_its_golden_outputs(trained: Path, precision: str) -> None:
    out = trained / f"{precision}.edgebundle"
    run("bundle", trained / "made.toml", "--work", trained / "work", "--out", out)
    bundle = load_bundle(out)
    assert (bundle.name, bundle.settings.iterations, bundle.settings.cg_steps) == ("made", 2, 2)
    model = prepare_model(bundle, load_profile(DEFAULT_PROFILE), precision)  # raises where they are not reproduced
    assert model.precision == precision


def test_int8_leaves_the_image_and_the_finest_level_in_floating_point(trained: Path) -> None:
    onnx = pytest.importorskip("onnx")
    out = trained / "mixed.edgebundle"
    run("bundle", trained / "made.toml", "--work", trained / "work", "--out", out)
    graph = onnx.load_from_string(load_bundle(out).forms["int8"].onnx).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    quantized = {node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in dequantized}
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    level = {f"/{side}.0/{which}/Conv" for side in ("encode", "decode") for which in ("first", "second")}
    assert convolutions - quantized == {"/head/Conv", "/tail/Conv", *level}
    assert "/encode.1/first/Conv" in quantized


def test_training_changes_the_weights_and_repeats_itself(trained: Path) -> None:
    again = trained / "again"
    run("train", trained / "made.toml", "--data", trained / "data", "--work", again)
    first, second = weights_of(trained / "work"), weights_of(again)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = trained / "other"
    other.mkdir()
    run("train", configuration(other, steps=1), "--data", trained / "data", "--work", other)
    assert any(not np.array_equal(first[name], value) for name, value in weights_of(other).items())


def test_an_unseen_volume_scores_every_method(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained / "validated.edgebundle"
    run("bundle", trained / "made.toml", "--work", trained / "work", "--out", out)
    capsys.readouterr()
    run("validate", out, "--data", trained / "data", "--count", 1, "--json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["acceleration"] for row in rows} == {2, 4, 6}
    assert {row["method"] for row in rows} == {"learned fp32", "learned int8", "classical", "zero_filled"}
    assert all(0 < row["quality"]["nrmse"] < 2 for row in rows)
