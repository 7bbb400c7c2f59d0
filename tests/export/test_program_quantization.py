"""Forms of a program of others: calibrated on what its graphs are fed, chosen by its images, and carried to a device."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_programs import bending, modl, packed, varnet
from made_volumes import made_volume, write_volume

from edge_runtime.bundle import ProgramSettings, load_bundle
from edge_runtime.bundle.quality import form_digest
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import prepare_model
from export.adapters.program import SplitProgram, digest
from export.adapters.storage import write_program
from export.adapters.verify import Comparison
from export.cli import main
from export.config import ConfigError
from export.keys import SigningKey

pytestmark = pytest.mark.full

CONFIG = """
program = "made.edgeprogram"
licence = "MIT"
[quantize]
calibration_scans = 2
validation_scans = 2
seed = 3
[limits]
int8_loss_db = {{ at_most = {loss} }}
int8_loss_ssim = {{ at_most = 0.5 }}
"""
GRAPHS = ("net-1.onnx", "net-2.onnx", "net-3.onnx")


def desk(folder: Path, made: SplitProgram, loss: float = 5) -> Path:
    """A folder with a program, its configuration, a volume and a key; returns the configuration."""
    folder.mkdir(exist_ok=True)
    write_program(folder / "made.edgeprogram", made, Comparison(1e-4, "none", (), ()))
    (folder / "device.toml").write_text(CONFIG.format(loss=loss))
    write_volume(folder / "data")
    return folder / "device.toml"


def quantize(config: Path) -> int:
    folder = config.parent
    return main(["quantize", str(config), "--data", str(folder / "data"), "--work", str(folder / "work")])


def pack(config: Path, key: SigningKey, name: str = "made") -> Path:
    from export.programs.bundle import make_program_bundle
    from export.programs.config import load_program_config

    out = config.parent / f"{name}.edgebundle"
    make_program_bundle(load_program_config(config), config, config.parent / "work", out, key, override="a test")
    return out


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = desk(tmp_path_factory.mktemp("quantized"), varnet())
    assert quantize(config) == 0
    return config


def test_every_form_reaches_the_device(quantized: Path, signing_key: SigningKey) -> None:
    first, second = (pack(quantized, signing_key, name) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    bundle = load_bundle(first)
    assert bundle.override is not None  # its limits are kept by the search's own report, which judged nothing else
    assert bundle.override.misses == ("the report does not say on what it judged: qualify anew",)
    assert set(bundle.forms) == {"fp32", "fp16", "int8"}
    assert bundle.forms["fp32"].graphs == varnet().files
    for precision in bundle.forms:  # raises where golden outputs are not reproduced
        assert prepare_model(bundle, load_profile(DEFAULT_PROFILE), precision).precision == precision


def test_int8_quantizes_what_the_search_does_not_keep(quantized: Path, signing_key: SigningKey) -> None:
    import onnx

    bundle = load_bundle(pack(quantized, signing_key))
    kept = bundle.manifest["provenance"]["calibration"]["float_parts"]
    assert len(kept) < len(GRAPHS)
    for name in GRAPHS:
        graph = onnx.load_model_from_string(bundle.forms["int8"].graphs[name]).graph
        quantized_nodes = any(node.op_type == "QuantizeLinear" for node in graph.node)
        assert quantized_nodes != (f"{name}, all layers" in kept)


def test_the_bundle_tells_what_it_was_made_of(quantized: Path, signing_key: SigningKey) -> None:
    from export.digest import files_digest
    from export.simulate.volumes import volume_files

    path, data = pack(quantized, signing_key), quantized.parent / "data"
    made_of = load_bundle(path).manifest["provenance"]
    calibration = made_of["calibration"]
    assert calibration["volumes"] == 1
    assert calibration["volumes_sha256"] == files_digest(volume_files(data), data)
    names = [file.name.partition(".")[0] for file in volume_files(data)]
    assert names and not any(name in json.dumps(made_of) for name in names)
    for made_by in (made_of["made_by"], calibration["made_by"]):
        assert len(made_by["code"]) == 64 and made_by["onnxruntime"]
    with zipfile.ZipFile(path) as archive:
        bill = {one["bom-ref"]: one for one in json.loads(archive.read("sbom.cdx.json"))["components"]}
    origin = varnet().origin
    assert bill["calibration-data:volumes"]["hashes"][0]["content"] == calibration["volumes_sha256"]
    assert bill["model-code"]["name"] == origin.package.partition(" ")[0].rstrip(",")
    assert bill["model-weights"]["hashes"][0]["content"] == origin.checkpoint_sha256


def test_the_report_is_about_these_forms(quantized: Path, signing_key: SigningKey) -> None:
    report = json.loads((quantized.parent / "work" / "forms" / "quality.json").read_text())
    bundle = load_bundle(pack(quantized, signing_key))
    for precision, form in bundle.forms.items():
        assert report["forms"][precision] == form_digest({name: digest(graph) for name, graph in form.graphs.items()})
    assert set(report["figures"]) == {f"{name}_loss_{unit}" for name in ("int8", "fp16") for unit in ("db", "ssim")}
    search = json.loads((quantized.parent / "work" / "forms" / "search.json").read_text())
    assert {one["layer"] for one in search["sensitivities"]} == {f"{name}, all layers" for name in GRAPHS}
    assert [len(one["kept"]) for one in search["candidates"]] == [0, 1, 2]
    assert report["figures"]["int8_loss_db"] == search["chosen"]["lost"]["psnr_db"]


def test_what_was_measured_is_not_measured_again(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = quantized.parent / "work" / "forms"
    before = (forms / "measured.jsonl").read_bytes()
    assert quantize(quantized) == 0
    assert (forms / "measured.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert "ranges over" not in said and "goes on with" in said
    assert not (forms / "states").exists()


def test_a_report_of_qualify_speaks_of_every_form(quantized: Path) -> None:
    from export.qualification.subject import of_work

    subject = of_work(quantized, quantized.parent / "work")
    report = json.loads((quantized.parent / "work" / "forms" / "quality.json").read_text())
    assert subject.digests() == report["forms"]
    assert set(subject.models(threads=1)) == {"fp32", "fp16", "int8"}


def test_states_are_what_the_graphs_are_fed(tmp_path: Path) -> None:
    from export.programs.config import load_program_config
    from export.programs.settings import settings_of
    from export.programs.states import record_states, recorded_states, runs_of
    from export.quantization.scans import drawn_scans

    made = varnet()
    settings = settings_of(made, load_program_config(desk(tmp_path, made)))
    drawn = drawn_scans([made_volume()], 3, 0.5)
    scans = [next(drawn) for _ in range(2)]
    record_states(settings, made.files, scans, tmp_path / "states")
    coils = [len(scan.samples.hybrid) for scan in scans]
    states = {name: list(recorded_states(tmp_path / "states", name)) for name in GRAPHS}
    assert [len(states[name]) for name in GRAPHS] == [sum(coils), 2, 2]
    assert runs_of(settings, coils=5) == {"net-1.onnx": 5, "net-2.onnx": 1, "net-3.onnx": 1}
    for state in states["net-2.onnx"]:  # normalised, padded, in the network's axes
        assert state.shape[:2] == (1, 2) and not any(size % 4 for size in state.shape[2:])
        assert abs(float(state.mean())) < 0.1
    lines = {scan.samples.hybrid.shape[1] for scan in scans}
    assert {state.shape[3] for state in states["net-2.onnx"]} == {-(-count // 4) * 4 for count in lines}


def test_a_program_that_is_given_sensitivities_is_quantized_too(tmp_path: Path, signing_key: SigningKey) -> None:
    config = desk(tmp_path, modl())
    assert quantize(config) == 0
    assert set(load_bundle(pack(config, signing_key)).forms) >= {"fp32", "int8"}


def test_a_budget_that_no_form_keeps_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = desk(tmp_path, varnet(), loss=-50)
    assert quantize(config) == 1
    assert "no INT8 form loses at most -50 dB" in capsys.readouterr().err
    assert (tmp_path / "work" / "forms" / "front.md").exists() and not (tmp_path / "work" / "forms" / "int8").exists()


def test_forms_that_are_missing_or_of_another_program_are_not_packed(
    tmp_path: Path, quantized: Path, signing_key: SigningKey
) -> None:
    config = desk(tmp_path, modl())
    with pytest.raises(ConfigError, match=r"no forms: .* run edge-export quantize .*device\.toml --work .* first"):
        pack(config, signing_key)
    (tmp_path / "work").symlink_to(quantized.parent / "work")
    with pytest.raises(ConfigError, match="forms of another program than"):
        pack(config, signing_key)
    with pytest.raises(ConfigError, match="--work DIR is missing, the folder that quantize wrote"):
        packed(tmp_path, modl(), signing_key, "[quantize]\ncalibration_scans = 1\nvalidation_scans = 1\nseed = 1\n")


@pytest.mark.parametrize(
    ("drop", "words"),
    [("[quantize]", "[quantize] is missing: calibration_scans"), ("[limits]", "[limits] int8_loss_db: the search")],
)
def test_what_the_search_needs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drop: str, words: str
) -> None:
    config = desk(tmp_path, varnet())
    tables = config.read_text().split("[")
    config.write_text("[".join(table for table in tables if not f"[{table}".startswith(drop)))
    assert quantize(config) == 1
    assert words in capsys.readouterr().err


def test_a_program_without_a_convolution_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    helper, sizes = onnx.helper, ["batch", 2, "rows", "columns"]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)] for name in ("planes", "made")
    )
    graph = helper.make_graph([helper.make_node("Relu", ["planes"], ["made"])], "relu", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "relu.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "relu.toml").write_text(
        'name = "relu"\nversion = "1"\n[model]\ninput = "planes"\noutput = "made"\n'
        "[image]\ninput_channels = 2\noutput_channels = 2\n"
    )
    arguments = ["--checkpoint", str(tmp_path / "relu.onnx"), "--mapping", str(tmp_path / "relu.toml")]
    assert main(["import", "onnx", *arguments, "--out", str(tmp_path / "made.edgeprogram")]) == 0
    (tmp_path / "device.toml").write_text(CONFIG.format(loss=5))
    write_volume(tmp_path / "data")
    assert quantize(tmp_path / "device.toml") == 1
    assert "relu: no graph of it has a convolution: nothing in it can be quantized" in capsys.readouterr().err


def test_what_is_of_trained_models_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = desk(tmp_path, varnet())
    arguments = ["quantize", str(config), "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    assert main([*arguments, "--finetune", "5"]) == 1
    assert "--recording, --finetune: of a model that was trained here" in capsys.readouterr().err


def chain(layers: int, **model: Any) -> bytes:
    """Convolutions one after another, with nameless nodes."""
    import onnx

    helper = onnx.helper
    names = ["planes", *(f"t{number}" for number in range(layers - 1)), "made"]
    nodes = [
        helper.make_node("Conv", [a, "weights"], [b], pads=[1, 1, 1, 1]) for a, b in zip(names, names[1:], strict=False)
    ]
    sizes = ["batch", 2, "rows", "columns"]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)] for name in ("planes", "made")
    )
    weights = onnx.numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "weights")
    graph = helper.make_graph(nodes, "chain", inputs, outputs, [weights])
    opset = helper.make_opsetid("", model.get("opset", 17))
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


@pytest.mark.parametrize(
    ("layers", "sizes"),
    [(1, {"all layers": 1}), (2, {"all layers": 2}), (5, {"outermost layers": 2, "inner layers": 3})],
)
def test_a_graph_has_outermost_and_inner_layers(tmp_path: Path, layers: int, sizes: dict[str, int]) -> None:
    from export.programs.parts import parts_of, with_names
    from export.quantization.forms import write_prepared

    write_prepared(with_names("g.onnx", chain(layers)), tmp_path / "prepared")
    parts = parts_of("g.onnx", tmp_path / "prepared")
    assert {part.name: len(part.nodes) for part in parts} == {f"g.onnx, {name}": size for name, size in sizes.items()}
    assert all(part.nodes and all(part.nodes) for part in parts)


def test_a_graph_that_is_too_old_is_named() -> None:
    from export.programs.parts import with_names

    with pytest.raises(ConfigError, match=r"old\.onnx: operator set 11: 13 or newer is expected to quantize it"):
        with_names("old.onnx", chain(1, opset=11))


def test_memory_is_that_of_the_tensors_that_live_together(tmp_path: Path) -> None:
    from export.programs.memory import live_bytes_per_pixel

    described, content = bending(1)
    # 2 planes that are still needed, 6 wide ones and 6 bent ones
    assert live_bytes_per_pixel(described, content) == 4 * (2 + 6 + 6)


def test_settings_are_the_same_every_time(tmp_path: Path) -> None:
    from export.programs.config import load_program_config
    from export.programs.settings import settings_of

    config = load_program_config(desk(tmp_path, varnet()))
    first, second = (settings_of(varnet(), config) for _ in range(2))
    assert isinstance(first, ProgramSettings) and first == second
