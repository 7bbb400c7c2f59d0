"""Training draws: the shapes they promise, and a target that is the fully sampled image."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

from export import draws

pytestmark = pytest.mark.full

LINES, SAMPLES, COILS, COLUMNS = 48, 40, 4, 24
KSPACE = kspace_of(object_image(LINES, SAMPLES), coil_maps(COILS, LINES, SAMPLES))


def draw_of(seed: int) -> draws.Draw:
    return draws.draw_problem(KSPACE, np.random.default_rng(seed), COLUMNS)


@pytest.mark.parametrize("seed", range(12))
def test_a_draw_has_the_shapes_and_masks_that_it_promises(seed: int) -> None:
    draw = draw_of(seed)
    coils, lines, columns = draw.hybrid.shape
    assert 1 <= coils <= COILS and lines == LINES and columns == COLUMNS
    assert draw.sensitivities.shape == draw.hybrid.shape
    for plane in (draw.measured, draw.visible, draw.first, draw.target, draw.reference):
        assert plane.shape == (lines, columns)
    assert {draw.hybrid.dtype, draw.sensitivities.dtype, draw.first.dtype, draw.target.dtype} == {
        np.dtype(np.complex64)
    }
    assert not (draw.visible & ~draw.measured).any()
    assert (draw.measured == draw.measured[:, :1]).all()
    assert not draw.hybrid[:, ~draw.measured].any()
    assert np.isfinite(draw.first).all() and draw.noise_level > 0
    power = np.sum(np.abs(draw.sensitivities) ** 2, axis=0)
    assert power.max() == pytest.approx(1, abs=1e-3)


def test_the_same_seed_gives_the_same_draw() -> None:
    first, second = draw_of(3), draw_of(3)
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in first.__dataclass_fields__)
    assert not np.array_equal(first.target, draw_of(4).target)


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "LEAST_NOISE", 1e-7)
    monkeypatch.setattr(draws, "MOST_NOISE", 2e-7)


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("seed", range(6))
def test_without_noise_the_target_is_the_reference(seed: int) -> None:
    """In the object, up to what the estimated sensitivities can't explain, which is most where few lines calibrate them."""
    draw = draw_of(seed)
    inside = np.sum(np.abs(draw.sensitivities) ** 2, axis=0) > 0.5
    assert inside.mean() > 0.2
    error = np.linalg.norm((np.abs(draw.target) - draw.reference)[inside])
    assert error < 0.08 * np.linalg.norm(draw.reference[inside])


@pytest.mark.usefixtures("noiseless")
def test_without_noise_and_undersampling_the_first_image_is_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "_draw_mask", lambda lines, rng: np.ones(lines, np.bool_))
    draw = draw_of(0)
    assert draw.measured.all()
    inside = np.sum(np.abs(draw.sensitivities) ** 2, axis=0) > 0.5
    assert np.linalg.norm((draw.first - draw.target)[inside]) < 0.1 * np.linalg.norm(draw.target[inside])


def test_what_training_calls_shown_is_every_measured_sample_in_its_place() -> None:
    """The torch operator against the formula: coil images of the model, measured samples in place of its own."""
    torch = pytest.importorskip("torch")
    from export.families.unrolled import SenseProblem

    rng = np.random.default_rng(2)
    maps = coil_maps(COILS, LINES, COLUMNS)
    mask = rng.random((LINES, COLUMNS)) < 0.4
    hybrid = kspace_of(object_image(LINES, COLUMNS), maps, noise=0.1)
    hybrid = draws.to_image(hybrid, axis=2)
    image = (object_image(LINES, COLUMNS) + 0.2 * rng.standard_normal((LINES, COLUMNS))).astype(np.complex64)

    def centred(transform, array):
        return np.fft.fftshift(transform(np.fft.ifftshift(array, axes=1), axis=1, norm="ortho"), axes=1)

    spectrum = np.where(mask, hybrid, centred(np.fft.fft, maps * image))
    expected = np.sqrt(np.sum(np.abs(centred(np.fft.ifft, spectrum)) ** 2, axis=0))

    problem = SenseProblem(*(torch.from_numpy(array)[None] for array in (hybrid, maps, mask.astype(np.float32))))
    shown = problem.substituted_power(torch.from_numpy(image)[None])[0].sqrt().numpy()
    assert np.linalg.norm(expected - np.abs(image)) > 0.05 * np.linalg.norm(expected), "nothing was put in place"
    np.testing.assert_allclose(shown, expected, rtol=1e-4, atol=1e-5)
