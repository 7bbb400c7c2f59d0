"""Quantiles with bounds that assume no distribution, when to stop, shares, and a test of change. Without
SciPy, which no device has.

**Quantiles.** The number of samples at or below the true ``p``-quantile of a continuous distribution is binomial, so that the order
statistics whose ranks enclose it with a confidence are bounds whatever the distribution (David & Nagaraja,
*Order Statistics*, 2003,
section 7.1). With few samples one side has no bound, and none is made up.

**When to stop.** MLPerf's single-stream rule (LoadGen, ``early_stopping.cc`` and ``results.cc``): of ``n``
latencies, let ``t`` be the
largest number with ``P(Binomial(n, 1 - p) <= t) <= 1 - c``, confidence ``c`` = 0.99. The ``t``-th highest
latency is the estimate: the
``p``-quantile lies below it with confidence ``c``. Fewer than the least ``n`` with ``t = 1`` (64 for p90,
662 for p99, 6636 for p99.9)
allow no estimate.

**Shares** of missed deadlines: Clopper and Pearson's bounds (Biometrika 26:404, 1934).

Latencies that follow each other are alike, while all three speak of independent ones: `autocorrelation` says
how much. `permutation_test`
compares whole segments of a run for that reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99
MOST_EXACT = 20_000
"""Permutations that are all counted; of more, so many are drawn."""


def binomial_cdf(n: int, p: float) -> npt.NDArray[np.float64]:
    """``P(Binomial(n, p) <= k)`` for every k from 0 to n."""
    if p <= 0.0:
        return np.ones(n + 1)
    if p >= 1.0:
        return np.concatenate([np.zeros(n), [1.0]])
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    choose = factorials[n] - factorials[k] - factorials[n - k]
    chances = np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))
    return np.asarray(np.minimum(np.cumsum(chances), 1.0), np.float64)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile and its bounds; None where there are too few samples for one.

    Attributes:
        p: which, 0 to 1.
        value: the sample with rank ``ceil(p n)``.
    """

    p: float
    value: float
    low: float | None
    high: float | None


def quantile(samples: Sequence[float], p: float, confidence: float = CONFIDENCE) -> Quantile:
    """A quantile with its order-statistic bounds, each missed with half of what the confidence leaves.

    Raises:
        ValueError: no samples.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    if n == 0:
        raise ValueError("no samples: no quantile")
    tail = (1 - confidence) / 2
    below = binomial_cdf(n, p)  # P(at most k samples lie below the quantile)
    # X_(r) is above the quantile where fewer than r samples lie below it: P(B <= r - 1).
    rank_low = int(np.searchsorted(below, tail, side="right"))  # the largest r with P(B <= r - 1) <= tail
    reached = np.nonzero(below >= 1 - tail)[0]
    rank_high = int(reached[0]) + 1  # the least r with P(B <= r - 1) >= 1 - tail
    return Quantile(
        p,
        float(ordered[max(math.ceil(p * n - 1e-9), 1) - 1]),
        float(ordered[rank_low - 1]) if rank_low >= 1 else None,
        float(ordered[rank_high - 1]) if rank_high <= n else None,
    )


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """What MLPerf's rule says of a run.

    Attributes:
        samples, needed: that there are, and the least with which the rule gives an estimate.
        discarded: highest latencies that the estimate leaves out.
        estimate: None with too few samples.
    """

    p: float
    confidence: float
    samples: int
    needed: int
    discarded: int
    estimate: float | None


def early_stopping(samples: Sequence[float], p: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> EarlyStopping:
    """MLPerf's single-stream estimate of a quantile; see the module."""
    n, needed = len(samples), least_samples(p, confidence)
    if n < needed:
        return EarlyStopping(p, confidence, n, needed, 0, None)
    over = binomial_cdf(n, 1 - p)
    t = int(np.searchsorted(over, 1 - confidence, side="right")) - 1
    return EarlyStopping(p, confidence, n, needed, t - 1, float(np.sort(np.asarray(samples))[n - t]))


def least_samples(p: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """The least n with ``P(Binomial(n, 1 - p) <= 1) <= 1 - confidence``."""

    def chance(n: int) -> float:
        return float(p**n + n * (1 - p) * p ** (n - 1))

    high = 2
    while chance(high) > 1 - confidence:
        high *= 2
    low = high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) <= 1 - confidence else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with Clopper and Pearson's bounds."""

    count: int
    of: int
    value: float
    low: float
    high: float


