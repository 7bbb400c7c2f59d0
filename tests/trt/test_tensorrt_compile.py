"""`edge-export compile` on a device: every form compiled, checked and timed, and what is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tensorrt import Made

from export.cli import main

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def bundle(tmp_path: Path, tiny_graph: bytes, signing_key: Any) -> Path:
    """With three forms; that called INT8 is as the first, since no number is looked at here."""
    from edge_runtime.bundle import UnrolledSettings
    from export.pack import write_bundle
    from export.quantization.forms import fp16_form

    path = tmp_path / "three.edgebundle"
    write_bundle(
        path,
        name="three",
        version="1",
        settings=UnrolledSettings(2, 3, ((-3.0, 0.5, 0.2), (-3.0, 0.5, 0.2)), multiple=4),
        forms={"fp32": tiny_graph, "fp16": fp16_form(tiny_graph), "int8": tiny_graph},
        golden_input=np.random.default_rng(2).standard_normal((1, 6, 8, 12)).astype(np.float32),
        provenance={"training_data": {"sha256": "0" * 64, "volumes": ["none"]}},
        key=signing_key,
        override="a test",
    )
    return path


def test_every_form_is_compiled_once(made: Made, bundle: Path, tmp_path: Path, capsys) -> None:
    command = ["compile", str(bundle), "--out", str(tmp_path / "engines")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("relative error") == 3 and str(tmp_path / "engines") in said and "fastest" not in said
    assert made.compiled == len(list((tmp_path / "engines").glob("*.engine"))) == 3
    assert main([*command, "--form", "fp16"]) == 0
    assert made.compiled == 3


def test_on_the_device_forms_are_timed_and_the_winner_is_written_down(made, bundle, tmp_path, capsys):
    out = tmp_path / "engines"
    assert main(["compile", str(bundle), "--out", str(out), "--on-device", "--runs", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [form["precision"] for form in record["forms"]] == ["fp16", "fp32", "int8"]
    assert all(form["latency"]["runs"] == 3 and form["engine"].startswith("tensorrt") for form in record["forms"])
    assert record["fastest"] == record["precisions"][0]
    assert set(record["precisions"]) == {"fp16", "fp32", "int8"}
    (written,) = out.glob("*.measured.json")
    assert record["record"] == str(written)
    kept = json.loads(written.read_text())
    assert kept["precisions"] == record["precisions"] and kept["sha256"] == record["sha256"]


def test_for_people_the_winner_is_told_with_what_to_do(made, bundle, tmp_path, capsys):
    assert main(["compile", str(bundle), "--out", str(tmp_path), "--on-device", "--runs", "1"]) == 0
    said = capsys.readouterr().out
    assert "fastest here is" in said and 'precisions = ["' in said and "n = 1)" in said


def test_a_form_that_fails_keeps_no_other_from_being_compiled(made, bundle, tmp_path, capsys):
    made.refuses, made.refuses_only = "could not find any implementation", 1  # the first
    command = ["compile", str(bundle), "--out", str(tmp_path), "--on-device", "--runs", "1", "--json"]
    assert main(command) == 1
    record = json.loads(capsys.readouterr().out)
    errors = {form["precision"]: form["error"] for form in record["forms"]}
    assert errors == {"fp16": "CompilationFailed", "fp32": "", "int8": ""}
    assert set(record["precisions"]) == {"fp32", "int8"}
    assert main(command) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["forms"][0]["error"] == "EngineQuarantined" and "could not find any" in record["forms"][0]["said"]


def test_a_form_that_fails_while_it_is_timed_has_not_won(made, bundle, tmp_path, capsys):
    command = ["compile", str(bundle), "--out", str(tmp_path), "--on-device", "--runs", "1", "--json", "--form", "fp32"]
    made.runs_until_it_fails = 4
    assert main(command) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["fastest"], record["forms"][0]["error"]) == (None, "EngineError")
    assert "failed on an input" in record["forms"][0]["said"]


def test_without_a_gpu_nothing_is_compiled(made, bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EDGE_DRIVER_VERSION", "11040")
    assert main(["compile", str(bundle), "--out", str(tmp_path / "engines")]) == 3
    assert "the driver is of CUDA 11.4" in capsys.readouterr().err
    assert not (tmp_path / "engines").exists()
