"""Reconstructs k-space that is already in memory; for benchmarks, comparisons and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import Complex, to_image
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.modalities.mri.reconstruct import Reconstruction, SliceSamples, calibrate, reconstruct
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import Model, prepare_model
from edge_runtime.scan import Method


def reconstruct_kspace(
    kspace: Complex, mask: npt.NDArray[np.bool_], learned: Learned | None, threads: int = 1
) -> dict[Method, Reconstruction]:
    """All images of one slice, with evidence, exactly as a session makes them of the same samples.

    Args:
        kspace: ``(coils, phase_encodes, samples)`` without readout oversampling; rows outside the mask are not looked at.
        mask: ``(phase_encodes,)``.
        learned: the network, if its image is wanted.
        threads: of the kernels; the network has its own.
    """
    hybrid = to_image(kspace.astype(np.complex64, copy=False), axis=2) * mask[None, :, None]
    samples = SliceSamples(hybrid, mask, None, seed=(0, 0, 0, 0, 0))
    plans = Plans(Workers(threads))
    return dict(reconstruct(samples, calibrate(hybrid, mask, plans), learned, plans))


def load_models(bundle: Path = DEFAULT_BUNDLE, profile: str = DEFAULT_PROFILE) -> Mapping[str, Model]:
    """Every precision of a bundle, made ready, by the precision's name."""
    loaded, hardware = load_bundle(bundle), load_profile(profile)
    return {precision: prepare_model(loaded, hardware, precision) for precision in sorted(loaded.forms)}


def reconstruct_scan(
    kspace: Complex, mask: npt.NDArray[np.bool_], models: Mapping[str, Model]
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Magnitude images ``(phase_encodes, samples)`` of every method and of every model (see `load_models`).

    Returns:
        ``zero_filled``, ``classical`` and, by the models' precisions, ``learned FP32`` and ``learned INT8``.
    """
    images: dict[str, npt.NDArray[np.float32]] = {}
    for precision, model in models.items():
        for method, made in reconstruct_kspace(kspace, mask, model.reconstruction).items():
            name = f"learned {precision.upper()}" if method is Method.LEARNED else method.value
            images[name] = made.image
    return images
