"""A server that is held to a share of a processor by a real control group, and what its report says of why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.limit import ROOT, CpuLimit

PROTOCOL = """
name = "throttled"
version = 1
[[scan]]
name = "T1"
file = "colin27"
repetition_time_ms = 2
config = "edge-classical"
image = "classical"
deadline_ms = 60000
pause_s = 0
[budget]
image_p90_ms = 0.001
"""


@pytest.mark.full
def test_the_limit_is_measured_and_told_as_the_reason(tmp_path: Path) -> None:
    try:
        with CpuLimit(1.0):
            pass
    except BenchError as error:
        pytest.skip(f"bench: no control group can be made: {error}")
    protocol = tmp_path / "throttled.toml"
    protocol.write_text(PROTOCOL)
    command = ["bench", "run", "--quiet", "--protocol", str(protocol), "--out", str(tmp_path), "--cpu-limit", "0.1"]
    assert main([*command, "--classical-only", "--warm-up", "0", "--repeat", "15"]) == 1
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["usage"]["quota_cores"] == pytest.approx(0.1)
    assert report["usage"]["throttled_share"] > 0
    assert re.search(
        r"control group limits it to 0\.1 processors, and it was held up in \d+% of", report["verdict"]["reasons"][0]
    )
    assert report["measures"]["images_lost"] == 0
    assert not list(ROOT.rglob("edge-bench-*")), "a control group was left behind"


def test_where_there_are_no_control_groups_it_is_said(tmp_path: Path) -> None:
    complaint = r"--cpu-limit 0\.5: no control group can be made under .*none: No such file"
    with pytest.raises(BenchError, match=complaint), CpuLimit(0.5, tmp_path / "none"):
        pytest.fail("there is no such group")
