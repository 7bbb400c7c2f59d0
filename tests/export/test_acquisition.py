"""The simulated scanner against what theory says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_source import made_source, point_source, small

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from scipy.spatial.transform import Rotation

from edge_runtime.modalities.mri.fourier import to_image
from export.simulate import contrast, lines, motion, off_resonance
from export.simulate.acquisition import Scanner, coil_noise_mixing, receiver_filter
from export.simulate.receive import complex_noise, measure
from export.simulate.scan_file import readouts


def scanner(**values: object) -> Scanner:
    return Scanner(made_source(), small(**values))


def image_of(kspace: np.ndarray, columns: int) -> np.ndarray:
    """Coil images ``(coils, phase_encodes, columns)``."""
    samples = kspace.shape[2]
    start = samples // 2 - columns // 2
    return to_image(to_image(kspace, axis=2)[:, :, start : start + columns], axis=1)


def measured(one: Scanner, index: int = 0) -> np.ndarray:
    return dict(one.measure())[index]


def close(actual: np.ndarray, expected: np.ndarray, share: float) -> None:
    assert np.linalg.norm(actual - expected) < share * np.linalg.norm(expected)


# ---------------------------------------------------------------------------------------------------------- brightness


def test_the_reference_is_what_the_full_scan_shows_and_is_scaled_to_one() -> None:
    one = scanner(slices=3, readout_oversampling=2)
    assert np.percentile(one.reference(1), 99) == pytest.approx(1, rel=1e-5)
    rss = np.sqrt(np.sum(np.abs(image_of(measured(one, 2), 32)) ** 2, axis=0))
    np.testing.assert_allclose(rss, one.reference(2), atol=1e-5)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_oversampling_changes_samples_and_not_the_image(oversampling: int) -> None:
    one = scanner(readout_oversampling=oversampling)
    assert measured(one).shape == (3, 40, 32 * oversampling)
    close(one.reference(0), scanner(readout_oversampling=2).reference(0), 0.02)


def test_the_noise_has_the_level_that_the_ratio_asks_for() -> None:
    noisy, silent = scanner(snr=25.0, noise_spread=2.0), scanner()
    assert noisy.noise_level == 1 / 25
    noise = measured(noisy) - measured(silent)
    assert np.sqrt(np.mean(np.abs(noise) ** 2)) == pytest.approx(1 / 25, rel=0.03)
    in_image = image_of(noise, 32)  # the transform is unitary: a pixel has the noise of a sample
    assert np.sqrt(np.mean(np.abs(in_image) ** 2)) == pytest.approx(1 / 25, rel=0.05)
    assert np.std(noise.real) == pytest.approx(np.std(noise.imag), rel=0.05)


def test_the_noise_of_coils_has_the_covariance_that_was_asked_for() -> None:
    config = small(coils=4, snr=10.0, noise_correlation=0.4, noise_spread=3.0, noise_readouts=400)
    one = Scanner(made_source(), config)
    noise = one.noise_scan()
    assert noise is not None and noise.shape == (400, 4, 64)
    flat = noise.transpose(1, 0, 2).reshape(4, -1)
    found = flat @ flat.conj().T / flat.shape[1] * config.snr**2
    mixing = coil_noise_mixing(config, np.random.default_rng([config.seed, 7, 0]))
    np.testing.assert_allclose(found, mixing @ mixing.conj().T, atol=0.03)
    level = np.sqrt(np.diag(found).real)
    correlation = np.abs(found) / np.outer(level, level)
    np.testing.assert_allclose([correlation[0, 1], correlation[0, 2], correlation[0, 3]], [0.4, 0.16, 0.4], atol=0.02)
    assert level.max() / level.min() == pytest.approx(3, rel=0.03)
    assert np.mean(level**2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("family", ["loops", "gaussian", "volume"])
def test_families_of_coils(family: str) -> None:
    """Volume coils see everything nearly alike, the others do not: their second singular value tells."""
    images = image_of(measured(scanner(coils=2, coil_family=family)), 32).reshape(2, -1)
    values = np.linalg.svd(images, compute_uv=False)
    assert (values[1] / values[0] < 0.3) == (family == "volume")


def test_the_receivers_filter_shapes_signal_and_noise_alike() -> None:
    gain = receiver_filter(64, 0.3)
    assert gain[0] == pytest.approx(0.3) and gain[18:47] == pytest.approx(1) and np.all(np.diff(gain[:18]) > 0)
    plain, filtered = (scanner(snr=20.0, filter_edge=edge) for edge in (1.0, 0.3))
    close(to_image(measured(filtered), axis=2), to_image(measured(plain), axis=2) * gain, 1e-5)
    noise, shaped = plain.noise_scan(), filtered.noise_scan()
    assert noise is not None and shaped is not None
    close(to_image(shaped, axis=2), to_image(noise, axis=2) * gain, 1e-5)


def test_without_noise_there_is_no_noise_scan() -> None:
    assert scanner().noise_scan() is None
    assert scanner(snr=10.0, noise_readouts=0).noise_scan() is None


# ------------------------------------------------------------------------------------------------------- what arrives


@pytest.mark.parametrize(
    "values",
    [
        {"mask": "variable_density", "acceleration": 3.0},
        {"mask": "uniform", "acceleration": 2.0, "acs_fraction": 0.0},
        {"partial_fourier": 0.7},
        {"dropout_share": 0.3},
        {"stop_after_share": 0.4},
        {"line_order": "centre_out"},
        {"slice_order": "interleaved"},
    ],
    ids=lambda values: "-".join(values),
)
def test_what_arrives_of_a_scan_is_a_part_of_the_full_scan(values: dict[str, object]) -> None:
    """Line for line, noise included: a mask is no other measurement."""
    usual = {"snr": 20.0, "slices": 2}
    full, part = scanner(**usual), scanner(**usual, **values)
    whole = dict(full.measure())
    for index, kspace in part.measure():
        arrived = part.schedule.lines[part.schedule.slices == index]
        np.testing.assert_array_equal(kspace[:, arrived], whole[index][:, arrived])


def test_schedules() -> None:
    def of(**values: object) -> lines.Schedule:
        config = small(slices=2, **values)
        return lines.schedule(config, np.random.default_rng(1), np.random.default_rng(2))

    full = of()
    assert full.lines.tolist() == [*range(40), *range(40)] and full.slices.tolist() == [0] * 40 + [1] * 40
    assert of(slice_order="interleaved").slices.tolist() == [0, 1] * 40
    assert of(line_order="centre_out").lines[:3].tolist() == [20, 19, 21]
    assert of(line_order="interleaved", lines_per_shot=10).lines[:3].tolist() == [0, 4, 8]
    assert of(partial_fourier=0.75).planned.tolist() == list(range(10, 40))
    assert of(mask="uniform", acceleration=4.0, acs_fraction=0.0).planned.tolist() == list(range(0, 40, 4))
    dense = of(mask="variable_density", acceleration=4.0, acs_fraction=0.1).planned
    assert len(dense) == 10 and {18, 19, 20, 21} <= set(dense.tolist())
    lost = of(dropout_share=0.25)
    assert 45 <= len(lost.lines) <= 74 and len(lost.planned) == 40 and lost.total == 80
    stopped = of(stop_after_share=0.25)
    assert stopped.lines.tolist() == list(range(20)) and stopped.stopped and not full.stopped


def test_a_partial_echo_is_the_end_of_a_readout() -> None:
    whole, part = scanner(), scanner(partial_echo=0.75)
    np.testing.assert_array_equal(measured(part), measured(whole)[:, :, 16:])


def test_what_is_larger_than_the_field_of_view_folds_over() -> None:
    whole = image_of(measured(scanner(coils=1, coil_family="uniform")), 32)[0]
    half = scanner(coils=1, coil_family="uniform", phase_mm=100.0, phase_encodes=20)
    folded = image_of(measured(half), 32)[0] * half.brightness / scanner(coils=1, coil_family="uniform").brightness
    # Rows 10 to 29 of the whole are the half's field of view; the other two quarters come in from the other side.
    expected = whole[10:30] + np.concatenate([whole[30:], whole[:10]])
    close(folded[:, 4:-4], expected[:, 4:-4], 0.02)


# ------------------------------------------------------------------------------------------------------------- motion


def test_a_head_that_does_not_move_is_no_motion() -> None:
    assert set(motion.draw_poses(5, np.arange(5), small(), np.random.default_rng(0))) == {motion.AT_REST}
    np.testing.assert_array_equal(measured(scanner(motion_mm=0.0, motion_deg=0.0)), measured(scanner()))


def test_a_translation_is_a_linear_phase_in_kspace() -> None:
    """Of the lines after the movement; those before it are as they were."""
    values = {"coils": 1, "coil_family": "uniform", "line_order": "linear", "lines_per_shot": 4}
    still = scanner(**values)
    moved = scanner(**values, motion_mm=7.0, motion_pattern="step")
    pose = moved.poses[-1]
    assert np.hypot(pose.columns_mm, pose.rows_mm) == pytest.approx(7) and pose.rotation_deg == 0
    first = 4 * moved.poses.index(pose)
    before, after = measured(still)[0], measured(moved)[0]
    np.testing.assert_array_equal(after[:first], before[:first])
    ky = (np.arange(40) - 20)[:, None] / 200.0
    kx = (np.arange(64) - 32)[None, :] / 320.0
    phase = np.exp(-2j * np.pi * (kx * pose.columns_mm + ky * pose.rows_mm))
    close(after[first:], (before * phase)[first:], 1e-4)


def test_a_quarter_turn_goes_from_columns_to_rows() -> None:
    image = np.zeros((33, 33), np.complex64)
    image[16, 24] = 1j
    movable = motion.Movable(image, (1.0, 1.0), (16.0, 16.0))
    turned = movable.at(motion.Pose(rotation_deg=90.0))
    assert np.unravel_index(np.argmax(np.abs(turned)), turned.shape) == (24, 16)
    assert turned[24, 16] == pytest.approx(1j, abs=1e-3)


def test_a_turn_keeps_lengths_where_pixels_are_not_square() -> None:
    y, x = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32, indexing="ij")
    spot = np.exp(-(((y * 2.0) / 6) ** 2) - ((x * 1.0 - 12) / 6) ** 2).astype(np.complex64)
    movable = motion.Movable(spot, (2.0, 1.0), (32.0, 32.0))
    turned = np.abs(movable.at(motion.Pose(rotation_deg=90.0)))
    where = np.sum(turned * y * 2.0) / turned.sum(), np.sum(turned * x) / turned.sum()
    assert where == pytest.approx((12.0, 0.0), abs=0.05)


def test_poses_reach_exactly_what_was_asked_for_and_are_seeded() -> None:
    config = small(motion_mm=3.0, motion_deg=5.0)
    poses = motion.draw_poses(9, np.arange(9), config, np.random.default_rng(1))
    assert poses[0] == motion.AT_REST
    assert max(np.hypot(pose.columns_mm, pose.rows_mm) for pose in poses) == pytest.approx(3)
    assert max(abs(pose.rotation_deg) for pose in poses) == pytest.approx(5)
    assert poses == motion.draw_poses(9, np.arange(9), config, np.random.default_rng(1))
    for shots in (2, 3):
        step = replace(config, motion_pattern="step")
        assert len(motion.draw_poses(shots, np.arange(shots), step, np.random.default_rng(0))) == shots


@pytest.mark.parametrize("pattern", ["walk", "step"])
@pytest.mark.parametrize("seed", range(4))
def test_what_was_asked_for_is_reached_by_the_shots_that_arrive(pattern: str, seed: int) -> None:
    """The others could hold the largest movement, or the only one."""
    config = small(motion_mm=3.0, motion_deg=5.0, motion_pattern=pattern)
    for arriving in ([0, 1, 2], [0, 3, 4, 17], [5, 6], [0, 19]):
        poses = motion.draw_poses(20, np.array(arriving), config, np.random.default_rng(seed))
        seen = [poses[shot] for shot in arriving]
        assert max(np.hypot(pose.columns_mm, pose.rows_mm) for pose in seen) == pytest.approx(3)
        assert max(abs(pose.rotation_deg) for pose in seen) == pytest.approx(5)
        assert pattern == "walk" or {motion.AT_REST} < set(seen)


@pytest.mark.parametrize("values", [{"lines_per_shot": 1024}, {"stop_after_share": 0.1}])
def test_motion_that_could_not_happen_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"motion_mm = 3\.0, motion_deg = 0\.0: .* more lines than lines_per_shot = "):
        scanner(motion_mm=3.0, **values)
    assert set(scanner(**values).poses) == {motion.AT_REST}


def test_a_step_shows_in_a_scan_that_was_stopped_early() -> None:
    values = {"motion_mm": 5.0, "motion_pattern": "step", "lines_per_shot": 2, "stop_after_share": 0.2}
    still = {key: value for key, value in values.items() if not key.startswith("motion")}
    moved, at_rest = scanner(**values), scanner(**still)
    came = moved.schedule.lines
    assert not np.array_equal(measured(moved)[:, came], measured(at_rest)[:, came])


# ------------------------------------------------------------------------------------------------------ off-resonance


@pytest.mark.parametrize("sign", [1, -1])
def test_off_resonance_moves_the_object_along_the_readout(sign: int) -> None:
    """By f over the bandwidth per pixel, towards higher columns where f is positive."""
    values = {"sequence": "spin_echo", "bandwidth_per_pixel_hz": 100.0}
    at_rest = image_of(measured(scanner(**values)), 64)  # the oversampled field of view, within which nothing is lost
    one = scanner(**values, off_resonance_hz=sign * 300.0, off_resonance_shape="constant")
    moved = image_of(measured(one), 64)
    close(moved, np.roll(at_rest, sign * 3, axis=2), 1e-4)
    assert one.reference(0) == pytest.approx(scanner(**values).reference(0), abs=1e-5)


def test_a_gradient_echo_has_turned_by_the_echo_time() -> None:
    values = {"bandwidth_per_pixel_hz": 100.0, "off_resonance_hz": 200.0, "off_resonance_shape": "constant"}
    spin = measured(scanner(**values, sequence="spin_echo"))
    gradient = measured(scanner(**values, echo_time_ms=3.0))
    close(gradient, spin * np.exp(-2j * np.pi * 200 * 0.003), 1e-4)


def test_each_point_moves_by_its_own_off_resonance() -> None:
    field = np.zeros((4, 64), np.float32)
    image = np.zeros((1, 4, 64), np.complex64)
    for row, (column, hz) in enumerate([(20, 0.0), (20, 250.0), (40, -500.0), (33, 125.0)]):
        image[0, row, column], field[row, column] = 1.0, hz
    hybrid = off_resonance.transform_readout(image, field, 64, bandwidth_per_pixel_hz=125.0)
    back = np.abs(to_image(hybrid, axis=2))[0]
    assert np.argmax(back, axis=1).tolist() == [20, 22, 36, 34]


def test_on_resonance_the_exact_transform_is_the_fast_one() -> None:
    rng = np.random.default_rng(0)
    image, maps = complex_noise((12, 48), rng), complex_noise((2, 12, 48), rng)
    expected = measure(image, maps, (12, 24))
    hybrid = off_resonance.transform_readout(image * maps, np.zeros((12, 48), np.float32), 24, 100.0)
    encoded = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(hybrid, axes=1), axis=1, norm="ortho"), axes=1)
    np.testing.assert_allclose(encoded, expected, atol=1e-5)


def test_a_field_that_changes_across_the_slice_dims_gradient_echoes_alone() -> None:
    config = small(slice_thickness_mm=4.0, echo_time_ms=10.0)
    ones, none = np.ones((1, 3), np.complex64), np.zeros((1, 3), np.float32)
    slope = np.array([[0.0, 12.5, 25.0]], np.float32)  # turns over the slice at the echo: 0, a half, one
    left = off_resonance.dephased(ones, none, slope, config)
    np.testing.assert_allclose(np.abs(left), [[1, 2 / np.pi, 0]], atol=1e-6)
    np.testing.assert_array_equal(
        off_resonance.dephased(ones, none, slope, replace(config, sequence="spin_echo")), ones
    )


def test_the_smooth_map_reaches_the_strength_that_was_asked_for() -> None:
    one = scanner(slices=3, off_resonance_hz=180.0)
    fields = []
    for index in range(3):
        complex_object, field, _ = one.object_at_rest(index)
        fields.append(field[np.abs(complex_object) > 0.1])
    values = np.concatenate(fields)
    assert np.abs(values).max() == pytest.approx(180, rel=0.05)
    assert abs(np.median(values)) < 10


def test_the_slope_of_the_map_is_its_derivative() -> None:
    field = off_resonance.SmoothField.draw(100.0, 3, np.random.default_rng(4), bump=True)
    position = np.linspace(-90, 90, 7)
    step = 0.01
    slope = (field.at(position, position, 20 + step) - field.at(position, position, 20 - step)) / (2 * step)
    np.testing.assert_allclose(field.slice_gradient(position, position, 20.0), slope, atol=2e-3)


def test_the_smooth_phase_reaches_the_angle_that_was_asked_for() -> None:
    one = scanner(phase="smooth", phase_rad=2.0)
    complex_object, _, _ = one.object_at_rest(0)
    angles = np.angle(complex_object[np.abs(complex_object) > 0.1])
    assert np.abs(angles).max() == pytest.approx(2, rel=0.05)


# ----------------------------------------------------------------------------------------------------------- contrast


def test_relaxation_times_at_the_fields_of_the_table_and_between() -> None:
    assert contrast.GREY.relaxation_ms(1.5) == pytest.approx((1125, 95))
    t1 = [contrast.WHITE.relaxation_ms(field)[0] for field in (0.05, 0.3, 1.5, 3.0)]
    assert t1 == sorted(t1)
    assert contrast.WHITE.relaxation_ms(0.01) == contrast.WHITE.relaxation_ms(0.05)


def test_the_signal_is_ernsts() -> None:
    config = small(field_strength_t=1.5, repetition_time_ms=885.0, echo_time_ms=72.0, flip_angle_deg=90.0)
    assert contrast.signal(contrast.WHITE, config) == pytest.approx(0.70 * (1 - np.exp(-1)) * np.exp(-1))


def test_a_t1_weighted_volume_becomes_t2_weighted() -> None:
    """Three classes of brightness take the signals of three tissues; air stays dark."""
    voxels = np.repeat(np.array([0.0, 0.25, 0.6, 0.95], np.float32), 500)
    t2 = small(source_weighting="t1", sequence="spin_echo", repetition_time_ms=4000.0, echo_time_ms=100.0)
    curve = contrast.recolouring(voxels, t2)
    assert curve is not None
    air, fluid, grey, white = curve(np.array([0.0, 0.25, 0.6, 0.95], np.float32))
    assert air == 0 and fluid > grey > white
    expected = [contrast.signal(tissue, t2) for tissue in (contrast.FLUID, contrast.GREY, contrast.WHITE)]
    np.testing.assert_allclose([fluid, grey, white], expected, rtol=0.05)
    assert contrast.recolouring(voxels, small()) is None


def test_grey_and_white_matter_grow_alike_at_low_field() -> None:
    """What makes low-field T1 weighting pale: both relax in a third of a second."""

    def ratio(field: float) -> float:
        config = small(field_strength_t=field, repetition_time_ms=500.0)
        white, grey = (contrast.signal(tissue, config) for tissue in (contrast.WHITE, contrast.GREY))
        return white / 0.70 / (grey / 0.82)

    assert 1 < ratio(0.055) < ratio(1.5)


# ----------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_point_is_seen_where_it_lies_in_the_patient(plane: str, swap: bool) -> None:
    turn = Rotation.from_euler("zyx", [8, -5, 11], degrees=True).as_matrix()
    axes = np.diag([-1.0, -1.0, 1.0]) @ turn
    centre = np.array([4.0, -30.0, 55.0])
    index = (22, 37, 34)
    config = small(
        plane=plane,
        swap_axes=swap,
        coils=1,
        coil_family="uniform",
        slices=5,
        slice_spacing_mm=2.5,
        slice_thickness_mm=2.5,
        slice_offset_mm={"axial": 10.0, "coronal": -17.5, "sagittal": -20.0}[plane],
    )
    one = Scanner(point_source(index, axes, centre), config)
    batches = list(readouts(one))
    images = {i: np.abs(image_of(kspace, 32)[0]) for i, kspace in one.measure()}
    brightest = max(images, key=lambda i: images[i].max())
    image = images[brightest]
    header = batches[brightest].header[0]
    # Centre of mass of the spot, in pixels.
    power = np.where(image > 0.3 * image.max(), image, 0)
    rows, columns = (np.sum(power * grid) / power.sum() for grid in np.mgrid[: image.shape[0], : image.shape[1]])
    found = (
        header["position"]
        + header["read_direction"] * (columns - 31 / 2) * 160 / 32
        + header["phase_direction"] * (rows - 39 / 2) * 200 / 40
    )
    truth = centre + (np.array(index) - 30) * 2.5 @ axes
    np.testing.assert_allclose(found, truth, atol=0.6)
    frame = np.cross(header["read_direction"], header["phase_direction"])
    np.testing.assert_allclose(frame, header["slice_direction"], atol=1e-6)
