"""Masks have the promised share, a full centre, and the centre of k-space in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modalities.mri.sampling import (
    NEAREST_CENTRE,
    acs_lines,
    contiguous_centre,
    effective_acceleration,
    uniform,
    variable_density,
)

sizes = st.integers(16, 300)
factors = st.sampled_from([2, 3, 4, 6, 8])


@given(sizes, st.floats(0, 0.5))
def test_the_acs_holds_the_centre(size, fraction):
    assert size // 2 in range(*acs_lines(size, fraction).indices(size))


@given(sizes, factors, st.integers(0, 1000))
def test_variable_density_measures_its_share_and_the_whole_acs(size, acceleration, seed):
    mask = variable_density(size, acceleration, 0.08, np.random.default_rng(seed))
    acs = acs_lines(size, 0.08)
    assert mask[acs].all()
    assert mask.sum() == max(round(size / acceleration), acs.stop - acs.start)


def test_variable_density_repeats_with_its_seed():
    first, second = (variable_density(128, 4, 0.08, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@given(sizes, factors)
def test_uniform_lines_are_evenly_spaced_and_meet_the_centre(size, acceleration):
    mask = uniform(size, acceleration, 0)
    assert mask[size // 2]
    assert set(np.diff(np.flatnonzero(mask)).tolist()) <= {acceleration}


def test_effective_acceleration_counts_the_acs():
    assert effective_acceleration(uniform(128, 4, 0.25)) == pytest.approx(128 / (32 + 24))


def test_effective_acceleration_of_nothing_is_the_number_of_lines():
    assert effective_acceleration(np.zeros(10, bool)) == 10


@given(st.lists(st.booleans(), min_size=1, max_size=64))
def test_the_contiguous_centre_is_measured_whole_and_cannot_grow(lines):
    measured = np.array(lines)
    run = contiguous_centre(measured)
    assert measured[run].all()
    if run.stop > run.start:
        assert run.start == 0 or not measured[run.start - 1]
        assert run.stop == measured.size or not measured[run.stop]
    else:
        centre = measured.size // 2
        assert not measured[max(0, centre - NEAREST_CENTRE) : centre + NEAREST_CENTRE + 1].any()
