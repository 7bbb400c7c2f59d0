"""The stages of the latency figure."""

from __future__ import annotations

import pytest

from benchmarks.brain_phantom import phantom
from benchmarks.latency import _stage_records, play_once, stages_ms
from benchmarks.server import serving

STAGES = {"ingest": 0.5, "calibration_ahead": 0.2, "queued": 0.001, "learned": 0.06, "send": 0.002, "dicom": 0.01}


def image(method: str, completeness: str, stages: dict[str, float]) -> dict[str, object]:
    return {"method": method, "completeness": completeness, "stages_s": stages}


def test_stages_and_link_add_up_to_the_latency() -> None:
    report = {
        "images": [
            image("learned", "preview", {"learned": 9.0}),
            image("learned", "final", STAGES),
            image("classical", "final", {"classical": 9.0}),
        ]
    }
    stages = stages_ms(report, total_ms=70.0)
    assert stages == pytest.approx({"queued": 1.0, "learned": 60.0, "send": 2.0, "link": 7.0})
    assert sum(stages.values()) == pytest.approx(70.0)


def test_one_record_a_stage_with_its_share() -> None:
    runs = [{"learned": 60.0, "link": 40.0}, {"learned": 30.0, "link": 20.0}, {"learned": 90.0, "link": 10.0}]
    learned, link = _stage_records(runs, [100.0, 50.0, 100.0], threads=2)
    assert (learned.name, learned.value, learned.n) == ("latency.stage.learned_ms", 60.0, 3)
    assert learned.note.startswith("60.0% of")
    assert (link.name, link.value) == ("latency.stage.link_ms", 20.0)


@pytest.mark.full
def test_a_server_reports_the_stages_of_the_scan_it_has_just_served() -> None:
    with serving() as server:
        for _ in range(2):
            total_ms = play_once(server, phantom()).latency_ms
            stages = stages_ms(server.latest_report(), total_ms)
            assert [*stages] == ["queued", "calibration", "learned", "recon_matrix", "send", "link"]
        assert len([*server.output.glob("*/report.json")]) == 2
