"""``edge-runtime engines`` and what the doctor says of engines that have failed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import profile_of
from machine_trees import X86, plant

from edge_runtime.cli import main
from edge_runtime.doctor import State, detect, examine
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.engines.quarantine import Case, Kind, Quarantine
from edge_runtime.profile import available_profiles

ENGINE = OnnxRuntimeEngine()
CASE = Case("onnxruntime", ENGINE.version(), ENGINE.conditions(None), "a" * 64, "int8")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(f'{available_profiles()["x86-cpu"]}\n[compile]\ncache = "{tmp_path / "cache"}"\n')
    return path


@pytest.fixture
def failed(tmp_path: Path) -> Quarantine:
    quarantine = Quarantine(tmp_path / "cache")
    quarantine.note(CASE, Kind.HUNG, "onnxruntime has not answered for 31 s")
    return quarantine


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict:
    assert main(["engines", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_every_engine_is_listed_with_what_it_runs_or_lacks(capsys, profile):
    found = {one["name"]: one for one in told(capsys, "--profile", str(profile))["engines"]}
    assert found["onnxruntime"]["allowed"] and found["onnxruntime"]["scores"]["int8"] == 10
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        assert not found[name]["allowed"]
        assert "is built without" in found[name]["lacking"] and "onnxruntime-gpu" in found[name]["lacking"]


def test_one_that_failed_is_named_with_the_reason_and_the_way_back(capsys, profile, failed):
    (mark,) = told(capsys, "--profile", str(profile))["marks"]
    assert (mark["kind"], mark["quarantined"], mark["case"]["precision"]) == ("hung", True, "int8")
    main(["engines", "--profile", str(profile)])
    text = capsys.readouterr().out
    assert "quarantined: onnxruntime for int8 of bundle aaaaaaaaaaaaaaaa" in text
    assert "has not answered for 31 s" in text and "engines --release onnxruntime" in text


def test_it_is_released_by_name_and_once(capsys, profile, failed):
    assert told(capsys, "--profile", str(profile), "--release", "openvino", code=1) == {"released": []}
    (gone,) = told(capsys, "--profile", str(profile), "--release", "onnxruntime")["released"]
    assert gone["case"]["engine"] == "onnxruntime"
    assert failed.marks() == []
    assert main(["engines", "--profile", str(profile), "--release", "all"]) == 1
    assert "nothing is noted of all" in capsys.readouterr().out


def test_the_doctor_warns_of_an_engine_that_has_failed(tmp_path, failed):
    usual = profile_of()
    profile = replace(usual, compilation=replace(usual.compilation, cache=failed.path))
    machine = detect(plant(tmp_path / "root", X86), "x86_64")
    found = {one.name: one for one in examine(machine, profile, None)}["engine onnxruntime"]
    assert (found.state, found.found) == (State.WARNING, ENGINE.version())
    assert "hung: onnxruntime has not answered for 31 s" in found.mend
    assert "edge-runtime engines --release onnxruntime" in found.mend
