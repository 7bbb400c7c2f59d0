"""A search that was interrupted ends with the table of one that was not; one of anything else begins anew, and says so."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from made_search import MadeSearch, made_search, small_matrices, small_network

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from export.quantization import calibration, form_search, search
from export.quantization.calibration import CalibrationData, gathered_ranges
from export.quantization.choice import Budget
from export.quantization.form_search import SearchResult

pytestmark = pytest.mark.full

BUDGET = Budget(100.0, 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeSearch, SearchResult]:
    """A search that nobody interrupted."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_matrices(monkeypatch)
        made = made_search(small_network(), tmp_path_factory.mktemp("whole"))
        return made, made.search().run(BUDGET)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_matrices(monkeypatch)


@pytest.fixture
def kept(whole: tuple[MadeSearch, SearchResult], tmp_path: Path) -> Path:
    """What the whole search measured, in a file of this test's own."""
    return Path(shutil.copy(whole[0].folder / "measured.jsonl", tmp_path))


def forbidden(*_: object, **__: object) -> Any:
    pytest.fail("it was measured again")


def test_a_finished_search_measures_nothing_again(
    whole: tuple[MadeSearch, SearchResult], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qualities", "layer_times_us"):
        monkeypatch.setattr(search, name, forbidden)
    monkeypatch.setattr(search.Search, "_time_of", forbidden)
    said: list[str] = []
    assert whole[0].search(said.append, kept_results=kept).run(BUDGET) == whole[1]
    assert said[0].startswith(f"{kept}: goes on with ")


@pytest.mark.parametrize("after", [1, 6, 12])
def test_an_interrupted_search_ends_with_the_same_table(
    whole: tuple[MadeSearch, SearchResult], kept: Path, after: int
) -> None:
    """Times of what was measured before the interruption are kept, too: ranking and choice hang on them."""
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) > 20
    kept.write_text("".join(lines[: 2 + after]) + lines[2 + after][:40])
    done = whole[0].search(kept_results=kept).run(BUDGET)
    assert [one.saved_us for one in done.sensitivities] == [one.saved_us for one in whole[1].sensitivities]
    assert done.sensitivities == whole[1].sensitivities
    assert [(one.kept, one.lost) for one in done.candidates] == [(one.kept, one.lost) for one in whole[1].candidates]


def test_progress_is_shown(whole: tuple[MadeSearch, SearchResult], kept: Path) -> None:
    said: list[str] = []
    whole[0].search(said.append, kept_results=kept).run(BUDGET)
    count = len(whole[1].sensitivities)
    assert [line.split(":")[0] for line in said[1 : 1 + count]] == [
        f"layer {number} of {count}" for number in range(1, count + 1)
    ]
    assert said[1 + count].startswith(f"0 of {count} layers in floating point")


def another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1" if name == "onnxruntime" else version(name))


def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.digest.files_digest", lambda paths, root: "c" * 64)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("onnxruntime", another_version),
        ("code", other_code),
        ("processor", lambda monkeypatch: monkeypatch.setattr(form_search, "instruction_set", lambda: "abacus")),
    ],
)
def test_another_version_code_or_processor_begins_anew_and_says_so(
    whole: tuple[MadeSearch, SearchResult],
    kept: Path,
    what: str,
    change: Callable[[pytest.MonkeyPatch], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(monkeypatch)
    begins_anew(whole[0], kept, what)


def begins_anew(made: MadeSearch, kept: Path, what: str, **changed: object) -> None:
    said: list[str] = []
    before = len(kept.read_text().splitlines())
    made.search(said.append, kept_results=kept, **changed).run(BUDGET)
    assert "begins anew, since its results are of another " + what in said[0]
    assert len(kept.read_text().splitlines()) == 2 * before  # all of it was measured


def test_other_settings_scans_or_size_begin_anew_and_say_so(whole: tuple[MadeSearch, SearchResult], kept: Path) -> None:
    made = whole[0]
    begins_anew(made, kept, "settings", settings=replace(made.settings, cg_steps=3))
    for what, changed in (
        ("settings", {"image": np.zeros((1, 6, 16, 16), np.float32)}),
        ("scans", {"scans": made.scans[:2]}),
    ):
        said: list[str] = []
        made.search(said.append, kept_results=kept, **changed)
        assert "begins anew" in said[0] and what in said[0]


def test_a_mask_is_part_of_a_scan(whole: tuple[MadeSearch, SearchResult], kept: Path) -> None:
    made = whole[0]
    first = made.scans[0]
    other = replace(first, samples=replace(first.samples, measured=~first.samples.measured))
    said: list[str] = []
    made.search(said.append, kept_results=kept, scans=[other, *made.scans[1:]])
    assert "begins anew, since its results are of another scans" in said[0]


def gather(made: MadeSearch, said: list[str], **changed: object) -> tuple[Path, dict[str, Any]]:
    data = replace(CalibrationData(made.folder / "pool", 2, 3), **changed)
    session = OnnxRuntimeEngine().plan(made.fp32, threads=1)
    return gathered_ranges(made.folder / "prepared.onnx", data, made.settings, session, made.folder, said.append)


def test_ranges_are_gathered_once_with_progress_and_anew_for_other_data(
    whole: tuple[MadeSearch, SearchResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(whole[0], folder=Path(shutil.copytree(whole[0].folder, tmp_path / "copy")))
    monkeypatch.setattr("export.progress.SECONDS", -1.0)
    said: list[str] = []
    ranges, provenance = gather(made, said)
    assert said == [f"states for ranges: {number} of 4" for number in range(1, 5)]
    assert provenance["scans"] == 2 and len(provenance["pool_sha256"]) == 64
    before = ranges.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "write_ranges", forbidden)
        assert gather(made, said)[0].read_bytes() == before
    assert len(said) == 4

    gather(made, said, seed=4)
    assert "begins anew, since its results are of another calibration" in said[4]
    assert ranges.read_bytes() != before

    gather(made, said)  # of the first data again: the file holds others by now
    assert ranges.read_bytes() == before


def test_ranges_that_somebody_changed_are_gathered_again(
    whole: tuple[MadeSearch, SearchResult], tmp_path: Path
) -> None:
    made = replace(whole[0], folder=Path(shutil.copytree(whole[0].folder, tmp_path / "copy")))
    ranges, _ = gather(made, [])
    before = ranges.read_bytes()
    ranges.write_text(json.dumps({"nothing": 0}))
    assert gather(made, [])[0].read_bytes() == before
