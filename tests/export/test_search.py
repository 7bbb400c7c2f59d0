"""The search for an INT8 form on a small network: what it measures, in which order, and what it makes of that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from exact_int8 import exact_int8
from made_search import SPOILT_LAYERS, MadeSearch, made_search, small_matrices, small_network, spoilt

from export.quantization.choice import Budget, choice, ranked
from export.quantization.report import write_report

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
    assert all(one.time_ms > 0 for one in result.candidates) and result.fp32_time_ms > 0


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
    assert loss(made.scans, full, form) == result.chosen.lost


def test_a_missed_budget_leaves_the_front_but_no_choice(made: MadeSearch, tmp_path: Path) -> None:
    result = made.search().run(LESS_THAN_NOTHING)
    assert result.chosen is None and not any(one.admitted for one in result.candidates)
    assert any(one.on_front for one in result.candidates)
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
