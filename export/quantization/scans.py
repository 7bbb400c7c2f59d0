"""Image quality of a graph after the whole reconstruction, over a fixed set of validation scans."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from edge_runtime.errors import NoImage
from edge_runtime.hil.quality import Magnitude, Mask, Quality, compare_within
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples, calibrate, reconstruct
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from edge_runtime.scan import Method
from export.foreground import foreground
from export.simulate.pool import simulate_acquisition
from export.simulate.volumes import Volume
from export.whitening import whitened


@dataclass(frozen=True)
class ValidationScan:
    """One undersampled scan and what it should look like.

    Attributes:
        name: scan and acceleration.
        reference: fully sampled magnitude image ``(phase_encodes, columns)``.
        where: its foreground.
    """

    name: str
    samples: SliceSamples
    calibration: Calibration
    reference: Magnitude
    where: Mask


@dataclass(frozen=True)
class Loss:
    """What a form loses against FP32 on the worst scan; negative where it gains."""

    psnr_db: float
    ssim: float
    worst_scan: str


def validation_scans(volumes: list[Volume], count: int, seed: int, phantom_share: float) -> list[ValidationScan]:
    """``count`` simulated scans at R = 2, 4 and 6 in turn, of unseen volumes, coils, phases and noise; a few MB each."""
    return list(itertools.islice(drawn_scans(volumes, seed, phantom_share), count))


def drawn_scans(volumes: list[Volume], seed: int, phantom_share: float) -> Iterator[ValidationScan]:
    """The same one by one, without end."""
    plans = Plans(Workers(threads=1))
    accelerations = list(ACS_FRACTION_BY_ACCELERATION.items())
    index = 0
    while True:
        rng = np.random.default_rng([seed, index])
        acceleration, acs = accelerations[index % len(accelerations)]
        index += 1
        kspace = whitened(simulate_acquisition(volumes, rng, phantom_share=phantom_share, validation=True), rng)
        hybrid = to_image(kspace, axis=2)
        images = to_image(hybrid, axis=1)
        reference = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
        measured = variable_density(kspace.shape[1], acceleration, acs, rng)
        hybrid = hybrid * measured[None, :, None]
        try:
            calibration = calibrate(hybrid, measured, plans)
        except NoImage:  # an empty centre
            continue
        samples = SliceSamples(hybrid, measured, NoiseLevel(1.0, "noise scan"), (index,))
        yield ValidationScan(f"scan {index} R = {acceleration}", samples, calibration, reference, foreground(reference))


def qualities(scans: Sequence[ValidationScan], settings: UnrolledSettings, session: Session) -> list[Quality]:
    """Of the learned image of every scan."""
    return qualities_of(scans, LearnedReconstruction(settings, session))


def qualities_of(scans: Iterable[ValidationScan], learned: Learned) -> list[Quality]:
    """Of the learned image of every scan, by a model of any family."""
    plans, found = Plans(Workers(threads=1)), []
    for scan in scans:
        made = reconstruct(scan.samples, scan.calibration, learned, plans)
        image = next(one.image for method, one in made if method is Method.LEARNED)  # the first; no other is made
        found.append(compare_within(image, scan.reference, scan.where))
    return found


def worst_of(losses: Mapping[str, Loss]) -> Loss:
    """Of one form's losses by engine, PSNR and SSIM each on the engine where most is lost; names it where there are several."""
    engine = max(losses, key=lambda name: losses[name].psnr_db)
    worst = losses[engine]
    scan = f"{worst.worst_scan} on {engine}" if len(losses) > 1 else worst.worst_scan
    return Loss(worst.psnr_db, max(one.ssim for one in losses.values()), scan)


def loss(scans: Sequence[ValidationScan], full: Sequence[Quality], form: Sequence[Quality]) -> Loss:
    """Of a form against FP32; PSNR and SSIM each on the scan where most is lost."""
    psnr = [a.psnr_db - b.psnr_db for a, b in zip(full, form, strict=True)]
    worst = int(np.argmax(psnr))
    return Loss(psnr[worst], max(a.ssim - b.ssim for a, b in zip(full, form, strict=True)), scans[worst].name)