def share(count: int, of: int, confidence: float = CONFIDENCE) -> Share:
    """A share and its bounds; of nothing, all that is known is that it lies between 0 and 1."""
    if of == 0:
        return Share(0, 0, 0.0, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda p: 1 - float(binomial_cdf(of, p)[count - 1]) - tail)
    high = 1.0 if count == of else _solve(lambda p: tail - float(binomial_cdf(of, p)[count]))
    return Share(count, of, count / of, low, high)


def _solve(rising: object) -> float:
    """Where a rising function of a probability is zero."""
    assert callable(rising)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def autocorrelation(samples: Sequence[float]) -> float:
    """Of samples with the next ones, -1 to 1; 0 where all are equal."""
    values = np.asarray(samples, np.float64)
    values = values - values.mean() if len(values) else values
    power = float(values @ values)
    return float(values[:-1] @ values[1:]) / power if power > 0 else 0.0


def segment_quantiles(samples: Sequence[float], segments: int, p: float) -> list[float]:
    """The quantile of each of so many parts of equal length, in order; what is over at the end is left out."""
    length = len(samples) // segments
    if length == 0:
        return []
    parts = np.asarray(samples[: length * segments], np.float64).reshape(segments, length)
    rank = max(math.ceil(p * length - 1e-9), 1) - 1
    return [float(value) for value in np.sort(parts, axis=1)[:, rank]]


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much the second differs from the first.

    Attributes:
        value: median of all differences between a segment of the second and one of the first (Hodges and Lehmann).
        low, high: the middle 95 % of what resampled segments give.
        chance: of a difference as large where nothing has changed: of all ways to deal the segments to two sides, the share that
            differs as much.
    """

    value: float
    low: float
    high: float
    chance: float


def permutation_test(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Shift:
    """Whether two sets of segments differ; two-sided, on the difference of their means of ranks, which no outlier rules.

    Raises:
        ValueError: one is empty.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(a) or not len(b):
        raise ValueError("no segments to compare")
    both = np.concatenate([a, b])
    n, k = len(both), len(b)
    # Mid-ranks: equal values share one.
    ranks = np.array([(both < value).sum() + ((both == value).sum() + 1) / 2 for value in both])
    usual = k * (n + 1) / 2
    seen = abs(float(ranks[len(a) :].sum()) - usual)
    generator = np.random.default_rng(seed)
    if math.comb(n, k) <= MOST_EXACT:
        sums = np.array([sum(chosen) for chosen in itertools.combinations(ranks.tolist(), k)])
        chance = float(np.mean(np.abs(sums - usual) >= seen - 1e-9))
    else:
        dealt = generator.permuted(np.tile(ranks, (MOST_EXACT, 1)), axis=1)
        sums = dealt[:, :k].sum(axis=1)
        chance = float((1 + np.sum(np.abs(sums - usual) >= seen - 1e-9)) / (MOST_EXACT + 1))
    resampled = _medians(b, generator) - _medians(a, generator)
    low, high = (float(value) for value in np.percentile(resampled, (2.5, 97.5)))
    return Shift(float(np.median(b[:, None] - a[None, :])), low, high, chance)


def _medians(values: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Of 2000 draws with replacement."""
    return np.asarray(np.median(generator.choice(values, (2000, len(values))), axis=1))


def fisher_exact(first: int, of_first: int, second: int, of_second: int) -> float:
    """Chance of shares that differ as much where both are the same: all tables with the same margins that
    are no likelier than this."""
    total, both = of_first + of_second, first + second
    if not 0 <= first <= of_first or not 0 <= second <= of_second:
        raise ValueError(f"{first} of {of_first} and {second} of {of_second} are no shares")

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    everything = log_choose(total, both)
    lowest, highest = max(0, both - of_second), min(both, of_first)
    logs = [log_choose(of_first, k) + log_choose(of_second, both - k) - everything for k in range(lowest, highest + 1)]
    seen = logs[first - lowest]
    return min(1.0, sum(math.exp(one) for one in logs if one <= seen + 1e-7))
