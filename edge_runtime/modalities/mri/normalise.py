"""One number that brings every scanner's arbitrary units to the range the network was trained on."""

from __future__ import annotations

import numpy as np

from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex

BRIGHT_PERCENTILE = 99.0

DARKEST, BRIGHTEST = 1e-15, 1e15
"""Brightness whose square, and sums of that, single precision can hold."""


def image_scale(hybrid: Complex, acs: slice, plans: Plans) -> float:
    """The 99th percentile of the root-sum-of-squares image made from the ACS alone.

    Only the ACS is used, so the number is the same for every preview and for the final image of a scan.

    Args:
        hybrid: ``(coils, phase_encodes, columns)``.
        acs: the contiguous measured lines around the centre.

    Raises:
        ValueError: the ACS holds no signal at all, or is too bright or too dark for single precision.
    """
    lines = hybrid.shape[1]
    low = np.zeros(lines, np.bool_)
    low[acs] = True
    central = f"the {acs.stop - acs.start} central phase encodes of {lines}"
    largest = float(np.abs(hybrid[:, acs].view(np.float32)).max())
    if largest == 0:
        raise ValueError(f"{central} hold no signal")
    with plans.coils(*hybrid.shape) as plan, np.errstate(over="ignore", invalid="ignore"):  # which is told
        scale = float(np.percentile(np.asarray(plan.root_sum_of_squares(hybrid, low)), BRIGHT_PERCENTILE))
    if not DARKEST < scale < BRIGHTEST:
        raise ValueError(
            f"{central} hold samples of up to {largest:.3g}, which single precision can't reckon with; the image's brightness "
            f"must lie within {DARKEST:g} and {BRIGHTEST:g}: send the samples in other units"
        )
    return scale
