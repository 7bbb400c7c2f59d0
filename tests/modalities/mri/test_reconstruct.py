"""From samples to images: what must be exact is exact, and the evidence says what it claims to say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.bundle import load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import EngineError, NoImage, OutOfDeviceMemory, ProgramRefused
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri import reconstruct as module
from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.reconstruct import (
    SliceSamples,
    calibrate,
    calibration_lines,
    compress,
    evidence,
    level_to_reckon_with,
    reconstruct,
)
from edge_runtime.modalities.mri.sampling import uniform
from edge_runtime.scan import Method
from edge_runtime.trust.heldout import (
    CHOSEN,
    NONE_CHANGED,
    NONE_HELD_OUT,
    believed_share,
    choose_held_out,
    share_source,
)

COILS, LINES, COLUMNS = 4, 64, 40
NOISE = 0.02
PLANS = Plans(Workers(threads=2))


def samples_of(measured=None, *, noise=NOISE, coils=COILS, known=True):
    """One slice; ``known``: its noise comes from a noise scan."""
    measured = np.ones(LINES, bool) if measured is None else measured
    kspace = kspace_of(object_image(LINES, COLUMNS), coil_maps(coils, LINES, COLUMNS), noise=noise)
    hybrid = to_image(kspace, axis=2) * measured[:, None]
    return SliceSamples(hybrid, measured, NoiseLevel(noise, "noise scan") if known else None, (0, 0, 0, 0, 0))


def images_of(samples, learned=None):
    return dict(reconstruct(samples, calibrate(samples.hybrid, samples.measured, PLANS), learned, PLANS))


def power_of(residual):
    return np.mean(np.abs(residual) ** 2, axis=0)


def error(image):
    truth = np.abs(object_image(LINES, COLUMNS))
    return np.linalg.norm(np.abs(image) - truth) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def learned(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    return LearnedReconstruction(bundle.settings, OnnxRuntimeEngine().plan(bundle.forms["fp32"].onnx, threads=1))


HALF = uniform(LINES, 2, acs_fraction=0.25)
HALF_ACS = calibration_lines(HALF)
FEW_OUTER = np.zeros(LINES, bool)
FEW_OUTER[24:40] = FEW_OUTER[[2, 10, 50, 60]] = True


def test_zero_filled_is_the_root_sum_of_squares_of_the_transform_when_all_is_measured():
    samples = samples_of()
    coil_images = to_image(samples.hybrid, axis=1)
    expected = np.sqrt(np.sum(np.abs(coil_images) ** 2, axis=0))
    np.testing.assert_allclose(images_of(samples)[Method.ZERO_FILLED].image, expected, rtol=1e-4)


@pytest.mark.parametrize("coils", [1, COILS])
def test_the_classical_image_of_a_full_scan_is_the_object(coils):
    assert error(images_of(samples_of(noise=0.001, coils=coils))[Method.CLASSICAL].image) < 0.02


def test_at_half_the_lines_sense_removes_what_zero_filling_leaves():
    images = images_of(samples_of(HALF, noise=0.001))
    assert error(images[Method.CLASSICAL].image) < 0.5 * error(images[Method.ZERO_FILLED].image)


def test_without_a_network_the_classical_image_comes_first():
    assert list(images_of(samples_of(HALF))) == [Method.CLASSICAL, Method.ZERO_FILLED]


def test_with_a_network_the_learned_image_comes_first(learned):
    assert list(images_of(samples_of(HALF), learned)) == [Method.LEARNED, Method.CLASSICAL, Method.ZERO_FILLED]


class Failing:
    def __init__(self, failure):
        self.failure = failure

    def run(self, batch):
        raise self.failure


class Answering:
    def __init__(self, value):
        self.value = value

    def run(self, batch):
        return np.full((1, 2, *batch.shape[2:]), self.value, np.float32)


def images_before(failure, words, learned, regulariser, measured=HALF):
    """The images that come before a failure of the network."""
    images, samples = [], samples_of(measured)
    broken = replace(learned, regulariser=regulariser)
    with pytest.raises(failure, match=words):
        for method, _ in reconstruct(samples, calibrate(samples.hybrid, samples.measured, PLANS), broken, PLANS):
            images.append(method)
    return images


@pytest.mark.parametrize("failure", [EngineError, OutOfDeviceMemory, ProgramRefused, MemoryError, IndexError])
def test_when_the_network_fails_the_other_images_come_and_then_the_error(learned, failure):
    images = images_before(failure, "out of memory", learned, Failing(failure("out of memory")))
    assert images == [Method.CLASSICAL, Method.ZERO_FILLED]


@pytest.mark.parametrize("measured", [HALF, FEW_OUTER], ids=["held out", "none held out"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_image_that_is_not_finite_is_not_shown(learned, value, measured):
    """Nor is one whose squares are not; an engine that does not look may make either."""
    images = images_before(EngineError, "not finite", learned, Answering(value), measured)
    assert images == [Method.CLASSICAL, Method.ZERO_FILLED]


def test_more_coils_than_virtual_ones_are_compressed(learned):
    images = images_of(samples_of(HALF, coils=12), learned)
    assert error(images[Method.CLASSICAL].image) < 0.1


@pytest.mark.parametrize(("residual", "level"), [(0.5, 1.0), (2.9, 1.0), (3.1, 6.2), (50.0, 100.0)])
def test_what_noise_cannot_explain_is_reckoned_with_as_noise(residual, level):
    power = np.full(100, residual**2, np.float32)
    assert level_to_reckon_with(power, NoiseLevel(1.0, "known")) == pytest.approx(level)


def test_a_scan_without_its_centre_says_what_is_missing():
    measured = np.arange(LINES) < LINES // 4
    with pytest.raises(NoImage, match=f"phase encode {LINES // 2} of {LINES}"):
        calibrate(samples_of(measured).hybrid, measured, PLANS)


def test_a_scan_without_signal_says_so():
    with pytest.raises(NoImage, match="no signal"):
        calibrate(np.zeros((COILS, LINES, COLUMNS), np.complex64), np.ones(LINES, bool), PLANS)


# ----------------------------------------------------------------------------------------------------------- evidence


def test_the_true_image_leaves_a_residual_of_the_noise_floor():
    image, maps = object_image(LINES, COLUMNS), coil_maps(COILS, LINES, COLUMNS)
    hybrid = to_kspace(maps * image, axis=1)
    hybrid = hybrid + np.float32(NOISE) * complex_noise(hybrid.shape, np.random.default_rng(0))
    everything = np.ones((LINES, COLUMNS), bool)
    held_out = choose_held_out(HALF, HALF_ACS, COLUMNS, np.random.default_rng(0))
    residual = power_of(hybrid - to_kspace(maps * image, axis=1))
    found = evidence(residual, power_of(hybrid), everything & ~held_out, held_out, NoiseLevel(NOISE, "known"))
    assert found.fitted_residual == pytest.approx(NOISE, rel=0.02)
    assert found.held_out_ratio == pytest.approx(1.0, rel=0.1)


def test_fine_structure_that_was_invented_stands_out_of_the_noise():
    image, maps = object_image(LINES, COLUMNS), coil_maps(COILS, LINES, COLUMNS)
    hybrid = to_kspace(maps * image, axis=1)
    held_out = choose_held_out(HALF, HALF_ACS, COLUMNS, np.random.default_rng(0))
    invented = image.copy()
    invented[20:40, 10:20] += np.random.default_rng(1).normal(0, 0.6, (20, 10))
    residual = power_of(hybrid - to_kspace(maps * invented, axis=1))
    found = evidence(residual, power_of(hybrid), ~held_out, held_out, NoiseLevel(NOISE, "known"))
    assert found.held_out_ratio is not None and found.held_out_ratio > 2


def test_beside_the_held_out_residual_stands_that_of_an_empty_image(learned):
    """Held-out samples that are noise confirm any image: the reader must see how much signal they had."""
    samples = samples_of(HALF)
    calibration = calibrate(samples.hybrid, samples.measured, PLANS)
    compressed = compress(samples, calibration, PLANS)
    made = dict(reconstruct(samples, calibration, learned, PLANS))
    with PLANS.sense(*compressed.hybrid.shape) as plan:
        plan.set_maps(calibration.sensitivities)
        plan.set_samples(compressed.hybrid, compressed.held_out)
        empty = np.zeros((LINES, COLUMNS), np.complex64)
        residual = plan.substituted(empty, compressed.hybrid, compressed.held_out)[1][compressed.held_out]
    proof = made[Method.LEARNED].evidence
    assert proof.held_out_rms == pytest.approx(np.sqrt(residual.mean(dtype=np.float64)), rel=1e-5)
    assert proof.held_out_rms > proof.held_out_residual
    assert made[Method.CLASSICAL].evidence.held_out_rms is None


def test_held_out_samples_do_not_influence_what_the_network_makes(learned, monkeypatch):
    """They are replaced by nonsense: agreement with everything else stays the same to the last bit, the share they choose apart."""
    monkeypatch.setattr(module, "believed_share", lambda best_step: 0.7)
    samples = samples_of(HALF)
    calibration = calibrate(samples.hybrid, samples.measured, PLANS)
    held_out = choose_held_out(
        samples.measured, calibration_lines(samples.measured), COLUMNS, np.random.default_rng(samples.seed)
    )
    assert held_out.any()
    altered = replace(samples, hybrid=np.where(held_out, np.complex64(7 + 3j), samples.hybrid))
    honest = next(reconstruct(samples, calibration, learned, PLANS))[1].evidence
    fooled = next(reconstruct(altered, calibration, learned, PLANS))[1].evidence
    assert fooled.fitted_residual == honest.fitted_residual
    assert fooled.held_out_residual > 10 * honest.held_out_residual


def test_an_invention_of_the_network_is_not_believed(learned):
    """Its correction is noise: the held-out samples leave the image where the network started."""

    class Inventing:
        def run(self, batch):
            return np.random.default_rng(0).normal(0, 0.5, (1, 2, *batch.shape[2:])).astype(np.float32)

    samples = samples_of(HALF)
    invented = images_of(samples, replace(learned, regulariser=Inventing()))[Method.LEARNED]
    honest = images_of(samples, None)[Method.CLASSICAL]
    assert invented.evidence.learned_share < 0.1
    assert error(invented.image) < 1.01 * error(honest.image)


def test_a_network_that_is_not_believed_leaves_the_classical_image(learned, monkeypatch):
    """That of all samples; its agreement with the held-out ones stays that of an image that has not seen them."""
    samples = samples_of(HALF)
    blind = images_of(samples, learned)[Method.LEARNED].evidence
    monkeypatch.setattr(module, "believed_share", lambda best_step: 0.0)
    made = images_of(samples, learned)
    np.testing.assert_allclose(made[Method.LEARNED].image, made[Method.CLASSICAL].image, rtol=1e-4, atol=1e-4)
    assert made[Method.LEARNED].evidence.held_out_residual > 0.9 * blind.held_out_residual
    assert made[Method.LEARNED].evidence.held_out_residual > made[Method.CLASSICAL].evidence.fitted_residual


@pytest.mark.parametrize(("step", "share"), [(None, 1.0), (-0.3, 0.0), (0.4, 0.4), (1.7, 1.0)])
def test_the_believed_share_lies_between_the_images(step, share):
    assert believed_share(step) == share


def test_held_out_samples_do_not_influence_calibration():
    samples = samples_of(HALF)
    held_out = choose_held_out(
        samples.measured, calibration_lines(samples.measured), COLUMNS, np.random.default_rng(samples.seed)
    )
    altered = np.where(held_out, np.complex64(7 + 3j), samples.hybrid)
    one, other = calibrate(samples.hybrid, samples.measured, PLANS), calibrate(altered, samples.measured, PLANS)
    np.testing.assert_array_equal(one.sensitivities, other.sensitivities)
    assert one.scale == other.scale


def test_lines_that_calibration_has_seen_are_not_held_out():
    """Separate calibration lines fill the gaps between the image's own: those it used would be no evidence."""
    every_other = uniform(LINES, 2, acs_fraction=0)
    filled = every_other.copy()
    filled[LINES // 2 - 12 : LINES // 2 + 12] = True
    calibration = calibrate(samples_of(filled).hybrid, filled, PLANS)
    lines = compress(samples_of(every_other), calibration, PLANS).held_out.any(axis=1)
    assert lines.any()
    assert not lines[calibration.acs].any()
    assert not lines[~every_other].any()


def test_every_column_loses_exactly_one_line():
    held_out = choose_held_out(HALF, HALF_ACS, COLUMNS, np.random.default_rng(0))
    np.testing.assert_array_equal(held_out.sum(axis=0), 1)
    assert not held_out[~HALF].any()


@pytest.mark.parametrize("measured", [np.ones(LINES, bool), np.arange(LINES) < 3 * LINES // 4], ids=["full", "partial"])
def test_a_scan_without_gaps_holds_out_lines_too(learned, measured):
    """Its calibration uses the centre alone; the rest of the lines can bear witness."""
    proof = images_of(samples_of(measured), learned)[Method.LEARNED].evidence
    assert proof.held_out_samples == COLUMNS
    assert proof.held_out_residual is not None


def test_with_few_lines_outside_the_acs_nothing_is_held_out():
    assert not choose_held_out(FEW_OUTER, calibration_lines(FEW_OUTER), COLUMNS, np.random.default_rng(0)).any()


def test_what_no_sample_confirmed_is_not_called_confirmed(learned):
    made = images_of(samples_of(FEW_OUTER), learned)
    proof = made[Method.LEARNED].evidence
    assert (proof.held_out_samples, proof.learned_share) == (0, None)
    assert proof.learned_share_source == "applied in full, unconfirmed: no samples could be held out"
    assert made[Method.CLASSICAL].evidence.learned_share_source == ""
    chosen = images_of(samples_of(HALF), learned)[Method.LEARNED].evidence
    assert chosen.learned_share is not None
    assert chosen.learned_share_source == "chosen by the held-out samples"


@pytest.mark.parametrize(
    ("step", "held_out", "source"), [(0.4, 40, CHOSEN), (None, 0, NONE_HELD_OUT), (None, 40, NONE_CHANGED)]
)
def test_the_source_of_the_share_is_named(step, held_out, source):
    assert share_source(step, held_out) == source


def test_a_repeated_reconstruction_is_the_same(learned):
    first, second = (images_of(samples_of(HALF), learned)[Method.LEARNED] for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    assert first.evidence == second.evidence


@pytest.mark.parametrize("factor", [1e-14, 1e-9, 1e-6, 1e6, 1e14])
def test_the_units_of_the_samples_do_not_matter(learned, factor):
    """From next to the darkest that is accepted to next to the brightest."""
    samples = samples_of(uniform(LINES, 2, 0.2), known=False)
    other = replace(samples, hybrid=(samples.hybrid * factor).astype(np.complex64))
    for (method, made), (_, expected) in zip(
        images_of(other, learned).items(), images_of(samples, learned).items(), strict=True
    ):
        image = made.image.astype(np.float64) / factor
        assert np.abs(image - expected.image).max() <= 2e-4 * expected.image.max(), method


def test_the_scale_of_the_samples_does_not_matter(learned):
    samples = samples_of(HALF)
    louder = replace(samples, hybrid=samples.hybrid * np.float32(1e4), noise=NoiseLevel(NOISE * 1e4, "noise scan"))
    for method, made in images_of(samples, learned).items():
        np.testing.assert_allclose(images_of(louder, learned)[method].image, made.image * 1e4, atol=1e4 * 2e-3)
