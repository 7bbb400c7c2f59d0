"""By how much images differ whose network ran before the last samples came, beside what was foretold, and their quality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.metrics import compare, root_sum_of_squares
from benchmarks.records import Record, summarise
from benchmarks.scans import coil_images, load, undersampling_mask
from edge_runtime.errors import RecordingError
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.ahead import foretold_difference
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.offline import load_models
from edge_runtime.modalities.mri.proposal import Begun, Stepwise
from edge_runtime.modalities.mri.reconstruct import SliceSamples, begin, calibrate, compress, reconstruct

SCANS = (
    ("head-2ch", 2),
    ("head-2ch", 4),
    ("fernando-11", 4),
    ("fernando-15", 6),
    ("phantom-32ch", 4),
    ("phantom-16ch", 4),
)
LAGS = ((1, 1, 1), (3, 2, 1), (6, 4, 2), (9, 6, 3), (20, 13, 6), (26, 16, 8))
"""Lines that each of the three runs lacks."""

RANDOM_ORDERS = 2

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """One image that was begun, in the relative differences of its `name`'s image that was made at once."""

    name: str
    difference: float
    foretold: float
    nrmse: float
    nrmse_at_once: float


def warm_start(quick: bool) -> list[Record]:
    """Of every scan that is here; none of them is left out for what it shows."""
    scans, lags = (SCANS[:1], LAGS[1:3]) if quick else (SCANS, LAGS)
    learned = load_models()["int8"].reconstruction
    assert isinstance(learned, Stepwise)
    found = [one for name, acceleration in scans for one in _of_scan(name, acceleration, learned, lags)]
    if not found:
        return []
    kept = [one for one in found if one.foretold <= learned.tolerance]
    ratios = [one.difference / one.foretold for one in found if one.foretold > 0]
    worst = max(kept, key=lambda one: one.difference)
    dearest = max(kept, key=lambda one: one.nrmse - one.nrmse_at_once)
    how = f"{len(found)} images of {len(scans)} scans, lines from edge to edge, from the centre outwards and at random; INT8"
    return [
        summarise(
            "warm_start.difference_over_foretold",
            [max(ratios)],
            unit="ratio",
            better="lower",
            target=1.0,
            note=f"{how}; the greatest; median {np.median(ratios):.2f}",
        ),
        summarise(
            "warm_start.difference",
            [worst.difference],
            unit="relative",
            better="lower",
            target=learned.tolerance,
            note=f"of {len(kept)} images that would be gone on with, the greatest: {worst.name}; the target is the form's golden "
            "tolerance",
        ),
        summarise(
            "warm_start.nrmse_lost",
            [dearest.nrmse - dearest.nrmse_at_once],
            unit="NRMSE",
            better="lower",
            note=f"of those, the most: {dearest.name}, {dearest.nrmse:.4f} against {dearest.nrmse_at_once:.4f} made at once; "
            f"median {np.median([one.nrmse - one.nrmse_at_once for one in kept]):+.5f}",
        ),
    ]


def _of_scan(name: str, acceleration: int, learned: Stepwise, lags: Sequence[tuple[int, ...]]) -> Iterator[Found]:
    try:
        scan = load(name)
    except (RecordingError, FileNotFoundError) as error:
        print(f"warm_start: {name} is left out: {error}")
        return
    plans = Plans(Workers(2))
    mask = undersampling_mask(scan.kspace.shape[1], acceleration, 0)
    hybrid = np.ascontiguousarray(to_image(scan.kspace * mask[:, None], axis=2).astype(np.complex64))
    samples = SliceSamples(hybrid, mask, None, (0, 0, 0, 0, 0))
    calibration = calibrate(hybrid, mask, plans)
    compressed = compress(samples, calibration, plans)
    visible = mask[:, None] & ~compressed.held_out
    power = np.sum(np.abs(compressed.hybrid) ** 2, axis=0) * visible
    reference = root_sum_of_squares(coil_images(scan.kspace))

    def image(begun: Begun | None) -> Image:
        return next(reconstruct(samples, calibration, _trusting(learned), plans, begun=begun))[1].image

    at_once = image(None)
    outer = np.flatnonzero(mask)
    outer = outer[(outer < calibration.acs.start) | (outer >= calibration.acs.stop)]
    for order_name, order in _orders(outer, mask.size):
        for lacking in lags:
            begun: Begun | None = None
            for lag in lacking:
                known = mask.copy()
                known[order[max(0, len(order) - lag) :]] = False
                part = replace(samples, measured=known, hybrid=hybrid * known[None, :, None])
                begun = begin(part, calibration, learned, plans, begun)
            assert begun is not None
            if begun.runs < learned.runs or (begun.visible[-1] & ~visible).any():
                continue  # begun anew for its noise, or made at once for what is held out
            made = image(begun)
            yield Found(
                f"{name} R = {acceleration}, {order_name}, {lacking} lines late",
                float(np.linalg.norm(made - at_once) / np.linalg.norm(at_once)),
                foretold_difference(begun, learned.runs, visible, power),
                compare(made, reference).nrmse,
                compare(at_once, reference).nrmse,
            )


def _trusting(learned: Stepwise) -> Stepwise:
    """One that goes on whatever is foretold, so that images beyond its tolerance are seen too."""
    return replace(learned, tolerance=math.inf)  # type: ignore[type-var]


def _orders(outer: npt.NDArray[np.intp], lines: int) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    yield "edge to edge", outer
    yield "centre outwards", outer[np.argsort(np.abs(outer - lines // 2), kind="stable")]
    for seed in range(RANDOM_ORDERS):
        yield f"random order {seed}", np.random.default_rng(seed).permutation(outer)
