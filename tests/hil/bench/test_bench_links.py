"""Bad links between the simulated scanner and a real server: what they do, and that nothing is lost over them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, heed_hangups

from edge_runtime.cli import main
from edge_runtime.demo.run import SCAN
from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.links import Link, laid, parse_link
from edge_runtime.hil.bench.wire import read_script

in_a_namespace = [
    pytest.mark.full,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nft"))),
        reason="bench: a link's network namespace takes root, ip, tc and nft",
    ),
]

REPETITION_TIME_MS = 2.0

PROTOCOL = f"""
name = "over a link"
version = 1
[[scan]]
name = "T1"
file = "colin27"
repetition_time_ms = {REPETITION_TIME_MS}
config = "edge-classical"
image = "classical"
deadline_ms = 60000
pause_s = 0
[budget]
nrmse = 0
image_p90_ms = 60000
"""


def measured(folder: Path, link: str) -> Any:
    """Of two scans, of which nothing was lost and every image is the golden one, which came over no link."""
    protocol = folder / "link.toml"
    protocol.write_text(PROTOCOL)
    command = ["bench", "run", "--quiet", "--protocol", str(protocol), "--out", str(folder), "--link", link]
    assert main([*command, "--classical-only", "--previews", "none", "--warm-up", "0", "--repeat", "2"]) == 0
    report = json.loads((folder / "bench.json").read_text())
    measures = report["measures"]
    assert (measures["completed"], measures["images_lost"], measures["attempts_cut"]) == (2, 0, 0)
    assert measures["quality"]["identical"] == measures["quality"]["compared"] > 0
    assert report["readouts_taken"] == measures["readouts"]
    assert report["provenance"]["link"]["words"] == str(parse_link(link))
    return measures


def test_a_delay_is_in_every_image_both_ways(tmp_path: Path) -> None:
    samples = measured(tmp_path, "delay=40")["image"]["samples_ms"]
    assert min(samples) >= 80


@pytest.mark.parametrize("link", [pytest.param("rate=10", marks=in_a_namespace)])
def test_a_slow_link_brings_the_last_readout_no_earlier_than_its_rate_allows(link: str, tmp_path: Path) -> None:
    script = read_script(SCAN)
    samples = measured(tmp_path, link)["image"]["samples_ms"]
    sent_ms = 8 * script.size_bytes / (parse_link(link).rate_mbit * 1000)
    scan_ms = len(script.readouts) * REPETITION_TIME_MS
    assert sent_ms > 2 * scan_ms, "the link is not slow for this scan"
    assert max(samples) >= 0.9 * (sent_ms - scan_ms)  # a bucket of 64 kB may pass at once


@pytest.mark.parametrize("link", [pytest.param("loss=3", marks=in_a_namespace)])
def test_packets_that_are_lost_lose_nothing(link: str, tmp_path: Path) -> None:
    measured(tmp_path, link)
    assert not any(path.name.startswith("edgeb") for path in Path("/run/netns").glob("*"))


@pytest.mark.parametrize("name", [pytest.param(f"edgeb{os.getpid()}", marks=in_a_namespace)])
def test_a_namespace_that_is_another_benchs_stays(name: str) -> None:
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with pytest.raises(BenchError, match="File exists"), laid(parse_link("loss=1"), "127.0.0.1", 1):
            pass
        assert Path("/run/netns", name).exists()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.parametrize(
    "text", ["delay", "delay=0", "delay=-1", "delay=nan", "loss=51", "delay=1,delay=2", "speed=1", ""]
)
def test_links_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        parse_link(text)


def test_a_link_is_told_in_words() -> None:
    assert str(Link()) == "nothing in between"
    both = parse_link("delay=5,cut=2,rate=100,loss=0.5")
    assert str(both) == "5 ms later each way, 100 Mbit/s, 0.5 % of packets lost, every other connection cut after 2 s"


def processes_of(folder: Path) -> list[str]:
    """Commands whose environment names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if os.fsencode(folder) in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
    return found


def test_a_bench_whose_terminal_is_closed_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither its server, its proxy and its scanners nor their folders."""
    command = [sys.executable, "-m", "edge_runtime.cli", "bench", "run", "--classical-only", "--link", "delay=1"]
    here = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--warm-up", "60", "--out", str(tmp_path / "out")],
        env=here,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_hangups,
    ) as bench:
        try:
            assert bench.stderr is not None
            assert any("warm-up" in line for line in iter(bench.stderr.readline, ""))
            assert len(processes_of(tmp_path)) >= 3
            bench.send_signal(signal.SIGHUP)
            assert bench.wait(PATIENCE_S) == 143
        finally:
            bench.kill()
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("edge-*")) == []


def test_a_proxy_ends_with_whoever_started_it() -> None:
    command = [sys.executable, "-m", "edge_runtime.hil.bench.links", "127.0.0.1", "127.0.0.1", "1", "0", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
        try:
            assert proxy.stdin is not None and proxy.stdout is not None
            assert int(proxy.stdout.readline())
            proxy.stdin.close()
            assert proxy.wait(PATIENCE_S) == 0
        finally:
            proxy.kill()
