"""The weights of the classical image's regularisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modalities.mri.classical import LEAST_COLUMN, wiener_weight

LINES, COLUMNS, COILS = 48, 40, 8
EVERYTHING = np.ones(LINES, bool)


def power_of(columns):
    """The same in every line, ``(LINES, COLUMNS)``."""
    return np.tile(np.asarray(columns, np.float32), (LINES, 1))


@given(st.floats(0.01, 100), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_columns_differ_by_no_more_than_there_are_of_them(signal, noise, seed):
    columns = signal * np.random.default_rng(seed).exponential(size=COLUMNS) ** 4
    weight = wiener_weight(power_of(columns), COILS, EVERYTHING, noise)
    assert np.isfinite(weight).all()
    assert (weight > 0).all()
    assert weight.max() / weight.min() <= 2 * COLUMNS / LEAST_COLUMN * 1.01


def test_columns_below_the_noise_do_not_leave_the_others_without_regularisation():
    """Their mean was clamped to next to nothing, and divided by."""
    columns = np.full(COLUMNS, 0.1)
    columns[10] = 1.0
    weight = wiener_weight(power_of(columns), COILS, EVERYTHING, 0.24)  # noise alone has 0.46
    assert weight[:, 10] == pytest.approx(weight[:, 0] / (2 * COLUMNS) * LEAST_COLUMN, rel=1e-3)


def test_noise_alone_weighs_all_columns_alike():
    weight = wiener_weight(power_of(np.full(COLUMNS, 0.1)), COILS, EVERYTHING, 0.24)
    np.testing.assert_allclose(weight, weight[0, 0], rtol=1e-6)


def test_strong_columns_weigh_by_the_inverse_of_their_power():
    columns = np.linspace(1, 2, COLUMNS)
    weight = wiener_weight(power_of(columns), COILS, EVERYTHING, 1e-3)
    np.testing.assert_allclose(weight[0] * columns, weight[0, 0] * columns[0], rtol=1e-4)
