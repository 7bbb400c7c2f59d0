"""What `edge-export compile` says where nothing can be compiled, and how it finds what wins; the rest is in tests/trt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from export.cli import main
from export.compile import WARM_UP, Latency, Outcome, preferred, time_in_turn


@pytest.fixture(autouse=True)
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "edge_runtime.engines.tensorrt", raising=False)


def test_without_tensorrt_it_says_so_and_what_can_be_done(tiny_bundle: Path, capsys) -> None:
    assert main(["compile", str(tiny_bundle)]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "edge-export: " in said.err and "TensorRT comes with JetPack" in said.err
    assert "nothing was compiled, run or timed" in said.err and "Run this command there" in said.err


def test_without_tensorrt_the_same_for_machines(tiny_bundle: Path, capsys) -> None:
    assert main(["compile", str(tiny_bundle), "--on-device", "--json"]) == 3
    record = json.loads(capsys.readouterr().out)
    assert (record["error"], record["forms"]) == ("ImportError", [])
    assert "nothing was compiled" in record["said"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--form", "fp8"], "--form fp8: bundle tiny holds fp32"),
        (["--runs", "0"], "--runs 0: 1 to 100000"),
        (["--profile", "nowhere"], "profile 'nowhere' does not exist"),
        (["--trust", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_argument_is_named(tiny_bundle: Path, capsys, arguments: list[str], said: str) -> None:
    assert main(["compile", str(tiny_bundle), *arguments]) == 1
    assert said in capsys.readouterr().err


def test_no_bundle_is_an_error(capsys) -> None:
    assert main(["compile", "nowhere.edgebundle"]) == 1
    assert "no such bundle" in capsys.readouterr().err


def outcomes(**medians_ms: float) -> list[Outcome]:
    return [Outcome(name, "tensorrt", latency=Latency(median, 0, 0, 1)) for name, median in medians_ms.items()]


@pytest.mark.parametrize(
    ("medians_ms", "order"),
    [
        ({"fp32": 30.0, "fp16": 12.0, "int8": 9.0}, ["int8", "fp16", "fp32"]),
        ({"fp32": 30.0, "fp16": 12.0, "int8": 14.0}, ["fp16", "int8", "fp32"]),  # INT8 is often slower
        ({"int8": 10.0, "fp16": 10.4, "fp32": 30.0}, ["fp16", "int8", "fp32"]),  # as good as equal
        ({"int8": 10.0, "fp16": 10.2, "fp32": 10.4}, ["fp32", "fp16", "int8"]),
        ({"int8": 10.0, "fp16": 10.6}, ["int8", "fp16"]),
        ({}, []),
    ],
)
def test_the_fastest_wins_and_of_equals_the_most_precise(medians_ms, order):
    assert preferred([*outcomes(**medians_ms), Outcome("fp8", error="EngineError", said="no")]) == order


class Counting:
    def __init__(self, calls: list[str], name: str, fails_at: int | None = None) -> None:
        self.calls, self.name, self.fails_at = calls, name, fails_at

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.calls.append(self.name)
        if self.calls.count(self.name) == self.fails_at:
            raise EngineError("broken")
        return batch


def test_forms_are_timed_in_turn_after_a_warm_up():
    calls: list[str] = []
    timed = time_in_turn({"a": Counting(calls, "a"), "b": Counting(calls, "b")}, np.zeros((1, 6, 8, 8), np.float32), 5)
    assert calls == ["a", "b"] * (WARM_UP + 5)
    for latency in timed.values():
        assert isinstance(latency, Latency) and latency.runs == 5
        assert 0 <= latency.p10_ms <= latency.median_ms <= latency.p90_ms


def test_one_that_fails_while_it_is_timed_has_its_error_and_the_others_their_times():
    calls: list[str] = []
    sessions = {"a": Counting(calls, "a", fails_at=WARM_UP + 2), "b": Counting(calls, "b")}
    timed = time_in_turn(sessions, np.zeros((1, 6, 8, 8), np.float32), 5)
    assert isinstance(timed["a"], EngineError)
    assert isinstance(timed["b"], Latency) and timed["b"].runs == 5


def test_it_needs_nothing_that_a_device_does_not_have() -> None:
    code = "import sys, export.compile, export.compile_command; print(*({'torch', 'onnx', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
