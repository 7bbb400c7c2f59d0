"""What a header's geometry makes of the arrays, and what is refused before any is allocated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated import header_of, object_image, with_spaces

from edge_runtime.errors import BudgetExceeded, HeaderError, UnsupportedScan
from edge_runtime.modalities.mri.layout import WORKING_COPIES, Layout
from edge_runtime.modalities.mri.learned import NETWORK_BYTES_PER_PIXEL
from edge_runtime.scan import EncodingSpace, Limit


def spaces(encoded, encoded_mm, recon, recon_mm):
    return with_spaces(
        header_of(), encoded=EncodingSpace((*encoded, 1), (*encoded_mm, 5)), recon=EncodingSpace((*recon, 1), (*recon_mm, 5))
    )  # fmt: skip


def layout_of(header):
    limits = {
        "kspace_encoding_step_1": Limit(
            0, header.encoding.encoded.matrix[1] - 1, header.encoding.encoded.matrix[1] // 2
        )
    }
    return Layout.of(replace(header, encoding=replace(header.encoding, limits=limits)))  # fmt: skip


def test_readout_oversampling_is_cropped_by_the_field_of_view():
    assert layout_of(spaces((128, 64), (480, 240), (64, 64), (240, 240))).columns == 64


def test_twice_the_samples_at_one_field_of_view_are_taken_for_oversampling():
    layout = layout_of(spaces((128, 64), (240, 240), (64, 64), (240, 240)))
    assert layout.columns == 64
    assert "oversampling" in layout.notes[0]


@pytest.mark.parametrize("recon", [(32, 32), (32, 33), (64, 64)])
def test_an_image_of_lower_resolution_shows_the_whole_field_of_view(recon):
    """Half the matrix along both axes at one field of view: coarser pixels, no oversampling."""
    layout = layout_of(spaces((64, 64), (256, 256), recon, (256, 256)))
    assert (layout.columns, layout.rows, layout.notes) == (64, 64, ())
    np.testing.assert_allclose(layout.to_recon_matrix(np.ones((64, 64), np.complex64)), 1, atol=1e-5)
    wide = object_image(64, 64)
    wide[:, [0, -1]] = 2  # the rim is still there
    assert np.abs(layout.to_recon_matrix(wide)[:, 0]).min() > 0.5


@pytest.mark.parametrize(("lines", "phase_mm", "recon_lines"), [(96, 360, 64), (64, 240, 60)])
def test_oversampling_without_a_field_of_view_is_cropped_where_the_phase_encodes_are_not_halved(
    lines, phase_mm, recon_lines
):
    assert layout_of(spaces((128, lines), (240, phase_mm), (64, recon_lines), (240, 240))).columns == 64


def test_phase_oversampling_is_cropped_by_the_field_of_view():
    layout = layout_of(spaces((64, 96), (240, 360), (64, 64), (240, 240)))
    assert (layout.lines, layout.rows) == (96, 64)


def test_interpolation_crops_nothing():
    layout = layout_of(spaces((64, 64), (240, 240), (128, 128), (240, 240)))
    assert (layout.columns, layout.rows, layout.recon_matrix) == (64, 64, (128, 128))


@pytest.mark.parametrize("recon", [(24, 32), (48, 64), (47, 33), (12, 16), (25, 33)])
def test_interpolation_keeps_the_brightness(recon):
    layout = layout_of(spaces((24, 32), (240, 320), recon, (240, 320)))
    image = layout.to_recon_matrix(np.ones((32, 24), np.complex64))
    assert image.shape == recon[::-1]
    np.testing.assert_allclose(image, 1, atol=1e-5)


def test_an_interpolated_image_goes_through_the_measured_points():
    layout = layout_of(spaces((24, 32), (240, 320), (48, 64), (240, 320)))
    image = object_image(32, 24)
    np.testing.assert_allclose(layout.to_recon_matrix(image)[::2, ::2], image, atol=0.03)


def test_partial_fourier_puts_the_centre_of_kspace_in_the_middle():
    layout = Layout.of(header_of(lines=32, steps=Limit(0, 23, 8)))
    assert layout.line_of(np.arange(8, 10)).tolist() == [16, 17]
    assert (layout.first_step, layout.steps, layout.expected_lines) == (0, 24, 24)


def test_a_centre_of_zero_is_not_believed():
    layout = Layout.of(header_of(lines=32, steps=Limit(0, 31, 0)))
    assert layout.centre_step == 16
    assert "phase encode 0" in layout.notes[0]


def test_acceleration_lowers_what_is_expected():
    assert Layout.of(header_of(lines=32, acceleration=4)).expected_lines == 8


def test_the_scan_can_say_exactly_how_many_lines_to_expect():
    assert Layout.of(header_of(acceleration=4, parameters={"edge_expected_lines": "11"})).expected_lines == 11


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (range(0, 32, 2), ""),
        (range(1, 32, 2), ""),
        (range(0, 30, 2), "15 of 16 expected phase encodes were measured"),
        ([*range(0, 12, 2), *range(12, 20), *range(20, 26, 2)], "phase encodes 0 to 24 of 0 to 31 were reached"),
        ([*range(6, 12, 2), *range(12, 20), *range(20, 32, 2)], "phase encodes 6 to 30 of 0 to 31 were reached"),
        ([], "0 of 16 expected phase encodes were measured"),
    ],
    ids=["whole", "the other lines", "one line less", "last ones missing", "first ones missing", "nothing"],
)
def test_what_a_slice_lacks_is_said_in_numbers(steps, words):
    """At R = 2: the ACS makes up in number for lines that are missing further out."""
    measured = np.isin(np.arange(32), list(steps))
    assert Layout.of(header_of(acceleration=2)).missing(measured) == words


def test_where_the_number_is_stated_the_ends_need_not_be_reached():
    layout = Layout.of(header_of(acceleration=2, parameters={"edge_expected_lines": "8"}))
    assert layout.missing(np.isin(np.arange(32), range(12, 20))) == ""
    assert layout.missing(np.isin(np.arange(32), range(12, 19))) == "7 of 8 expected phase encodes were measured"


EMBEDDED = {"EmbeddedRefLinesE1": "24"}


def linear(acs: int) -> np.ndarray:
    """Every fourth of 128 lines and the ACS, in their order."""
    lines = np.arange(128)
    return np.flatnonzero((lines % 4 == 0) | (np.abs(lines - 63.5) < acs / 2))


def shares(parameters, order, *, separate_acs=False):
    """After every line."""
    layout = Layout.of(header_of(lines=128, acceleration=4, parameters=parameters))
    masks = [np.isin(np.arange(128), order[: count + 1]) for count in range(len(order))]
    return np.array([layout.share(measured.astype(np.int32), separate_acs=separate_acs) for measured in masks])


@pytest.mark.parametrize(
    ("parameters", "separate_acs", "acs"),
    [
        (EMBEDDED, False, 24),
        ({"edge_expected_lines": "50"}, False, 24),
        ({}, False, 0),
        (EMBEDDED, True, 0),
        ({"EmbeddedRefLinesE1": "many"}, False, 0),
    ],
    ids=["embedded", "stated", "no ACS", "separate", "senseless"],
)
def test_the_share_of_an_accelerated_slice_counts_its_acs(parameters, separate_acs, acs):
    order = linear(acs)
    expected = np.arange(1, len(order) + 1) / len(order)
    np.testing.assert_allclose(shares(parameters, order, separate_acs=separate_acs), expected)


def test_an_acs_that_nobody_tells_of_counts_when_it_has_come():
    order = linear(24)
    expected = np.arange(1, len(order) + 1) / len(order)
    come = np.flatnonzero(order == 75)[0]
    estimated = shares({}, order)
    np.testing.assert_allclose(estimated[come:], expected[come:])
    assert (estimated[:come] > expected[:come]).all()


def test_the_share_of_a_full_scan_is_that_of_its_lines():
    layout = Layout.of(header_of(lines=128, parameters=EMBEDDED))
    assert layout.share((np.arange(128) < 32).astype(np.int32), separate_acs=False) == 0.25


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        (np.full(128, 1), 0.25),  # one average after the other
        (np.where(np.arange(128) < 32, 4, 0), 0.25),  # all of a line, then the next
        (np.full(128, 4), 1.0),
        (np.full(128, 5), 1.0),
    ],
)
def test_the_share_of_a_scan_with_averages_is_that_of_all_of_them(counts, share):
    layout = Layout.of(header_of(lines=128, limits={"average": Limit(0, 3)}))
    assert layout.share(counts.astype(np.int32), separate_acs=False) == share


def test_counters_that_begin_elsewhere_are_named_as_the_scanner_counts():
    layout = Layout.of(header_of(lines=32, steps=Limit(0, 23, 8), acceleration=2))
    measured = np.zeros(32, bool)
    measured[layout.line_of(np.arange(2, 16))] = True
    assert layout.missing(measured) == "phase encodes 2 to 15 of 0 to 23 were reached"
    measured[layout.line_of(np.arange(24))] = True
    assert layout.missing(measured) == ""


@pytest.mark.parametrize("value", ["0", "33", "-3", "1.5", "all", "", "1e3", "²", "9" * 30])
def test_a_senseless_expectation_is_refused_by_name(value):
    with pytest.raises(HeaderError, match="edge_expected_lines"):
        Layout.of(header_of(parameters={"edge_expected_lines": value}))


@pytest.mark.parametrize("trajectory", ["epi", "radial", "spiral", "other"])
def test_other_trajectories_are_refused_by_name(trajectory):
    header = header_of()
    with pytest.raises(UnsupportedScan, match=f"trajectory = {trajectory}"):
        Layout.of(replace(header, encoding=replace(header.encoding, trajectory=trajectory)))


def test_three_dimensions_are_refused():
    with pytest.raises(UnsupportedScan, match=r"encodedSpace.matrixSize.z = 16"):
        Layout.of(with_spaces(header_of(), encoded=EncodingSpace((64, 32, 16), (240, 240, 80))))


def test_partition_counters_are_refused():
    with pytest.raises(UnsupportedScan, match="3D"):
        Layout.of(header_of(limits={"kspace_encoding_step_2": Limit(0, 15, 8)}))


def test_a_centre_outside_its_range_is_refused():
    with pytest.raises(HeaderError, match=r"center = 40: must lie within 0 to 31"):
        Layout.of(header_of(lines=32, steps=Limit(0, 31, 40)))


@pytest.mark.parametrize(("steps", "most"), [(Limit(0, 60000, 16), 31), (Limit(4, 36, 16), 35)])
def test_more_phase_encodes_than_the_matrix_are_refused(steps, most):
    with pytest.raises(HeaderError, match=rf"step_1.maximum = {steps.maximum}: at most {most}: .*matrixSize.y = 32"):
        Layout.of(header_of(lines=32, steps=steps))


def test_a_slice_that_fits_the_budget_is_accepted_and_one_byte_less_is_not():
    layout = Layout.of(header_of())
    needed = layout.slice_bytes(4) * (1 + WORKING_COPIES)
    layout.check_budget(4, needed)
    with pytest.raises(BudgetExceeded, match="4 x 32 x 24"):
        layout.check_budget(4, needed - 1)


def test_a_network_counts_in_the_budget():
    layout = layout_of(spaces((2048, 2048), (240, 240), (2048, 2048), (240, 240)))
    network_bytes = layout.lines * layout.columns * NETWORK_BYTES_PER_PIXEL
    assert network_bytes == 1 << 30
    layout.check_budget(1, 384 << 20)
    with pytest.raises(BudgetExceeded, match=r"1 x 2048 x 2048: one slice needs about 1376 MB, .* grants 384 MB"):
        layout.check_budget(1, 384 << 20, network_bytes)


def test_a_reconstructed_matrix_beyond_the_budget_is_refused():
    layout = layout_of(spaces((24, 32), (240, 320), (4096, 4096), (240, 320)))
    with pytest.raises(BudgetExceeded, match=r"reconSpace.matrixSize = 4096 x 4096"):
        layout.check_budget(1, 64 << 20)
