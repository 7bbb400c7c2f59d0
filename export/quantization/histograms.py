"""Histograms whose memory is bounded, whatever the tensors hold.

ONNX Runtime's collector keeps the bins of the first state as wide as they are: a state a million times as strong makes a million
times as many (10 GB a tensor). Here neighbours are put together first, so that there are never more than `MOST_BINS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization.calibrate import HistogramCollector

FIRST_BINS = 2048
"""Of a tensor's first state, as ONNX Runtime has it by default."""

MOST_BINS = 65_536
"""Of a tensor, a megabyte; 256 of them are narrower than one of INT8's steps over the whole range."""

Histogram = tuple[npt.NDArray[np.int64], Any, Any, Any, Any]
"""As ONNX Runtime's collector keeps it: counts, edges, least, largest, and the threshold, to which bins go on each side of zero."""


class BoundedHistograms(HistogramCollector):  # type: ignore[misc]  # onnxruntime ships no types
    """ONNX Runtime's collector for percentiles, with a bound.

    Args:
        percentile: of the values, 0 to 100, that a range holds.
    """

    def __init__(self, percentile: float) -> None:
        super().__init__(
            method="percentile",
            symmetric=False,
            num_bins=FIRST_BINS,
            num_quantized_bins=FIRST_BINS,
            percentile=percentile,
            scenario="same",
        )

    def collect_value(self, name_to_arr: Mapping[str, Any]) -> None:
        """Adds a state's tensors.

        Raises:
            ValueError: names the tensor whose values are not finite.
        """
        for tensor, arrays in name_to_arr.items():
            if not np.isfinite(arrays).all():
                raise ValueError(
                    f"{tensor}: holds values that are not finite on a calibration scan: no range can be set; look at that scan, or "
                    "at the weights before this tensor"
                )
            super().collect_value({tensor: arrays})

    def merge_histogram(
        self, old_histogram: Histogram, data_arr: Any, new_min: Any, new_max: Any, new_threshold: Any
    ) -> Any:
        while _bins_after(old_histogram, float(new_threshold)) > MOST_BINS:
            old_histogram = coarser(old_histogram)
        return super().merge_histogram(old_histogram, data_arr, new_min, new_max, new_threshold)


def coarser(histogram: Histogram) -> Histogram:
    """The same counts in bins twice as wide, zero between two of them."""
    counts, _, least, largest, threshold = histogram
    width = 2 * float(threshold) / len(counts)
    if len(counts) % 4:  # an odd number on each side of zero: one more that is empty makes it even
        counts, threshold = np.pad(counts, 1), float(threshold) + width
    counts = counts.reshape(-1, 2).sum(1)
    edges = np.linspace(-float(threshold), float(threshold), len(counts) + 1, dtype=np.float32)
    return counts, edges, least, largest, np.float32(threshold)


def _bins_after(histogram: Histogram, threshold: float) -> float:
    """How many a histogram would have after a state with values up to a threshold."""
    counts, before = histogram[0], float(histogram[4])
    return len(counts) if before == 0 else len(counts) * max(threshold / before, 1.0) + 2
