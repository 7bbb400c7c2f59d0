"""The bench as it is called: real processes, a real server, real files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_runtime.cli import main
from edge_runtime.demo.run import SCAN
from edge_runtime.hil.bench.verdict import GOLDEN, TOO_LATE

PROTOCOL = """
name = "quick"
version = 1
[[scan]]
name = "T1"
file = "colin27"
repetition_time_ms = 2
config = "edge-classical"
image = "classical"
deadline_ms = 60000
pause_s = 0.1
[budget]
image_p90_ms = {p90}
nrmse = 0.001
lateness_p99_ms = {lateness}
"""


def bench(folder: Path, p90: float, *options: str, lateness: float = 60000) -> tuple[int, dict[str, object]]:
    protocol = folder / "quick.toml"
    protocol.write_text(PROTOCOL.format(p90=p90, lateness=lateness), encoding="utf-8")
    usual = (
        "--protocol",
        str(protocol),
        "--out",
        str(folder / "out"),
        "--classical-only",
        "--warm-up",
        "0",
        "--repeat",
        "1",
    )
    code = main(["bench", "run", "--quiet", *usual, *options])
    return code, json.loads((folder / "out" / "bench.json").read_text())


def test_a_run_against_a_server_of_its_own(tmp_path: Path) -> None:
    code, report = bench(tmp_path, 60000)
    assert code == 0
    measures = report["measures"]
    assert (measures["images_expected"], measures["images_lost"], measures["completed"]) == (2, 0, 1)  # type: ignore[index]
    assert measures["quality"]["identical"] == measures["quality"]["compared"] > 0  # type: ignore[index]
    assert report["readouts_taken"] == measures["readouts"] == 104  # type: ignore[index]
    made = report["provenance"]
    assert made["server"] == made["bench"] and made["server"]["numpy"]  # type: ignore[index]
    played = report["protocol"]
    assert played["sha256"] == hashlib.sha256((tmp_path / "quick.toml").read_bytes()).hexdigest()  # type: ignore[index]
    assert played["scans"][0]["sha256"] == hashlib.sha256(SCAN.read_bytes()).hexdigest()  # type: ignore[index]
    page = (tmp_path / "out" / "bench.html").read_text()
    assert "Neither kept nor missed: last readout to image, p90" in page  # of two images none can be kept
    assert "<svg" in page and not re.search(r"(src|href)=|url[(]|<script", page)
    cases = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    assert cases.attrib["failures"] == "0"


def test_a_missed_budget_fails_and_says_why(tmp_path: Path) -> None:
    code, report = bench(tmp_path, 0.001)
    assert code == 1
    assert report["verdict"]["reasons"]  # type: ignore[index]
    assert ElementTree.parse(tmp_path / "out" / "junit.xml").getroot().attrib["failures"] == "1"


def test_a_bench_that_was_late_itself_blames_no_server(tmp_path: Path) -> None:
    code, report = bench(tmp_path, 60000, lateness=0)
    assert code == 1
    assert report["verdict"]["valid"] is False  # type: ignore[index]
    assert report["verdict"]["reasons"] == [TOO_LATE]  # type: ignore[index]
    counts = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot().attrib
    assert (counts["errors"], counts["failures"]) == ("1", "1")
    assert "Not valid" in (tmp_path / "out" / "bench.html").read_text()


def test_images_that_are_not_the_golden_ones_fail_and_are_named(tmp_path: Path) -> None:
    """The golden images of the two slices change places."""
    kept = tmp_path / "golden"
    assert bench(tmp_path, 60000, "--keep-golden", str(kept))[0] == 0
    index = kept / "golden.json"
    document = json.loads(index.read_text())
    first, second = (one for one in document["images"] if one["method"] == "classical")
    first["digest"], second["digest"] = second["digest"], first["digest"]
    index.write_text(json.dumps(document))
    code, report = bench(tmp_path, 60000, "--golden", str(kept))
    assert code == 1
    assert report["verdict"]["reasons"] == ["images under load were not those that the server makes alone: 2 classical"]  # type: ignore[index]
    (line,) = (one for one in report["verdict"]["lines"] if one["name"] == GOLDEN)  # type: ignore[index]
    assert line["passed"] is False and "(T1, classical, slice " in line["detail"]


def test_scanners_say_which_scheduler_they_were_granted(tmp_path: Path) -> None:
    _, report = bench(tmp_path, 60000, "--realtime", "--scanners", "2")
    assert len(report["schedulers"]) == 2  # type: ignore[arg-type]
    for said in report["schedulers"]:  # type: ignore[attr-defined]
        assert re.fullmatch(r"SCHED_FIFO \d+|not granted: .+", said)
    assert report["schedulers"][0] in (tmp_path / "out" / "bench.html").read_text()  # type: ignore[index]


def test_what_is_cut_is_measured_again_and_nothing_is_lost(tmp_path: Path) -> None:
    code, report = bench(tmp_path, 60000, "--link", "cut=0.05")
    measures = report["measures"]
    assert code == 0 and measures["attempts_cut"] == 1 and measures["images_lost"] == 0  # type: ignore[index]


@pytest.mark.parametrize("target", ["localhost", "ssh://-oProxyCommand=x", "http://x:1", "host:0"])
def test_targets_that_are_none(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "run", "--target", target])
    assert end.value.code == 2 and "HOST:PORT or ssh://" in capsys.readouterr().err


@pytest.mark.parametrize("sides", [("", "after"), ("before", ",")])
def test_a_side_without_reports_is_no_comparison(sides: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable of a shell that is not set."""
    with pytest.raises(SystemExit) as end:
        main(["bench", "compare", *sides])
    assert end.value.code == 2 and "no report is named" in capsys.readouterr().err
