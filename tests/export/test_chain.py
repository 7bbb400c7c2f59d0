"""The desk toolchain from a volume to a bundle, small enough for a test: what it makes is whole, and the same every time."""

from __future__ import annotations

import hashlib
import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_volumes import write_volume
from simulated import header_of, readouts_of, usual_kspace

from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle, load_trust_store
from edge_runtime.errors import GoldenMismatch
from edge_runtime.links.files import write_mrd_stream
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
steps = {steps}
batch = 2
columns = 24
learning_rate = 1e-3
warmup_steps = 1
[refine]
seed = 4
steps = 2
batch = 2
columns = 24
learning_rate = 1e-4
warmup_steps = 1
[quantize]
calibration_scans = 1
validation_scans = 2
seed = 3
[limits]
int8_loss_db = {{ at_most = 5 }}
int8_loss_ssim = {{ at_most = 0.5 }}
unmeasured = {{ at_most = 1 }}
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
    """A folder with ``made.toml``, the volume in ``data``, a model of three steps, refined by two, and its forms in ``work``."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("desk")
    run("train", configuration(folder), "--data", write_volume(folder / "data"), "--work", folder / "work")
    run("refine", folder / "made.toml", "--work", folder / "work")
    quantize(folder)
    run("key", "new", folder / "key.pem")
    run("key", "public", folder / "key.pem", "--out", folder / "trust" / "key.pem")
    return folder


def quantize(folder: Path, *options: object) -> None:
    run("quantize", folder / "made.toml", "--data", folder / "data", "--work", folder / "work", *options)


def copied(folder: Path, target: Path) -> None:
    """All that `pack` needs of a folder, for a test that changes it."""
    for name in ("made.toml", "data", "work", "key.pem", "trust"):
        source = folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)


def pack(folder: Path, name: str) -> Path:
    """The trained model as a bundle that the key of this folder signed."""
    out = folder / f"{name}.edgebundle"
    options = ("--key", folder / "key.pem", "--override", "three steps are no training", "--out", out)
    run("pack", folder / "made.toml", "--work", folder / "work", *options)
    return out


def load(path: Path) -> Bundle:
    return load_bundle(path, load_trust_store(path.parent / "trust"))


def test_a_bundle_gives_its_model_back(trained: Path, tmp_path: Path) -> None:
    """Packed anew it has the same graph and settings, of weights that are the same but for the rounding of its settings."""
    copied(trained, tmp_path)
    packed = pack(tmp_path, "packed")
    for path in (tmp_path / "work").glob("*.pt"):
        path.unlink()
    shutil.rmtree(tmp_path / "work" / "forms")
    restore(tmp_path, packed)
    weights, before = weights_of(tmp_path / "work"), weights_of(trained / "work")
    assert weights.keys() == before.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(values, before[name], rtol=0, atol=0 if name.startswith("regulariser.") else 1e-6)
    quantize(tmp_path)
    again, once = load(pack(tmp_path, "again")), load(packed)
    assert again.settings == once.settings
    assert again.forms["fp32"].onnx == once.forms["fp32"].onnx
    for key in ("training_data", "code_sha256", "first_losses"):
        assert again.manifest["provenance"][key] == once.manifest["provenance"][key]


def test_a_model_that_is_not_refined_yet_is_taken_by_no_command(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.cli import main

    copied(trained, tmp_path)
    (tmp_path / "work" / "refined.pt").unlink()
    usual = (tmp_path / "made.toml", "--work", tmp_path / "work")
    for command, *options in (
        ("quantize", "--data", tmp_path / "data"),
        ("qualify", "--data", tmp_path / "data"),
        ("pack", "--key", tmp_path / "key.pem", "--out", tmp_path / "out.edgebundle"),
    ):
        assert main([str(one) for one in (command, *usual, *options)]) == 1
        assert "refined.pt: there is none; run edge-export refine to its end" in capsys.readouterr().err


def test_a_bundle_of_other_training_is_not_restored(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(trained, tmp_path)
    packed = pack(tmp_path, "packed")
    with pytest.raises(AssertionError):
        restore(tmp_path, packed)
    assert "there is a model, which is not written over" in capsys.readouterr().err
    (tmp_path / "work" / "refined.pt").unlink()
    for table, old, new in (("train", "steps = 3", "steps = 4"), ("refine", "seed = 4", "seed = 5")):
        path = configuration(tmp_path)
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(AssertionError):
            restore(tmp_path, packed)
        assert f"trained with another [{table}]" in capsys.readouterr().err
    configuration(tmp_path)
    (tmp_path / "work" / "data.json").write_text('{"sha256": "0", "volumes": ["other"]}')
    with pytest.raises(AssertionError):
        restore(tmp_path, packed)
    assert "fill the pool from those" in capsys.readouterr().err
    (tmp_path / "work" / "data.json").unlink()
    with pytest.raises(AssertionError):
        restore(tmp_path, packed)
    assert "run edge-export pool first" in capsys.readouterr().err


def restore(folder: Path, bundle: Path) -> None:
    options = ("--bundle", bundle, "--work", folder / "work", "--trust", folder / "trust")
    run("restore", folder / "made.toml", *options)


def weights_of(work: Path) -> dict[str, np.ndarray]:
    from export.train import load_model

    network = load_model(work / "refined.pt").network
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def test_the_same_model_gives_the_same_bundle(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        pack(trained, name)
    first, second = ((trained / f"{name}.edgebundle").read_bytes() for name in ("first", "second"))
    assert first == second
    digest = load(trained / "first.edgebundle").digest
    assert capsys.readouterr().out.count(digest) == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_form_loads_and_reproduces_its_golden_outputs(trained: Path, precision: str) -> None:
    out = pack(trained, precision)
    bundle = load(out)
    assert (bundle.name, bundle.settings.iterations, bundle.settings.cg_steps) == ("made", 2, 2)
    model = prepare_model(bundle, load_profile(DEFAULT_PROFILE), precision)  # raises where they are not reproduced
    assert model.precision == precision
    assert bundle.override is not None and bundle.override.reason == "three steps are no training"


def test_half_precision_is_run_where_the_profile_prefers_it(trained: Path) -> None:
    bundle, profile = load(pack(trained, "half")), load_profile(DEFAULT_PROFILE)
    assert set(bundle.manifest["forms"]) == {"fp32", "fp16", "int8"}
    assert len(bundle.forms["fp16"].onnx) < len(bundle.forms["fp32"].onnx)
    for preferred, runs in ((("fp16", "int8"), "fp16"), (("int8", "fp16"), "int8"), (("fp8", "fp16"), "fp16")):
        assert prepare_model(bundle, replace(profile, precisions=preferred)).precision == runs


def test_golden_outputs_of_half_precision_are_run_again(trained: Path) -> None:
    bundle, profile = load(pack(trained, "golden")), load_profile(DEFAULT_PROFILE)
    half = bundle.forms["fp16"]
    altered = replace(half, golden_output=half.golden_output * np.float32(1.02))
    for form, error in (
        (altered, "fp16: golden outputs differ by"),
        (replace(half, tolerances=()), "fp16 is not qualified"),
    ):
        with pytest.raises(GoldenMismatch, match=error):
            prepare_model(replace(bundle, forms={**bundle.forms, "fp16": form}), profile, "fp16")


def test_a_form_beyond_the_budget_is_not_packed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half precision here loses all."""
    import onnx

    def spoilt(model: bytes) -> bytes:
        graph = onnx.load_model_from_string(model)
        for tensor in graph.graph.initializer:
            if tensor.name.startswith("tail."):
                tensor.CopyFrom(onnx.numpy_helper.from_array(1e4 * onnx.numpy_helper.to_array(tensor), tensor.name))
        return bytes(graph.SerializeToString())

    copied(trained, tmp_path)
    assert (tmp_path / "work" / "forms" / "fp16.onnx").exists()
    (tmp_path / "work" / "forms" / "measured.jsonl").unlink()
    for module in ("run", "search"):
        monkeypatch.setattr(f"export.quantization.{module}.fp16_form", spoilt)
    monkeypatch.setattr("edge_runtime.modalities.mri.reconstruct.believed_share", lambda step: 1.0)
    quantize(tmp_path)
    assert "it is left out" in capsys.readouterr().out
    assert set(load(pack(tmp_path, "without")).forms) == {"fp32", "int8"}


