"""Servers of several makes on one bench: how peers are named, what the table says, and a short turn of each."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.side_by_side import GENERATOR, main, peer, table


def test_a_peer_is_named_by_where_it_is_and_what_it_is_asked_for() -> None:
    one = peer("a server=host:9003,simplefft")
    assert one.name == "a server"
    assert one.options == ("--target", "host:9003", "--config", "simplefft", "--image", "image")


@pytest.mark.parametrize(
    "text", ["", "host:9003", "a=host:9003", "a=,simplefft", "=host:9003,simplefft", "a=host:9003,"]
)
def test_peers_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=HOST:PORT,CONFIGURATION"):
        peer(text)


def turn(samples: list[float], lost: int, cores: float | str) -> dict[str, Any]:
    quantiles = [{"value": sorted(samples)[len(samples) // 2]}] if samples else []
    image = {"samples_ms": samples, "quantiles": quantiles}
    measures = {"image": image, "images_lost": lost, "images_expected": len(samples) + lost, "pacing": {"p99_ms": 0.5}}
    return {"measures": measures, "usage": {"cpu_cores": cores, "resident_mb": "not measured"}}


def test_turns_of_a_server_are_one_row() -> None:
    turns = [turn([10.0, 11.0, 12.0], 0, 0.25), turn([20.0, 21.0, 22.0], 1, "not measured")]
    *_, ours, nothing = table({"ours": turns, "deaf": [turn([], 3, 0.1)]}).splitlines()
    assert ours == "| ours | 6 | 12.0 (11.0 to 21.0) | 22.0 | 22.0 | 1 of 7 | 0.25 | not measured | 0.50 |"
    assert nothing.startswith("| deaf | 0 |") and nothing.count("|") == ours.count("|")


@pytest.mark.full
@pytest.mark.skipif(shutil.which(GENERATOR) is None, reason=f"{GENERATOR} (Debian ismrmrd-tools) is not on PATH")
def test_every_server_makes_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "1", "--rounds", "1", "--out", str(tmp_path)]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == [
        "this runtime, plain transform",
        "this runtime, classical",
        "this runtime, learned and classical",
        "PyPI ismrmrd and numpy",
    ]
    assert all(int(row[2]) >= 1 and row[6].strip().startswith("0 of ") for row in rows)
