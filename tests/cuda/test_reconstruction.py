"""Whole scans, streamed through a socket, on the GPU's kernels and on the CPU's: one code, the same images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Replies, RunningServer, attribute, profile_of
from made_programs import modl, packed, varnet
from simulated import LINES, coil_maps, header_of, kspace_of, object_image, readouts_of, scan_bytes

from edge_runtime.runtime import open_runtime
from edge_runtime.scan import Limit, ReadoutFlag

pytestmark = pytest.mark.cuda

KSPACE = kspace_of(object_image(), coil_maps(), 48, noise=0.01)
NOISE = kspace_of(object_image() * 0, coil_maps(), 48, noise=0.01, seed=1)
KEPT = [line for line in range(LINES) if line % 2 == 0 or abs(line - LINES // 2) < 6]


def images(scan: bytes, bundle: Path, device: str) -> Replies:
    """What a server sends back whose plans are for a device."""
    profile = replace(profile_of(), kernels=(device,))
    with open_runtime(profile, bundle=bundle, output=None, previews=(0.5,)) as runtime:
        server = RunningServer(runtime)
        try:
            return server.exchange(scan)
        finally:
            server.stop()


def undersampled() -> bytes:
    """With a noise scan, and every other line outside the ACS left out."""
    noise = readouts_of(NOISE[:, :8], last=False, flags=ReadoutFlag.IS_NOISE_MEASUREMENT)
    return scan_bytes(noise, readouts_of(KSPACE, KEPT), header=header_of(acceleration=2), configuration="edge-all")


def averaged() -> bytes:
    """Three averages, of which the last lacks some lines."""
    batches = [
        readouts_of(KSPACE, KEPT, last=False, average=0),
        readouts_of(KSPACE, KEPT, last=False, average=1),
        readouts_of(KSPACE, KEPT[3:], average=2),
    ]
    header = header_of(acceleration=2, limits={"average": Limit(0, 2, 0)})
    return scan_bytes(*batches, header=header, configuration="edge-all")


@pytest.mark.parametrize("scan", [undersampled, averaged])
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_streamed_scan_has_the_images_that_it_has_on_the_cpu(scan, order, tiny_bundle, tmp_path, monkeypatch):
    log = tmp_path / "launches"
    monkeypatch.setenv("EDGE_DRIVER_ORDER", order)
    monkeypatch.setenv("EDGE_DRIVER_LOG", str(log))
    there, here = (images(scan(), tiny_bundle, device) for device in ("cuda", "cpu"))
    assert there.kinds() == here.kinds() == [(method, "final") for method in ("learned", "classical", "zero_filled")]
    for made, expected in zip(finals(there), finals(here), strict=True):
        assert np.abs(made.pixels - expected.pixels).max() <= 1e-4 * expected.pixels.max()
        for name, written_to in (("EdgeLearnedShare", 1e-3), ("EdgeHeldOutResidual", 0)):
            if name in expected.attributes:
                near = pytest.approx(float(attribute(expected, name)), rel=1e-3, abs=1.01 * written_to)
                assert float(attribute(made, name)) == near
    launched = Counter(line.split()[0] for line in log.read_text().splitlines())
    expected_launches = {"ingest_readouts", "ingest_mean", "coils_compress", "sensitivity_maps_of_image"}
    assert expected_launches | {"sense_regularised", "sense_data_consistent"} <= set(launched)


def finals(replies: Replies) -> list:
    return [image for image in replies.images if attribute(image, "EdgeCompleteness") == "final"]


@pytest.mark.parametrize("made", [varnet, modl])
def test_a_program_of_others_has_the_images_that_it_has_on_the_cpu(made, tmp_path, signing_key, monkeypatch):
    monkeypatch.setenv("EDGE_DRIVER_ORDER", "forward")
    bundle = packed(tmp_path, made(), signing_key)
    there, here = (images(undersampled(), bundle, device) for device in ("cuda", "cpu"))
    assert there.kinds() == here.kinds() == [(method, "final") for method in ("learned", "classical", "zero_filled")]
    for sent, expected in zip(finals(there), finals(here), strict=True):
        assert np.abs(sent.pixels - expected.pixels).max() <= 1e-3 * expected.pixels.max()