def test_the_bundle_that_ships_has_half_precision_for_profiles_that_name_it() -> None:
    bundle, profile = load_bundle(DEFAULT_BUNDLE), load_profile(DEFAULT_PROFILE)
    assert set(bundle.forms) == {"fp16", "fp32", "int8"}
    assert prepare_model(bundle, profile).precision == "int8"
    assert prepare_model(bundle, replace(profile, precisions=("fp16", "int8"))).precision == "fp16"


def test_a_bundle_tells_what_it_was_made_of(trained: Path) -> None:
    manifest = load(pack(trained, "made")).manifest
    assert manifest["limits"]["int8_loss_db"] == {"at_most": 5}
    made_of = manifest["provenance"]
    assert made_of["training_data"]["volumes"] and len(made_of["calibration"]["pool_sha256"]) == 64
    assert made_of["configuration"] == (trained / "made.toml").read_text()


def test_a_bundle_says_on_which_recordings_it_was_calibrated(trained: Path, tmp_path: Path) -> None:
    copied(trained, tmp_path)
    scan = tmp_path / "scan.mrd"
    write_mrd_stream(scan, header_of(), [readouts_of(usual_kspace(noise=0.01))])
    quantize(tmp_path, "--recording", scan)
    calibration = load(pack(tmp_path, "recorded")).manifest["provenance"]["calibration"]
    assert calibration["recordings"] == [{"sha256": hashlib.sha256(scan.read_bytes()).hexdigest(), "slices": [0]}]
    assert calibration["scans"] == 1 and calibration["seed"] == 3
    assert load(pack(trained, "simulated")).manifest["provenance"]["calibration"]["recordings"] == []


