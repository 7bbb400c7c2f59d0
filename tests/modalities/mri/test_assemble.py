"""Readouts become the hybrid space that a direct transform gives, or are refused by field and value."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from simulated import (
    COILS,
    COLUMNS,
    LINES,
    SAMPLES,
    coil_maps,
    complex_noise,
    header_of,
    kspace_of,
    object_image,
    readouts_of,
    usual_kspace,
)

from edge_runtime.errors import BudgetExceeded, ReadoutError, UnsupportedScan
from edge_runtime.modalities.mri import assemble
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.fourier import centre_slice, to_image
from edge_runtime.modalities.mri.layout import WORKING_COPIES, Layout
from edge_runtime.scan import Limit, ReadoutBatch, ReadoutFlag, SliceKey

KSPACE = usual_kspace()
KEY = SliceKey()
PLENTY = 256 << 20


def assembler_of(header=None, budget_bytes=PLENTY):
    header = header or header_of()
    return Assembler(header, Layout.of(header), budget_bytes)


def feed(assembler, *batches):
    """Takes batches in; returns every slice that grew with whether it is complete."""
    return [grown for batch in batches for grown in assembler.add(batch)]


def direct(kspace, columns=COLUMNS):
    """Hybrid space by a direct transform, ``(coils, lines, columns)``."""
    return to_image(kspace, axis=2)[:, :, centre_slice(kspace.shape[2], columns)]


def take_in(assembler, *batches):
    """As a session does: slices that are complete are taken."""
    for batch in batches:
        for key, complete in assembler.add(batch):
            if complete:
                assembler.take(key)


def joined(*batches):
    return ReadoutBatch(np.concatenate([b.header for b in batches]), np.concatenate([b.samples for b in batches]))


def hybrid_of(header, *batches, key=KEY):
    assembler = assembler_of(header)
    feed(assembler, *batches)
    list(assembler.finish())
    return assembler.snapshot(key).hybrid


# ------------------------------------------------------------------------------------------------------ hybrid space


@pytest.mark.parametrize("size", [1, 5, LINES])
def test_readouts_in_any_order_and_batches_of_any_size_give_the_direct_transform(size):
    order = np.random.default_rng(0).permutation(np.arange(LINES))
    parts = [order[first : first + size] for first in range(0, LINES, size)]
    hybrid = hybrid_of(None, *(readouts_of(KSPACE, part, last=False) for part in parts))
    np.testing.assert_allclose(hybrid, direct(KSPACE), atol=1e-5)


@pytest.mark.parametrize(("samples", "columns"), [(24, 24), (48, 24), (50, 25), (51, 25), (49, 24), (46, 23)])
def test_oversampling_is_cropped_around_the_centre(samples, columns):
    kspace = kspace_of(object_image(LINES, columns), coil_maps(COILS, LINES, columns), samples, noise=0.1)
    hybrid = hybrid_of(header_of(columns=columns, samples=samples), readouts_of(kspace))
    np.testing.assert_allclose(hybrid, direct(kspace, columns), atol=1e-5)


@pytest.mark.parametrize("missing", [8, 11])
def test_an_asymmetric_echo_is_put_in_its_place(missing):
    """The first samples of every readout were not measured."""
    zeroed = KSPACE.copy()
    zeroed[:, :, :missing] = 0
    short = readouts_of(np.ascontiguousarray(KSPACE[:, :, missing:]), centre_sample=SAMPLES // 2 - missing)
    np.testing.assert_allclose(hybrid_of(None, short), direct(zeroed), atol=1e-5)


def test_discarded_samples_are_not_looked_at():
    padded = np.pad(KSPACE, ((0, 0), (0, 0), (3, 2)), constant_values=1e6)
    batch = readouts_of(padded, discard_pre=3, discard_post=2, centre_sample=SAMPLES // 2 + 3)
    np.testing.assert_allclose(hybrid_of(None, batch), direct(KSPACE), atol=1e-5)


def test_an_asymmetric_echo_with_a_senseless_centre_is_noted():
    assembler = assembler_of()
    feed(assembler, readouts_of(np.ascontiguousarray(KSPACE[:, :, 8:]), centre_sample=60000))
    assert "centre_sample 60000 does not fit" in assembler.notes[0]


def test_notes_about_readouts_are_bounded():
    assembler = assembler_of()
    batch = readouts_of(np.zeros((1, 200, 4), np.complex64), last=False)
    batch.header["phase_encode"], batch.header["repetition"] = 0, np.arange(200)
    batch.header["centre_sample"] = 1000 + np.arange(200)
    feed(assembler, batch)
    assert len(assembler.notes) < 50


def test_partial_fourier_leaves_the_unmeasured_side_empty():
    """Counters run from 0, though the first eight lines of k-space were not measured."""
    header = header_of(steps=Limit(0, LINES - 9, LINES // 2 - 8))
    batch = readouts_of(np.ascontiguousarray(KSPACE[:, 8:]))
    expected = direct(KSPACE)
    expected[:, :8] = 0
    np.testing.assert_allclose(hybrid_of(header, batch), expected, atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("coils", [1, COILS])
def test_averages_are_averaged(coils, together):
    """A look at the scan in between, as for a preview, must not change it."""
    header = header_of(limits={"average": Limit(0, 1, 0)}, coils=coils)
    first, second = (kspace_of(object_image(), coil_maps(coils), SAMPLES, noise=0.1, seed=s) for s in (1, 2))
    batches = [readouts_of(kspace, average=n) for n, kspace in enumerate((first, second))]
    assembler = assembler_of(header)
    if together:
        grown = feed(assembler, joined(*batches))
    else:
        grown = feed(assembler, batches[0][:20], batches[0][20:], batches[1][:20])
        assembler.snapshot(KEY)
        grown += feed(assembler, batches[1][20:])
    assert [complete for _, complete in grown][:-1] == [False] * (len(grown) - 1)
    assert grown[-1] == (KEY, True)
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid, direct((first + second) / 2), atol=1e-5)


def test_the_end_of_the_first_average_is_not_the_end_of_the_slice():
    """LAST_IN_SLICE of average 0 and the first lines of average 1 come in one batch."""
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1, 0)}))
    batch = joined(readouts_of(KSPACE), readouts_of(KSPACE, np.arange(5), last=False, average=1))
    assert feed(assembler, batch) == [(KEY, False)]


def test_averaging_lowers_the_noise():
    noise = readouts_of(complex_noise(KSPACE.shape, np.random.default_rng(1)), flags=ReadoutFlag.IS_NOISE_MEASUREMENT)
    assembler = assembler_of(header_of(limits={"average": Limit(0, 3, 0)}))
    feed(assembler, noise, *(readouts_of(KSPACE, average=n) for n in range(4)))
    assert assembler.snapshot(KEY).noise.standard_deviation == pytest.approx(0.5)


def test_every_slice_contrast_phase_repetition_and_set_is_an_image_of_its_own():
    names = ("slice", "contrast", "phase", "repetition", "set")
    assembler = assembler_of()
    batches = [readouts_of(KSPACE * np.complex64(i + 1), last=False, **{name: 1}) for i, name in enumerate(names)]
    feed(assembler, joined(*batches))
    keys = [SliceKey(**{name: 1}) for name in names]
    assert assembler.open_slices() == sorted(keys)
    for factor, key in enumerate(keys, 1):
        np.testing.assert_allclose(assembler.snapshot(key).hybrid, direct(KSPACE) * factor, atol=1e-4)


def test_interleaved_slices_are_told_apart():
    batches = [
        readouts_of(KSPACE * np.complex64(1 + s), [line], slice=s, last=False) for line in range(6) for s in (0, 1)
    ]
    assembler = assembler_of()
    feed(assembler, joined(*batches))
    np.testing.assert_allclose(
        assembler.snapshot(SliceKey(slice=1)).hybrid, 2 * assembler.snapshot(SliceKey(slice=0)).hybrid, rtol=1e-5
    )


def test_a_snapshot_does_not_change_when_more_is_measured():
    assembler = assembler_of(header_of(coils=1))
    single = kspace_of(object_image(), coil_maps(1), SAMPLES)
    feed(assembler, readouts_of(single, np.arange(16), last=False))
    snapshot = assembler.snapshot(KEY)
    before = snapshot.hybrid.copy()
    feed(assembler, readouts_of(single, np.arange(16, 32), last=False))
    np.testing.assert_array_equal(snapshot.hybrid, before)


def test_the_next_slice_does_not_touch_one_that_was_handed_out():
    assembler = assembler_of(header_of(coils=1))
    single = kspace_of(object_image(), coil_maps(1), SAMPLES)
    feed(assembler, readouts_of(single))
    samples, _ = assembler.take(KEY)
    feed(assembler, readouts_of(2 * single, slice=1))
    np.testing.assert_allclose(samples.hybrid, direct(single), atol=1e-5)


def test_nothing_of_a_slice_shows_in_the_next_that_uses_its_memory():
    assembler = assembler_of()
    feed(assembler, readouts_of(1e6 * KSPACE))
    first, _ = assembler.take(KEY)
    assembler.reuse(first)
    lines = np.arange(0, LINES, 3)
    feed(assembler, readouts_of(KSPACE, lines, slice=1))
    second, to_calibrate = assembler.take(SliceKey(slice=1))
    assert np.shares_memory(first.hybrid, second.hybrid)
    expected = np.zeros_like(direct(KSPACE))
    expected[:, lines] = direct(KSPACE)[:, lines]
    np.testing.assert_allclose(second.hybrid, expected, atol=1e-5)
    assert np.abs(to_calibrate.hybrid()).max() <= 1.001 * np.abs(expected).max()  # rounding


@pytest.mark.parametrize("together", [False, True])
def test_averages_in_used_memory_are_of_this_slice_alone(together):
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1, 0)}))
    feed(assembler, readouts_of(1e6 * KSPACE, average=1))
    assembler.reuse(assembler.take(KEY)[0])
    averages = [readouts_of(k * KSPACE, slice=1, average=a, last=a == 1) for a, k in enumerate((1, 3))]
    feed(assembler, *([joined(*averages)] if together else averages))
    np.testing.assert_allclose(assembler.take(SliceKey(slice=1))[0].hybrid, 2 * direct(KSPACE), atol=1e-4)


def test_what_is_taken_equals_the_snapshots():
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1, 0)}))
    feed(assembler, readouts_of(KSPACE, last=False), readouts_of(2 * KSPACE, np.arange(12, 20), average=1, last=False))
    copied, ahead = assembler.snapshot(KEY), assembler.calibration_snapshot(KEY)
    samples, to_calibrate = assembler.take(KEY)
    np.testing.assert_array_equal(samples.hybrid, copied.hybrid)
    np.testing.assert_array_equal(to_calibrate.hybrid(), ahead.hybrid())
    assert to_calibrate.identity() == ahead.identity()


# ------------------------------------------------------------------------------------------------- noise, calibration


def test_a_noise_scan_whitens_what_follows():
    rng = np.random.default_rng(4)
    mixing = (np.eye(COILS) + 0.4 * complex_noise((COILS, COILS), rng)).astype(np.complex64)
    noise = np.einsum("ij,jlx->ilx", mixing, complex_noise((COILS, 64, SAMPLES), rng))
    lines = np.einsum("ij,jlx->ilx", mixing, complex_noise((COILS, LINES, SAMPLES), rng))
    hybrid = hybrid_of(None, readouts_of(noise, flags=ReadoutFlag.IS_NOISE_MEASUREMENT, last=False), readouts_of(lines))
    flat = hybrid.reshape(COILS, -1)
    np.testing.assert_allclose(flat @ flat.conj().T / flat.shape[1], np.eye(COILS), atol=0.15)


def test_noise_readouts_may_be_of_another_length():
    noise = complex_noise((COILS, 8, 100), np.random.default_rng(0))
    assembler = assembler_of()
    feed(assembler, readouts_of(noise, flags=ReadoutFlag.IS_NOISE_MEASUREMENT, last=False), readouts_of(KSPACE))
    assert assembler.snapshot(KEY).noise.source == "noise scan"


def test_noise_after_the_first_image_readout_is_refused():
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, np.arange(3), last=False))
    with pytest.raises(ReadoutError, match="IS_NOISE_MEASUREMENT"):
        feed(assembler, readouts_of(KSPACE, flags=ReadoutFlag.IS_NOISE_MEASUREMENT))


@pytest.mark.parametrize("lines", [1, 3])
@pytest.mark.parametrize("together", [False, True])
def test_late_noise_is_refused_and_does_not_whiten_the_lines_before_it(together, lines):
    """However the bytes came: one line alone may still wait for the next, which tells whether there are counters."""
    assembler = assembler_of()
    image = readouts_of(KSPACE, np.arange(lines), last=False)
    noise = complex_noise((COILS, 8, SAMPLES), np.random.default_rng(0))
    late = readouts_of(noise, flags=ReadoutFlag.IS_NOISE_MEASUREMENT, last=False)
    late.header["scan_counter"] += 100
    with pytest.raises(ReadoutError, match=r"IS_NOISE_MEASUREMENT .scan_counter 100."):
        feed(assembler, *([joined(image, late)] if together else [image, late]))
    list(assembler.finish())
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid[:, :lines], direct(KSPACE)[:, :lines], atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
def test_calibration_lines_after_the_end_of_their_slice_are_refused(together):
    assembler = assembler_of()
    calibration = readouts_of(KSPACE, [12, 13], flags=ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False)
    batches = [readouts_of(KSPACE), calibration]
    with pytest.raises(ReadoutError, match="LAST_IN_SLICE"):
        take_in(assembler, *([joined(*batches)] if together else batches))


def test_too_little_noise_is_refused_by_the_number_of_readouts():
    noise = readouts_of(complex_noise((COILS, 3, 4), np.random.default_rng(0)), last=False)
    noise.header["flags"] = ReadoutFlag.IS_NOISE_MEASUREMENT
    with pytest.raises(ReadoutError, match="noise readouts = 3: 12 noise samples for 4 coils"):
        feed(assembler_of(), noise, readouts_of(KSPACE))


def test_a_coil_without_noise_is_refused_by_number():
    noise = complex_noise((COILS, 8, SAMPLES), np.random.default_rng(0))
    noise[1] = 0
    assembler = assembler_of()
    feed(assembler, readouts_of(noise, flags=ReadoutFlag.IS_NOISE_MEASUREMENT, last=False))
    with pytest.raises(ReadoutError, match="coil 1 has no noise"):
        feed(assembler, readouts_of(KSPACE))


NOT_IMAGES = [
    ReadoutFlag.IS_NAVIGATION_DATA,
    ReadoutFlag.IS_PHASECORR_DATA,
    ReadoutFlag.IS_HPFEEDBACK_DATA,
    ReadoutFlag.IS_RTFEEDBACK_DATA,
    ReadoutFlag.IS_DUMMYSCAN_DATA,
    ReadoutFlag.IS_SURFACECOILCORRECTIONSCAN_DATA,
    ReadoutFlag.IS_PHASE_STABILIZATION_REFERENCE,
    ReadoutFlag.IS_PHASE_STABILIZATION,
]


@pytest.mark.parametrize("flag", NOT_IMAGES, ids=lambda flag: flag.name)
def test_readouts_that_are_not_image_lines_are_counted_and_left_out(flag):
    assembler = assembler_of()
    odd_one = readouts_of(1e6 * KSPACE, [7], flags=flag, last=False)
    feed(assembler, joined(readouts_of(KSPACE, last=False), odd_one))
    assert assembler.left_out == {flag.name: 1}
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid, direct(KSPACE), atol=1e-5)


@pytest.mark.parametrize("coils", [1, COILS + 3])
@pytest.mark.parametrize("flag", NOT_IMAGES, ids=lambda flag: flag.name)
def test_readouts_that_are_not_image_lines_may_have_coils_of_their_own(flag, coils):
    assembler = assembler_of()
    other = readouts_of(np.zeros((coils, LINES, SAMPLES), np.complex64), [7], flags=flag, last=False)
    half = LINES // 2
    feed(assembler, other, readouts_of(KSPACE, range(half), last=False), other)
    assert feed(assembler, readouts_of(KSPACE, range(half, LINES)))[-1] == (KEY, True)
    assert assembler.left_out == {flag.name: 2}
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid, direct(KSPACE), atol=1e-5)


@pytest.mark.parametrize("flag", NOT_IMAGES, ids=lambda flag: flag.name)
def test_reversed_readouts_beside_the_image_are_left_out_too(flag):
    assembler = assembler_of()
    odd_one = readouts_of(1e6 * KSPACE, [7], flags=flag | ReadoutFlag.IS_REVERSE, last=False)
    feed(assembler, joined(readouts_of(KSPACE, last=False), odd_one))
    assert assembler.left_out == {flag.name: 1}


def test_a_slice_ends_with_a_readout_that_is_left_out():
    """A navigator comes after the last line."""
    navigator = readouts_of(KSPACE, [7], flags=ReadoutFlag.IS_NAVIGATION_DATA)
    assert feed(assembler_of(), joined(readouts_of(KSPACE, last=False), navigator))[-1] == (KEY, True)


@pytest.mark.parametrize(
    "flag", [ReadoutFlag.LAST_IN_SLICE, ReadoutFlag.LAST_IN_REPETITION, ReadoutFlag.LAST_IN_MEASUREMENT]
)
def test_a_slice_ends_with_a_calibration_line(flag):
    calibration = readouts_of(KSPACE, [7], flags=flag | ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False)
    assert feed(assembler_of(), readouts_of(KSPACE, last=False), calibration)[-1] == (KEY, True)


@pytest.mark.parametrize("kind", [ReadoutFlag(0), ReadoutFlag.IS_NAVIGATION_DATA, ReadoutFlag.IS_PARALLEL_CALIBRATION])
def test_the_last_readout_of_the_measurement_ends_slices_whatever_averages_are_to_come(kind):
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1)}))
    lines, last = range(LINES - 1), [LINES - 1]
    assert not any(complete for _, complete in feed(assembler, readouts_of(KSPACE, lines, last=False)))
    end = readouts_of(KSPACE, last, flags=kind | ReadoutFlag.LAST_IN_MEASUREMENT, last=False)
    assert feed(assembler, end)[-1] == (KEY, True)


PLAIN = [
    flag
    for flag in ReadoutFlag
    if "FIRST_IN" in str(flag.name)
    or flag.name in ("LAST_IN_ENCODE_STEP1", "LAST_IN_ENCODE_STEP2", "LAST_IN_AVERAGE", "LAST_IN_CONTRAST", "LAST_IN_PHASE",
                     "LAST_IN_SET", "LAST_IN_SEGMENT", "IS_PARALLEL_CALIBRATION_AND_IMAGING")
    or "USER" in str(flag.name)
]  # fmt: skip
ENDING = [ReadoutFlag.LAST_IN_SLICE, ReadoutFlag.LAST_IN_REPETITION, ReadoutFlag.LAST_IN_MEASUREMENT]
COMPRESSION = [flag for flag in ReadoutFlag if "COMPRESSION" in str(flag.name)]
OTHERS = [ReadoutFlag.IS_NOISE_MEASUREMENT, ReadoutFlag.IS_PARALLEL_CALIBRATION, ReadoutFlag.IS_REVERSE]


def test_what_becomes_of_every_flag_of_the_standard_is_tested():
    kinds = [*PLAIN, *ENDING, *COMPRESSION, *OTHERS, *NOT_IMAGES]
    assert sorted(kinds) == sorted(ReadoutFlag)


@pytest.mark.parametrize("flag", PLAIN, ids=lambda flag: flag.name)
def test_a_flag_that_says_nothing_new_leaves_a_line_what_it_is(flag):
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, flags=flag, last=False))
    assert not assembler.left_out
    assert not assembler.notes
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid, direct(KSPACE), atol=1e-5)


@pytest.mark.parametrize("flag", COMPRESSION, ids=lambda flag: flag.name)
def test_compressed_samples_are_refused_by_the_name_of_their_flag(flag):
    with pytest.raises(UnsupportedScan, match=rf"{flag.name} \(scan_counter"):
        feed(assembler_of(), readouts_of(KSPACE, flags=flag, last=False))


def test_bits_that_are_no_flags_are_noted():
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, flags=ReadoutFlag(1 << 40 | 1 << 31), last=False))
    assert assembler.notes == ["flags: bits that the standard does not define were ignored: 31, 40"]


@pytest.mark.parametrize("field", ["slice", "encoding_space"])
def test_a_readout_that_is_left_out_does_not_end_the_slice_of_another(field):
    other = readouts_of(KSPACE, [7], flags=ReadoutFlag.IS_NAVIGATION_DATA, **{field: 1})
    assert not any(complete for _, complete in feed(assembler_of(), readouts_of(KSPACE, last=False), other))


def test_readouts_of_another_encoding_space_are_counted_and_left_out():
    assembler = assembler_of()
    feed(assembler, joined(readouts_of(KSPACE), readouts_of(KSPACE, [7], encoding_space=1, last=False)))
    assert assembler.left_out == {"encoding_space_ref other than 0": 1}


def test_separate_calibration_lines_serve_calibration_only():
    assembler = assembler_of()
    calibration = readouts_of(2 * KSPACE, np.arange(12, 20), flags=ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False)
    feed(assembler, calibration, readouts_of(KSPACE, np.arange(0, LINES, 2), last=False))
    samples = assembler.calibration_snapshot(KEY)
    hybrid, measured = samples.hybrid(), samples.measured
    np.testing.assert_array_equal(np.flatnonzero(measured[11:21]) + 11, np.arange(12, 21))
    np.testing.assert_allclose(hybrid[:, 13], 2 * direct(KSPACE)[:, 13], atol=1e-5)  # measured for calibration only
    np.testing.assert_allclose(hybrid[:, 14], direct(KSPACE)[:, 14], atol=1e-5)  # the image's own line comes first
    np.testing.assert_array_equal(np.flatnonzero(assembler.measured(KEY)), np.arange(0, LINES, 2))


def calibration_of(kspace, **counters):
    return readouts_of(kspace, np.arange(12, 20), flags=ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False, **counters)


def test_separate_calibration_lines_serve_later_repetitions_of_their_slice():
    assembler = assembler_of()
    feed(assembler, calibration_of(2 * KSPACE), calibration_of(5 * KSPACE, slice=1))
    outer = np.arange(0, LINES, 4)
    for repetition in range(3):
        feed(assembler, readouts_of(KSPACE, outer, repetition=repetition))
        _, samples = assembler.take(SliceKey(repetition=repetition))
        assert samples.lines == slice(12, 21)
        np.testing.assert_allclose(samples.hybrid()[:, 13], 2 * direct(KSPACE)[:, 13], atol=1e-5)
        assert samples.notes == (("calibrated with the separate ACS of repetition 0",) if repetition else ())
    assert list(assembler.finish()) == []


def test_calibration_lines_too_far_out_to_calibrate_from_are_not_kept():
    """Of 64 lines, the 32 in the centre are all that calibration looks at."""
    kspace = kspace_of(object_image(64), coil_maps(lines=64), SAMPLES)
    assembler = assembler_of(header_of(lines=64))
    feed(assembler, readouts_of(2 * kspace, flags=ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False))
    feed(assembler, readouts_of(kspace, np.arange(0, 64, 4)))
    samples = assembler.calibration_snapshot(KEY)
    factors = np.where(np.arange(16, 48) % 4 == 0, 1, 2)[None, :, None]
    assert samples.lines == slice(16, 48)
    np.testing.assert_allclose(samples.hybrid()[:, 16:48], factors * direct(kspace)[:, 16:48], atol=1e-5)


def test_a_later_calibration_replaces_the_one_before_but_not_for_a_slice_in_progress():
    assembler = assembler_of()
    outer = np.arange(0, LINES, 4)
    feed(assembler, calibration_of(2 * KSPACE), readouts_of(KSPACE, outer, last=False))
    feed(assembler, calibration_of(3 * KSPACE, repetition=1), readouts_of(KSPACE, outer, repetition=1, last=False))
    for repetition, factor in enumerate((2, 3)):
        _, samples = assembler.take(SliceKey(repetition=repetition))
        np.testing.assert_allclose(samples.hybrid()[:, 13], factor * direct(KSPACE)[:, 13], atol=1e-5)
        assert samples.notes == ()


def test_calibration_lines_of_many_slices_are_refused_before_memory_is_exceeded():
    header = header_of()
    assembler = assembler_of(header, Layout.of(header).slice_bytes(COILS) * (WORKING_COPIES + 3))
    feed(assembler, *(calibration_of(KSPACE, slice=s) for s in range(3)))
    with pytest.raises(BudgetExceeded, match="separate calibrations = 4"):
        feed(assembler, calibration_of(KSPACE, slice=3))


def test_lines_for_calibration_and_image_are_image_lines():
    flags = ReadoutFlag.IS_PARALLEL_CALIBRATION_AND_IMAGING | ReadoutFlag.IS_PARALLEL_CALIBRATION
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, np.arange(12, 20), flags=flags, last=False))
    assert assembler.lines_measured(KEY) == 8


# ----------------------------------------------------------------------------------------------------------- geometry


def test_an_image_lies_where_its_first_image_line_does():
    """Calibration may have been measured elsewhere."""
    calibration = calibration_of(KSPACE)
    calibration.header["position"], calibration.header["read_direction"] = 99, 0
    assembler = assembler_of()
    feed(assembler, calibration, readouts_of(KSPACE, last=False))
    geometry = assembler.geometry(KEY)
    assert geometry.centre_mm == (0, 0, 0)
    assert geometry.read_direction == (1, 0, 0)
    assert assembler.notes == []


@pytest.mark.parametrize("field", ["position", "read_direction", "phase_direction", "slice_direction"])
@pytest.mark.parametrize("together", [False, True])
def test_a_geometry_that_changes_within_a_slice_is_noted(field, together):
    batches = [readouts_of(KSPACE, range(first, first + 10), last=False) for first in (0, 10)]
    batches[1].header[field] += np.float32(0.5)
    assembler = assembler_of()
    feed(assembler, *([joined(*batches)] if together else batches))
    assert assembler.notes == [f"{field} changes within slice 0: its images are placed by the first line of each"]


@pytest.mark.parametrize("field", ["read_direction", "phase_direction"])
def test_directions_that_the_scanner_does_not_send_are_noted(field):
    batch = readouts_of(KSPACE, last=False)
    batch.header[field] = 0
    assembler = assembler_of()
    feed(assembler, batch)
    assert assembler.notes == ["Geometry unknown because the scanner sent no directions"]


# --------------------------------------------------------------------------------------------------- missing counters


def without_counters(slices=1, lines=LINES):
    batch = joined(*(readouts_of(KSPACE[:, :lines] * np.complex64(s + 1), last=False) for s in range(slices)))
    batch.header["phase_encode"] = 0
    return batch


@pytest.mark.parametrize("size", [1, 2, 7, 2 * LINES])
def test_readouts_without_counters_are_numbered_as_they_come(size):
    header = header_of(limits={"slice": Limit(0, 1, 0)})
    assembler = assembler_of(header)
    batch = without_counters(slices=2)
    grown = feed(assembler, *(batch[first : first + size] for first in range(0, len(batch), size)))
    assert [key.slice for key, complete in grown if complete] == [0, 1]
    np.testing.assert_allclose(assembler.snapshot(SliceKey(slice=1)).hybrid, 2 * direct(KSPACE), atol=1e-5)


def test_numbering_is_noted_before_the_first_image():
    assembler = assembler_of()
    feed(assembler, without_counters())
    assert "numbered in the order" in assembler.notes[0]


def test_partial_fourier_without_counters_is_numbered_from_its_first_line():
    header = header_of(steps=Limit(0, LINES - 9, LINES // 2 - 8))
    batch = without_counters(lines=LINES - 8)
    expected = np.zeros_like(direct(KSPACE))
    expected[:, 8:] = direct(KSPACE)[:, : LINES - 8]
    np.testing.assert_allclose(hybrid_of(header, batch), expected, atol=1e-5)


def test_accelerated_scans_without_counters_are_refused():
    with pytest.raises(ReadoutError, match="accelerated"):
        feed(assembler_of(header_of(acceleration=2)), without_counters())


def test_counters_that_appear_later_are_refused():
    batch = without_counters()
    batch.header["phase_encode"][5] = 5
    with pytest.raises(ReadoutError, match=r"idx = \[5, 0"):
        feed(assembler_of(), batch)


@pytest.mark.parametrize("lines", [1, 2])
def test_a_few_readouts_without_counters_are_settled_at_the_end(lines):
    assembler = assembler_of()
    assert not feed(assembler, without_counters()[:lines])
    assert list(assembler.finish()) == [(KEY, False)]
    assert assembler.lines_measured(KEY) == lines


@pytest.mark.parametrize("size", [1, 2, LINES + 1])
def test_a_first_line_that_comes_twice_is_named_and_the_first_is_kept(size):
    batch = joined(readouts_of(KSPACE, [0], last=False), readouts_of(2 * KSPACE, last=False))
    batch.header["scan_counter"] = np.arange(LINES + 1)
    assembler = assembler_of()
    with pytest.raises(ReadoutError, match=r"kspace_encode_step_1 = 0: was measured before .*scan_counter 1"):
        feed(assembler, *(batch[first : first + size] for first in range(0, len(batch), size)))
    assert assembler.lines_measured(KEY) == 1
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid[:, 0], direct(KSPACE)[:, 0], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ refused


def changed(index, **fields):
    batch = readouts_of(KSPACE, last=False)
    for name, value in fields.items():
        batch.header[name][index] = value
    return batch


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (changed(9, phase_encode=LINES), ReadoutError, f"kspace_encode_step_1 = {LINES}: .*scan_counter 9"),
        (changed(9, phase_encode=65535), ReadoutError, "kspace_encode_step_1 = 65535: .*scan_counter 9"),
        (changed(9, partition=1), ReadoutError, "kspace_encode_step_2 = 1: .*scan_counter 9"),
        (changed(9, phase_encode=4), ReadoutError, "kspace_encode_step_1 = 4: was measured before .*scan_counter 9"),
        (changed(9, flags=ReadoutFlag.COMPRESSION1), UnsupportedScan, "COMPRESSION1 .scan_counter 9"),
        (
            changed(slice(9, None, 2), flags=ReadoutFlag.IS_REVERSE),
            UnsupportedScan,
            "IS_REVERSE .scan_counter 9.*echo-planar",
        ),
    ],
)
def test_a_bad_readout_is_named_and_those_before_it_are_kept(batch, error, words):
    assembler = assembler_of()
    with pytest.raises(error, match=words):
        feed(assembler, batch)
    np.testing.assert_array_equal(np.flatnonzero(assembler.measured(KEY)), np.arange(9))
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid[:, :9], direct(KSPACE)[:, :9], atol=1e-5)


def test_a_line_measured_again_in_a_later_batch_is_refused():
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, [3, 4, 5], last=False))
    with pytest.raises(ReadoutError, match="kspace_encode_step_1 = 4"):
        feed(assembler, readouts_of(KSPACE, [7, 4], last=False))
    assert assembler.lines_measured(KEY) == 4


@pytest.mark.parametrize("flag", [ReadoutFlag.LAST_IN_SLICE, ReadoutFlag.LAST_IN_MEASUREMENT], ids=lambda f: f.name)
@pytest.mark.parametrize("together", [False, True])
def test_readouts_after_the_end_of_their_slice_are_refused(together, flag):
    assembler = assembler_of()
    batches = [readouts_of(KSPACE, np.arange(20), last=False), readouts_of(KSPACE, [25], last=False)]
    batches[0].header["flags"][-1] = flag
    with pytest.raises(ReadoutError, match=f"belongs to a slice that {flag.name} had ended"):
        take_in(assembler, *([joined(*batches)] if together else batches))


def interleaved(lines=LINES, slices=2, **counters):
    """Line after line of all slices."""
    parts = [readouts_of(KSPACE, range(lines), last=False, slice=s, **counters) for s in range(slices)]
    return joined(*(part[n : n + 1] for n in range(lines) for part in parts))


def with_flag(batch, flag):
    batch.header["flags"][-1] |= np.uint64(flag)
    return batch


@pytest.mark.parametrize(
    "flag", [ReadoutFlag.LAST_IN_REPETITION, ReadoutFlag.LAST_IN_MEASUREMENT], ids=lambda f: f.name
)
def test_the_end_of_a_repetition_or_of_the_scan_is_the_end_of_all_its_slices(flag):
    grown = feed(assembler_of(), with_flag(interleaved(), flag))
    assert [key.slice for key, complete in grown if complete] == [0, 1]


def test_the_end_of_a_repetition_leaves_others_open_and_the_end_of_the_scan_does_not():
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, [1], last=False, slice=3, repetition=2))
    ended = feed(assembler, with_flag(interleaved(repetition=0), ReadoutFlag.LAST_IN_REPETITION))[-2:]
    assert ended == [(SliceKey(slice=s), True) for s in (0, 1)]
    last = with_flag(readouts_of(KSPACE, [1], last=False, slice=4, repetition=1), ReadoutFlag.LAST_IN_MEASUREMENT)
    assert (SliceKey(slice=3, repetition=2), True) in feed(assembler, last)


@pytest.mark.parametrize(("lines", "whole"), [(LINES, True), (LINES - 1, False)])
def test_a_slice_ends_when_a_later_repetition_of_it_begins(lines, whole):
    assembler = assembler_of()
    feed(assembler, interleaved(lines))
    assert feed(assembler, readouts_of(KSPACE, [0], last=False, repetition=1))[0] == (KEY, True)
    assert assembler.is_whole(KEY) is whole
    assembler.take(KEY)
    with pytest.raises(ReadoutError, match="belongs to a slice that the beginning of repetition 1 had ended"):
        feed(assembler, readouts_of(KSPACE, [LINES - 1], last=False))


def test_a_slice_that_a_flag_ended_is_whole_by_the_scanners_word():
    assembler = assembler_of()
    feed(assembler, with_flag(interleaved(LINES // 2), ReadoutFlag.LAST_IN_REPETITION))
    assert assembler.is_whole(KEY)


@pytest.mark.parametrize("size", [1, 7, 3 * LINES])
@pytest.mark.parametrize("averages", [2, 3])
def test_a_slice_that_has_all_its_lines_ends_without_a_flag(size, averages):
    whole = joined(*(readouts_of(KSPACE, last=False, average=average) for average in range(averages)))
    assembler = assembler_of(header_of(limits={"average": Limit(0, averages - 1)}))
    grown = feed(assembler, *(whole[first : first + size] for first in range(0, len(whole), size)))
    assert grown[-1] == (KEY, True) and not any(complete for _, complete in grown[:-1])
    assert assembler.is_whole(KEY)


@pytest.mark.parametrize(
    ("header", "steps"),
    [
        (header_of(), range(LINES)),  # how many averages there are is not said
        (header_of(limits={"average": Limit(0, 0)}), range(LINES)),  # as good as not said
        (header_of(limits={"average": Limit(0, 1)}), range(LINES)),
        (header_of(limits={"average": Limit(0, 1)}, acceleration=2), range(0, LINES, 2)),
    ],
)
def test_a_slice_that_may_lack_lines_stays_open(header, steps):
    assert feed(assembler_of(header), readouts_of(KSPACE, steps, last=False)) == [(KEY, False)]


def test_an_accelerated_slice_ends_with_the_last_of_the_lines_that_are_stated():
    header = header_of(acceleration=2, parameters={"edge_expected_lines": "16"})
    assembler = assembler_of(header)
    assert feed(assembler, readouts_of(KSPACE, range(0, LINES, 2), last=False)) == [(KEY, True)]


@pytest.mark.parametrize("declared", [None, 1, 2])
@pytest.mark.parametrize("together", [True, False])
def test_averages_beyond_those_declared_that_come_line_by_line_are_all_taken_in(together, declared):
    """Nobody knows how many there are, so that the slice waits for the end."""
    lines = np.repeat(np.arange(LINES), 3)
    batch = readouts_of(KSPACE, lines, last=False, average=np.arange(3 * LINES) % 3)
    assembler = assembler_of(header_of(limits={"average": Limit(0, declared - 1)} if declared else {}))
    feed(assembler, *([batch] if together else [batch[at : at + 1] for at in range(3 * LINES)]))
    np.testing.assert_allclose(assembler.snapshot(KEY).hybrid, direct(KSPACE), atol=1e-5)


@pytest.mark.parametrize("together", [True, False])
def test_averages_of_a_header_that_nobody_filled_in_are_averaged(together):
    first, more = (readouts_of(KSPACE, last=False, average=average) for average in (0, 1))
    assembler = assembler_of(header_of(limits={"average": Limit(0, 0)}))
    take_in(assembler, *([joined(first, more)] if together else [first, more]))
    assert assembler.take(KEY)[0].measured.all() and not assembler.left_out


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("flags", [0, int(ReadoutFlag.IS_PARALLEL_CALIBRATION)])
def test_readouts_that_come_after_the_last_declared_are_left_out_and_said(together, flags):
    averages = [readouts_of(KSPACE, last=False, average=average) for average in (0, 1)]
    late = readouts_of(KSPACE, [5, 6], last=False, average=2, flags=flags)
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1)}))
    take_in(assembler, *([joined(*averages, late)] if together else [*averages, late]))
    assert sum(assembler.left_out.values()) >= 1
    assert any("phase encode 5 of average 2 came after the last" in note for note in assembler.notes)
    assert not assembler.open_slices()


def test_a_slice_that_lacks_averages_is_not_whole():
    assembler = assembler_of(header_of(limits={"average": Limit(0, 1)}))
    feed(assembler, readouts_of(KSPACE, last=False), readouts_of(KSPACE, range(20), last=False, average=1))
    assert not assembler.is_whole(KEY)
    assert assembler.lacking(KEY) == f"{LINES - 20} of {LINES} phase encodes were measured in fewer than 2 averages"


def test_slices_and_repetitions_that_never_came_are_said():
    assembler = assembler_of(header_of(limits={"slice": Limit(0, 4), "repetition": Limit(0, 0)}))
    feed(assembler, readouts_of(KSPACE), readouts_of(KSPACE, slice=3))
    assert assembler.absent() == ("of 5 slices that the header declares 2 came",)


def test_an_average_that_was_not_declared_is_refused_with_the_mend():
    assembler = assembler_of()
    take_in(assembler, readouts_of(KSPACE))
    with pytest.raises(
        ReadoutError, match=r"average = 1: comes after LAST_IN_SLICE .*encodingLimits.average.maximum = 1"
    ):
        feed(assembler, readouts_of(KSPACE, average=1))


@pytest.mark.parametrize("name", ["slice", "contrast", "phase", "repetition", "set", "average"])
@pytest.mark.parametrize(("declared", "noted"), [(None, False), (Limit(0, 7, 0), False), (Limit(0, 0, 0), True)])
def test_a_counter_beyond_its_limits_is_noted(name, declared, noted):
    assembler = assembler_of(header_of(limits={name: declared} if declared else None))
    feed(assembler, readouts_of(KSPACE, last=False, **{name: 7}))
    said = f"the header declares {name} 0 to 0, readouts have others: taken as they came"
    assert assembler.notes == ([said] if noted else [])


def test_a_scan_without_end_is_remembered_as_far_as_a_late_readout_reaches(monkeypatch):
    monkeypatch.setattr(assemble, "MOST_ENDED", 4)
    assembler = assembler_of()
    take_in(assembler, *(readouts_of(KSPACE, repetition=n) for n in range(6)))
    with pytest.raises(ReadoutError, match="LAST_IN_SLICE"):
        feed(assembler, readouts_of(KSPACE, [1], repetition=2, last=False))
    feed(assembler, readouts_of(KSPACE, [1], repetition=1, last=False))
    assert assembler.open_slices() == [SliceKey(repetition=1)]


@pytest.mark.parametrize(("declared", "noted"), [(COILS, False), (None, False), (COILS + 5, True)])
def test_a_number_of_coils_other_than_declared_is_noted(declared, noted):
    assembler = assembler_of(header_of(coils=declared))
    feed(assembler, readouts_of(KSPACE))
    said = f"the header says receiverChannels = {COILS + 5}, the readouts have {COILS} coils"
    assert assembler.notes == ([said] if noted else [])


def test_another_number_of_coils_is_refused():
    assembler = assembler_of()
    feed(assembler, readouts_of(KSPACE, [1, 2], last=False))
    with pytest.raises(ReadoutError, match=f"active_channels = {COILS - 1}"):
        feed(assembler, readouts_of(KSPACE[: COILS - 1], [3], last=False))


def test_more_samples_than_the_encoded_matrix_are_refused():
    wide = kspace_of(object_image(), coil_maps(), SAMPLES + 2)
    with pytest.raises(ReadoutError, match=f"number_of_samples = {SAMPLES + 2}"):
        feed(assembler_of(), readouts_of(wide))


def test_slices_that_are_never_ended_are_refused_before_memory_is_exceeded():
    header = header_of()
    budget = Layout.of(header).slice_bytes(COILS) * (WORKING_COPIES + 3)
    assembler = assembler_of(header, budget)
    feed(assembler, *(readouts_of(KSPACE, [1], last=False, slice=s) for s in range(3)))
    with pytest.raises(BudgetExceeded, match="slices in progress = 4"):
        feed(assembler, readouts_of(KSPACE, [1], last=False, slice=3))


def test_more_coils_than_the_budget_allows_are_refused_before_allocation():
    assembler = assembler_of(budget_bytes=4 << 20)
    many = readouts_of(np.zeros((128, 1, SAMPLES), np.complex64), [0])
    with pytest.raises(BudgetExceeded, match=f"128 x {LINES} x {COLUMNS}"):
        feed(assembler, many)


def test_tiny_readouts_of_a_long_matrix_do_not_blow_up():
    """1000 readouts of one sample each are 8 kB; padded at once to the declared 4096 samples they would be 32 MB and more."""
    assembler = assembler_of(header_of(lines=1000, samples=4096, columns=16, coils=1))
    batch = readouts_of(np.ones((1, 1000, 1), np.complex64))
    tracemalloc.start()
    feed(assembler, batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_fewer_slices_may_wait_the_more_are_in_progress():
    header = header_of()
    budget = Layout.of(header).slice_bytes(COILS) * (WORKING_COPIES + 5)
    assembler = assembler_of(header, budget)
    allowed = []
    for number in range(4):
        feed(assembler, readouts_of(KSPACE, [1], last=False, slice=number))
        allowed.append(assembler.slices_that_may_wait())
    assert allowed == [2, 1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, -np.inf)])
def test_a_sample_that_is_not_finite_is_named_and_the_lines_before_it_are_kept(value):
    batch = readouts_of(KSPACE)
    batch.samples[20, 1, 7] = value
    assembler = assembler_of()
    with pytest.raises(
        ReadoutError, match=f"data = .*: finite samples, but not at coil 1, sample 7 .* scan_counter {20}"
    ):
        take_in(assembler, batch)
    assert assembler.lines_measured(KEY) == 20


def test_an_average_that_is_not_finite_is_not_added():
    header = header_of(limits={"average": Limit(0, 1, 0)})
    first = readouts_of(KSPACE, last=False)
    second = ReadoutBatch(first.header.copy(), first.samples.copy())
    second.header["average"] = 1
    second.samples[5, 0, 0] = np.nan
    assembler = assembler_of(header)
    with pytest.raises(ReadoutError, match="coil 0, sample 0"):
        take_in(assembler, first, second)
    averaged = assembler.snapshot(KEY).hybrid
    assert np.abs(averaged - direct(KSPACE)).max() <= 1e-5 * np.abs(averaged).max()
