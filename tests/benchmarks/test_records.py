"""Records, their table, and the runner's exit codes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.records import Record, environment, merge, read, summarise, table, write

KEYS = ["name", "value", "unit", "better", "peer", "peer_value", "threads", "n", "p10", "p90", "target", "note"]


def figures(quick: bool) -> list[Record]:
    """A benchmark that misses its target."""
    return [
        summarise("speed.slow_ms", [30.0, 10.0, 20.0], unit="ms", better="lower", target=5.0, note=f"quick: {quick}")
    ]


def breaks(quick: bool) -> list[Record]:
    raise RuntimeError("no such device")


def test_a_summary_is_the_median_with_its_spread() -> None:
    record = summarise(
        "a", list(range(11)), unit="ms", better="lower", peer="BART", peer_samples=[4.0, 8.0], threads=2, target=5.0
    )
    assert (record.value, record.n, record.p10, record.p90, record.peer_value) == (5, 11, 1, 9, 6)
    assert record.met


def test_a_peer_that_did_not_run_has_no_value() -> None:
    record = summarise("a", [1.0], unit="ms", better="lower", peer="BART")
    assert record.peer_value is None
    assert "BART not run" in table([record])


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_measurement_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="speed"):
        summarise("speed", samples, unit="ms", better="lower")


@pytest.mark.parametrize(
    ("value", "better", "target", "met"),
    [
        (4, "lower", 5, True),
        (6, "lower", 5, False),
        (6, "higher", 5, True),
        (4, "higher", 5, False),
        (4, "lower", None, None),
    ],
)
def test_targets(value: float, better: str, target: float | None, met: bool | None) -> None:
    record = Record("a", value, "ms", better, target=target)  # type: ignore[arg-type]
    assert record.met is met
    row = table([record]).splitlines()[1]
    assert ("pass" in row, "MISS" in row) == (met is True, met is False)


def test_files_hold_a_list_with_the_agreed_keys(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    records = [*figures(False), environment("by a test")]
    write(path, records)
    assert [field.name for field in fields(Record)] == KEYS
    assert [list(item) for item in json.loads(path.read_text())] == [KEYS, KEYS]
    assert read(path) == records
    assert read(tmp_path / "absent.json") == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "a"}]', '{"name": "a"}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bench\.json.*delete it"):
        read(path)


def test_new_records_replace_old_ones_in_place() -> None:
    old = [Record(name, 1, "ms", "lower") for name in ("a", "b", "c")]
    new = [Record("d", 2, "ms", "lower"), Record("b", 2, "ms", "lower")]
    assert [(record.name, record.value) for record in merge(old, new)] == [("a", 1), ("b", 2), ("c", 1), ("d", 2)]


def test_a_missed_target_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "BENCHMARKS", {"speed": f"{__name__}:figures"})
    path = tmp_path / "bench.json"
    assert run.main(["--out", str(path), "--quick"]) == 0
    assert "MISS" in capsys.readouterr().out
    (record,) = (record for record in read(path) if record.name == "speed.slow_ms")
    assert record.note == "QUICK RUN, not a figure. quick: True"


def test_a_broken_benchmark_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BENCHMARKS", {"broken": f"{__name__}:breaks", "speed": f"{__name__}:figures"})
    path = tmp_path / "bench.json"
    assert run.main(["--out", str(path)]) == 1
    assert [record.name for record in read(path)] == ["environment", "speed.slow_ms"]


@pytest.mark.parametrize("only", ["speed", "speed.slow_ms", "sp"])
def test_only_some_are_run_and_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str) -> None:
    monkeypatch.setattr(run, "BENCHMARKS", {"broken": f"{__name__}:breaks", "speed": f"{__name__}:figures"})
    path = tmp_path / "bench.json"
    write(path, [Record("broken.before", 1, "ms", "lower")])
    assert run.main(["--out", str(path), "--only", only]) == 0
    assert [record.name for record in read(path)] == ["broken.before", "environment", "speed.slow_ms"]


def test_unknown_names_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--out", str(tmp_path / "bench.json"), "--only", "nothing"])
    assert ended.value.code == 2


@pytest.mark.full
def test_every_benchmark_exists() -> None:
    for place in run.BENCHMARKS.values():
        assert callable(run._load(place))
