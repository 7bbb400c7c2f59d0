"""The simulator: the same seed gives the same bytes, and validation draws from generators that training never uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_volumes import made_volume

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.modalities.mri.noise import noise_model

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from export.remembered import OtherInputs
from export.simulate import pool
from export.simulate.objects import random_field_phase, tissue_phase
from export.simulate.receive import gaussian_coils, loop_coils
from export.simulate.volume_coils import volume_coils
from export.whitening import whitened

pytestmark = pytest.mark.full


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PHASE_ENCODES", [32, 36, 40])
    monkeypatch.setattr(pool, "SAMPLES", [32, 36, 40])


def write(folder: Path, seed: int = 5, count: int = 2) -> list[bytes]:
    pool.write_pool(folder, [made_volume()], count, seed, 0.5, lambda done, total: None)
    return [path.read_bytes() for path in sorted(folder.glob("*.npy"))]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    assert len(first) == 2
    assert write(tmp_path / "second") == first
    assert write(tmp_path / "third", seed=6)[0] != first[0]


def test_an_interrupted_pool_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole")
    write(tmp_path / "resumed", count=1)
    (tmp_path / "resumed" / "00001.partial").write_bytes(b"half of it")
    assert write(tmp_path / "resumed") == whole


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 6}, r"another seed \(5 before, 6 now\)"),
        ({"phantom_share": 0.25}, r"another phantom_share \(0\.5 before, 0\.25 now\)"),
        ({"volumes": [replace(made_volume(), pixel_aspect=(2.0, 1.0, 1.0))]}, r"another volumes \("),
        ({"volumes": [replace(made_volume(), voxels=made_volume().voxels[::-1].copy())]}, r"another volumes \("),
        ({"volumes": [made_volume(), made_volume()]}, r"another volumes \("),
    ],
)
def test_a_pool_goes_on_with_nothing_else(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    before = write(tmp_path)
    inputs: dict[str, Any] = {"volumes": [made_volume()], "seed": 5, "phantom_share": 0.5} | changed
    with pytest.raises(OtherInputs, match=said) as refusal:
        pool.write_pool(tmp_path, count=3, progress=lambda done, total: None, **inputs)
    assert isinstance(refusal.value, EdgeRuntimeError) and str(tmp_path) in str(refusal.value)
    assert write(tmp_path) == before


def test_a_pool_of_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(pool, "made_by", lambda *_, **__: {"code": "cc" * 32})
    with pytest.raises(OtherInputs, match=r"another code \(.* before, cccccccccccccccc now\)"):
        write(tmp_path)


def test_a_pool_that_does_not_say_what_it_is_made_of_is_neither_drawn_from_nor_gone_on_with(tmp_path: Path) -> None:
    write(tmp_path)
    for content in ("", "[]", '{"made_of": {}, "count": 0}', '{"made_of": {"seed": 5}, "count": 2}'):
        (tmp_path / "pool.json").write_text(content)
        for use in (lambda: pool.Pool(tmp_path), lambda: write(tmp_path)):
            with pytest.raises(
                OtherInputs, match=r"pool\.json: does not say what the pool's acquisitions were made of"
            ):
                use()


def test_a_smaller_pool_is_drawn_from_its_own_acquisitions_alone(tmp_path: Path) -> None:
    write(tmp_path, count=3)
    write(tmp_path, count=2)
    assert [path.name for path in pool.Pool(tmp_path).files] == ["00000.npy", "00001.npy"]
    rng = np.random.default_rng(0)
    drawn = {pool.Pool(tmp_path).choose(rng, 1)[0].path.name for _ in range(60)}
    assert drawn == {"00000.npy", "00001.npy"}


def test_an_unfinished_pool_is_not_drawn_from(tmp_path: Path) -> None:
    write(tmp_path, count=3)
    (tmp_path / "00001.npy").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 acquisitions are not written yet; run edge-export pool again"):
        pool.Pool(tmp_path)


def test_more_processes_write_the_same_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # other processes have the usual sizes
    pool.write_pool(tmp_path, [made_volume()], 3, 5, 0.5, lambda done, total: None, workers=2)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.npy"))] == write(tmp_path / "one", count=3)


def test_an_acquisition_is_noise_free_normalised_and_compressed() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        kspace = pool.simulate_acquisition([made_volume()], rng, phantom_share=0.5)
        coils, lines, samples = kspace.shape
        assert kspace.dtype == np.complex64
        assert coils <= pool.COILS_AFTER_COMPRESSION
        assert {lines, samples} <= {32, 36, 40}
        rss = np.sqrt(np.sum(np.abs(np.fft.ifft2(kspace, norm="ortho")) ** 2, axis=0))
        assert np.percentile(rss, 99) == pytest.approx(1, rel=1e-3)


def test_sizes_are_even_and_have_fast_transforms() -> None:
    assert pool._transformed_quickly(90, 112) == [90, 96, 98, 100, 108, 112]


@pytest.mark.parametrize("validation", [False, True])
def test_validation_has_coils_and_phase_of_its_own(validation: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[object] = set()

    def watched(generator):
        def call(*arguments):
            used.add(generator)
            return generator(*arguments)

        return call

    for generator in (loop_coils, volume_coils, gaussian_coils, tissue_phase, random_field_phase):
        monkeypatch.setattr(pool, generator.__name__, watched(generator))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pool.simulate_acquisition([made_volume()], rng, phantom_share=0.5, validation=validation)
    assert used == ({gaussian_coils, random_field_phase} if validation else {loop_coils, volume_coils, tissue_phase})


def test_validation_noise_is_correlated_between_coils_before_it_iswhitened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training's noise is white; here a noise scan has to tell what it is."""
    models = []

    def watched(*arguments):
        models.append(noise_model(*arguments))
        return models[-1]

    monkeypatch.setattr("export.whitening.noise_model", watched)
    noise = whitened(np.zeros((4, 64, 64), np.complex64), np.random.default_rng(1)).reshape(4, -1)
    (model,) = models
    mixing = np.linalg.inv(model.whitening)
    before = mixing @ mixing.conj().T
    correlation = np.abs(before) / np.sqrt(np.outer(np.diag(before).real, np.diag(before).real))
    assert correlation[~np.eye(4, dtype=bool)].max() > 0.1
    after = noise @ noise.conj().T / noise.shape[1]
    np.testing.assert_allclose(after, np.eye(4), atol=0.1)