def test_int8_leaves_in_floating_point_what_the_search_says(trained: Path) -> None:
    onnx = pytest.importorskip("onnx")
    bundle = load(pack(trained, "mixed"))
    kept = set(bundle.manifest["provenance"]["calibration"]["float_layers"])
    graph = onnx.load_from_string(bundle.forms["int8"].onnx).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    quantized = {node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in dequantized}
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    assert quantized and convolutions - quantized == kept


def test_an_interrupted_search_goes_on_where_it_stopped(trained: Path) -> None:
    measured = trained / "work" / "forms" / "measured.jsonl"
    lines = measured.read_text().splitlines(keepends=True)
    measured.write_text("".join(lines[: len(lines) // 2]) + lines[-1][:9])  # power was lost while a line was written
    quantize(trained)
    assert [json.loads(line)["name"] for line in measured.read_text().splitlines() if line.endswith("}")] == [
        json.loads(line)["name"] for line in lines
    ]


def test_a_model_that_was_trained_anew_is_not_packed_with_old_forms(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.cli import main

    work = tmp_path / "work"
    shutil.copytree(trained / "work", work)
    shutil.rmtree(work / "pool")
    for path in work.glob("*.pt"):
        path.unlink()
    run("train", configuration(tmp_path, steps=2), "--data", trained / "data", "--work", work)
    run("refine", tmp_path / "made.toml", "--work", work)
    options = ("--key", trained / "key.pem", "--out", tmp_path / "out.edgebundle")
    assert main([str(o) for o in ("pack", tmp_path / "made.toml", "--work", work, *options)]) == 1
    assert "run edge-export quantize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("of", "to", "said"),
    [
        ("cg_steps = 2", "cg_steps = 3", r"[network] cg_steps (2 before, 3 now)"),
        ("learning_rate = 1e-3", "learning_rate = 2e-3", r"[train] learning_rate (0.001 before, 0.002 now)"),
        ("learning_rate = 1e-4", "learning_rate = 2e-4", r"[refine] learning_rate (0.0001 before, 0.0002 now)"),
    ],
)
def test_a_model_of_another_configuration_is_not_packed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], of: str, to: str, said: str
) -> None:
    from export.cli import main

    other = tmp_path / "other.toml"
    other.write_text((trained / "made.toml").read_text().replace(of, to))
    options = ("--key", trained / "key.pem", "--override", "a test", "--out", tmp_path / "out.edgebundle")
    assert main([str(one) for one in ("pack", other, "--work", trained / "work", *options)]) == 1
    assert f"refined.pt: was trained with another {said}: refine it anew" in capsys.readouterr().err


def test_a_model_of_another_pool_is_not_packed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.cli import main

    copied(trained, tmp_path)
    shutil.rmtree(tmp_path / "work" / "pool")
    other = tmp_path / "other.toml"
    other.write_text(
        (tmp_path / "made.toml")
        .read_text()
        .replace("[simulate]\ncount = 2\nseed = 1", "[simulate]\ncount = 2\nseed = 8")
    )
    run("pool", other, "--data", tmp_path / "data", "--work", tmp_path / "work")
    options = ("--key", tmp_path / "key.pem", "--override", "a test", "--out", tmp_path / "out.edgebundle")
    assert main([str(one) for one in ("pack", other, "--work", tmp_path / "work", *options)]) == 1
    assert "refined.pt: was trained with another pool (" in capsys.readouterr().err


def test_training_changes_the_weights_and_repeats_itself(trained: Path) -> None:
    again = trained / "again"
    run("train", trained / "made.toml", "--data", trained / "data", "--work", again)
    run("refine", trained / "made.toml", "--work", again)
    first, second = weights_of(trained / "work"), weights_of(again)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = trained / "other"
    other.mkdir()
    run("train", configuration(other, steps=1), "--data", trained / "data", "--work", other)
    run("refine", other / "made.toml", "--work", other)
    assert any(not np.array_equal(first[name], value) for name, value in weights_of(other).items())


def test_a_qualified_model_is_packed_with_its_report_and_a_missed_limit_needs_a_reason(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.cli import main
    from export.qualification import run as qualification

    for module in ("export.qualification.cases", "export.simulate.pool"):
        monkeypatch.setattr(f"{module}.PHASE_ENCODES", [48])
        monkeypatch.setattr(f"{module}.SAMPLES", [48])
    monkeypatch.setattr("export.qualification.cost.SIZE", 64)
    arguments = ("qualify", trained / "made.toml", "--work", trained / "work", "--data", trained / "data")
    arguments = (*arguments, "--draws", 1, "--off-draws", 1, "--out", tmp_path, "--json")
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 1
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert "pictures …" in printed.err  # progress, beside the JSON
    assert said["missed"] == [
        "unmeasured is not in the quality report, at most 1 is the limit",
        "simulated slices judged: 1, at least 12 required",
        "slices of every kind that it was not trained for judged: 1, at least 4 required",
        "slices of recorded scans judged: 0, at least 1 required",
        "it was trained on volumes that were judged: mr_made",
    ]
    report = json.loads((tmp_path / "quality.json").read_text())
    assert {row["group"] for row in report["rows"]} >= {"as trained for", "inverted contrast", "R = 10"}
    assert {row["method"] for row in report["rows"]} == {
        *(f"learned {precision}" for precision in ("fp32", "fp16", "int8")),
        "classical",
        "zero-filled",
    }
    page = (tmp_path / "quality.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page
    begins = page[: page.index("<h2>Limits")]
    assert "form whose figures these are</td><td>int8" in begins and "1, at least 12 required" in begins
    assert all(html.escape(one) in begins for one in said["missed"])
    assert "<td>unmeasured</td><td><span class=missed>not measured</span></td>" in page

    monkeypatch.setattr(qualification, "outcome", None)  # what was judged is not judged again
    monkeypatch.setattr(qualification, "stabilities", None)
    assert main([str(one) for one in arguments]) == 1
    assert json.loads(capsys.readouterr().out)["figures"].keys() == said["figures"].keys()

    options = ("--key", trained / "key.pem", "--quality", tmp_path / "quality.json", "--out", tmp_path / "q.edgebundle")
    packing = [str(one) for one in ("pack", trained / "made.toml", "--work", trained / "work", *options)]
    assert main(packing) == 1
    refused = capsys.readouterr().err
    assert all(one in refused for one in said["missed"])
    assert main([*packing, "--override", "a test"]) == 0
