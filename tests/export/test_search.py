"""The search for an INT8 form on a small network: what it measures, in which order, and what it makes of that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from exact_int8 import exact_int8
from made_search import SPOILT_LAYERS, MadeSearch, made_search, small_matrices, small_network, spoilt

from edge_runtime.errors import EngineError
from export.quantization.choice import Budget, Candidate, choice, no_faster, ranked
from export.quantization.report import table, write_report

pytestmark = pytest.mark.full

ANYTHING = Budget(100.0, 1.0)
LESS_THAN_NOTHING = Budget(-100.0, -1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSearch:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_matrices(monkeypatch)
        folder = tmp_path_factory.mktemp("search")
        return made_search(spoilt(small_network()), folder)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_matrices(monkeypatch)


@exact_int8
def test_the_layers_that_quantize_badly_are_kept_first_and_that_mends_the_images(made: MadeSearch) -> None:
    result = made.search().run(ANYTHING)
    assert {one.layer for one in result.sensitivities[:2]} == set(SPOILT_LAYERS)
    assert result.sensitivities == ranked(result.sensitivities)
    order = tuple(one.layer for one in result.sensitivities)
    assert [one.kept for one in result.candidates] == [order[:count] for count in range(len(order))]
    none_kept, spoilt_kept = result.candidates[0], result.candidates[2]
    assert spoilt_kept.lost.psnr_db < 0.5 * none_kept.lost.psnr_db
    assert result.chosen == choice(result.candidates)
    assert all(one.time_ms > 0 for one in result.candidates) and result.fp32.time_ms > 0


def test_what_is_measured_is_the_form_that_is_written(made: MadeSearch) -> None:
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from export.quantization.scans import loss, qualities

    search = made.search()
    result = search.run(ANYTHING)
    assert result.chosen is not None
    plan = OnnxRuntimeEngine().plan
    full, form = (
        qualities(made.scans, made.settings, plan(graph, threads=1))
        for graph in (made.fp32, search.form(result.chosen.kept))
    )
    first = result.chosen.engines[0]
    assert first.engine == "onnxruntime" and loss(made.scans, full, form) == first.lost
    assert first.time_ms == result.chosen.time_ms


def test_single_and_half_precision_are_points_of_the_front(made: MadeSearch) -> None:
    """Of what FP32 does better in less time nothing is on it, however fast INT8 is on the processor that measures."""
    result = made.search().run(ANYTHING)
    whole = (result.fp32, result.fp16, *result.candidates)
    assert result.fp32.lost.psnr_db < 0.01 and result.fp32.kept == ()
    for one in whole:
        assert one.on_front == (not any(other.dominates(one) for other in whole))


def test_a_form_is_judged_on_every_engine_that_its_bundle_runs_on(made: MadeSearch) -> None:
    openvino = pytest.importorskip("edge_runtime.engines.openvino", reason="the extra 'openvino' is not installed")
    result = made.search().run(ANYTHING)
    rest = [f"openvino, rest in {floats}" for floats in openvino.floats_here()]
    for one in result.candidates:
        assert [on.engine for on in one.engines] == ["onnxruntime", *rest]
        assert one.lost.psnr_db == max(on.lost.psnr_db for on in one.engines)
        assert one.lost.ssim == max(on.lost.ssim for on in one.engines)
    assert [on.engine for on in result.fp16.engines] == ["onnxruntime", "openvino"]
    apart = max(result.candidates, key=lambda one: one.lost.psnr_db - one.engines[0].lost.psnr_db)
    between = Budget((apart.lost.psnr_db + apart.engines[0].lost.psnr_db) / 2, 1.0)
    assert between.admits(apart.engines[0].lost)
    again = made.search().run(between)
    assert not again.candidates[len(apart.kept)].admitted  # though ONNX Runtime alone would take it
    assert again.chosen is None or again.chosen.kept != apart.kept


def test_an_engine_that_refuses_the_model_judges_none_of_its_forms(
    made: MadeSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No device runs it there. Whoever resumes the search hears so again, without trying."""
    openvino = pytest.importorskip("edge_runtime.engines.openvino", reason="the extra 'openvino' is not installed")

    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise EngineError("no such operator")

    monkeypatch.setattr(openvino.OpenVinoEngine, "plan", refuse)
    said: list[str] = []
    for _ in range(2):
        search = made.search(said.append, kept_results=tmp_path / "measured.jsonl")
        result = search.run(ANYTHING)
        assert {one.engine for one in result.candidates[0].engines} == {"onnxruntime"}
    assert said.count("no form is judged on openvino: no such operator") == 2
    assert len(tried) == 1


def test_forms_that_are_no_faster_than_single_precision_are_warned_of(made: MadeSearch, tmp_path: Path) -> None:
    said: list[str] = []
    result = made.search(said.append).run(ANYTHING)
    assert result.chosen is not None

    def timed(one: Candidate, factor: float) -> Candidate:
        full = result.fp32.engines[0].time_ms
        return replace(one, engines=(replace(one.engines[0], time_ms=factor * full),))

    for factor, warned in ((1.1, True), (0.96, True), (0.9, False)):
        told = table(replace(result, chosen=timed(result.chosen, factor)), ANYTHING)
        assert ("**INT8 saves no time here** on onnxruntime" in told) is warned
    assert "| all (FP32) |" in told and "| all, in FP16 |" in told
    warned = bool(no_faster(result.chosen, result.fp32))
    assert any(line.startswith("INT8 SAVES NO TIME HERE") for line in said) is warned


def test_a_missed_budget_leaves_the_front_but_no_choice(made: MadeSearch, tmp_path: Path) -> None:
    result = made.search().run(LESS_THAN_NOTHING)
    assert result.chosen is None and not any(one.admitted for one in result.candidates)
    assert any(one.on_front for one in (result.fp32, result.fp16, *result.candidates))
    write_report(result, LESS_THAN_NOTHING, tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["chosen"] is None
    table = (tmp_path / "front.md").read_text()
    assert "Budget: -100 dB and -1 SSIM" in table and "chosen" not in table and "front" in table
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_of_a_layer_alone_is_the_mean_over_the_scans(made: MadeSearch) -> None:
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from export.quantization.scans import qualities

    search = made.search()
    dearest, *others = search.run(ANYTHING).sensitivities
    alone = search.form([one.layer for one in others])
    plan = OnnxRuntimeEngine().plan
    full, form = (qualities(made.scans, made.settings, plan(graph, threads=1)) for graph in (made.fp32, alone))
    assert dearest.lost_psnr_db == pytest.approx(np.mean([a.psnr_db - b.psnr_db for a, b in zip(full, form)]))
