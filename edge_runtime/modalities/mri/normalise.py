"""One number that brings every scanner's arbitrary units to the range the network was trained on."""

from __future__ import annotations

import numpy as np

from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex

BRIGHT_PERCENTILE = 99.0


def image_scale(hybrid: Complex, acs: slice, plans: Plans) -> float:
    """The 99th percentile of the root-sum-of-squares image made from the ACS alone.

    Only the ACS is used, so the number is the same for every preview and for the final image of a scan.

    Args:
        hybrid: ``(coils, phase_encodes, columns)``.
        acs: the contiguous measured lines around the centre.

    Raises:
        ValueError: the ACS holds no signal at all.
    """
    lines = hybrid.shape[1]
    low = np.zeros(lines, np.bool_)
    low[acs] = True
    with plans.coils(*hybrid.shape) as plan:
        scale = float(np.percentile(plan.root_sum_of_squares(hybrid, low), BRIGHT_PERCENTILE))
    if not scale > 0:
        raise ValueError(f"the {acs.stop - acs.start} central phase encodes of {lines} hold no signal")
    return scale
