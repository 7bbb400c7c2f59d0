"""Reconstructs k-space that is already in memory; for benchmarks, comparisons and notebooks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from edge_runtime.modalities.mri.fourier import Complex, to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.reconstruct import Reconstruction, SliceSamples, calibrate, reconstruct
from edge_runtime.profile import DEFAULT_PROFILE, Profile, load_profile
from edge_runtime.runtime import prepare_model
from edge_runtime.scan import Method


def reconstruct_kspace(
    kspace: Complex, mask: npt.NDArray[np.bool_], learned: LearnedReconstruction | None
) -> dict[Method, Reconstruction]:
    """All images of one slice, with evidence, exactly as a session makes them of the same samples.

    Args:
        kspace: ``(coils, phase_encodes, samples)`` without readout oversampling; rows outside the mask are not looked at.
        mask: ``(phase_encodes,)``.
        learned: the network, if its image is wanted.
    """
    hybrid = to_image(kspace.astype(np.complex64, copy=False), axis=2) * mask[None, :, None]
    samples = SliceSamples(hybrid, mask, None, seed=(0, 0, 0, 0, 0))
    return dict(reconstruct(samples, calibrate(hybrid, mask), learned, executor=None))


def reconstruct_scan(
    kspace: Complex, mask: npt.NDArray[np.bool_], bundle: Bundle | None = None, profile: Profile | None = None
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Magnitude images ``(phase_encodes, samples)`` of every method and every precision of a bundle.

    Returns:
        ``zero_filled``, ``classical`` and ``learned FP32``, ``learned INT8``.
    """
    bundle = bundle or load_bundle(DEFAULT_BUNDLE)
    profile = profile or load_profile(DEFAULT_PROFILE)
    images: dict[str, npt.NDArray[np.float32]] = {}
    for precision in sorted(bundle.forms):
        model = prepare_model(bundle, profile, precision)
        for method, made in reconstruct_kspace(kspace, mask, model.reconstruction).items():
            name = f"learned {precision.upper()}" if method is Method.LEARNED else method.value
            images[name] = made.image
    return images
