"""`edge-export import` of modules and ready graphs: what is taken, and what is refused with which words."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realdata import needs_recorded_scans

from export.cli import main

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.full

MAPPING = """
name = "halving"
version = "2"
[model]
class = "networks_of_others:{name}"
{arguments}
[image]
input_channels = 2
output_channels = 2
multiple = 2
least = 4
"""
ONNX_MAPPING = """
name = "ready"
version = "1"
[model]
input = "{input}"
output = "correction"
[image]
input_channels = {channels}
output_channels = 2
"""


@pytest.fixture(autouse=True)
def _no_measured_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DATA", str(tmp_path / "nothing"))


def halving(seed: int = 1) -> Any:
    from networks_of_others import Halving

    torch.manual_seed(seed)
    model = Halving(width=5)
    for _ in range(3):  # statistics of its own in the normalisation
        model(torch.randn(4, 2, 8, 8))
    return model.eval()


def written(
    folder: Path, weights: object, name: str = "Halving", arguments: str = "width = 5", extra: str = ""
) -> None:
    torch.save(weights, folder / "model.pt")
    (folder / "model.toml").write_text(MAPPING.format(name=name, arguments=arguments) + extra)


def run(folder: Path, *more: str, source: str = "module", checkpoint: str = "model.pt") -> int:
    arguments = ["import", source, "--checkpoint", str(folder / checkpoint), "--mapping", str(folder / "model.toml")]
    return main([*arguments, "--out", str(folder / "out"), *more])


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    """What a refused import says; it must have written nothing."""
    assert run(folder, **options) == 1
    assert not (folder / "out").exists()
    return capsys.readouterr().err


def test_a_module_becomes_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from edge_runtime.kernels import Plans, Workers
    from export.adapters.program import interpreter_of
    from export.adapters.storage import read_program

    model = halving()
    written(tmp_path, model.state_dict())
    assert run(tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stages"] == 1 and all(case["difference"] < 1e-5 for case in told["cases"])
    assert told["notes"] and "random input only" in told["notes"][0]
    program = read_program(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [case["origin"] for case in report["cases"]] == ["random"] * 5
    interpreter, plans = interpreter_of(program, OnnxRuntimeEngine()), Plans(Workers(1))
    for size in [(1, 2, 4, 4), (5, 2, 18, 30), (2, 2, 64, 6)]:
        planes = np.random.default_rng(0).standard_normal(size).astype(np.float32)
        assert np.allclose(interpreter.run(planes, plans), model(torch.from_numpy(planes)).detach(), atol=1e-5)


@needs_recorded_scans
def test_a_module_is_compared_on_measured_data_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from realdata import DATA

    monkeypatch.setenv("EDGE_DATA", os.fspath(DATA))
    written(tmp_path, halving().state_dict())
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "164120.dat, 128 x 128: at most" in out and "written: " in out


@pytest.mark.parametrize("version", ["v1.0-beta", "1.0\\n2"])
def test_what_no_bundle_can_hold_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    written(tmp_path, halving().state_dict())
    mapping = tmp_path / "model.toml"
    mapping.write_text(mapping.read_text().replace('version = "2"', f'version = "{version}"'))
    assert "no bundle can hold it: the manifest is malformed: version" in refusal(tmp_path, capsys)


def test_weights_are_found_by_key_and_prefix(tmp_path: Path) -> None:
    named = {f"net.{name}": value for name, value in halving().state_dict().items()}
    written(tmp_path, {"epoch": 3, "state": {"weights": {**named, "loss.scale": torch.ones(1)}}})
    mapping = tmp_path / "model.toml"
    mapping.write_text(mapping.read_text() + '[checkpoint]\nkey = "state/weights"\nprefix = "net."\n')
    assert run(tmp_path) == 0


class Pickled:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, {"state_dict": halving().state_dict(), "hook": Pickled(tmp_path / "ran")})
    said = refusal(tmp_path, capsys)
    assert "holds more than weights, and none of it was run" in said and "system" in said
    assert "torch.save(model.state_dict(), path)" in said
    assert not (tmp_path / "ran").exists()


def turned(how: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """A change of one weight into another kind of tensor."""
    return lambda weights: weights.update({"last.weight": how(weights["last.weight"])})


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_another_precision_are_taken(tmp_path: Path, kind: str) -> None:
    weights = {
        name: value.to(getattr(torch, kind)) if value.is_floating_point() else value
        for name, value in halving().state_dict().items()
    }
    written(tmp_path, weights)
    assert run(tmp_path) == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda weights: weights.pop("last.bias"), "1 missing: last.bias"),
        (lambda weights: weights.update(other=torch.ones(1)), "1 left over: other"),
        (lambda weights: weights.update({"last.bias": torch.ones(3)}), "last.bias has shape (3,), the model's is (2,)"),
        (lambda weights: weights["last.bias"].fill_(float("nan")), "last.bias holds numbers that are not finite"),
        (lambda weights: weights.update(epoch=3), "epoch are no weights"),
        (
            turned(lambda weight: weight.to_sparse()),
            "last.weight holds torch.sparse_coo torch.float32, the model's is torch.float32",
        ),
        (turned(lambda weight: weight.to("meta")), "last.weight holds meta torch.float32, the model's is"),
        (
            turned(lambda weight: weight + 1j),
            "last.weight holds torch.complex64, the model's is torch.float32: dense weights",
        ),
        (turned(lambda weight: weight.to(torch.int8)), "last.weight holds torch.int8, the model's is torch.float32"),
        (
            turned(lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)),
            "last.weight holds quantized torch.qint8, the model's is torch.float32",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, match: str
) -> None:
    weights = dict(halving().state_dict())
    change(weights)
    written(tmp_path, weights)
    assert match in refusal(tmp_path, capsys)


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, halving().state_dict())
    with zipfile.ZipFile(tmp_path / "model.pt") as saved:
        content = {one: saved.read(one) for one in saved.namelist()}
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in content.items():
            archive.writestr(name, member)
    assert "a compressed archive, which unpacks to" in refusal(tmp_path, capsys)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, {})
    (tmp_path / "model.pt").write_bytes(b"GIF89a")
    assert str(tmp_path / "model.pt") in refusal(tmp_path, capsys)
    (tmp_path / "model.pt").unlink()
    assert "no such file" in refusal(tmp_path, capsys)


@pytest.mark.parametrize(
    ("arguments", "extra", "match"),
    [
        ("depth = 5", "", "[model] has depth; Halving takes width, planes"),
        ('width = "wide"', "", "[model]: Halving refuses"),
        ("width = 5", "\n[image2]\n", "has image2; known here are"),
        ("width = 5", "colour = true\n", "[image] has colour"),
        ("width = 5", 'pad = "around"\n', "[image] pad = 'around': one of none, centre, end is expected"),
    ],
)
def test_a_wrong_mapping_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, extra: str, match: str
) -> None:
    written(tmp_path, halving().state_dict(), arguments=arguments, extra=extra)
    assert match in refusal(tmp_path, capsys)


def test_a_class_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, halving().state_dict(), name="Nowhere")
    assert "class = 'networks_of_others:Nowhere': package.module:Class of a torch.nn.Module is expected" in refusal(
        tmp_path, capsys
    )


def test_what_is_no_module_is_never_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, halving().state_dict(), arguments=f'command = "touch {tmp_path / "ran"}"')
    mapping = tmp_path / "model.toml"
    mapping.write_text(mapping.read_text().replace("networks_of_others:Halving", "os:system"))
    assert "class = 'os:system': package.module:Class of a torch.nn.Module is expected" in refusal(tmp_path, capsys)
    assert not (tmp_path / "ran").exists()


def test_a_module_that_writes_into_its_input_is_compared_on_what_it_was_given(tmp_path: Path) -> None:
    written(tmp_path, halving().state_dict(), name="InPlace")
    assert run(tmp_path) == 0


def test_sizes_that_the_mapping_does_not_declare_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, halving().state_dict())
    mapping = tmp_path / "model.toml"
    mapping.write_text(mapping.read_text().replace("multiple = 2\nleast = 4\n", ""))
    said = refusal(tmp_path, capsys)
    assert "halving: the original fails on random, batch 2, 37 x 45: RuntimeError" in said
    assert "[image] says which: multiple and least" in said


def embedded(folder: Path, more: str) -> None:
    from networks_of_others import Embedded

    written(folder, Embedded(24, 36).state_dict(), "Embedded", "rows = 24\ncolumns = 36", more)


def test_a_module_of_one_matrix_is_taken_where_the_mapping_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.adapters.storage import read_program

    embedded(tmp_path, "rows = 24\ncolumns = 36\n")
    assert run(tmp_path, "--json") == 0
    cases = [case["case"] for case in json.loads(capsys.readouterr().out)["cases"]]
    assert cases[:2] == ["random, batch 1, 24 x 36", "random, batch 2, 24 x 36"]
    (graph,) = read_program(tmp_path / "out").graphs
    assert (graph.batch, graph.rows, graph.columns) == (None, 24, 36)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ("", "network: Embedded can't be written as ONNX, traced at "),
        ("rows = 24\ncolumns = 34\n", "network: Embedded can't be written as ONNX, traced at "),
        (
            "rows = 23\n",
            "[image] rows = 23: a multiple of 2 that is 4 at least, as multiple and least say, is expected",
        ),
        ('rows = 24\npad = "end"\n', "[image] pad = 'end': none, as rows or columns are fixed, is expected"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, match: str
) -> None:
    embedded(tmp_path, more)
    assert match in refusal(tmp_path, capsys)


def test_a_ready_graph_of_another_matrix_than_the_mapping_says_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shape, found in (([1, 2, 24, 20], "24"), (["batch", 2, "rows", "columns"], "dynamic")):
        ready(tmp_path, convolution(shape=shape))
        mapping = tmp_path / "model.toml"
        mapping.write_text(mapping.read_text() + "rows = 32\n")
        said = refusal(tmp_path, capsys, source="onnx", checkpoint="ready.onnx")
        assert f"rows are {found}; [image] rows = 32" in said


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, halving().state_dict(), name="Named")
    assert "network: makes a dict; one tensor is expected" in refusal(tmp_path, capsys)


def test_a_graph_fixed_to_one_size_departs_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, halving().state_dict(), name="Sized")
    said = refusal(tmp_path, capsys)
    assert "halving: network: departs from the original by" in said and "(tolerance 0.0001)" in said


@pytest.mark.parametrize(("by", "limit"), [("columns", 200), ("values", 8)])
def test_a_module_that_decides_by_size_or_values_departs_on_what_the_trace_did_not_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str, limit: float
) -> None:
    arguments = f'width = 5\nby = "{by}"\nlimit = {limit}'
    written(tmp_path, halving().state_dict(), name="Deciding", arguments=arguments)
    said = refusal(tmp_path, capsys)
    assert "halving: network: departs from the original by" in said and "random, batch 1, 288 x 256, times 100" in said


@pytest.mark.parametrize(("by", "limit"), [("columns", 3000), ("values", 1e6)])
def test_what_the_trace_made_constant_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str, limit: float
) -> None:
    arguments = f'width = 5\nby = "{by}"\nlimit = {limit}'
    written(tmp_path, halving().state_dict(), name="Deciding", arguments=arguments)
    assert run(tmp_path) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    where = "network: networks_of_others.py:"
    notes = [note for note in report["notes"] if note.startswith(where)]
    assert notes and "what hangs on a tensor's values or size there is fixed in the graph" in notes[0]
    assert where in capsys.readouterr().out


def test_a_module_that_onnx_has_no_words_for_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, {"gain": torch.ones(1)}, name="Spectral", arguments="")
    assert "network: Spectral can't be written as ONNX" in refusal(tmp_path, capsys)


@pytest.mark.parametrize("tolerance", ["0", "nan", "2"])
def test_a_tolerance_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerance: str
) -> None:
    written(tmp_path, halving().state_dict())
    assert run(tmp_path, "--tolerance", tolerance) == 1
    assert "between 0 and 1" in capsys.readouterr().err


def convolution(**changes: Any) -> Any:
    """A ready graph ``planes`` to ``correction`` of one convolution, with something about it changed."""
    helper, kind = onnx.helper, onnx.TensorProto
    weights = np.random.default_rng(1).standard_normal((2, 2, 3, 3)).astype(np.float32)
    shape = changes.get("shape", ["batch", 2, "rows", "columns"])
    node = helper.make_node(
        "Conv", ["planes", "weights"], ["correction"], pads=[1, 1, 1, 1], domain=changes.get("domain", "")
    )
    inputs = [helper.make_tensor_value_info("planes", changes.get("type", kind.FLOAT), shape)]
    if "second" in changes:
        inputs.append(helper.make_tensor_value_info("sigma", kind.FLOAT, [1]))
    graph = helper.make_graph(
        [node],
        "ready",
        inputs,
        [helper.make_tensor_value_info("correction", changes.get("type", kind.FLOAT), shape)],
        [onnx.numpy_helper.from_array(weights.astype(changes.get("numbers", np.float32)), "weights")],
    )
    domains = [helper.make_opsetid("", 17)]
    if changes.get("domain"):
        domains.append(helper.make_opsetid(changes["domain"], 1))
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    if "external" in changes:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/hostname")
        model.graph.initializer[0].ClearField("raw_data")
    return model


def ready(folder: Path, model: Any, input_name: str = "planes", channels: int = 2) -> None:
    (folder / "ready.onnx").write_bytes(model.SerializeToString())
    (folder / "model.toml").write_text(ONNX_MAPPING.format(input=input_name, channels=channels))


@pytest.mark.parametrize("shape", [["batch", 2, "rows", "columns"], [1, 2, 24, 20]])
def test_a_ready_graph_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: list[Any]) -> None:
    model = convolution(shape=shape)
    ready(tmp_path, model)
    assert run(tmp_path, "--json", source="onnx", checkpoint="ready.onnx") == 0
    assert (tmp_path / "out" / "network.onnx").read_bytes() == model.SerializeToString()
    cases = [case["case"] for case in json.loads(capsys.readouterr().out)["cases"]]
    fixed = shape[0] == 1
    assert cases[1] == ("random, batch 1, 24 x 20" if fixed else "random, batch 2, 37 x 45")


@pytest.mark.parametrize(
    ("changes", "mapping", "match"),
    [
        ({}, {"input_name": "image"}, "its input is 'planes'; [model] input = 'image'"),
        ({}, {"channels": 3}, "has 2 input channels; [image] input_channels = 3"),
        ({"domain": "com.microsoft"}, {}, "operators of the domain com.microsoft; only ONNX's own are taken"),
        ({"external": True}, {}, "keeps the weights of weights in another file"),
        ({"second": True}, {}, "inputs planes, sigma; outputs correction; one of each is expected"),
        ({"type": 10, "numbers": np.float16}, {}, "planes is of type FLOAT16; FLOAT (32 bits) is expected"),
        ({"shape": ["batch", 2, "pixels"]}, {}, "has 3 axes"),
        ({"shape": ["batch", "planes", "rows", "columns"]}, {}, "dynamic channels"),
    ],
)
def test_a_ready_graph_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], mapping: dict[str, Any], match: str
) -> None:
    ready(tmp_path, convolution(**changes), **mapping)
    assert match in refusal(tmp_path, capsys, source="onnx", checkpoint="ready.onnx")


def test_a_graph_may_name_domains_that_no_node_of_it_is_of(tmp_path: Path) -> None:
    """ONNX Runtime's own quantizer writes such files."""
    model = convolution()
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    ready(tmp_path, model)
    assert run(tmp_path, source="onnx", checkpoint="ready.onnx") == 0


