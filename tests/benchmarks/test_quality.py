"""The records of the quality table, from measurements that were made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra 'bench' is not installed")
pytest.importorskip("nibabel", reason="the extra 'bench' is not installed")

from benchmarks.quality import FP32, INT8, PEER, Measurement, int8_loss, markdown, quality, records_of

pytestmark = pytest.mark.full


def measured(method: str, nrmse: float, psnr_db: float, scan: str = "head-2ch", factor: int = 2) -> Measurement:
    return Measurement(scan, "measured", (2, 64, 64), factor, 1.9, 8, 0, method, nrmse, psnr_db, 1 - nrmse, {})


TABLE = [
    measured(method, nrmse, psnr)
    for method, masks in {
        FP32: [(0.10, 30.0), (0.12, 29.0), (0.11, 29.5)],
        INT8: [(0.11, 29.8), (0.12, 29.0), (0.11, 29.4)],
        PEER: [(0.20, 25.0), (0.22, 24.0), (0.21, 24.5)],
    }.items()
    for nrmse, psnr in masks
]


def test_one_record_a_method_and_figure() -> None:
    records = {record.name: record for record in records_of(TABLE, threads=2)}
    names = [f"quality.head-2ch.R2.learned_{p}.{figure}" for p in ("fp32", "int8") for figure in ("nrmse", "ssim")]
    assert list(records) == names
    error = records["quality.head-2ch.R2.learned_fp32.nrmse"]
    assert (error.value, error.p10, error.p90, error.n) == (0.11, 0.10, 0.12, 3)
    assert (error.peer, error.peer_value, error.target, error.met) == (PEER, 0.21, 0.21, True)
    similarity = records["quality.head-2ch.R2.learned_fp32.ssim"]
    assert similarity.better == "higher"
    assert (similarity.value, similarity.peer_value) == pytest.approx((0.89, 0.79))


def test_the_table_names_the_effective_acceleration_of_every_mask() -> None:
    masks = [replace(one, effective_acceleration=1.9 + 0.02 * seed, seed=seed) for seed, one in enumerate(TABLE[:3])]
    row = markdown(masks).splitlines()[-1]
    assert row == "| head-2ch (measured, 2 ch) | 2 (1.90, 1.92, 1.94) | 8 | 0.110 (0.120), 29.5 (29.0), 0.890 (0.880) |"
    assert "| 2 (1.90) |" in markdown(TABLE)
    assert "NRMSE, PSNR dB, SSIM" in markdown(masks).splitlines()[0]
    assert all("effective R 1.90, 1.92, 1.94;" in record.note for record in records_of(masks, threads=2))


@pytest.mark.parametrize("scan", ["head-2ch", "fernando-11", "gre-2ch"])
@pytest.mark.parametrize("factor", [2, 4, 6])
def test_the_peer_is_the_target_only_where_it_is_to_be_beaten(scan: str, factor: int) -> None:
    """On the two-channel head and the unseen volume at R = 2 and 4, in both figures."""
    to_beat = scan != "gre-2ch" and factor in (2, 4)
    for method in (FP32, INT8, "classical"):
        table = [measured(one, 0.1, 30.0, scan, factor) for one in (method, PEER)]
        targets = [record.target for record in records_of(table, threads=2)]
        assert targets == ([0.1, 0.9] if to_beat and method != "classical" else [None, None])


def test_int8_loss_is_that_of_the_worst_mask_of_the_worst_scan() -> None:
    other = [measured(FP32, 0.1, 30.0, "gre-2ch", 4), measured(INT8, 0.103, 29.0, "gre-2ch", 4)]
    psnr, ssim = int8_loss(TABLE, threads=2)
    assert (psnr.name, ssim.name) == ("quality.int8_loss_db", "quality.int8_loss_ssim")
    assert (psnr.value, psnr.n, psnr.target, psnr.met) == (pytest.approx(0.2), 3, 0.1, False)
    assert "head-2ch at R = 2" in psnr.note and "median of its masks 0.100 dB" in psnr.note
    assert (ssim.value, ssim.n, ssim.target, ssim.met) == (pytest.approx(0.01), 3, 0.002, False)
    assert ssim.note.startswith("SSIM of FP32") and ssim.note.endswith("median of its masks 0.0000")
    psnr, ssim = int8_loss(TABLE + other, threads=2)
    assert (psnr.value, psnr.n) == (pytest.approx(1.0), 4)
    assert "gre-2ch at R = 4" in psnr.note and "head-2ch at R = 2" in ssim.note
    assert int8_loss(other, threads=2)[1].value == pytest.approx(0.003)
    assert int8_loss(TABLE[:3], threads=2) == []


def test_without_the_data_folder_there_are_no_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    assert quality(quick=True) == []
    assert f"no scans in {tmp_path}" in capsys.readouterr().err
