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

from edge_runtime.cuda.device import driver, open_device
from edge_runtime.errors import DeviceFailed, OutOfDeviceMemory
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.layout import Layout
from edge_runtime.runtime import open_runtime
from edge_runtime.scan import Image, Limit, ReadoutFlag
from edge_runtime.session import Session

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


class Scanner:
    """Keeps the images that it is sent."""

    def __init__(self) -> None:
        self.images: list[Image] = []

    def text(self, message: str) -> None: ...

    def image(self, image: Image, series: int, index: int) -> None:
        self.images.append(image)

    def has_room(self, size_bytes: int) -> bool:
        return True

    def wait_for_room(self, size_bytes: int) -> None: ...


def test_a_slice_at_which_the_gpu_fails_has_no_image(tiny_bundle, monkeypatch):
    """Its lines were counted before they were transformed: what lies in their place may be anybody's."""
    scanner = Scanner()
    profile = replace(profile_of(), kernels=("cuda",))
    with open_runtime(profile, bundle=tiny_bundle, output=None, previews=()) as runtime:
        session = Session(runtime, scanner, "a-scan")
        session.configure("edge-classical")
        session.begin(header_of(limits={"slice": Limit(0, 1, 0)}))
        for number in (0, 1):  # in turn, so that both are open when the GPU fails
            session.readouts(readouts_of(KSPACE, range(0, LINES // 2), last=False, slice=number))
        with monkeypatch.context() as refusing, pytest.raises(DeviceFailed):
            refusing.setenv("EDGE_DRIVER_REFUSES", "cuLaunchKernel 719")
            session.readouts(readouts_of(KSPACE, range(LINES // 2, LINES), slice=1))
        session.abort("the GPU failed")
    assert {image.key.slice for image in scanner.images} == {0}
    assert any("slice 1" in note and "the GPU failed" in note for image in scanner.images for note in image.notes)


def test_memory_that_is_lacking_is_lacking_before_lines_are_counted(monkeypatch):
    """Whatever the GPU has left: readouts are taken in and transformed, or are not there."""
    header, outcomes = header_of(), Counter()
    for spare in range(0, 1 << 20, 1 << 15):
        assembler = Assembler(header, Layout.of(header), 1 << 30, "cuda")
        device = open_device()
        with device.use():
            device.give_back()
            free, total = driver.mem_get_info()
        with monkeypatch.context() as tight:
            tight.setenv("EDGE_DRIVER_MEMORY", str(total - free + spare))
            try:
                list(assembler.add(readouts_of(KSPACE, [0, 1], last=False)))
            except OutOfDeviceMemory:
                assert not assembler.open_slices()
                outcomes["refused"] += 1
                continue
        (key,) = assembler.open_slices()
        assert np.isfinite(assembler.snapshot(key).hybrid[:, :2]).all()
        outcomes["taken in"] += 1
    assert outcomes["refused"] > 2 and outcomes["taken in"]