def test_a_graph_that_was_quantized_elsewhere_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class States(CalibrationDataReader):  # type: ignore[misc]
        left = [{"planes": np.random.default_rng(0).standard_normal((1, 2, 32, 32)).astype(np.float32)}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    (tmp_path / "plain.onnx").write_bytes(convolution().SerializeToString())
    quantize_static(tmp_path / "plain.onnx", tmp_path / "int8.onnx", States())
    ready(tmp_path, onnx.load(tmp_path / "int8.onnx"))
    assert run(tmp_path, "--tolerance", "0.05", "--json", source="onnx", checkpoint="ready.onnx") == 0
    assert all(case["difference"] < 0.05 for case in json.loads(capsys.readouterr().out)["cases"])


def test_a_graph_that_repeats_as_often_as_it_says_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    again, more = (helper.make_tensor_value_info(name, kind.BOOL, []) for name in ("again", "more"))
    number = helper.make_tensor_value_info("number", kind.INT64, [])
    kept, made = (helper.make_tensor_value_info(name, kind.FLOAT, None) for name in ("kept", "made"))
    nodes = [helper.make_node("Identity", ["again"], ["more"]), helper.make_node("Add", ["kept", "kept"], ["made"])]
    body = helper.make_graph(nodes, "body", [number, again, kept], [more, made])
    model = convolution()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(2**62), "times"))
    model.graph.node[0].output[0] = "once"
    model.graph.node.append(helper.make_node("Loop", ["times", "", "once"], ["correction"], body=body))
    ready(tmp_path, model)
    said = refusal(tmp_path, capsys, source="onnx", checkpoint="ready.onnx")
    assert "operators Loop, which repeat as often as a tensor says" in said


