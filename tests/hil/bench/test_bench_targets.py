"""The bench against servers that listen already: of another make, of ours with metrics, and several scanners at once."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROFILE, USUAL_LIMITS
from hypothesis import given
from hypothesis import strategies as st
from simulated import readouts_of, scan_bytes, usual_kspace

from edge_runtime.cli import main
from edge_runtime.hil.bench.stages import Reports, parse_metrics_url, stages_between, told
from edge_runtime.hil.bench.target import parse_address

TESTS = Path(__file__).parents[2]
LINES = 32

PROTOCOL = """
name = "small"
version = 1
stagger_s = 0.02
[[scan]]
name = "T1"
file = "scan.mrd"
repetition_time_ms = {repetition_time_ms}
config = "edge-classical"
image = "classical"
deadline_ms = {deadline_ms}
pause_s = {pause_s}
"""


def protocol(folder: Path, **changes: float) -> str:
    """A protocol of one scan of one slice, fully sampled."""
    (folder / "scan.mrd").write_bytes(scan_bytes(readouts_of(usual_kspace())))
    path = folder / "small.toml"
    usual = {"repetition_time_ms": 2, "deadline_ms": 60_000, "pause_s": 0}
    path.write_text(PROTOCOL.format(**{**usual, **changes}), encoding="utf-8")
    return str(path)


def report_of(folder: Path, name: str = "bench.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@contextmanager
def running(*command: str) -> Iterator[Any]:
    """A server in a process of its own; yields what it announces."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())
        finally:
            server.terminate()


def run(folder: Path, *options: str, **changes: float) -> tuple[int, Any]:
    command = ["bench", "run", "--quiet", "--warm-up", "0", "--out", str(folder / "out")]
    code = main([*command, "--protocol", protocol(folder, **changes), *options])
    return code, report_of(folder / "out")


def test_a_server_of_another_make(tmp_path: Path) -> None:
    """It has no reports, no metrics and no names for its images; what it can't be asked is called not measured."""
    with running(str(TESTS / "foreign_mrd.py"), str(tmp_path)) as port:
        code, report = run(
            tmp_path, "--target", f"127.0.0.1:{port}", "--config", "any", "--image", "image", "--repeat", "3"
        )
    measures = report["measures"]
    assert code == 0 and list(measures["methods"]) == ["image"]
    assert (measures["completed"], measures["images_expected"], measures["images_lost"]) == (3, 3, 0)
    assert measures["quality"]["identical"] == 3
    assert measures["readouts"] == 3 * LINES
    assert report["stages"] == report["readouts_taken"] == "not measured"
    assert report["provenance"]["bundle_digests"] == []
    assert report["provenance"]["server"] == "not measured"
    # Every connection was a scan, the golden one too: nothing else was tried on a server that may mistake it for one.
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [f"{number}.npy" for number in range(4)]
    images = [np.load(path) for path in tmp_path.glob("*.npy")]
    assert all(np.array_equal(image, images[0]) and image.max() > 0 for image in images)
    assert report["readings"], "its process is on this machine and was watched"


def test_what_the_servers_metrics_say(tmp_path: Path) -> None:
    serve = ["serve", "--port", "0", "--json", "--classical-only", "--previews", "none", "--metrics", "0"]
    with running("-m", "edge_runtime.cli", *serve) as said:
        where = f"http://127.0.0.1:{said['metrics']['port']}/metrics"
        target = f"127.0.0.1:{said['port']}"
        code, report = run(tmp_path, "--target", target, "--metrics", where, "--repeat", "2")
        _, blind = run(
            tmp_path, "--target", target, "--metrics", where.replace("/metrics", "/nothing"), "--repeat", "1"
        )
    assert code == 0
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert {"ingest", "calibration", "classical", "send"} <= stages.keys()
    assert stages["classical"]["count"] == 2  # those of the golden result came before
    assert stages["classical"]["p90_ms"] is None and stages["classical"]["mean_ms"] > 0
    assert report["readouts_taken"] == report["measures"]["readouts"] == 2 * LINES
    assert blind["stages"] == blind["readouts_taken"] == "not measured"


def test_several_scanners_at_once(tmp_path: Path) -> None:
    code, report = run(
        tmp_path, "--scanners", "3", "--repeat", "2", "--classical-only", repetition_time_ms=10, pause_s=0.05
    )
    measures = report["measures"]
    assert code == 0
    assert (measures["scans"], measures["completed"], measures["images_lost"]) == (6, 6, 0)
    assert report["readouts_taken"] == measures["readouts"] == 6 * LINES
    assert measures["quality"]["identical"] == measures["quality"]["compared"]


def test_a_search_finds_the_number_of_scanners_that_a_server_has_places_for(tmp_path: Path) -> None:
    """A server refuses the third of three at once: two are held."""
    profile = tmp_path / "profile.toml"
    profile.write_text(PROFILE.format(**{**USUAL_LIMITS, "sessions": 2}), encoding="utf-8")
    small = protocol(tmp_path, repetition_time_ms=20, pause_s=0.4)
    usual = ["--protocol", small, "--profile", str(profile), "--classical-only", "--quiet", "--out", str(tmp_path)]
    soak = ["--warm-up", "0.1", "--soak", "2.5", "--cool-down", "0.1"]
    assert main(["bench", "search", *usual, *soak, "--over", "scanners"]) == 0
    document = report_of(tmp_path, "search.json")
    found = document["found"]
    assert found["held"]["load"] == {"speed": 1.0, "scanners": 2}
    assert found["broken"]["load"] == {"speed": 1.0, "scanners": 3} and "images were lost" in found["broken"]["why"]
    assert [point["load"]["scanners"] for point in found["curve"]] == [1, 2, 3, 4]
    # Where they were tried, in this order, each with a soak and a cool-down.
    soaks = [phase["load"]["scanners"] for phase in document["phases"] if phase["load"]]
    assert soaks == [1, 2, 4, 3]
    assert [phase["name"] for phase in document["phases"]] == ["warm-up", *["soak", "cool-down"] * 4]
    assert document["provenance"]["server_machine"]["cores"] >= 1
    page = (tmp_path / "search.html").read_text()
    assert "Held: 2 scanners" in page and page.count("<svg") >= 2


