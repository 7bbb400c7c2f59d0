"""Bounds, stopping and tests against brute force and SciPy."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.hil.bench.statistics import (
    autocorrelation,
    binomial_cdf,
    early_stopping,
    fisher_exact,
    least_samples,
    permutation_test,
    quantile,
    segment_quantiles,
    share,
)

stats = pytest.importorskip("scipy.stats")


def exact_cdf(n: int, k: int, p: Fraction) -> float:
    """``P(Binomial(n, p) <= k)`` in whole numbers."""
    return float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)))


@given(st.integers(1, 60), st.integers(0, 20))
def test_the_binomial_distribution(n: int, twentieths: int) -> None:
    p = Fraction(twentieths, 20)
    expected = [exact_cdf(n, k, p) for k in range(n + 1)]
    assert np.allclose(binomial_cdf(n, float(p)), expected, atol=1e-12)


def test_the_binomial_distribution_of_many() -> None:
    assert np.allclose(binomial_cdf(100_000, 0.001)[:300], stats.binom.cdf(np.arange(300), 100_000, 0.001), atol=1e-9)


@settings(max_examples=40)
@given(st.integers(1, 200), st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from([0.8, 0.95]))
def test_bounds_of_quantiles_are_the_tightest_that_keep_their_promise(n: int, p: float, confidence: float) -> None:
    """By trying every rank: samples are their own ranks."""
    found = quantile(range(1, n + 1), p, confidence)
    tail = (1 - confidence) / 2
    below = stats.binom.cdf(np.arange(n), n, p)
    lows = [r for r in range(1, n + 1) if below[r - 1] <= tail]
    highs = [r for r in range(1, n + 1) if below[r - 1] >= 1 - tail]
    assert found.low == (max(lows) if lows else None)
    assert found.high == (min(highs) if highs else None)
    assert found.value == max(1, math.ceil(round(p * n, 9)))


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (400, 0.9), (50, 0.9)])
def test_bounds_hold_as_often_as_promised_whatever_the_distribution(n: int, p: float) -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        samples = generator.pareto(1.2, n)
        truth = (1 - p) ** (-1 / 1.2) - 1
        found = quantile(samples.tolist(), p)
        held += (found.low is None or found.low <= truth) and (found.high is None or truth <= found.high)
    assert held >= 0.92 * 400  # promised 95 %; fewer than 92 % would be a chance of 1 in 100


def test_mlperfs_rule_needs_as_many_samples_as_mlperf_says() -> None:
    assert [least_samples(p) for p in (0.9, 0.99)] == [64, 662]
    assert early_stopping(range(63), 0.9).estimate is None
    assert early_stopping(range(64), 0.9).estimate == 63
    # What LoadGen printed of a run of 2048 queries: "Would discard 172 highest latency queries."
    assert early_stopping(range(2048), 0.9).discarded == 172
    assert early_stopping(range(2145), 0.9).discarded == 181


@given(st.integers(2, 400), st.sampled_from([0.5, 0.9, 0.95]), st.sampled_from([0.9, 0.99]))
def test_mlperfs_rule_by_counting_up(n: int, p: float, confidence: float) -> None:
    """As LoadGen does it: the largest t for which n queries are enough."""
    over = stats.binom.cdf(np.arange(n + 1), n, 1 - p)
    enough = [t for t in range(1, n + 1) if over[t] <= 1 - confidence]
    found = early_stopping(range(n), p, confidence)
    if not enough:
        assert found.estimate is None and found.needed > n
    else:
        assert found.estimate == sorted(range(n))[n - max(enough)]
        assert found.discarded == max(enough) - 1 and found.needed <= n


@given(st.integers(1, 500), st.data())
@settings(max_examples=40)
def test_shares_have_clopper_and_pearsons_bounds(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, of))
    found = share(count, of)
    expected = stats.binomtest(count, of).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_of_nothing_no_share_is_known() -> None:
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.lists(st.integers(0, 9), min_size=2, max_size=4))
@settings(max_examples=30)
def test_the_permutation_test_counts_every_way_to_deal_the_segments(a: list[int], b: list[int]) -> None:
    """By brute force over all orders, with SciPy's mid-ranks."""
    ranks = stats.rankdata([*a, *b])
    usual = len(b) * (len(ranks) + 1) / 2
    seen = abs(sum(ranks[len(a) :]) - usual)
    ways = [abs(sum(order[: len(b)]) - usual) for order in itertools.permutations(ranks)]
    assert permutation_test(a, b).chance == pytest.approx(np.mean([way >= seen - 1e-9 for way in ways]))


def test_a_shift_is_found_and_its_size_is_told() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(100, 2, 12), generator.normal(105, 2, 12)
    shift = permutation_test(a.tolist(), b.tolist())
    assert shift.chance < 0.001 and shift.low < 5 < shift.high


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 30))
def test_shares_are_compared_by_fishers_test(a: int, more_a: int, b: int, more_b: int) -> None:
    expected = stats.fisher_exact([[a, more_a], [b, more_b]]).pvalue
    assert fisher_exact(a, a + more_a, b, b + more_b) == pytest.approx(expected)


def test_segments_and_neighbours() -> None:
    assert segment_quantiles([5, 1, 3, 9, 7, 8, 0], 2, 0.5) == [3, 8]
    assert segment_quantiles([1, 2], 3, 0.5) == []
    assert autocorrelation([1, 1, 1]) == 0.0
    assert autocorrelation(list(range(100))) > 0.9
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="no segments"):
        permutation_test([], [1.0])