def test_a_graph_that_wants_more_memory_than_there_is_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helper = onnx.helper
    model = convolution()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**6, 10**6, 10**3]), "size"))
    model.graph.node[0].output[0] = "once"
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["once", "sum"], ["correction"]),
        ]
    )
    ready(tmp_path, model)
    said = refusal(tmp_path, capsys, source="onnx", checkpoint="ready.onnx")
    assert "ready: the original fails on random" in said and "Memory" in said


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready(tmp_path, convolution())
    (tmp_path / "ready.onnx").write_bytes(b"\x08\xff\xff not a graph")
    assert "ready.onnx: no" in refusal(tmp_path, capsys, source="onnx", checkpoint="ready.onnx")


def test_packages_that_are_not_installed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastmri", None)
    torch.save({}, tmp_path / "model.pt")
    (tmp_path / "model.toml").write_text(
        'name = "u"\nversion = "1"\n[model]\nkind = "Unet"\nin_chans = 1\nout_chans = 1\n'
    )
    said = refusal(tmp_path, capsys, source="fastmri")
    assert "can't be imported" in said and "make .venv-import/.ready" in said


def test_a_module_is_served_from_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signing_key: Any, serve: Any
) -> None:
    from simulated import readouts_of, scan_bytes, usual_kspace

    from export.programs.bundle import make_program_bundle
    from export.programs.config import load_program_config

    written(tmp_path, halving().state_dict())
    assert run(tmp_path) == 0
    config, bundle = tmp_path / "device.toml", tmp_path / "halving.edgebundle"
    config.write_text('program = "out"\n')
    make_program_bundle(load_program_config(config), config, None, bundle, signing_key, override="seeded weights")
    replies = serve(bundle=bundle).exchange(scan_bytes(readouts_of(usual_kspace()), configuration="edge"))
    assert replies.kinds() == [("learned", "final"), ("classical", "final")]
    assert "EdgeBundle" in replies.images[0].attributes and "halving 2" in replies.images[0].attributes
