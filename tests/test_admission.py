"""The best engine that reproduces the golden outputs runs; what takes another's place is told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import engines
from edge_runtime.admission import admit, purpose_of
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.engines import Purpose, Session, Tensor
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.engines.quarantine import Kind, Quarantine
from edge_runtime.errors import DeviceFailed, EngineError, GoldenMismatch
from edge_runtime.profile import Compilation


class Wrong(OnnxRuntimeEngine):
    """Better by its score, and wrong by a percent; remembers what it was told."""

    name = "wrong"
    purposes: list[Purpose | None] = []
    discarded: list[str] = []
    breaks = False

    def version(self) -> str:
        return "wrong 1.25"

    def score(self, precision: str) -> int:
        return 99

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        self.purposes.append(purpose)
        if self.breaks:
            raise DeviceFailed("the GPU is gone")
        session, discarded = super().plan(onnx, threads), self.discarded

        class WrongSession:
            def run(self, batch: Tensor) -> Tensor:
                return session.run(batch) * np.float32(1.01)

            def discard(self) -> None:
                discarded.append("it")

        return WrongSession()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``~`` is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """One that is qualified for the wrong engine too, which the registry has."""
    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "wrong": Wrong, "worse": Worse, "gone": Gone})
    for name in ("purposes", "discarded"):
        monkeypatch.setattr(Wrong, name, [])
    bundle = load_bundle(tiny_bundle)
    form = bundle.forms["fp32"]
    (row,) = [one for one in form.tolerances if one.engine == "onnxruntime"]
    rows = tuple(replace(row, engine=name) for name in ("wrong", "worse"))
    return replace(bundle, forms={"fp32": replace(form, tolerances=(row, *rows))})


class Worse(Wrong):
    name = "worse"
    breaks = True

    def version(self) -> str:
        return "worse 1.25"


class Gone(Wrong):
    name = "gone"

    def __init__(self) -> None:
        raise DeviceFailed("no GPU here")


def go(bundle: Bundle, *names: str):
    return admit(bundle, bundle.forms["fp32"], names, 1, Compilation(cache=Path("~/engines"), usual=62, largest=101))


def test_an_engine_that_is_right_is_admitted_without_a_word(bundle, caplog):
    admitted = go(bundle, "onnxruntime")
    assert admitted.description == OnnxRuntimeEngine().version()
    assert admitted.difference < 1e-3
    assert not caplog.records


def test_one_that_fails_gives_its_place_to_the_next_and_both_are_named(bundle, caplog, home):
    admitted = go(bundle, "onnxruntime", "wrong")
    assert admitted.description == f"{OnnxRuntimeEngine().version()} instead of wrong"
    assert "wrong fails for fp32 of bundle tiny" in caplog.text and "next comes onnxruntime" in caplog.text
    assert Wrong.discarded == ["it"]
    (mark,) = Quarantine(home / "engines").marks()
    assert (mark.case.engine, mark.kind, mark.quarantined) == ("wrong", Kind.GOLDEN, True)
    assert "golden outputs differ by 1.00e-02" in mark.why


def test_one_that_can_not_be_used_is_named_where_it_should_have_come_first(bundle, caplog):
    with caplog.at_level(logging.WARNING):
        assert go(bundle, "gone", "onnxruntime").description.endswith(" instead of gone")
        assert "gone is passed over for fp32 of bundle tiny: no GPU here" in caplog.text
        assert "instead of" not in go(bundle, "onnxruntime", "gone").description


def test_what_the_only_engine_says_is_what_is_raised(bundle):
    with pytest.raises(GoldenMismatch, match=r"^bundle tiny fp32: golden outputs differ by 1.00e-02"):
        go(bundle, "wrong")
    with pytest.raises(DeviceFailed, match=r"^the GPU is gone$"):
        go(bundle, "worse")


def test_where_all_fail_each_says_why(bundle):
    with pytest.raises(GoldenMismatch, match=r"differ by 1.00e-02.*nor is another engine fit: worse: the GPU is gone"):
        go(bundle, "wrong", "worse")


def test_an_engine_that_the_bundle_is_not_qualified_for_plans_nothing(bundle):
    other = replace(bundle, forms={"fp32": replace(bundle.forms["fp32"], tolerances=())})
    with pytest.raises(GoldenMismatch, match=r"not qualified for wrong 1\.25"):
        go(other, "wrong")
    assert Wrong.purposes == []


def test_no_engine_at_all_is_an_error(bundle):
    with pytest.raises(EngineError, match=r"abacus: unknown.*gone: no GPU here"):
        go(bundle, "abacus", "gone")


def test_sizes_are_multiples_and_the_golden_input_is_among_them(bundle):
    go(bundle, "wrong", "onnxruntime")
    (purpose,) = Wrong.purposes
    assert purpose == purpose_of(bundle, bundle.forms["fp32"], Compilation(Path("~/engines"), 62, 101))
    assert (purpose.least, purpose.usual, purpose.most) == ((4, 4), (60, 60), (100, 100))
    small = purpose_of(bundle, bundle.forms["fp32"], Compilation(usual=4, largest=8))
    assert (small.least, small.usual, small.most) == ((4, 4), (4, 4), (8, 12))
