"""``edge-export simulate`` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_volumes import write_volume

pytest.importorskip("nibabel", reason="the extra 'export' is not installed")
pytest.importorskip("torch", reason="the extra 'export' is not installed")

from edge_runtime.links.files import open_recording
from export.cli import main
from export.simulate.settings import from_parameters

pytestmark = pytest.mark.full

CONFIG = Path(__file__).parents[2] / "export" / "configs" / "brain2d.toml"
QUICK = ["--columns", "32", "--phase-encodes", "32", "--read-mm", "60", "--phase-mm", "60", "--coils", "2"]


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_volume_becomes_a_scan_with_everything_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = write_volume(tmp_path) / "mr_made.npz"
    toml = tmp_path / "scan.toml"
    toml.write_text('snr = 20\nmask = "uniform"\nacceleration = 2\n')
    out, reference = tmp_path / "scan.h5", tmp_path / "reference.npz"
    flags = [
        "--slices",
        2,
        "--motion-mm",
        2,
        "--off-resonance-hz",
        40,
        "--source-weighting",
        "t1",
        "--orientation",
        "RAS",
    ]
    assert (
        call("simulate", volume, "--out", out, "--config", toml, "--reference", reference, "--json", *QUICK, *flags)
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    recording = open_recording(out)
    config = from_parameters(recording.header.parameters)
    assert (config.snr, config.mask, config.slices, config.motion_mm, config.columns) == (20.0, "uniform", 2, 2.0, 32)
    assert record["readouts"] == recording.readout_count and record["edge_simulation_snr"] == "20.0"
    assert record["source_sha256"] == recording.header.parameters["edge_simulation_source_sha256"]
    assert reference.exists()


def test_the_shown_configuration_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("simulate", "none.nii.gz", "--show-config", "--snr", "12.5", "--swap-axes") == 0
    toml = tmp_path / "shown.toml"
    toml.write_text(capsys.readouterr().out)
    assert "snr = 12.5\n" in toml.read_text() and "swap_axes = true\n" in toml.read_text()
    assert call("simulate", "none.nii.gz", "--show-config", "--config", toml) == 0
    assert capsys.readouterr().out == toml.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--out", "a.mrd", "--snr", "-1"], 2, "--snr = -1.0: a number from 0 to 1e+06 is expected"),
        ([], 2, "--out is missing"),
        (["--out", "a.dat"], 1, "a.dat: the name decides the format"),
        (["--out", "a.mrd"], 1, "absent.npz: No such file"),
        (["--out", "a.mrd", "--reference", "no/folder/b.npz"], 1, "no/folder/b.npz: there is no folder no/folder"),
        (["--out", "a.mrd", "--reference", "."], 1, ".: is a folder; name a file to write"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call("simulate", "absent.npz", *arguments) == code
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_slice_beside_the_volume_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = write_volume(tmp_path) / "mr_made.npz"
    assert call("simulate", volume, "--out", tmp_path / "a.mrd", "--slice-offset-mm", 90, *QUICK) == 1
    assert "slice_offset_mm = 90.0: the middle slice is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "interrupted", "on"),
    [
        (["simulate", "mr_made.npz", "--out", "a.mrd", *QUICK], "export.simulate.scan_file.write_scan", "begin anew"),
        (["pool", CONFIG, "--data", ".", "--work", "work"], "export.simulate.pool.write_pool", "resume"),
    ],
)
def test_whoever_interrupts_is_told_what_the_same_command_does_then(
    arguments: list[str], interrupted: str, on: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_volume(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interrupted, ctrl_c)
    assert call(*arguments) == 130
    assert capsys.readouterr().err.endswith(f"interrupted; run the same command again to {on}\n")