@pytest.mark.parametrize(("pause_s", "overruns"), [(0.05, 2), (10, 0), (0, 0)])
def test_answers_that_outlast_the_pause_are_told(pause_s: float, overruns: int, tmp_path: Path) -> None:
    """Every answer takes 200 ms for its way alone. Where no pause is asked for, none can be outlasted."""
    repeat = "1" if pause_s > 1 else "2"
    _, report = run(tmp_path, "--classical-only", "--link", "delay=100", "--repeat", repeat, pause_s=pause_s)
    assert report["measures"]["pacing"]["overruns"] == overruns
    assert report["measures"]["images_lost"] == 0


@pytest.mark.full
def test_a_search_finds_the_pace_that_answers_can_follow(tmp_path: Path) -> None:
    """An answer takes 120 ms for its way alone, and the pause of 400 ms is as long at 3.3 times the pace."""
    small = protocol(tmp_path, repetition_time_ms=4, pause_s=0.4)
    usual = ["--protocol", small, "--classical-only", "--quiet", "--out", str(tmp_path), "--link", "delay=60"]
    main(["bench", "search", *usual, "--warm-up", "0", "--soak", "1", "--cool-down", "0"])
    found = report_of(tmp_path, "search.json")["found"]
    assert "had to wait" in found["broken"]["why"]
    assert found["held"] is None or found["held"]["load"]["speed"] < 0.4 / 0.12


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--over", "scanners", "--scanners", "2"], "--scanners is what --over scanners looks for"),
        (["--speed", "2"], "--speed is what --over pace looks for"),
        (["--over", "time"], "invalid choice"),
    ],
)
def test_a_search_is_told_what_it_looks_for(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "search", *options])
    assert end.value.code == 2 and complaint in capsys.readouterr().err


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = protocol(tmp_path)
    command = ["bench", "run", "--quiet", "--protocol", small, "--out", str(tmp_path), "--target"]
    assert main([*command, "127.0.0.1:1"]) == 1
    assert "no MRD server at 127.0.0.1:1: Connection refused" in capsys.readouterr().err
    assert main([*command, "no.such.host.invalid:9002"]) == 1
    assert "no MRD server at no.such.host.invalid:9002" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["file:///etc/hostname", "127.0.0.1:9402", "http:///metrics", "ftp://host/metrics"])
def test_metrics_come_by_http_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "run", "--metrics", url])
    assert end.value.code == 2 and "http://HOST:PORT/metrics" in capsys.readouterr().err
    with pytest.raises(ValueError, match="http://HOST:PORT/metrics"):
        parse_metrics_url(url)


@given(st.text() | st.from_regex(r"edge_stage_seconds_(sum|count)\{[^\n]{0,30}\} ?[^\n]{0,9}"))
def test_metrics_that_are_none_say_nothing_and_break_nothing(text: str) -> None:
    said = told(text)
    assert all(isinstance(count, float) for _, count in said.stages.values())
    assert stages_between(text, text) == []


def test_times_that_are_no_numbers_are_no_stages(tmp_path: Path) -> None:
    report = {"readouts": 32, "images": [{"completeness": "final", "stages_s": {"ingest": math.nan, "send": 0.5}}]}
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "report.json").write_text(json.dumps(report))
    reports = Reports(tmp_path)
    reports.collect()
    assert [(stage.name, stage.mean_ms) for stage in reports.stages()] == [("send", 500.0)]
    metrics = 'edge_stage_seconds_{}{{stage="ingest"}} {}\n'
    text = metrics.format("sum", "NaN") + metrics.format("count", "3")
    assert stages_between("", text) == []


def test_a_report_that_can_not_be_read_yet_stays_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "scan" / "report.json"
    path.parent.mkdir()
    path.write_text('{"readouts": 32, "images": [{"completeness": "final", ')
    reports = Reports(tmp_path)
    reports.collect()
    assert path.exists() and reports.readouts == 0
    path.write_text('{"readouts": 32, "images": [{"completeness": "final", "stages_s": {"send": 1}}]}')
    reports.collect()
    assert not path.parent.exists() and reports.readouts == 32


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("[::1]:9002", "::1", 9002, "[::1]:9002"),
        ("Device:9002", "Device", 9002, "Device:9002"),
        ("ssh://Jetson", "Jetson", None, "ssh://Jetson"),
        ("ssh://Edge@Jetson:22", "Jetson", 22, "ssh://Edge@Jetson:22"),
    ],
)
def test_targets_stay_as_they_were_typed(text: str, host: str, port: int | None, shown: str) -> None:
    address = parse_address(text)
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize("text", ["host:9002#notes", "host:9002?", "ssh://host#1", "[]:9002", "ssh://[-oX]", "::1"])
def test_more_than_a_target_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT or ssh://"):
        parse_address(text)
