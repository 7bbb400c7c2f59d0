"""The object's region: never smaller than the object, and worth having."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.sampling import acs_lines
from edge_runtime.modalities.mri.support import object_support

LINES, COLUMNS = 64, 48


def support_of(image, noise=0.01, coils=3, acs_fraction=0.2):
    kspace = kspace_of(image, coil_maps(coils, *image.shape), noise=noise)
    acs = acs_lines(image.shape[0], acs_fraction)
    return object_support(to_image(kspace, axis=2)[:, acs], acs, image.shape[0], Plans(Workers(threads=1)))


@pytest.mark.parametrize("acs_fraction", [0.06, 0.2])
def test_the_whole_object_is_inside(acs_fraction):
    image = object_image(LINES, COLUMNS)
    support = support_of(image, acs_fraction=acs_fraction)
    assert support[np.abs(image) > 0.05].min() == 1


def test_holes_are_inside():
    y, x = np.mgrid[-1 : 1 : LINES * 1j, -1 : 1 : COLUMNS * 1j]
    radius = np.hypot(x, y)
    ring = ((radius < 0.7) & (radius > 0.35)).astype(np.complex64)
    assert support_of(ring)[radius < 0.7].min() == 1


def test_an_object_that_fills_the_field_of_view_is_not_cut():
    assert support_of(np.ones((LINES, COLUMNS), np.complex64)).min() == 1


def test_air_is_outside():
    y, x = np.mgrid[-1 : 1 : LINES * 1j, -1 : 1 : COLUMNS * 1j]
    small = (np.hypot(x, y) < 0.3).astype(np.complex64)
    support = support_of(small)
    assert support[0].max() == 0
    assert support.mean() < 0.5
